"""What the page says of an export before it is made: its sizes, and which form there is not. No browser, no torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.results import shelf
from engine.contract.errors import ModelError


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


@pytest.mark.parametrize(("kind", "served"), [("LORA", True), ("OFT", False), ("PROMPT_TUNING", False)])
def test_vllm_is_offered_for_the_adapters_that_it_knows(tmp_path: Path, kind: str, served: bool) -> None:
    (tmp_path / "exports").mkdir()
    folder = Path(adapter(tmp_path / "exports" / "mine", peft_type=kind))
    shown = shelf.commands(shelf.Export(folder, {"form": "adapter", "base": "owner/base"}), tmp_path)
    assert ("vllm serve" in shown) == served
    assert "AutoModelForCausalLM" in shown


def test_a_reward_model_is_not_shown_as_one_that_writes(tmp_path: Path) -> None:
    (tmp_path / "exports").mkdir()
    folder = Path(adapter(tmp_path / "exports" / "mine", peft_type="LORA", task_type="SEQ_CLS"))
    shown = shelf.commands(shelf.Export(folder, {"form": "adapter", "base": "owner/base"}), tmp_path)
    assert "AutoModelForSequenceClassification" in shown and "PeftModel" in shown
    assert "text-generation" not in shown and "vllm" not in shown


def test_an_adapter_whose_base_is_gone_is_refused_by_name(tmp_path: Path) -> None:
    ref = adapter(tmp_path / "mine", peft_type="LORA", base_model_name_or_path="gone")
    with pytest.raises(ModelError, match="mine stands on a model that cannot be had. There is no model called 'gone'"):
        shelf.sizes(ref, "auto", tmp_path)
