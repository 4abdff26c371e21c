"""A worker without torch: writes what a training worker writes, at a rate that the test chooses.

    TUNEBOARD_WORKER="python tests/fake_worker.py"

FAKE_STEPS (60), FAKE_SECONDS_PER_STEP (0.05), FAKE_SAVE_EVERY (10), FAKE_LOADING_SECONDS (0), FAKE_SAVING_SECONDS (0).
FAKE_NAN=7: the loss is NaN from that step on. FAKE_ASK=3: 3 answers wait for a person before the first step.
FAKE_FAIL: `error` (an explained failure), `bug` (a traceback), `kill` (SIGKILL to itself), `hang` (ignores the request
to stop); `FAKE_FAIL=error@20` does it at step 20 (default: the middle). Like the real worker it saves and ends with
code 3 on SIGTERM and at the end of its standard input.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.contract import events, judging, text  # noqa: E402
from engine.contract.events import Journal  # noqa: E402
from engine.contract.rundir import Run  # noqa: E402
from engine.supervise import FAILED, STOPPED  # noqa: E402

PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360f8cf500f0003"
    "030101b4c6e6b60000000049454e44ae426082"
)


def number(name: str, default: float) -> float:
    return float(os.environ.get(name) or default)


class FakeWorker:
    def __init__(self, run: Run) -> None:
        self.run = run
        attempt = int(run.status().get("attempt", 1))
        self.events = Journal(run.events_path, attempt=attempt)
        self.metrics = Journal(run.metrics_path, attempt=attempt)
        self.stop = threading.Event()
        self.steps = int(number("FAKE_STEPS", 60))
        self.failure, _, at = os.environ.get("FAKE_FAIL", "").partition("@")
        self.fails_at = int(at) if at else self.steps // 2

    def work(self) -> int:
        threading.Thread(target=self.watch_supervisor, daemon=True).start()
        if self.failure != "hang":
            # In a thread of its own: the signal may come while the wait that it interrupts holds the event's lock.
            signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=self.stop.set).start())
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        args: Any = text.load(self.run.args_path)
        self.events.write(events.Phase("loading"))
        print("loading the model", flush=True)
        self.stop.wait(number("FAKE_LOADING_SECONDS", 0))
        self.events.write(events.Phase("preparing"))
        said = "140 rows to train on: 9,114 tokens, 2,404 of them trained, the longest row 143."
        self.events.write(events.Note(said))
        self.events.write(events.Phase("training"))
        first = self.first_step(getattr(args, "resume", None))
        for step in range(first, self.steps + 1):
            if self.stop.wait(number("FAKE_SECONDS_PER_STEP", 0.05)) and self.failure != "hang":
                self.save(step - 1)
                return STOPPED
            if step == first:
                self.ask(int(number("FAKE_ASK", 0)))
            if code := self.fail(step):
                return code
            self.log(step)
            if step % int(number("FAKE_SAVE_EVERY", 10)) == 0:
                self.save(step)
        self.save(self.steps)
        self.events.write(events.Phase("saving"))
        self.run.model_path.mkdir(exist_ok=True)
        (self.run.model_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "fake"}))
        self.events.write(events.Result("The held-out loss fell from 2.41 to 1.12.", {"loss": 1.12}))
        return 0

    def watch_supervisor(self) -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        self.stop.set()

    def first_step(self, resume: Any) -> int:
        if resume is None or not resume.run:
            return 1
        parent = Run(self.run.path.parent / resume.run)
        step = int(resume.checkpoint.removeprefix("step-")) if resume.checkpoint else parent.checkpoints()[-1][0]
        print(f"going on from step {step} of {parent.id}", flush=True)
        return step + 1

    def ask(self, count: int) -> None:
        if not count:
            return
        numbers = judging.ask(self.run, [("What is 2 and 2?", f"It is <b>{place}</b>.") for place in range(count)])
        self.events.write(events.Phase(judging.PHASE))
        while not set(numbers) <= set(judging.judged(self.run)) and not self.stop.wait(0.05):
            pass
        self.events.write(events.Phase("training"))

    def fail(self, step: int) -> int:
        if not self.failure or step != self.fails_at:
            return 0
        if self.failure == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.failure == "bug":
            raise RuntimeError("the fake worker was asked to have a bug")
        if self.failure == "error":
            self.events.write(events.Failure("The fake worker was asked to fail.", "Take FAKE_FAIL away."))
            print("Failed: The fake worker was asked to fail. Take FAKE_FAIL away.", flush=True)
            return FAILED
        return 0

    def log(self, step: int) -> None:
        loss = 1 + 1.5 * math.exp(-step / 20) + 0.08 * math.sin(step * 1.7)
        bad = 0 < number("FAKE_NAN", 0) <= step
        values = {
            "train/loss": math.nan if bad else round(loss, 4), "train/grad_norm": round(0.5 + loss / 4, 4),
            "train/learning_rate": round(5e-4 * (1 - step / (self.steps + 1)), 8), "train/tokens": step * 520.0,
            "train/tokens_per_second": 400 + 20 * math.sin(step), "memory/peak_gb": 1.4,
        }  # fmt: skip
        self.metrics.write(events.Metrics(step, round(3 * step / self.steps, 4), values))
        if bad and step == int(number("FAKE_NAN", 0)):
            self.events.write(events.Warn("The loss is no number any more.", "Lower the learning rate."))
        if step % 10 == 0:
            self.metrics.write(
                events.Metrics(step, round(3 * step / self.steps, 4), {"eval/loss": round(loss + 0.1, 4)})
            )
        left = (self.steps - step) * number("FAKE_SECONDS_PER_STEP", 0.05)
        self.events.write(events.Progress(step, self.steps, left))
        print(f"step {step} of {self.steps}: loss {loss:.4f}", flush=True)

    def save(self, step: int) -> None:
        """A checkpoint gets its name by its last rename, as a real one does."""
        if step < 1 or (self.run.checkpoints_path / f"step-{step}").exists():
            return
        partial = self.run.checkpoints_path / f".step-{step}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / "trainer_state.json").write_text(json.dumps({"step": step}))
        (partial / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "fake"}))
        time.sleep(number("FAKE_SAVING_SECONDS", 0))
        partial.rename(self.run.checkpoints_path / f"step-{step}")
        self.run.picture_path.write_bytes(PICTURE)
        self.events.write(events.Checkpoint(step, f"checkpoints/step-{step}"))


if __name__ == "__main__":
    sys.exit(FakeWorker(Run(Path(sys.argv[1]))).work())
