"""Words that become one token each: where they start, that they are learnt, and what comes of the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from data import weights
from data.checking import preflight
from data.encoding.tokens import TextTokenizer
from engine.contract import text
from engine.contract.args import ServeArgs
from engine.contract.errors import ArgsError
from engine.exporting import lineage
from engine.serving import roster
from tests.e2e.test_export import do
from tests.e2e.training import TINY, events, losses, train
from tests.e2e.training import weights as tensors

WORDS = ["What", "<step>"]
NEW = ["model.new_tokens=[What, <step>]"]
EMBEDDINGS = "model.embed_tokens.weight"
FULL, LORA = ["method=full"], ["method.rank=4"]


def untied(workspace: Path) -> str:
    """The name of a tiny model whose output layer is its own, with more rows in its embeddings than it has tokens."""
    from transformers import LlamaForCausalLM

    folder = workspace / "models" / "untied"
    shutil.copytree(workspace / "models" / "tiny", folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = model.config
    config.tie_word_embeddings = False
    torch.manual_seed(3)
    config.vocab_size = -(-(config.vocab_size + 1) // 64) * 64
    LlamaForCausalLM(config).save_pretrained(folder)
    return "model=untied"


def logits(folder: Path, ids: list[int], adapter: Path | None = None) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0]


def test_new_tokens_are_one_id_each_and_start_as_the_mean_of_the_old(workspace: Path) -> None:
    run = train(workspace, *FULL, *NEW, "steps.max_steps=1")
    tokenizer = TextTokenizer.of(run.start_path)
    old, new = (tensors(folder)[EMBEDDINGS] for folder in (workspace / "models" / "tiny", run.start_path))
    assert [tokenizer.encode(word).ids for word in WORDS] == [[len(old)], [len(old) + 1]]
    assert tokenizer.decode(tokenizer.encode("What is <step>?").ids) == "What is <step>?"
    assert len(new) == len(old) + 2 and torch.equal(new[: len(old)], old)
    torch.testing.assert_close(new[len(old) :], old.mean(0).expand(2, -1), atol=1e-3, rtol=0)
    assert json.loads((run.start_path / "config.json").read_text())["vocab_size"] == len(new)
    assert "lm_head.weight" not in tensors(run.start_path)  # as tied as it was


def test_places_that_a_model_kept_free_start_as_the_mean_too(workspace: Path) -> None:
    run = train(workspace, untied(workspace), *FULL, *NEW, "steps.max_steps=1")
    old, new = (tensors(folder) for folder in (workspace / "models" / "untied", run.start_path))
    place = TextTokenizer.of(run.start_path).id("What")
    for name in (EMBEDDINGS, "lm_head.weight"):
        assert len(new[name]) == len(old[name]) and torch.equal(new[name][:place], old[name][:place])
        torch.testing.assert_close(new[name][place], old[name][:place].mean(0))


@pytest.mark.parametrize("method", [FULL, LORA, ["method=freeze", "method.layers=1", "method.embeddings=true"]])
def test_new_tokens_are_learnt_from_the_rows(workspace: Path, method: list[str]) -> None:
    plain, grown = train(workspace, *method), train(workspace, *method, *NEW)
    tokens = [events(run, "result")[0]["facts"]["tokens"] for run in (plain, grown)]
    assert tokens[1] < tokens[0]  # What, four letters before
    place = TextTokenizer.of(grown.start_path).id("What")
    start = tensors(grown.start_path)[EMBEDDINGS]
    found = tensors(grown.model_path)
    [delta] = [one for name, one in found.items() if "trainable_tokens" in name] or [found.get(EMBEDDINGS)]
    row = delta[0] if method is LORA else delta[place]
    assert not torch.equal(row, start[place])
    if method is LORA:  # the new ones alone, once: the output layer is tied
        assert len(delta) == len(WORDS) and not [name for name in found if "lm_head" in name]


@pytest.mark.parametrize("method", [FULL, LORA])
def test_a_resumed_run_with_new_tokens_equals_an_uninterrupted_one(workspace: Path, method: list[str]) -> None:
    common = [*method, *NEW, "record.save_every=2", "record.keep=9"]
    whole = train(workspace, *common)
    resumed = train(workspace, *common, f"resume.run={whole.id}", "resume.checkpoint=step-2")
    assert losses(resumed) == losses(whole)[2:]
    expected, found = tensors(whole.model_path), tensors(resumed.model_path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    other = text.parse({}, [*TINY, *method, f"resume.run={whole.id}", "model.new_tokens=[What]"], kind="train")
    assert [problem.path for problem in preflight.problems(other, workspace)] == ["model.new_tokens"]


@pytest.mark.parametrize(("method", "kind"), [(FULL, "tied"), (LORA, "tied"), (LORA, "untied")])
def test_what_learnt_new_tokens_is_exported_whole(workspace: Path, method: list[str], kind: str) -> None:
    model = [untied(workspace)] if kind == "untied" else []
    run = train(workspace, *model, *method, *NEW)
    do(workspace, tuned=run.id, to="mine", dtype="fp32")
    export = workspace / "exports" / "mine"
    ids = TextTokenizer.of(export).encode("What is <step> 3?").ids
    trained = (run.start_path, ids, run.model_path) if method is LORA else (run.model_path, ids)
    assert TextTokenizer.of(run.start_path).id("<step>") in ids
    torch.testing.assert_close(logits(export, ids), logits(*trained), atol=1e-5, rtol=0)
    name = "tiny" if kind == "tied" else kind
    assert f"made from **{name}**" in (export / "README.md").read_text()
    config = json.loads((export / "config.json").read_text())
    assert config["tie_word_embeddings"] is (kind == "tied")


def test_an_adapter_with_new_tokens_stands_on_the_grown_model(workspace: Path) -> None:
    run = train(workspace, *LORA, *NEW, "steps.max_steps=1")
    base = str(run.start_path)
    assert lineage.of(run.id, workspace).base == weights.find(run.id, workspace).base == base
    said = events(do(workspace, tuned=run.id, to="beside", form="adapter"), "warning")
    assert [one for one in said if f"fits the base with the new tokens alone, {base}" in one["text"]]
    assert weights.find("exports/beside", workspace).base == base
    spoken = roster.load(ServeArgs(models=[run.id], device="cpu", dtype="fp32"), workspace)
    assert list(spoken.voices) == [run.id, f"{run.id}-start"]
    with pytest.raises(ArgsError, match="was trained from .*start"):
        train(workspace, *LORA, f"method.start_from={run.id}")


def test_the_loss_of_an_adapter_with_new_tokens_is_the_same_by_every_way(workspace: Path) -> None:
    ways = [[], ["compute.loss=plain", "compute.padding_free=false"], ["method.extra_modules=[embed_tokens]"]]
    first, padded, wider = (losses(train(workspace, *LORA, *NEW, *way)) for way in ways)
    assert padded == pytest.approx(first, abs=1e-5)
    assert wider[0] == pytest.approx(first[0], abs=1e-5) and wider[-1] < first[-1]  # all tokens learn, not two


@pytest.mark.parametrize(("given", "said"), [
    (["model.new_tokens=[What, a]"], "'a' is one token of tiny already. Leave it out"),
    (["model.new_tokens=[What, <|im_end|>, a]"], "'<.im_end.>', 'a' are one token each"),
    (["model.new_tokens=[What, What]"], "'What' stands there twice. Name it once"),
    (["model.new_tokens=[' What', '']"], "' What', '' is empty, or begins or ends with a space"),
    ([*NEW, "method=oft"], "OFT .method.kind. leaves the embeddings as they are.*Choose lora or full, or freeze"),
    ([*NEW, "method=freeze"], "Freeze .method.kind. leaves the embeddings as they are"),
    ([*NEW, "method=expand"], "leaves the embeddings as they are"),
    ([*NEW, "method.start_from=that"], "The adapter that .method.start_from. belongs to the model as it was"),
    ([*NEW, "launch.strategy=fsdp"], "An adapter learns single tokens, and fsdp .launch.strategy. shares"),
    ([*NEW, *FULL, "task=pretrain", "task.start=scratch"], "A model from scratch .task.start. learns its tokens"),
])  # fmt: skip
def test_what_cannot_become_a_token_is_refused_by_name(workspace: Path, given: list[str], said: str) -> None:
    with pytest.raises(ArgsError, match=said):
        train(workspace, *given)


def test_a_model_that_sees_gets_no_new_tokens(workspace: Path) -> None:
    from tests import tiny_sight

    tiny_sight.make(min(tiny_sight.FAMILIES), workspace / "models" / "seeing")
    args = text.parse({}, [*TINY, *NEW, "model=seeing"], kind="train")
    assert [str(found) for found in preflight.problems(args, workspace) if "sees" in found.text]
