"""What the page says of an export before it is made: its sizes, and which form there is not. No browser, no torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.results import shelf


def adapter(folder: Path, **config: object) -> str:
    folder.mkdir()
    said = {"base_model_name_or_path": "owner/base", **config}
    (folder / "adapter_config.json").write_text(json.dumps(said), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(bytes(100))
    return str(folder)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_what_stands_before_the_prompt_has_no_merged_form_and_its_card_says_why(tmp_path: Path, kind: str) -> None:
    ref = adapter(tmp_path / "mine", peft_type=kind, num_virtual_tokens=20)
    sizes = shelf.sizes(ref, "auto", tmp_path)
    assert sizes.merged is None and sizes.adapter
    assert "there is nothing to merge" in shelf.cards(sizes, "adapter")


def test_lora_has_both_forms(tmp_path: Path) -> None:
    sizes = shelf.sizes(adapter(tmp_path / "mine", peft_type="LORA", r=8), "auto", tmp_path)
    assert sizes.merged == 0 and sizes.adapter  # 0: the base is not here
    assert "nothing to merge" not in shelf.cards(sizes, "merged")
