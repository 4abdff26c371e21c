"""Several processes on one machine's CPU, over gloo: one curve, one writer, one stop, and an end that says who died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from engine.contract import start, text
from engine.contract.rundir import Run, runs
from tests import tiny
from tests.e2e.training import TINY, events, losses, train, weights
from tests.processes import ended, pid, steps, until

ROOT = Path(__file__).resolve().parents[2]
# Twelve rows, two of them held out: two steps an epoch, and a held-out share that two processes cannot halve evenly.
COMMON = ["method.rank=4", "method.alpha=8", "steps.max_steps=4", "record.save_every=2", "data.split=rest/3/0",
          "data.limits={sums.jsonl: 11}", "record.evaluate_every=2"]  # fmt: skip
ALONE = [*COMMON, "steps.batch_size=2", "steps.accumulation=2"]
TWO = [*COMMON, "steps.batch_size=2", "steps.accumulation=1", "launch.processes=2"]
SECONDS = 180.0


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    tiny.model_folder(folder / "models" / "tiny")
    (folder / "datasets").mkdir()
    tiny.rows(folder / "datasets" / "sums.jsonl")
    return folder


@pytest.fixture(scope="module", autouse=True)
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Locks of its own, and threads that do not spin while they wait for the other process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEBOARD_STATE", str(tmp_path_factory.mktemp("state")))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        yield


def started(workspace: Path, *overrides: str) -> Run:
    """A run as the command line starts it: supervisor, worker, launcher, ranks."""
    args = text.parse({}, [*TINY, *overrides], kind="train")
    return start.start(workspace, "two", text.dump(args))


def done(workspace: Path, *overrides: str) -> Run:
    run = started(workspace, *overrides)
    assert ended(run, SECONDS) == "done", run.log_path.read_text()[-4000:]
    return run


@pytest.fixture(scope="module")
def alone(workspace: Path) -> Run:
    return train(workspace, *ALONE)


@pytest.fixture(scope="module")
def two(workspace: Path) -> Run:
    return done(workspace, *TWO)


@pytest.fixture(scope="module")
def shared_out(workspace: Path) -> Run:
    return done(workspace, *TWO, "launch.strategy=fsdp")


def ranks(run: Run) -> Callable[[], list[psutil.Process]]:
    """The processes that train, once both are there."""

    def found() -> list[psutil.Process]:
        own = [child for child in psutil.Process(pid(run, "worker")).children(recursive=True)
               if "RANK" in child.environ()]  # fmt: skip
        return sorted(own, key=lambda child: child.environ()["RANK"]) if len(own) == 2 else []

    return found


def test_two_processes_draw_the_curve_of_one_with_the_same_effective_batch(alone: Run, two: Run) -> None:
    assert losses(two) == pytest.approx(losses(alone), abs=1e-5)
    assert losses(two, "train/accuracy") == pytest.approx(losses(alone, "train/accuracy"), abs=1e-5)
    assert steps(two) == steps(alone)
    for name, tensor in weights(alone.model_path).items():
        torch.testing.assert_close(weights(two.model_path)[name], tensor, atol=1e-5, rtol=1e-4)


def test_held_out_loss_is_exact_when_processes_have_unequal_shares(alone: Run, two: Run) -> None:
    for name in ("eval/loss", "eval/accuracy"):
        assert losses(two, name) == pytest.approx(losses(alone, name), abs=1e-5), name


def test_one_process_writes_for_all(alone: Run, two: Run) -> None:
    assert losses(two, "train/tokens") == losses(alone, "train/tokens")
    assert [event["path"] for event in events(two, "checkpoint")] == ["checkpoints/step-2", "checkpoints/step-4"]
    assert len(events(two, "result")) == 1
    assert (two.path / "logs" / "process-1.txt").is_file()


def test_shared_out_weights_draw_the_same_curve_and_end_in_a_plain_folder(alone: Run, shared_out: Run) -> None:
    assert losses(shared_out) == pytest.approx(losses(alone), abs=1e-4)
    plain = weights(shared_out.model_path)
    for name, tensor in weights(alone.model_path).items():
        torch.testing.assert_close(plain[name], tensor, atol=1e-4, rtol=1e-3)


def test_a_checkpoint_of_shares_resumes_and_is_a_plain_folder_too(workspace: Path, shared_out: Run) -> None:
    [_, (_, folder)] = [(step, path) for step, path in shared_out.checkpoints()]
    assert (folder / "pytorch_model_fsdp_0").is_dir()
    assert weights(folder).keys() == weights(shared_out.model_path).keys()
    resumed = done(workspace, *TWO, "launch.strategy=fsdp", f"resume.run={shared_out.id}", "resume.checkpoint=step-2")
    assert losses(resumed) == pytest.approx(losses(shared_out)[2:], abs=1e-6)


def test_a_stop_saves_once_and_the_run_goes_on_from_there(workspace: Path, two: Run) -> None:
    run = started(workspace, *TWO, "steps.max_steps=100000", "record.save_every=100000", "record.evaluate_every=100000")
    until(lambda: len(steps(run)) > 2, SECONDS, "the first steps")
    assert start.stop(run)
    assert ended(run, SECONDS) == "stopped"
    said = run.log_path.read_text()
    assert "Asked to stop: saving and ending." in said and "is gone" not in said
    [(step, _)] = run.checkpoints()
    resumed = done(workspace, *TWO, f"steps.max_steps={step + 1}", f"resume.run={run.id}")
    assert steps(resumed)[-1] == step + 1


def test_a_process_that_dies_ends_the_run_and_is_named_with_its_log(workspace: Path) -> None:
    run = started(workspace, *TWO, "steps.max_steps=100000", "record.save_every=100000", "record.evaluate_every=100000")
    until(lambda: len(steps(run)) > 2, SECONDS, "the first steps")
    first, second = until(ranks(run), SECONDS, "both processes")
    second.send_signal(signal.SIGKILL)
    assert ended(run, SECONDS) == "failed"
    [failure] = events(run, "error")
    assert failure["text"] == "Process 1 of 2 died without a word, and the others were ended with it."
    assert "--- The last lines of process 1 (process-1.txt):" in run.log_path.read_text()
    assert not first.is_running()


def test_what_one_process_cannot_do_is_said_once(workspace: Path) -> None:
    run = started(workspace, *TWO, "method.targets=[nonsense]")
    assert ended(run, SECONDS) == "failed"
    [failure] = events(run, "error")
    assert "no layer called nonsense" in failure["text"]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[str]]:
    """Two network namespaces with an address each, joined by a wire: as far apart as two machines."""
    names, wires = [f"tb{os.getpid()}{side}" for side in "ab"], [f"tbw{os.getpid() % 10000}{side}" for side in "ab"]
    commands = [["ip", "netns", "add", name] for name in names]
    commands += [["ip", "link", "add", wires[0], "type", "veth", "peer", "name", wires[1]]]
    for number, (name, wire) in enumerate(zip(names, wires, strict=True)):
        inside = ["ip", "-n", name]
        commands += [["ip", "link", "set", wire, "netns", name],
                     [*inside, "addr", "add", f"10.213.7.{number + 1}/24", "dev", wire],
                     [*inside, "link", "set", wire, "up"], [*inside, "link", "set", "lo", "up"]]  # fmt: skip
    try:
        for command in commands:
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"network namespaces cannot be made here: {' '.join(command)}: {made.stderr.strip()}")
        yield names
    except FileNotFoundError:
        pytest.skip("network namespaces cannot be made here: there is no `ip`")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_two_machines_with_addresses_of_their_own_train_as_one(machines: list[str], tmp_path: Path, alone: Run) -> None:
    working, places = [], []
    for number, name in enumerate(machines):
        place = tmp_path / f"machine-{number}"
        tiny.model_folder(place / "models" / "tiny")
        (place / "datasets").mkdir()
        tiny.rows(place / "datasets" / "sums.jsonl")
        said = [*TINY, *TWO, "launch.processes=1", "launch.machines=2", f"launch.number={number}",
                "launch.address=10.213.7.1"]  # fmt: skip
        program = [sys.executable, "-m", "engine", "train", *said, "--workspace", str(place)]
        state = {**os.environ, "TUNEBOARD_STATE": str(place / "state")}
        working.append(subprocess.Popen(["ip", "netns", "exec", name, *program], cwd=ROOT, env=state,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))  # fmt: skip
        places.append(place)
    said = [process.communicate(timeout=SECONDS)[0] for process in working]
    assert [process.returncode for process in working] == [0, 0], "\n".join(said)[-6000:]
    [main], [other] = (runs(place) for place in places)
    assert losses(main) == pytest.approx(losses(alone), abs=1e-5)
    assert main.model_path.is_dir()
    assert not losses(other)
    assert not other.model_path.exists()
