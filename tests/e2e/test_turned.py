"""GPT-2's layers, whose weights lie the other way round: what can be put on them, and that the rest is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from data import models
from data.checking import against
from data.planning import forecast
from engine.contract import text
from engine.contract.adapters import Lora
from engine.contract.errors import ArgsError
from tests import tiny
from tests.e2e.test_methods import says, shaken
from tests.e2e.training import losses, train
from tests.unit.engine.test_trained import OTHERS, TUNED

# Names of layers of the tiny Llama, which this model has not.
OWN_NAMES = ("targets", "modules", "extra_modules")
MORE = [["method.rank=4", "method.rslora=true"], ["method.rank=4", "method.init=olora"]]
WAYS = [
    said for said in [*OTHERS, *TUNED, *MORE] if not any(name in word for word in said for name in OWN_NAMES)
]  # fmt: skip


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("gpt2") / "gpt2")


def made(folder: Path) -> Path:
    tiny.model_folder(folder)
    llama = transformers.AutoConfig.from_pretrained(folder)
    config = transformers.GPT2Config(
        vocab_size=llama.vocab_size, n_positions=256, n_embd=32, n_layer=2, n_head=4, eos_token_id=llama.eos_token_id,
        bos_token_id=llama.bos_token_id, pad_token_id=llama.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("said", WAYS, ids=" ".join)
def test_a_method_is_refused_or_counted_as_it_is_and_merged_without_a_trace(gpt2: Path, said: list[str]) -> None:
    from engine.models.merging import merged
    from engine.models.model import model_of
    from engine.tuning import methods
    from engine.tuning.starts import Start

    given = [*said, "method.alpha=8"] if said[0].startswith("method.") else said
    args: Any = text.parse({}, ["model=gpt2", "data=x", *given], kind="train")
    card = models.card(gpt2)

    def built() -> Any:
        model = model_of(gpt2, dtype=torch.float32, device=torch.device("cpu"))
        return methods.prepared(model, args, Start(steps=10))

    if list(against.problems(card, args.method)):
        if not (isinstance(args.method, Lora) and args.method.init != "default"):  # these fail in PEFT's own words
            with pytest.raises(ArgsError):
                built()
        return
    model = built()
    moved, _ = methods.trained(model)
    assert forecast.trained_parameters(card.shapes, args.method, tied=True) == moved
    if args.method.adapter and args.method.merges:
        tuned = shaken(model)
        wanted = says(tuned)
        assert (says(merged(tuned)) - wanted).abs().max() < 1e-5


def test_lora_trains_there_and_goes_on(workspace: Path) -> None:
    made(workspace / "models" / "gpt2")
    words = ["model=gpt2", "method.rank=4", "steps.max_steps=4", "record.save_every=2"]
    whole = train(workspace, *words)
    assert losses(whole)[-1] < losses(whole)[0]
    again = train(workspace, *words, f"resume.run={whole.id}", "resume.checkpoint=step-2")
    assert losses(again) == pytest.approx(losses(whole)[2:], abs=1e-5)
