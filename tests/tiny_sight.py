"""Vision-language models with random weights: the real architectures, some of their numbers made small; made offline.

`make(name, folder)` writes a model as a hub would hold it: weights, tokenizer, chat template and the processor's files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.wording import byte_level

TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
CLIP: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 14,
    "image_size": 56,
}  # fmt: skip
TURN = ["<|im_start|>", "<|im_end|>"]
QWEN = [*TURN, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]

# ChatML, with a picture written as the string that its family has for it.
PARTS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ 'IMAGE' }}{% elif part['type'] == 'video' %}{{ 'VIDEO' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make(name: str, folder: Path, *, seed: int = 0) -> Path:
    """The tiny model called `name` (a key of FAMILIES) in `folder`."""
    import torch

    torch.manual_seed(seed)
    FAMILIES[name](folder)
    return folder


def _written(
    folder: Path, special: list[str], image: str, video: str = "", *, processor: dict[str, Any], named: Any = None
) -> Any:
    """Tokenizer, template and processor's files; the tokenizer."""
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    backend = byte_level(special)
    backend.post_processor = None  # type: ignore[assignment]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=TURN[0], eos_token=TURN[1], pad_token=TURN[1], model_max_length=512,
        extra_special_tokens=named or {},
    )  # fmt: skip
    wrapped.chat_template = PARTS.replace("IMAGE", image).replace("VIDEO", video or image)
    wrapped.save_pretrained(folder)
    for file, content in processor.items():
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return wrapped


def _qwen(folder: Path, version: str) -> None:
    import transformers

    pixels = {"min_pixels": 28 * 28, "max_pixels": 28 * 28 * 16}
    tokenizer = _written(
        folder, QWEN, "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>",
        processor={
            "preprocessor_config.json": {
                "image_processor_type": "Qwen2VLImageProcessor", "processor_class": f"Qwen{version}VLProcessor",
                "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, **pixels,
            }
        },
    )  # fmt: skip
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in QWEN}
    vision = {"depth": 2, "num_heads": 4, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if version == "2":
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    else:
        vision |= {
            "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "window_size": 56,
            "fullatt_block_indexes": [1], "tokens_per_second": 2,
        }  # fmt: skip
    config = getattr(transformers, f"Qwen{version}VLConfig")(
        text_config={
            **TEXT, "vocab_size": len(tokenizer), "bos_token_id": ids[TURN[0]], "eos_token_id": ids[TURN[1]],
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
        },
        vision_config=vision, image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    getattr(transformers, f"Qwen{version}VLForConditionalGeneration")(config).save_pretrained(folder)


def _gemma3(folder: Path) -> None:
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = _written(
        folder, [*TURN, *named.values()], "<start_of_image>", named=named,
        processor={
            "preprocessor_config.json": {
                "image_processor_type": "Gemma3ImageProcessor", "processor_class": "Gemma3Processor",
                "size": {"height": 56, "width": 56}, "do_pan_and_scan": False,
            },
            "processor_config.json": {"processor_class": "Gemma3Processor", "image_seq_length": 4},
        },
    )  # fmt: skip
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
    config = Gemma3Config(
        text_config={
            **TEXT, "head_dim": 8, "vocab_size": len(tokenizer), "sliding_window": 64, "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**CLIP, "vision_use_head": False}, mm_tokens_per_image=4, boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"], image_token_index=ids["image_token"],
    )  # fmt: skip
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.02)  # else it is blind
    model.save_pretrained(folder)


def _llava(folder: Path) -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    tokenizer = _written(
        folder, [*TURN, "<image>"], "<image>\\n",
        processor={
            "preprocessor_config.json": {
                "image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor",
                "size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56},
            },
            "processor_config.json": {
                "processor_class": "LlavaProcessor", "patch_size": 14, "vision_feature_select_strategy": "default",
                "num_additional_image_tokens": 1, "image_token": "<image>",
            },
        },
    )  # fmt: skip
    config = LlavaConfig(
        text_config={
            **TEXT, "model_type": "llama", "vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**CLIP, "model_type": "clip_vision_model", "projection_dim": 32},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_seq_length=16,
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(folder)


FAMILIES: dict[str, Callable[[Path], None]] = {
    "qwen2-vl": lambda folder: _qwen(folder, "2"),
    "qwen2.5-vl": lambda folder: _qwen(folder, "2_5_"),
    "gemma3": _gemma3,
    "llava": _llava,
}
