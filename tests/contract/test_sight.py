"""What pictures rest on in the installed transformers: image processors on Pillow, and a film processor that is not."""

from __future__ import annotations

import importlib.util

import pytest


@pytest.mark.parametrize("family", ["Qwen2VL", "Gemma3", "CLIP", "Siglip", "LlavaNext", "SmolVLM", "Idefics3"])
def test_image_processors_run_on_pillow_alone(family: str) -> None:
    import transformers
    from PIL import Image

    processor = getattr(transformers, f"{family}ImageProcessorPil")()
    assert len(processor(images=[Image.new("RGB", (60, 40), "red")])["pixel_values"])


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is here")
def test_the_film_processor_needs_torchvision_so_ours_stands_in() -> None:
    import transformers

    with pytest.raises(ImportError, match="Torchvision"):
        transformers.Qwen2VLVideoProcessor()


@pytest.mark.parametrize("family", ["Qwen2VL", "Qwen2_5_VL", "Gemma3", "Llava"])
def test_processors_say_what_they_make_of_a_picture(family: str) -> None:
    import transformers

    kind = getattr(transformers, f"{family}Processor")
    assert "image_processor" in kind.get_attributes() and hasattr(kind, "get_text_with_replacements")
