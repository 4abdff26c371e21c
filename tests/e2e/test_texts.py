"""Plain text on a base model that brings no chat template: checked, shown, trained and exported without one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data.checking import fitness, preflight, survey
from engine import export
from engine.contract import rundir, text
from engine.contract.args import ExportArgs, TrainArgs
from engine.contract.errors import ArgsError
from engine.report import Report, Stop
from tests.e2e.training import TINY, events, losses, train

TEXTS = ["data=tales.jsonl"]


@pytest.fixture
def base(workspace: Path) -> Path:
    """The workspace, with a model that has no template and a dataset of texts."""
    folder = workspace / "models" / "tiny"
    chats = folder.resolve()
    folder.unlink()
    shutil.copytree(chats, folder)
    (folder / "chat_template.jinja").unlink()
    tales = [json.dumps({"text": f"Once there were {number} bears. They slept."}) for number in range(12)]
    (workspace / "datasets" / "tales.jsonl").write_text("\n".join(tales) + "\n", encoding="utf-8")
    return workspace


def args(*overrides: str) -> TrainArgs:
    found = text.parse({}, [*TINY, *overrides], kind="train")
    assert isinstance(found, TrainArgs)
    return found


def test_texts_are_checked_and_shown_without_a_template(base: Path) -> None:
    assert preflight.problems(args(*TEXTS), base) == []
    found = survey.whole(args(*TEXTS), base / "models" / "tiny", base)
    assert found.used == 12 and [one for one in found.findings if one.level == "error"] == []
    subject = fitness.subject(base / "models" / "tiny")
    view = fitness.viewed(found.shown["first"][0], subject, args(*TEXTS).data)[0]
    assert view.rendered.text.removesuffix("<|im_end|>") == "Once there were 0 bears. They slept."


def test_conversations_still_ask_for_one(base: Path) -> None:
    for chosen in (["data=sums.jsonl"], ["data.train=[tales.jsonl, sums.jsonl]"]):
        (problem,) = preflight.problems(args(*chosen), base)
        assert problem.path == "model.template"
        assert "brings no chat template. Choose one under Template" in problem.text
    found = survey.whole(args("data.train=[tales.jsonl, sums.jsonl]"), base / "models" / "tiny", base)
    (error,) = [finding for finding in found.findings if finding.level == "error"]
    assert error.kind == "refused"
    assert "In 12 of 24 rows" in error.text and "brings no chat template" in error.text
    with pytest.raises(ArgsError, match="brings no chat template. Choose one under Template"):
        train(base, "data.train=[tales.jsonl, sums.jsonl]")


def test_a_model_that_learnt_texts_goes_on_with_them_and_is_exported_whole(base: Path) -> None:
    run = train(base, *TEXTS, "method=lora", "record.samples=[Once there were]", "data.split=75/25/0")
    assert losses(run)[-1] < losses(run)[0]
    assert events(run, "sample")[0]["prompt"] == "Once there were"
    wanted = ExportArgs(tuned=run.id, to="teller", dtype="fp32", probes=["Once there were"])
    task = rundir.make(base, "export", text.dump(wanted))
    export.run(wanted, task, Report(task), Stop())
    folder = base / "exports" / "teller"
    assert not (folder / "chat_template.jinja").exists()
    assert "{{ .Content }}" in (folder / "Modelfile").read_text()
    assert '"role"' not in (folder / "README.md").read_text()
    assert json.loads(task.receipt_path.read_text())["verified"]
