"""The smallest worker: no torch, no pydantic, twenty times quicker to start than the real one.

Its args file is a JSON object: steps, seconds (per step), and at the end `exit` (a code, or a list with one for each
attempt), `signal` (sent to itself), `crash` (an exception) or nothing (0). deaf: it ignores the request to stop. child:
it starts a child that ignores it too and inherits the locks. patient: on a stop it says `saving`, and goes on once
there is a file `go` in its folder; pauses: so it does at this step. Each step is said in the log after its line is on
disk.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.contract.events import Journal, Metrics, Phase  # noqa: E402
from engine.contract.rundir import Run  # noqa: E402
from engine.supervise import STOPPED  # noqa: E402

CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def work(run: Run) -> int:
    told = json.loads(run.args_path.read_text())
    stop = threading.Event()
    threading.Thread(target=watch_supervisor, args=(stop,), daemon=True).start()
    # In a thread of its own: the signal may come while the wait that it interrupts holds the event's lock.
    heard = signal.SIG_IGN if told.get("deaf") else lambda *_: threading.Thread(target=stop.set).start()
    signal.signal(signal.SIGTERM, heard)
    attempt = int(run.status().get("attempt", 1))
    events, metrics = Journal(run.events_path, attempt=attempt), Journal(run.metrics_path, attempt=attempt)
    if told.get("child"):
        child = subprocess.Popen([sys.executable, "-c", CHILD], close_fds=False)
        (run.path / "child").write_text(str(child.pid))
    events.write(Phase("training"))
    for step in range(1, told.get("steps", 5) + 1):
        metrics.write(Metrics(step, 0.0, {"train/loss": 1 / step}))
        print(f"step {step}", flush=True)
        if step == told.get("pauses"):
            wait_for_go(run)
        if stop.wait(told.get("seconds", 0.002)) and not told.get("deaf"):
            return save(run, events, told)
    if what := told.get("signal"):
        os.kill(os.getpid(), what)
    if told.get("crash"):
        raise RuntimeError("asked to crash")
    code = told.get("exit", 0)
    return int(code[attempt - 1] if isinstance(code, list) else code)


def save(run: Run, events: Journal, told: dict[str, object]) -> int:
    events.write(Phase("saving"))
    if told.get("patient"):
        wait_for_go(run)
    (run.path / "saved").touch()
    return STOPPED


def wait_for_go(run: Run) -> None:
    while not (run.path / "go").exists():
        time.sleep(0.005)


def watch_supervisor(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    stop.set()


if __name__ == "__main__":
    sys.exit(work(Run(Path(sys.argv[1]))))
