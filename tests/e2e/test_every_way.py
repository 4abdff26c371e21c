"""The table of tasks and methods: every cell that the rules allow trains, saves, reloads and goes on (tiny model).

A row and a column of it in `make test`; all of it in `make test-all`, which prints how long it took.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data import weights as found
from engine.contract import text
from engine.contract.errors import ArgsError
from engine.contract.fields import kind, sections
from engine.contract.methods import Method
from engine.contract.rundir import Run
from engine.contract.tasks import Task
from engine.contract.tuners import TUNERS
from tests import tiny
from tests.e2e.training import TINY, losses, train, weights

TASKS = {kind(task): task for task in sections(Task)}
WAYS = {name: [f"method.kind={name}"] for name in map(kind, sections(Method)) if name != "tuner"}
WAYS |= {name: ["method.kind=tuner", f"method.tuner={name}"] for name in TUNERS}
WAYS |= {f"lora on {form}": ["method.kind=lora", f"model.quantisation={form}"] for form in ("int8", "nf4", "fp4")}
# What fits the matrices of the tiny model, which are 16 to 64 numbers wide.
SMALL = {
    "lora": ["method.rank=4"], "freeze": ["method.layers=1"], "fourierft": ["method.own={n_frequency: 16}"],
    "miss": ["method.own={r: 8}"], "psoft": ["method.own={r: 8}"], "shira": ["method.own={r: 4}"],
    "vblora": ["method.own={vector_length: 16}"], "waveft": ["method.own={n_frequency: 16}"],
}  # fmt: skip
QUICK = ("lora", "full", "freeze", "oft", "ia3", "prompt", "prefix", "expand", "vera", "lora on nf4")
# What a task wants said beside its name, so that two steps of it take a moment.
RULE = ["task.max_new_tokens=4", "task.rewards.functions={regex: 1}", "task.rewards.pattern='[A-Z]'"]
SAID = {
    "grpo": ["task.group=4", *RULE], "rloo": ["task.group=4", *RULE], "ppo": RULE, "pretrain": ["data.max_length=32"],
}  # fmt: skip
COMMON = ["steps.max_steps=3", "record.save_every=2", "steps.batch_size=2", "steps.accumulation=2"]
# Says of each folder that it is told what the model in there makes of a few tokens, and nothing where it cannot tell.
RELOAD = """
import sys, traceback
from pathlib import Path
from tests.e2e.test_every_way import reloaded
for folder in sys.stdin:
    try:
        print(*reloaded(Path(folder.strip()), Path(sys.argv[1])).flatten().tolist(), flush=True)
    except Exception:
        traceback.print_exc()
        print(flush=True)
"""


def allowed(task: str, way: str) -> bool:
    """Whether the rules let this cell be."""
    try:
        text.parse({}, ["model=tiny", "data=x", *said(task, way)], kind="train")
    except ArgsError:
        return False
    return True


def said(task: str, way: str) -> list[str]:
    return [*COMMON, f"task.kind={task}", *SAID.get(task, []), *WAYS[way], *SMALL.get(way.split()[0], [])]


CELLS = [(task, way) for task in TASKS for way in WAYS if allowed(task, way)]
FEW = [cell for cell in CELLS if cell[1] == "lora" or (cell[0] == "sft" and cell[1] in QUICK)]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, and a file of rows of every kind."""
    folder = tmp_path_factory.mktemp("ways")
    tiny.model_folder(folder / "models" / "tiny")
    (folder / "datasets").mkdir()
    asked = [(f"What is {number} and {number}?", f"It is {2 * number}.") for number in range(12)]
    rows: dict[str, list[dict[str, Any]]] = {
        "conversation": [{"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]}
                         for ask, answer in asked],
        "text": [{"text": f"{ask} {answer} " * 3} for ask, answer in asked],
        "preference": [{"prompt": ask, "chosen": answer, "rejected": "No idea."} for ask, answer in asked],
        "feedback": [{"prompt": ask, "completion": answer, "label": bool(number % 2)}
                     for number, (ask, answer) in enumerate(asked)],
        "scored": [{"prompt": ask, "completion": answer, "score": number / 12}
                   for number, (ask, answer) in enumerate(asked)],
        "prompt": [{"prompt": ask} for ask, _ in asked],
    }  # fmt: skip
    for name, lines in rows.items():
        (folder / "datasets" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def unpictured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture of the curve, which takes two fifths of a cell's time and is looked at by tests of its own."""
    for module in ("engine.training.trainer", "engine.recipes.run"):
        monkeypatch.setattr(f"{module}.draw", lambda run: None)


@pytest.fixture(scope="module")
def stranger(workspace: Path) -> Iterator[Callable[[Path], torch.Tensor]]:
    """A process that trains nothing, which says what it makes of a saved model."""
    asked = [sys.executable, "-c", RELOAD, str(workspace)]
    with subprocess.Popen(asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        asking, saying = process.stdin, process.stdout

        def says(folder: Path) -> torch.Tensor:
            print(folder, file=asking, flush=True)
            return torch.tensor([float(word) for word in saying.readline().split()])

        yield says


def trained(workspace: Path, task: str, way: str, *more: str) -> Run:
    rows = TASKS[task].takes[0]
    return train(workspace, f"data={rows}.jsonl", *said(task, way), *more)


def reloaded(folder: Path, workspace: Path) -> torch.Tensor:
    """What the saved model in `folder` says of a few tokens, loaded as everything that uses it does."""
    from transformers import AutoModelForSequenceClassification

    from engine.models.model import model_of, with_adapter

    settings = folder / "config.json"
    adapter = folder / "adapter_config.json"
    scores = "ForSequenceClassification" in settings.read_text() if settings.is_file() else (
        '"SEQ_CLS"' in adapter.read_text()
    )  # fmt: skip
    own: dict[str, Any] = {"kind": AutoModelForSequenceClassification, "num_labels": 1} if scores else {}
    base = workspace / "models" / "tiny" if adapter.is_file() else folder
    torch.manual_seed(0)
    model = model_of(base, dtype=torch.float32, device=torch.device("cpu"), **own)
    if scores:
        model.config.pad_token_id = 2
    if adapter.is_file():
        model = with_adapter(model, folder)
    with torch.no_grad():
        return model.eval()(torch.arange(3, 15)[None]).logits


def holds(workspace: Path, task: str, way: str) -> None:
    run = trained(workspace, task, way)
    assert len(losses(run)) == 3
    kept, base = weights(run.model_path), weights(workspace / "models" / "tiny")
    assert kept, "nothing was saved"
    assert any(name not in base or not torch.equal(base[name], tensor) for name, tensor in kept.items()), "unmoved"
    assert found.find(run.id, workspace)
    said = reloaded(run.model_path, workspace)
    assert torch.isfinite(said).all()
    # The last step's checkpoint and the final model are the same weights, written by different ways.
    (_, last) = run.checkpoints()[-1]
    again = trained(workspace, task, way, f"resume.run={run.id}", "resume.checkpoint=step-2")
    assert last.name == "step-3"
    torch.testing.assert_close(reloaded(last, workspace), said, atol=1e-5, rtol=1e-4)
    assert losses(again) == pytest.approx(losses(run)[2:], abs=1e-4)
    torch.testing.assert_close(reloaded(again.model_path, workspace), said, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize(("task", "way"), FEW, ids=str)
def test_every_task_and_every_method_trains_saves_reloads_and_goes_on(workspace: Path, task: str, way: str) -> None:
    holds(workspace, task, way)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "way"), [cell for cell in CELLS if cell not in FEW], ids=str)
def test_every_cell_that_the_rules_allow_does_so(workspace: Path, task: str, way: str) -> None:
    holds(workspace, task, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for task, way in CELLS if task == "sft"])
def test_what_each_method_saves_is_the_same_to_a_process_that_has_never_seen_it(
    workspace: Path, stranger: Callable[[Path], torch.Tensor], way: str
) -> None:
    run = trained(workspace, "sft", way)
    here = reloaded(run.model_path, workspace).flatten()
    torch.testing.assert_close(stranger(run.model_path), here, atol=1e-4, rtol=1e-3)


def test_every_task_and_method_has_a_cell() -> None:
    assert {task for task, _ in CELLS} == set(TASKS)
    assert {way for _, way in CELLS} == set(WAYS)
    assert TINY
