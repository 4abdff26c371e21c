"""The real worker on the tiny model, killed, stopped and starved: what was saved counts, and a run goes on from it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract import rundir, start, text
from engine.contract.rundir import Run, records
from tests import tiny
from tests.e2e.training import TINY, events, losses, train, weights
from tests.processes import ended, kill_runs, phases, pid, steps, until

PATIENCE = 300.0
COMMON = ["method.rank=4", "steps.max_steps=24", "record.save_every=4", "record.keep=99"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """A model this small gains nothing from threads, and on a busy machine they wait for each other."""
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(kept)


@pytest.fixture(autouse=True)
def no_run_outlives_its_test(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    kill_runs(workspace)


def begin(workspace: Path, *overrides: str) -> Run:
    args = text.parse({}, [*TINY, *COMMON, *overrides], kind="train")
    return start.start(workspace, "fault", text.dump(args))


def at_step(run: Run, step: int) -> None:
    until(lambda: len(steps(run)) >= step or not run.alive(), PATIENCE, f"{run.id} to reach step {step}")


def in_phase(run: Run, name: str) -> None:
    until(lambda: name in phases(run), PATIENCE, f"{run.id} to be {name}")


def error(run: Run) -> dict[str, Any]:
    [said] = events(run, "error")
    return said


def check_checkpoints(run: Run) -> None:
    """Every checkpoint that has its name is whole: its weights, its optimiser and its own step are there."""
    for step, folder in run.checkpoints():
        assert weights(folder)
        assert (folder / "optimizer.pt").stat().st_size > 0
        assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == step


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Run:
    """A run that was left alone."""
    workspace = tmp_path_factory.mktemp("whole")
    for folder in ("models", "datasets"):
        (workspace / folder).mkdir()
    (workspace / "models" / "tiny").symlink_to(tiny_model)
    tiny.rows(workspace / "datasets" / "sums.jsonl")
    return train(workspace, *COMMON)


def check_goes_on_as_if_nothing_had_been(workspace: Path, run: Run, whole: Run) -> None:
    """A run that goes on from the last checkpoint of `run` ends with the weights of one that was left alone."""
    last = run.checkpoints()[-1][0]
    resumed = train(workspace, *COMMON, f"resume.run={run.id}")
    assert losses(resumed) == losses(whole)[last:]
    assert losses(run)[:last] == losses(whole)[:last]
    expected, found = weights(whole.model_path), weights(resumed.model_path)
    assert expected.keys() == found.keys() and all(bool((expected[name] == found[name]).all()) for name in expected)


def test_a_killed_worker_leaves_whole_checkpoints_to_go_on_from(workspace: Path, whole: Run) -> None:
    run = begin(workspace)
    at_step(run, random.Random(1).randrange(5, 16))
    os.kill(pid(run, "worker"), signal.SIGKILL)
    assert ended(run, PATIENCE) == "failed"
    assert run.status()["why"] == "Killed by the system, most likely out of memory."
    assert not run.model_path.exists()
    check_checkpoints(run)
    check_goes_on_as_if_nothing_had_been(workspace, run, whole)


def test_a_worker_whose_supervisor_is_killed_saves_and_can_be_gone_on_from(workspace: Path, whole: Run) -> None:
    run = begin(workspace)
    at_step(run, random.Random(2).randrange(5, 16))
    os.kill(pid(run, "supervisor"), signal.SIGKILL)
    assert ended(run, PATIENCE) == "lost"
    assert not run.model_path.exists() and "The supervisor is gone" in run.log_path.read_text()
    assert run.checkpoints()[-1][0] == steps(run)[-1]  # saved where it stood
    check_checkpoints(run)
    check_goes_on_as_if_nothing_had_been(workspace, run, whole)


@pytest.mark.parametrize(("who", "state"), [("worker", "failed"), ("supervisor", "lost")])
def test_a_kill_while_loading_ends_the_run_and_frees_its_device(workspace: Path, who: str, state: str) -> None:
    run = begin(workspace)
    in_phase(run, "loading")
    os.kill(pid(run, who), signal.SIGKILL)
    assert ended(run, PATIENCE) == state
    assert not run.model_path.exists() and run.checkpoints() == []


@pytest.mark.parametrize("phase", ["loading", "preparing"])
def test_a_stop_before_training_ends_at_once_and_saves_nothing(workspace: Path, phase: str) -> None:
    run = begin(workspace)
    in_phase(run, phase)
    assert start.stop(run)
    assert ended(run, PATIENCE) == "stopped"
    assert run.status()["why"] == "Stopped on request." and events(run, "error") == []
    assert not run.model_path.exists() and run.checkpoints() == []


def test_a_stop_while_saving_lets_the_checkpoint_become_whole(workspace: Path) -> None:
    run = begin(workspace, "record.save_every=1")
    worker = pid(run, "worker")
    partial = run.checkpoints_path / ".partial"

    def caught_in_the_middle() -> bool:
        """The worker stands still, and its checkpoint has not yet got its name."""
        os.kill(worker, signal.SIGSTOP)
        until(lambda: Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        if partial.is_dir() and any(partial.iterdir()):
            return True
        os.kill(worker, signal.SIGCONT)
        return False

    in_phase(run, "saving")
    until(caught_in_the_middle, PATIENCE)
    begun = int(next(partial.iterdir()).name.removeprefix("checkpoint-"))
    assert start.stop(run)
    until(lambda: run.status().get("stopping"))
    os.kill(worker, signal.SIGCONT)
    assert ended(run, PATIENCE) == "stopped"
    assert begun in [step for step, _ in run.checkpoints()] and not partial.exists()
    assert run.checkpoints()[-1][0] - begun <= 1  # it stops with the step that it is in
    check_checkpoints(run)


@pytest.fixture
def small_disk(workspace: Path) -> Iterator[Path]:
    """A disk of 2 MB under the workspace's runs."""
    folder = workspace / "runs"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tuneboard-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip(f"a small disk can be mounted by root alone: {done.stderr.strip() if done else 'this is not root'}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up_while_saving_is_said_and_spares_what_was_saved(workspace: Path, small_disk: Path) -> None:
    run = begin(workspace, "record.save_every=1")
    assert ended(run, PATIENCE) == "failed"
    said = error(run) if events(run, "error") else {"text": run.status()["why"], "hint": run.status()["hint"]}
    assert said["text"] == "The disk is full." and "Free some space" in said["hint"]
    assert steps(run) == list(range(1, len(steps(run)) + 1)) and len(steps(run)) > 1
    assert not run.model_path.exists() and not (run.checkpoints_path / ".partial").exists()
    assert run.checkpoints()[0][0] == 1
    check_checkpoints(run)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    resumed = train(workspace, *COMMON, f"resume.run={run.id}", "steps.max_steps=20")
    assert resumed.model_path.is_dir()


def test_a_bug_is_told_apart_from_what_the_user_can_mend(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine import work
    from engine.recipes import run as recipe
    from engine.supervise import FAILED

    monkeypatch.setattr(work, "_settle", lambda _: None)
    monkeypatch.setattr(work.Stop, "listen", lambda *_, **__: None)
    # As on the last attempt: before it, a run whose memory ran out goes on with smaller batches.
    monkeypatch.setattr(work.recovery, "may_go_on", lambda *_: False)
    for raised, text_said, bug in (
        (ValueError("odd"), "ValueError: odd", True),
        (MemoryError(), "Out of memory.", False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "Out of memory.", False),
        (OSError(28, "No space left on device"), "The disk is full.", False),
    ):
        monkeypatch.setattr(recipe, "run", lambda *_, raised=raised: (_ for _ in ()).throw(raised))
        run = rundir.make(workspace, "broken", text.dump(text.parse({}, TINY, kind="train")))
        assert work.work(run.path) == FAILED
        said = error(run)
        assert (said["text"], said["bug"]) == (text_said, bug)
        assert said["hint"]
        assert [record["kind"] for record in records(run.events_path)] == ["phase", "error"]


def test_a_disk_too_full_for_one_line_is_told_by_the_exit_code(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import work
    from engine.contract.events import Journal
    from engine.supervise import MUTE, ending

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(work, "_settle", lambda _: None)
    monkeypatch.setattr(work.Stop, "listen", lambda *_, **__: None)
    monkeypatch.setattr(Journal, "write", full)
    run = rundir.make(workspace, "full", text.dump(text.parse({}, TINY, kind="train")))
    assert work.work(run.path) == MUTE
    assert ending(MUTE, 0, False, 0)["why"] == "The disk is full."
