"""The supervisor on a worker without torch: states, the queue, stops, and how an end is recorded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine import follow, supervise
from engine.contract import rundir, start
from engine.contract.queue import device_lock, held, state_folder
from engine.contract.rundir import Run
from engine.supervise import FAILED, MUTE, OUT_OF_MEMORY, STOPPED, ending
from tests.processes import LEAN, ended, gone, lean, phases, pid, steps, until

FOR_EVER = 1_000_000
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def lean_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Runs of this module work with the lean worker; none outlives its test."""
    monkeypatch.setenv("TUNEBOARD_WORKER", LEAN)
    yield
    for run in rundir.runs(tmp_path):
        for who in ("supervisor", "worker"):
            known = run.status().get(who)
            if run.alive() and known and start.identity(known["pid"]) == known:
                os.kill(known["pid"], signal.SIGKILL)


def running(run: Run, step: int = 1) -> Run:
    until(lambda: len(steps(run)) >= step, what=f"{run.id} to reach step {step}")
    return run


def test_a_run_is_queued_then_running_then_done(tmp_path: Path) -> None:
    run = lean(tmp_path, steps=20, pauses=10)
    assert run.state() in ("queued", "running")
    until(lambda: run.state() == "running")
    (run.path / "go").touch()
    assert ended(run) == "done"
    status = run.status()
    assert steps(run) == list(range(1, 21))
    assert (status["exit_code"], status["devices"], status["attempt"]) == (0, ["cpu"], 1)
    assert status["queued_at"] / 1e9 <= status["started_at"] <= status["ended_at"]


@pytest.mark.parametrize(
    ("told", "state", "said"),
    [
        ({"exit": FAILED}, "failed", None),
        ({"exit": 2}, "failed", "The worker ended with exit code 2."),
        ({"crash": True}, "failed", "The worker ended with exit code 1."),
        ({"exit": MUTE}, "failed", "The disk is full."),
        ({"exit": STOPPED}, "stopped", "Stopped on request."),
        ({"signal": signal.SIGSEGV}, "failed", "The worker was ended by SIGSEGV."),
        ({"signal": signal.SIGKILL}, "failed", "Killed by the system, most likely out of memory."),
    ],
)
def test_how_a_worker_ends_is_recorded_in_a_sentence(tmp_path: Path, told: Any, state: str, said: str | None) -> None:
    run = lean(tmp_path, steps=2, **told)
    assert ended(run) == state
    assert run.status().get("why") == said
    assert run.status().get("out_of_memory", False) is (told.get("signal") == signal.SIGKILL)


def test_the_kernels_own_count_makes_out_of_memory_certain() -> None:
    said = ending(-signal.SIGKILL, 0, False, 1)
    assert said["why"] == "Killed by the system, out of memory." and "batch size" in str(said["hint"])


def test_a_kill_by_us_is_a_stop_and_no_lack_of_memory() -> None:
    said = ending(-signal.SIGKILL, 2, True, 1)
    assert said["state"] == "stopped" and "out_of_memory" not in said
    assert ending(-signal.SIGTERM, 1, False, 0)["state"] == "stopped"
    assert ending(-signal.SIGTERM, 0, False, 0)["state"] == "failed"
    assert ending(0, 1, True, 0)["state"] == "done"
    assert ending(STOPPED, 2, True, 0)["why"] == "Stopped on request."  # it was quicker than the kill


@pytest.mark.parametrize(
    ("codes", "state", "attempts"),
    [([OUT_OF_MEMORY, 0], "done", 2), ([OUT_OF_MEMORY, OUT_OF_MEMORY, STOPPED], "stopped", 3),
     ([OUT_OF_MEMORY] * 5, "failed", 4), ([OUT_OF_MEMORY, FAILED], "failed", 2)],
)  # fmt: skip
def test_a_worker_that_runs_out_of_memory_is_started_again_a_few_times(
    tmp_path: Path, codes: list[int], state: str, attempts: int
) -> None:
    run = lean(tmp_path, steps=2, exit=codes, tries=4)
    assert ended(run) == state
    written = [(record["attempt"], record["step"]) for record in rundir.records(run.metrics_path)]
    assert written == [(attempt, step) for attempt in range(1, attempts + 1) for step in (1, 2)]
    assert run.status()["attempt"] == attempts
    if codes == [OUT_OF_MEMORY] * 5:
        assert run.status()["why"].startswith("Out of memory in 4 attempts") and run.status()["out_of_memory"]


def test_a_run_that_may_be_tried_once_is_tried_once(tmp_path: Path) -> None:
    run = lean(tmp_path, steps=1, exit=OUT_OF_MEMORY)
    assert ended(run) == "failed" and run.status()["why"] == "Out of memory." and steps(run) == [1]


def test_a_kill_that_the_kernel_did_not_count_is_not_taken_for_lack_of_memory(tmp_path: Path) -> None:
    run = lean(tmp_path, steps=1, signal=signal.SIGKILL, tries=4)
    assert ended(run) == "failed" and run.status()["attempt"] == 1


def test_a_crash_leaves_its_traceback_in_the_log(tmp_path: Path) -> None:
    run = lean(tmp_path, crash=True)
    ended(run)
    assert "RuntimeError: asked to crash" in run.log_path.read_text()


def test_runs_on_one_device_work_one_after_the_other_in_the_order_they_were_asked_for(tmp_path: Path) -> None:
    made = [lean(tmp_path, steps=3) for _ in range(5)]
    assert [ended(run) for run in made] == ["done"] * 5
    times = [(run.status()["started_at"], run.status()["ended_at"]) for run in made]
    assert times == sorted(times)
    for (_, end), (begin, _) in zip(times, times[1:], strict=False):
        assert begin >= end - 0.05  # the worker's end is noted a moment after its device is free


def test_a_second_run_waits_until_the_first_gives_the_device_back(tmp_path: Path) -> None:
    first = running(lean(tmp_path, steps=FOR_EVER))
    second = lean(tmp_path, steps=2)
    until(lambda: second.status().get("state") == "queued")
    assert second.state() == "queued" and steps(second) == []
    start.stop(first)
    assert (ended(first), ended(second)) == ("stopped", "done")


def test_two_workspaces_wait_for_the_same_device(tmp_path: Path) -> None:
    first = running(lean(tmp_path / "a", steps=FOR_EVER))
    second = lean(tmp_path / "b", steps=2)
    until(lambda: second.status().get("state") == "queued")
    assert steps(second) == []
    start.stop(first)
    assert (ended(first), ended(second)) == ("stopped", "done")


def test_runs_on_different_devices_do_not_wait(tmp_path: Path) -> None:
    first = running(lean(tmp_path, steps=FOR_EVER))
    assert ended(lean(tmp_path, devices=("cuda-0",))) == "done"
    assert first.state() == "running"
    start.stop(first)
    assert ended(first) == "stopped"


def test_servers_share_a_device_and_a_training_run_waits_for_both(tmp_path: Path) -> None:
    servers = [running(lean(tmp_path, steps=FOR_EVER, share=True)) for _ in range(2)]
    training = lean(tmp_path, steps=2)
    until(lambda: training.status().get("state") == "queued")
    assert [server.state() for server in servers] == ["running", "running"] and steps(training) == []
    for server in servers:
        assert training.state() == "queued"
        start.stop(server)
        assert ended(server) == "stopped"
    assert ended(training) == "done"


def test_a_server_that_comes_later_does_not_overtake_a_waiting_run(tmp_path: Path) -> None:
    first = running(lean(tmp_path, steps=FOR_EVER, share=True))
    training, late = lean(tmp_path, steps=2), lean(tmp_path, steps=2, share=True)
    until(lambda: late.status().get("state") == "queued")
    assert steps(late) == []
    start.stop(first)
    assert [ended(run) for run in (first, training, late)] == ["stopped", "done", "done"]
    assert training.status()["ended_at"] <= late.status()["started_at"] + 0.05


def test_a_queued_run_that_is_stopped_never_works_and_the_next_one_does(tmp_path: Path) -> None:
    first = running(lean(tmp_path, steps=FOR_EVER))
    second, third = lean(tmp_path), lean(tmp_path, steps=2)
    assert start.stop(second)
    assert ended(second) == "stopped"
    assert second.status()["why"] == "Stopped while waiting in the queue." and steps(second) == []
    start.stop(first)
    assert ended(third) == "done"
    assert list((state_folder() / "device-cpu.queue").iterdir()) == []


def test_a_stop_right_after_the_start_is_not_lost(tmp_path: Path) -> None:
    run = lean(tmp_path, steps=FOR_EVER)
    assert start.stop(run)
    assert ended(run) == "stopped"


def test_a_stop_lets_the_worker_save(tmp_path: Path) -> None:
    run = running(lean(tmp_path, steps=FOR_EVER, patient=True))
    assert start.stop(run)
    until(lambda: phases(run)[-1] == "saving")
    assert run.state() == "running" and run.status()["stopping"] is True
    (run.path / "go").touch()
    assert ended(run) == "stopped"
    assert (run.path / "saved").exists() and run.status()["why"] == "Stopped on request."


@pytest.mark.parametrize("child", [False, True])
def test_a_second_stop_kills_the_worker_with_all_its_children(tmp_path: Path, child: bool) -> None:
    run = running(lean(tmp_path, steps=FOR_EVER, deaf=True, child=child))
    start.stop(run)
    until(lambda: run.status().get("stopping"))
    assert run.state() == "running"
    start.stop(run)
    assert ended(run) == "stopped"
    assert "Killed on request" in run.status()["why"] and run.status()["signal"] == 9
    if child:
        until(lambda: gone(int((run.path / "child").read_text())))
    until(lambda: not held(device_lock("cpu")))


def test_a_stop_is_heard_at_whatever_moment_of_the_waiting_it_comes(tmp_path: Path) -> None:
    program = """
import random, signal, sys
from pathlib import Path
from engine.contract.rundir import Run
from engine.supervise import Supervisor

class Asked(Supervisor):
    def wait_for_devices(self):
        signal.signal(signal.SIGALRM, self.asked_to_stop)
        for asked in range(2000):
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.0005))
            while self.stops == asked:
                self.wait(random.choice((0.00005, None)))

Asked(Run(Path(sys.argv[1])), -1, 1, ["cpu"], [], False).supervise()
"""
    run = rundir.make(tmp_path, "asked", "{}")
    subprocess.run([sys.executable, "-c", program, str(run.path)], cwd=ROOT, timeout=60, check=True)
    assert run.status()["why"] == "Stopped while waiting in the queue."


def test_ctrl_c_that_is_pressed_while_another_is_heeded_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = running(lean(tmp_path, steps=FOR_EVER, deaf=True))
    stops: list[int] = []

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def stop(run: Run) -> None:
        stops.append(start.stop(run))
        if len(stops) == 1:
            monkeypatch.setattr(follow.time, "sleep", time.sleep)
            until(lambda: run.status().get("stopping"))
            raise KeyboardInterrupt

    monkeypatch.setattr(follow, "stop", stop)
    monkeypatch.setattr(follow, "time", SimpleNamespace(sleep=interrupted))
    assert follow.follow(run) == 3
    assert len(stops) > 1 and "Killed on request" in run.status()["why"]


def test_a_worker_that_does_not_end_in_time_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEBOARD_STOP_SECONDS", "0.1")
    run = running(lean(tmp_path, steps=FOR_EVER, deaf=True, child=True))
    start.stop(run)
    assert ended(run) == "stopped" and "Killed on request" in run.status()["why"]


def test_children_that_a_worker_leaves_behind_do_not_hold_its_device(tmp_path: Path) -> None:
    run = lean(tmp_path, steps=2, child=True)
    assert ended(run) == "done"
    until(lambda: gone(int((run.path / "child").read_text())))
    assert ended(lean(tmp_path)) == "done"


def test_a_worker_whose_supervisor_is_killed_saves_and_keeps_the_locks_until_it_has(tmp_path: Path) -> None:
    run = running(lean(tmp_path, steps=FOR_EVER, patient=True))
    waiting = lean(tmp_path, steps=2)
    os.kill(pid(run, "supervisor"), signal.SIGKILL)
    until(lambda: phases(run)[-1] == "saving")
    assert run.alive() and run.state() == "running" and held(device_lock("cpu")) and steps(waiting) == []
    (run.path / "go").touch()
    assert ended(run) == "lost" and (run.path / "saved").exists()
    assert ended(waiting) == "done"


def test_a_stop_reaches_a_worker_whose_supervisor_is_dead(tmp_path: Path) -> None:
    run = running(lean(tmp_path, steps=FOR_EVER, deaf=True))
    worker, supervisor = pid(run, "worker"), pid(run, "supervisor")
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: gone(supervisor))
    assert run.state() == "running"
    assert start.stop(run)
    until(lambda: gone(worker))
    assert ended(run) == "lost" and not start.stop(run)


def test_a_run_goes_on_when_its_starter_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.processes import lean;"
        "print(lean(Path(sys.argv[1]), steps=50, pauses=9).path, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    starter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert starter.stdout is not None
    run = running(Run(Path(starter.stdout.readline().strip())))
    starter.kill()
    starter.wait()
    assert run.state() == "running"
    (run.path / "go").touch()
    assert ended(run) == "done" and len(steps(run)) == 50


def test_a_process_that_took_over_a_pid_is_never_signalled(tmp_path: Path) -> None:
    run = rundir.make(tmp_path, "old", "{}")
    lock = rundir.take_lock(run)
    innocent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    stale = {**start.identity(innocent.pid), "started": "1"}
    rundir.write_json(run.status_path, {"state": "running", "supervisor": stale, "worker": stale})
    assert not start.stop(run)
    assert innocent.poll() is None
    os.close(lock)
    rundir.write_json(run.status_path, {"state": "running", "supervisor": start.identity(innocent.pid)})
    assert not start.stop(run) and innocent.poll() is None  # nobody holds the lock: it is not ours
    innocent.kill()
    innocent.wait()


def test_a_run_that_works_cannot_be_deleted(tmp_path: Path) -> None:
    run = running(lean(tmp_path, steps=FOR_EVER))
    with pytest.raises(RuntimeError, match="still running; stop it first"):
        run.delete()
    start.stop(run)
    ended(run)
    run.delete()
    assert not run.path.exists()


def test_a_status_that_cannot_be_written_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = rundir.make(tmp_path, "full", "{}")
    tries: list[int] = []

    def full(path: Path, content: Any) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(28, "No space left on device")
        rundir.write_json(path, content)

    monkeypatch.setattr(supervise, "write_json", full)
    monkeypatch.setattr(supervise.time, "sleep", lambda _: None)
    supervise.Supervisor(run, -1, 1, ["cpu"], [], False).record(state="done")
    assert len(tries) == 3 and run.state() == "done"


def test_no_supervisor_of_ours_stays_a_zombie(tmp_path: Path) -> None:
    run = lean(tmp_path, steps=1)
    child = start._CHILDREN[-1]
    ended(run)
    until(lambda: (start.reap(), child not in start._CHILDREN)[1])
    assert child.returncode == 0
