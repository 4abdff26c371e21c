"""Models of real shapes with weights by chance, for speed and memory: no file of a hub is needed for either."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.wording import CHATML, SPECIAL, byte_level

# From the models' own config.json; weights are drawn, so nothing of them is shipped.
SHAPES: dict[str, dict[str, Any]] = {
    "llama-2-7b": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
    },
    "llama-3.1-8b": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 262144,
    },
    "tiny": {
        "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    },
}  # fmt: skip


def made(name: str, folder: Path) -> Path:
    """The model called `name` in bf16, with a tokenizer of a token a byte; made on the accelerator if there is one."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    if (folder / "config.json").is_file():
        return folder
    tokenizer = byte_level(SPECIAL)
    tokenizer.post_processor = None  # type: ignore[assignment]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    wrapped.chat_template = CHATML
    config = LlamaConfig(**SHAPES[name], eos_token_id=wrapped.eos_token_id, pad_token_id=wrapped.pad_token_id)
    torch.manual_seed(0)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    with torch.device(device or "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    wrapped.save_pretrained(partial)
    partial.rename(folder)  # what is here is whole
    del model
    if device and device.type != "cpu":
        torch.accelerator.memory.empty_cache()
    return folder


def texts(path: Path, rows: int, tokens: int, *, spread: bool = False) -> Path:
    """`rows` plain texts of `tokens` bytes each, so of as many tokens, but for the one that ends them.

    spread: of all lengths up to that, as rows of people are.
    """
    words = "the model learns to go on with what it reads and nothing of this means anything "
    text = (words * (tokens // len(words) + 1))[: tokens - 1]
    lengths = [len(text) * (1 + row * 7 % rows) // rows if spread else len(text) for row in range(rows)]
    lines = [json.dumps({"text": f"{row % 10}{text[1:length]}"}) for row, length in enumerate(lengths)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
