"""What becomes of adapters: merged they say the same, exported they are found, and several share one base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract import text
from engine.contract.errors import ModelError
from tests.e2e.test_methods import EACH, IDS, LORA, loaded, prepared, says, shaken
from tests.e2e.training import train


@pytest.mark.parametrize("said", EACH)
def test_merged_equals_unmerged_and_so_does_what_is_written(tiny_model: Path, tmp_path: Path, said: list[str]) -> None:
    from engine.models.merging import merged

    tuned = shaken(prepared(tiny_model, *said))
    wanted = says(tuned)
    assert (wanted - says(loaded(tiny_model))).abs().max() > 1e-5
    whole = merged(tuned)
    assert (says(whole) - wanted).abs().max() < 1e-5
    whole.save_pretrained(tmp_path)
    assert (says(loaded(tmp_path)) - wanted).abs().max() < 1e-5


def test_embeddings_trained_apart_are_not_tied_again(tiny_model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from engine.models.merging import merged

    config = LoraConfig(target_modules="all-linear", modules_to_save=["embed_tokens"], task_type="CAUSAL_LM")
    tuned = shaken(get_peft_model(loaded(tiny_model), config))
    wanted = says(tuned)
    merged(tuned).save_pretrained(tmp_path)
    assert (says(loaded(tmp_path)) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("said", [["method=prompt"], ["method=prefix"]], ids=" ".join)
def test_a_learnt_prompt_is_exported_alone_and_merging_says_why(workspace: Path, said: list[str]) -> None:
    from engine import export
    from engine.contract import rundir
    from engine.report import Report, Stop

    run = train(workspace, *said)
    for form in ("merged", "adapter"):
        args: Any = text.parse({}, [f"tuned={run.id}", f"form={form}", "to=it"], kind="export")
        folder = rundir.make(workspace, "export", text.dump(args))
        if form == "merged":
            with pytest.raises(ModelError, match="adds to the prompt, not to the weights"):
                export.run(args, folder, Report(folder), Stop())
        else:
            export.run(args, folder, Report(folder), Stop())
    assert (workspace / "exports" / "it" / "adapter_model.safetensors").is_file()


# Learnt prompts


@pytest.mark.parametrize("said", [["method=prompt"], ["method=prefix"]], ids=" ".join)
def test_a_learnt_prompt_is_read_before_each_answer(tiny_model: Path, said: list[str]) -> None:
    model = prepared(tiny_model, *said)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter)
    assert says(model).shape[1] == IDS.shape[1]
    assert (says(model) - says(loaded(tiny_model))).abs().max() > 0.01
    ids = IDS
    for _ in range(8):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    said_at_once = model.generate(
        input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=8, do_sample=False, eos_token_id=None
    )
    assert torch.equal(said_at_once, ids)
    with model.disable_adapter():
        assert torch.equal(says(model), says(loaded(tiny_model)))


def test_logits_that_are_asked_for_by_place_are_those_of_the_tokens_given(tiny_model: Path) -> None:
    model = prepared(tiny_model, "method=prompt")
    kept = torch.tensor([2, 5])
    wanted = model(input_ids=IDS).logits[:, kept]
    torch.testing.assert_close(model(input_ids=IDS, logits_to_keep=kept).logits, wanted, atol=1e-6, rtol=0)


def test_a_learnt_prompt_can_start_as_words(tiny_model: Path) -> None:
    model = prepared(tiny_model, "method=prompt", "method.tokens=6", "method.text=Add")
    learnt = model.prompt_encoder["default"].embedding.weight
    table = loaded(tiny_model).get_input_embeddings().weight
    places = [int((table == row).all(1).nonzero()[0]) for row in learnt]
    assert places[:3] == places[3:] and len(set(places)) == 3 - (places[1] == places[2])


# Several on one base


def test_adapters_of_every_kind_share_one_base_and_leave_it_alone(workspace: Path, tiny_model: Path) -> None:
    from engine.models.attached import attached
    from engine.models.model import with_adapter

    kinds = {"lora": LORA, "other": [*LORA, "method.targets=[q_proj]"], "oft": ["method=oft"],
             "prompt": ["method=prompt"], "prefix": ["method=prefix"],
             "deep": [*LORA, "method.replicate=[0-1, 1-1]"]}  # fmt: skip
    folders = {}
    for name, said in kinds.items():
        folders[name] = workspace / name
        shaken(prepared(tiny_model, *said)).save_pretrained(folders[name])
    base = loaded(tiny_model)
    held = {parameter.data_ptr() for parameter in base.parameters()}
    speakers = attached(base, folders, tiny_model)
    for name in ["prompt", "lora", "deep", "", "oft", "other", "prefix", "", "lora"]:
        wanted = with_adapter(loaded(tiny_model), folders[name]).eval() if name else loaded(tiny_model)
        with speakers[name].speaking() as model:
            assert torch.equal(says(model), says(wanted)), name
    for name, speaker in speakers.items():
        frozen = [one for one in speaker.model.get_base_model().parameters() if one.data_ptr() in held]
        assert len(frozen) >= len(held), name  # the very weights, not a copy
