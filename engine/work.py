"""The worker: one run from its args file to its exit code. Started by the supervisor, which records how it ends."""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path

from engine.contract import machine, rundir, text
from engine.contract.args import TrainArgs
from engine.contract.errors import BoardError
from engine.devices import launch, ranks
from engine.report import Report, Stop, Stopped
from engine.supervise import DISK_FULL, FAILED, MUTE, OUT_OF_MEMORY, STOPPED
from engine.training import recovery

# Each kind of run has one module with `run(args, run, report, stop)`, imported when it is needed.
KINDS = {
    "train": "engine.recipes.run",
    "evaluate": "engine.evaluate",
    "serve": "engine.serve",
    "export": "engine.export",
    "make": "engine.make",
    "download": "engine.download",
}

BUG = "This is a bug in Tuneboard; the traceback is in the log."


def work(folder: Path) -> int:
    """Do the run in `folder`; returns the exit code that the supervisor understands."""
    run = rundir.Run(folder.resolve())
    _settle(run.workspace)
    if ranks.joined():
        ranks.settle(run.rank_log_path(ranks.rank()))
    attempt = int(run.status().get("attempt", 1))
    stop, report = Stop(), Report(run, attempt=attempt, lead=ranks.leads())
    try:
        return _work(run, report, stop, attempt)
    except Stopped:  # from anywhere, the lines that tell of a failure included
        stop.settle()
        return _stopped()


def _work(run: rundir.Run, report: Report, stop: Stop, attempt: int) -> int:
    given = None
    try:
        rank = {"end": "Asked to stop"} if ranks.joined() else {}  # its launcher tells it so
        stop.listen(watch_stdin=not sys.stdin.isatty(), **rank)
        report.phase("loading")
        given = args = text.load(run.args_path)
        if isinstance(args, TrainArgs) and args.launch.everywhere > 1 and not ranks.joined():
            return launch.ranks(args, run, report, stop)
        if isinstance(args, TrainArgs):
            _stay_awake()
            if not ranks.joined():
                machine.keep_to_one(args.compute.device, args.launch.devices)
            args = recovery.eased(args, run, report, attempt)
        importlib.import_module(KINDS[args.kind]).run(args, run, report, stop)
        stop.settle()
    except BoardError as problem:
        stop.settle()
        return _failed(report, problem.text, problem.hint)
    except Exception as problem:
        stop.settle()
        with contextlib.suppress(OSError):  # the log may be what cannot be written
            traceback.print_exc()
        if isinstance(given, TrainArgs) and recovery.out_of_memory(problem) and recovery.may_go_on(given, run, attempt):
            return _out_of_memory()
        sentence, hint = _of_the_machine(problem) or (f"{type(problem).__name__}: {problem}", BUG)
        return _failed(report, sentence, hint, bug=hint is BUG)
    if ranks.joined():
        ranks.leave(0)
    return 0


def _stopped() -> int:
    print("Stopped.", flush=True)
    if ranks.joined():
        ranks.leave(STOPPED)
        return 0  # the launcher would take any other code for a failure, and end the others
    return STOPPED


def _stay_awake() -> None:
    """Have torch's threads wait for each other through the pauses between operations, a tenth of a step on a processor.

    libgomp reads this when torch is loaded: how many times they look before they sleep.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000000")


def _out_of_memory() -> int:
    """The next attempt says what it does about it."""
    if ranks.joined():
        ranks.leave(OUT_OF_MEMORY, "Out of memory.")
    return OUT_OF_MEMORY


def _failed(report: Report, sentence: str, hint: str, *, bug: bool = False) -> int:
    if ranks.joined():
        ranks.leave(FAILED, sentence, hint, bug)  # it is told once all are dead
        return FAILED
    try:
        report.failure(sentence, hint, bug=bug)
    except OSError:
        return MUTE  # the supervisor says it
    return FAILED


def _of_the_machine(problem: Exception) -> tuple[str, str] | None:
    """Sentence and hint for what the machine, not the code, is to blame for; any line may meet it."""
    said = str(problem)
    # safetensors and torch's file writer wrap the system's error in a text of their own.
    full = isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT)
    short = "inline_container" in said and "unexpected pos" in said  # a write of torch's that came to less than asked
    if full or short or "No space left on device" in said or "Disk quota exceeded" in said:
        return DISK_FULL
    if recovery.out_of_memory(problem):
        return "Out of memory.", recovery.ADVICE
    return None


def _settle(workspace: Path) -> None:
    """Libraries keep their caches in the workspace, and quiet."""
    cache = workspace / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MPLCONFIGDIR", str(cache / "matplotlib"))
    os.environ.setdefault("HF_DATASETS_CACHE", str(cache / "datasets"))
    os.environ.setdefault("TMPDIR", str(cache))
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    # The log is a file for people: bars that redraw themselves become lines of noise in it.
    os.environ["TQDM_DISABLE"] = "1"
    # They say at every start that optional kernels, or their own registrations, are not as they like; nobody asked.
    for talker in ("bitsandbytes.backends.cpu.ops", "torchao", "torch.utils._pytree"):
        logging.getLogger(talker).setLevel(logging.ERROR)
    # peft asks transformers by an old name, at every step of some tasks.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
