"""What people type: `python -m engine ...`, its words, its exit codes, and what it says when something is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.check import NOT_YET, UNSEEN
from engine.contract import rundir, start, text
from engine.contract.rundir import Run
from tests.e2e.training import losses
from tests.processes import ended, kill_runs, steps, until

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ["model=tiny", "data=sums.jsonl", "data.max_length=128", "compute.device=cpu"]
SHORT = [*TRAIN, "steps.max_steps=2", "steps.batch_size=2", "method.rank=4", "model.dtype=fp32"]
PATIENCE = 300


@pytest.fixture(autouse=True)
def surroundings(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No run outlives its test."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    kill_runs(workspace)


@pytest.fixture
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without torch, that would go on for an hour."""
    monkeypatch.setenv("TUNEBOARD_WORKER", f"{sys.executable} {ROOT / 'tests' / 'fake_worker.py'}")
    monkeypatch.setenv("FAKE_STEPS", "36000")
    monkeypatch.setenv("FAKE_SECONDS_PER_STEP", "0.1")


def command(workspace: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "engine", *words, "--workspace", str(workspace)]


def engine(workspace: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(workspace, *words), cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def open_engine(workspace: Path, *words: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command(workspace, *words), cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def only_run(workspace: Path) -> Run:
    [run] = until(lambda: rundir.runs(workspace))
    return run


def refused(workspace: Path, *words: str) -> list[str]:
    """What a command says that ends with 2 before anything is made."""
    done = engine(workspace, *words)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert not (workspace / "runs").exists() and "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()


def test_one_line_trains_and_its_args_file_repeats_the_run(workspace: Path) -> None:
    done = engine(workspace, "train", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    first = only_run(workspace)
    assert (first.model_path / "adapter_model.safetensors").is_file() and first.picture_path.is_file()
    assert f"Run {first.id}" in done.stdout and "step 2" in done.stdout and done.stdout.endswith("done\n")

    again = engine(workspace, "train", str(first.args_path), "name=again")
    assert again.returncode == 0, again.stdout + again.stderr
    [second] = [run for run in rundir.runs(workspace) if run.id != first.id]
    assert losses(second) == losses(first) and second.id.endswith("-again")


def test_detached_returns_at_once_and_the_run_goes_on(workspace: Path, fake_worker: None) -> None:
    done = engine(workspace, "train", *TRAIN, "--detach")
    assert done.returncode == 0
    run = only_run(workspace)
    assert done.stdout == f"Run {run.id}\nFolder {run.path}\n"
    until(lambda: len(steps(run)) > 1)
    assert start.stop(run) and ended(run) == "stopped"


def test_ctrl_c_stops_the_run_and_says_so(workspace: Path, fake_worker: None) -> None:
    process = open_engine(workspace, "train", *TRAIN)
    run = only_run(workspace)
    until(lambda: len(steps(run)) > 1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3
    assert "Stopping; press Ctrl-C again to kill." in said and said.endswith("stopped: Stopped on request.\n")
    assert ended(run) == "stopped" and run.checkpoints()


def test_a_second_ctrl_c_kills(workspace: Path, fake_worker: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL", "hang")
    process = open_engine(workspace, "train", *TRAIN)
    run = only_run(workspace)
    until(lambda: len(steps(run)) > 1)
    process.send_signal(signal.SIGINT)
    until(lambda: run.status().get("stopping"))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3 and "stopped: Killed on request" in said


def test_the_terminal_may_be_closed_and_the_run_goes_on(workspace: Path, fake_worker: None) -> None:
    process = open_engine(workspace, "train", *TRAIN)
    run = only_run(workspace)
    until(lambda: len(steps(run)) > 1)
    process.kill()
    process.communicate()
    seen = len(steps(run))
    until(lambda: len(steps(run)) > seen)
    assert run.state() == "running"
    assert start.stop(run) and ended(run) == "stopped"


@pytest.mark.parametrize(
    ("fail", "said"), [("error@2", "The fake worker was asked to fail."), ("kill@2", "failed: Killed by")]
)
def test_a_run_that_fails_gives_1_and_the_reason(
    workspace: Path, fake_worker: None, monkeypatch: pytest.MonkeyPatch, fail: str, said: str
) -> None:
    monkeypatch.setenv("FAKE_FAIL", fail)
    done = engine(workspace, "train", *TRAIN)
    assert done.returncode == 1
    assert said in done.stdout


def test_check_tells_every_mistake_of_a_file_and_gives_2(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "args.yaml"
    file.write_text(
        "kind: train\nmodle: tiny\nmethod: {rnak: 8}\nmodel: {dtype: float32}\nsteps: {batch_size: 0, seed: 1.5}\n"
    )
    assert refused(workspace, "check", str(file)) == [
        "model.dtype: 'float32' is not one of auto, bf16, fp32, fp16. Did you mean fp32?",
        "method.rnak: There is no such argument. Did you mean method.rank?",
        "steps.batch_size: 0 is out of range: it must be at least 1 and at most 4,096.",
        "steps.seed: 1.5 is not a whole number.",
        "modle: There is no such argument. Did you mean model?",
    ]


def test_check_tells_everything_that_the_machine_lacks_at_once(workspace: Path, tmp_path: Path) -> None:
    (workspace / "datasets" / "empty.jsonl").write_text("")
    done = engine(
        workspace, "check", "model=tiny", "data=[sums.jsonl, nothing, empty.jsonl]", "data.validation=gone.jsonl",
        "model.template=klingon", "data.max_length=1000", "method.targets=[q_proj, x_proj]", "resume.run=never",
        "compute.device=mps",
    )  # fmt: skip
    assert done.returncode == 2
    said = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "model.template", "data.max_length", "method.targets", "data.train", "data.train", "data.validation",
        "resume.run", "compute.device",
    ]  # fmt: skip
    assert said[1] == "data.max_length: 1000 is over the model's context of 256. Lower it."
    assert "no layer called x_proj. It has down_proj" in said[2] and "empty.jsonl: the file holds no rows" in said[4]
    assert not (workspace / "runs").exists()


@pytest.mark.parametrize(
    ("verb", "words", "paths"),
    [
        ("evaluate", ["tuned=nobody", "base=tiny", "data=[gone.jsonl]"], ["tuned", "data"]),
        ("serve", ["models=[tiny, nobody]", "template=klingon"], ["template", "models"]),
        ("export", ["tuned=20261121-143205-gone/step-3"], ["tuned"]),
    ],
)
def test_every_kind_of_run_is_refused_before_a_folder_is_made(
    workspace: Path, verb: str, words: list[str], paths: list[str]
) -> None:
    assert [line.partition(":")[0] for line in refused(workspace, verb, *words)] == paths


def test_check_finds_no_problem_in_a_good_file_and_looks_at_its_rows(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "args.yaml"
    file.write_text(text.dump(text.parse({}, TRAIN, kind="train")))
    done = engine(workspace, "check", str(file), "--data")
    assert done.returncode == 0, done.stdout
    said = done.stdout
    assert "Rows: 11 of 11 trained, 1 held out. Tokens: " in said and "Half of the rows have at most" in said
    assert "What is 0 and 0?<|im_end|>\n<|im_start|>assistant\n»It is 0.<|im_end|>«\n" in said
    assert said.endswith("No problem found.\n") and not (workspace / "runs").exists()


def test_check_says_what_is_wrong_with_rows_and_gives_2_for_errors_alone(workspace: Path) -> None:
    with open(workspace / "datasets" / "sums.jsonl", "a") as file:
        turns = [{"role": "user", "content": "What is <|im_end|>?"}, {"role": "assistant", "content": "It is four."}]
        file.write(json.dumps({"messages": turns}) + "\n")
    done = engine(workspace, "check", *TRAIN, "data.split=100/0/0", "--data")
    assert done.returncode == 0 and done.stdout.endswith("Nothing stops the run; 1 warning.\n")
    assert "Warning: In 1 of 13 rows the text itself holds special tokens: <|im_end|>." in done.stdout
    assert "sums.jsonl 13" in done.stdout
    done = engine(workspace, "check", *TRAIN, "task=dpo", "data.split=100/0/0", "--data", "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 2 and said["problems"] == []
    assert [(found["kind"], found["level"]) for found in said["inspection"]["findings"]] == [("kind", "error")]


def test_train_says_what_is_wrong_with_rows_and_stops_at_errors(
    workspace: Path, fake_worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEPS", "2")
    assert refused(workspace, "train", *TRAIN, "task=dpo")[0].startswith(
        "data.train: In all rows there are conversations, and DPO learns from pairs of a better and a worse answer."
    )
    with open(workspace / "datasets" / "sums.jsonl", "a") as file:
        turns = [{"role": "user", "content": "What is <|im_end|>?"}, {"role": "assistant", "content": "It is four."}]
        file.write(json.dumps({"messages": turns}) + "\n")
    done = engine(workspace, "train", *SHORT, "data.split=100/0/0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Warning: In 1 of 13 rows the text itself holds special tokens: <|im_end|>.")


def test_check_knows_the_trainers_own_settings(workspace: Path) -> None:
    done = engine(workspace, "check", *TRAIN, "extra={learnin_rate: 1, output_dir: x}")
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        "extra.learnin_rate: SFTConfig has no such setting.",
        "extra.output_dir: The board manages this itself; use the form's own field.",
    ]


def test_a_model_that_is_still_on_a_hub_is_a_note_and_no_problem(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    done = engine(workspace, "check", "model=someone/some-model", "data=sums.jsonl")
    note = "Note: someone/some-model is not on this machine yet; the run downloads it first."
    assert (done.returncode, done.stdout.splitlines()) == (0, [note, "No problem found.", UNSEEN])
    done = engine(workspace, "check", "model=someone/some-model", "data=sums.jsonl", "--data")
    assert done.stdout.splitlines() == [note, "No problem found.", NOT_YET]


def test_a_model_that_is_still_on_a_hub_is_refused_where_no_hub_may_be_asked(workspace: Path) -> None:
    for verb in ("check", "train"):
        done = engine(workspace, verb, "model=someone/some-model", "data=sums.jsonl")
        assert done.returncode == 2 and not (workspace / "runs").exists()
        said = "model.path: someone/some-model is not on this machine, and the board is offline, because HF_HUB_OFFLINE"
        assert (done.stdout + done.stderr).startswith(said)


def test_check_that_does_not_look_at_rows_says_so_and_how_it_would(workspace: Path) -> None:
    said = engine(workspace, "check", *TRAIN).stdout.splitlines()
    assert said == ["No problem found.", UNSEEN] and "--data" in UNSEEN


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "data.train: bad.jsonl: the file holds no rows."),
        (
            b'{"prompt": "a", "completion": "b"}\n{"prompt": "a", \n',
            "data.train: bad.jsonl, row 2: this is not valid JSON",
        ),
        (
            '{"prompt": "Ä", "completion": "b"}\n'.encode("latin-1"),
            "data.train: bad.jsonl, row 1: the text is not UTF-8",
        ),
        (b'{"colour": "red"}\n', "data.train: bad.jsonl: "),
        (b'{"prompt": "a", "completion": ""}\n', "data.train: bad.jsonl"),
    ],
    ids=["empty", "malformed", "encoding", "format", "no answer"],
)
def test_a_dataset_that_cannot_be_read_is_named_by_file_and_row(workspace: Path, content: bytes, said: str) -> None:
    file = workspace / "bad.jsonl"
    file.write_bytes(content)
    found = refused(workspace, "train", "model=tiny", f"data={file}", "data.max_length=128")
    assert found[0].startswith(said)


def test_an_unknown_model_is_refused_with_the_nearest(workspace: Path) -> None:
    assert refused(workspace, "train", "model=tinny", "data=sums.jsonl") == [
        "model.path: There is no model called 'tinny'. Did you mean tiny? "
        "Give a name from the list, a folder, or a hub id (owner/name)."
    ]


def test_a_folder_that_is_no_model_says_what_it_lacks(workspace: Path) -> None:
    folder = workspace / "models" / "half"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    [said] = refused(workspace, "train", "model=half", "data=sums.jsonl")
    assert "is no model: it lacks *.safetensors, a tokenizer (tokenizer.json)." in said


def test_words_that_are_no_arguments_are_refused_in_a_sentence(workspace: Path) -> None:
    assert refused(workspace, "train", "missing.yaml") == ["There is no file missing.yaml."]
    assert refused(workspace, "train", "model=tiny", "quickly") == [
        "`quickly` is not of the form name=value, such as optim.learning_rate=1e-4."
    ]


def test_help_and_check_answer_without_loading_anything_heavy(workspace: Path) -> None:
    timed = [sys.executable, "-X", "importtime", "-m", "engine"]
    for words in (["--help"], ["check", *TRAIN, "--workspace", str(workspace)]):
        done = subprocess.run([*timed, *words], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
        assert "engine" in loaded and not loaded & {"torch", "transformers", "datasets", "gradio"}
        assert ("train | evaluate | serve | export" in done.stdout) is (words == ["--help"])
