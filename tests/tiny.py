"""A real language model that trains in a blink: 2 layers, byte-level tokenizer, ChatML, seeded; made offline."""

from __future__ import annotations

from pathlib import Path

from tests.wording import CHATML, SPECIAL, byte_level


def model_folder(folder: Path, *, seed: int = 0, layers: int = 2, hidden: int = 32, dtype: str = "float32") -> Path:
    """A Llama with random weights in `folder`, complete with tokenizer and chat template, as a hub would hold it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = byte_level(SPECIAL)
    tokenizer.post_processor = None  # type: ignore[assignment]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
        model_max_length=256,
    )  # fmt: skip
    wrapped.chat_template = CHATML
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(wrapped), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=wrapped.bos_token_id, eos_token_id=wrapped.eos_token_id, pad_token_id=wrapped.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def rows(path: Path, count: int = 12) -> Path:
    """`count` short conversations of different lengths, some with two answers, as JSON lines."""
    import json

    lines = []
    for number in range(count):
        messages = [
            {"role": "user", "content": f"What is {number} and {number}?"},
            {"role": "assistant", "content": f"It is {2 * number}." + " Yes." * (number % 4)},
        ]
        if number % 3 == 0:
            messages += [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Sure."}]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
