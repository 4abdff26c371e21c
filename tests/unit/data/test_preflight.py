"""What is said to arguments before a run is made: what a resumed run must keep, and paths that hold anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.checking import preflight
from engine.contract import rundir, text

ROW = '{"prompt": "a", "completion": "b"}\n'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a dataset and a model's folder, outside the workspace."""
    folder = tmp_path / "here"
    (folder / "model").mkdir(parents=True)
    (folder / "mine.jsonl").write_text(ROW)
    monkeypatch.chdir(folder)
    return folder


def args(*words: str, kind: str = "train") -> Any:
    return text.parse({}, words, kind=kind)


@pytest.mark.parametrize(
    ("changes", "paths"),
    [
        ([], []),
        (["steps.epochs=9", "steps.batch_size=1", "optim.learning_rate=1e-5", "data.max_length=99"], []),
        (["data=./mine.jsonl", "method.alpha=32"], []),
        (["steps.seed=7"], ["steps.seed"]),
        (["data.split=50/50/0", "data.max_rows=3"], ["data.split", "data.max_rows"]),
        (["model=other", "method=full", "data=sql"], ["model.path", "method", "data.train"]),
    ],
)
def test_a_resumed_run_keeps_its_weights_and_the_rows_held_out(
    tmp_path: Path, here: Path, changes: list[str], paths: list[str]
) -> None:
    before = args("model=some", "data=mine.jsonl")
    parent = rundir.make(tmp_path, "parent", text.dump(preflight.grounded(before, tmp_path)))
    (parent.checkpoints_path / "step-2").mkdir(parents=True)
    given = args("model=some", "data=mine.jsonl", f"resume.run={parent.id}", *changes)
    found = [problem for problem in preflight.problems(given, tmp_path) if "was trained with" in problem.text]
    assert sorted(problem.path for problem in found) == sorted(paths)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("LlamaForSequenceClassification", "task.reference_model: judge scores answers"),
        ("LlamaForCausalLM", "task.rewards.model: judge is LlamaForCausalLM, which scores no texts"),
    ],
)
def test_a_model_that_cannot_do_what_it_is_named_for_is_refused(tmp_path: Path, architecture: str, said: str) -> None:
    folder = tmp_path / "models" / "judge"
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "architectures": [architecture], "id2label": {"0": "score"}}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).touch()
    dpo = ["task=dpo", "task.reference_model=judge"]
    grpo = ["task=grpo", "task.rewards.model=judge", "task.rewards.functions={}"]
    found = [str(one) for words in (dpo, grpo) for one in preflight.problems(args(*words), tmp_path)]
    assert [line.startswith(said) for line in found if "judge" in line] == [True]


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("ForSequenceClassification", [], "model.path: judge is BertForSequenceClassification, which writes no text."),
        ("ForMaskedLM", ["task=dpo"], "model.path: judge is BertForMaskedLM, which writes no text."),
        ("ForSequenceClassification", ["task=reward"], "model.path: judge tells 3 labels apart"),
        ("ForSequenceClassification", ["task=ppo", "label="], "task.rewards.model: judge has several labels."),
        ("ForSequenceClassification", ["task=ppo", "label=good"], "Choose one of BAD, SO_SO, GOOD."),
        ("ForSequenceClassification", ["task=ppo", "label=GOOD"], ""),
    ],
)
def test_a_classifier_is_taken_for_its_labels_and_for_nothing_else(
    tmp_path: Path, kind: str, words: list[str], said: str
) -> None:
    folder = tmp_path / "models" / "judge"
    folder.mkdir(parents=True)
    config = {"architectures": [f"Bert{kind}"], "id2label": {"0": "BAD", "1": "SO_SO", "2": "GOOD"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (folder / "tokenizer.json").touch()
    task = [f"task.rewards.{word}" if word.startswith("label") else word for word in words]
    model = ["task.rewards.model=judge", "task.rewards.functions={}"] if "task=ppo" in words else ["model=judge"]
    found = [str(one) for one in preflight.problems(args(*task, *model), tmp_path)]
    assert any(said in line for line in found if "judge" in line) is bool(said), found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["method=prompt", "method.tokens=1000"],
            "128 and the 1000 learnt tokens (method.tokens) are over the model's",
        ),
        (["data.max_length=999"], "999 is over the model's context of 256. Lower it."),
        (["method.init=eva", "method.rank=64"], "a layer has inputs, and here one has 32. Lower it, or set"),
        (["model.attention=flex_attention", "compute.device=cpu"], "flex_attention computes no gradients on a CPU"),
        ([], ""),
    ],
)
def test_what_the_model_or_the_device_has_against_arguments_is_said_before_the_run(
    workspace: Path, words: list[str], said: str
) -> None:
    given = args("model=tiny", "data=sums.jsonl", "data.max_length=128", *words)
    found = [problem.text for problem in preflight.problems(given, workspace)]
    assert [said in text for text in found] == ([True] if said else [])


def test_only_a_run_of_this_workspace_is_resumed(tmp_path: Path) -> None:
    parent = rundir.make(tmp_path, "parent", text.dump(args()))
    (parent.checkpoints_path / "step-2").mkdir(parents=True)
    said = [str(problem) for problem in preflight.problems(args(f"resume.run=../runs/{parent.id}"), tmp_path)]
    assert any(f"resume.run: There is no run '../runs/{parent.id}'" in line for line in said)


def test_paths_of_the_working_directory_are_written_down_whole_and_names_stay(tmp_path: Path, here: Path) -> None:
    run = rundir.make(tmp_path, "parent", text.dump(args()))
    (tmp_path / "models" / "model").mkdir(parents=True)
    found = preflight.grounded(args("model=./model", "data=[sql, mine.jsonl, nowhere.jsonl]"), tmp_path)
    assert found.model.path == str(here / "model")
    assert found.data.train == ["sql", str(here / "mine.jsonl"), "nowhere.jsonl"]
    assert preflight.grounded(args("model=model"), tmp_path).model.path == "model"
    goes_on = preflight.grounded(args("method.start_from=./model"), tmp_path).method
    assert getattr(goes_on, "start_from") == str(here / "model")  # noqa: B009
    compared = preflight.grounded(args("task=dpo", "task.reference_model=./model"), tmp_path).task
    assert getattr(compared, "reference_model") == str(here / "model")  # noqa: B009
    served = preflight.grounded(args(f"models=[{run.id}, ./model, me/hub]", kind="serve"), tmp_path)
    assert served.models == [run.id, str(here / "model"), "me/hub"]


def test_rows_that_are_trained_on_do_not_measure(tmp_path: Path, here: Path) -> None:
    given = args("data=[sql, ./mine.jsonl]", "data.validation=[identity, mine.jsonl]")
    [said] = [problem for problem in preflight.problems(given, tmp_path) if problem.path == "data.validation"]
    assert said.text.startswith(f"{here / 'mine.jsonl'} is trained on too")


def test_a_file_is_trained_on_once_whatever_it_is_called(workspace: Path) -> None:
    file = workspace / "datasets" / "sums.jsonl"

    def said(*overrides: str) -> list[str]:
        args = text.parse({}, ["model=tiny", "data.max_length=128", *overrides], kind="train")
        return [str(problem) for problem in preflight.problems(args, workspace)]

    (twice,) = said(f"data=[sums.jsonl, {file}]")
    assert twice.startswith(f"data.train: sums.jsonl and {file} are the same file")
    (leaked,) = said("data=sums.jsonl", f"data.validation={file}")
    assert leaked.startswith(f"data.validation: {file} is trained on too")
    listed = "  path: sums.jsonl\n  format: question_answer\n  columns: {question: %s, answer: b}\n"
    (workspace / "datasets" / "datasets.yaml").write_text("one:\n" + listed % "a" + "two:\n" + listed % "c")
    assert not any("same file" in problem for problem in said("data=[one, two]"))


def test_a_mistake_in_the_list_of_datasets_is_a_note_and_stops_nothing(workspace: Path) -> None:
    (workspace / "datasets" / "datasets.yaml").write_text("a: 7\n")
    args = text.parse({}, ["model=tiny", "data=sums.jsonl", "data.max_length=128"], kind="train")
    (note,) = preflight.notes(args, workspace)
    assert "a: it must hold fields" in note
    assert not preflight.problems(args, workspace)


def test_what_cannot_be_clipped_is_said(workspace: Path) -> None:
    said = {
        optimiser: preflight.notes(text.parse({}, ["model=tiny", "data=sums.jsonl", *words], kind="train"), workspace)
        for optimiser in ("adamw_torch", "lomo")
        for words in [["method.kind=full", "steps.accumulation=1", f"optim.optimiser={optimiser}"]]
    }
    assert said["adamw_torch"] == []
    (note,) = said["lomo"]
    assert note.startswith("lomo steps before") and "optim.max_grad_norm" in note


def test_pairs_are_made_from_columns_that_fit_no_format(here: Path, workspace: Path) -> None:
    (here / "lands.csv").write_text("country,capital\nPeru,Lima\n")
    (here / "broken.jsonl").write_text('{"country": \n')
    words = ["endpoint.address=http://127.0.0.1:9", "what.question=What is the capital of {country}?"]

    def found(file: str, kind: str) -> list[str]:
        given = [f"data={here / file}", f"what.kind={kind}", *words[: 2 if kind == "pairs" else 1]]
        return [str(problem) for problem in preflight.problems(args(*given, kind="make"), workspace)]

    assert found("lands.csv", "pairs") == []
    assert "country, capital fit no format" in "".join(found("lands.csv", "answer"))
    assert "broken.jsonl, row 1: this is not valid JSON" in "".join(found("broken.jsonl", "pairs"))
