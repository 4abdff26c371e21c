"""Run folders as the page needs them: list, start, stop, delete. The only module of the page that starts runs.

Reading is cached by what changed on disk, so a list of hundreds of runs costs one `stat` each. Nothing here draws.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.running.tail import Tail
from data import models
from data.checking import preflight
from data.paths import inside
from engine.contract import auto, machine, text
from engine.contract import start as starter
from engine.contract.args import AnyArgs, EvaluateArgs, ExportArgs, ServeArgs, TrainArgs
from engine.contract.errors import ArgsError, BoardError
from engine.contract.rundir import ENDED, Run, State
from engine.contract.rundir import runs as folders

MOVING: tuple[State, ...] = ("queued", "running")
KEPT = 2000  # summaries held in memory


@dataclass(frozen=True)
class Summary:
    """One line of the list of runs. `best_loss` is the lowest held-out loss, or else the lowest training loss; `best`
    is the best held-out value of `aim`, the metric that says how well such a run went, or else its latest in training,
    where the highest would only be the luckiest batch.

    `seconds` is how long it has worked so far or worked in all, `began` when it was asked for (Unix seconds);
    `args` is None when its arguments are of another version.
    """

    run: Run
    state: State
    kind: str
    name: str
    args: AnyArgs | None
    began: float
    seconds: float | None
    best_loss: float | None
    aim: str
    best: float | None

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def title(self) -> str:
        """Its name, or else what it works on."""
        return self.name or short(_subject(self.args)) or self.id

    @property
    def about(self) -> str:
        """What it is, in a few words: `SFT, LoRA`, and the model where the title does not name it."""
        what = _what(self.args) or self.kind or "of another version"
        return f"{what} · {short(_subject(self.args))}" if self.name and _subject(self.args) else what

    @property
    def moving(self) -> bool:
        return self.state in MOVING


def _what(args: AnyArgs | None) -> str:
    if isinstance(args, TrainArgs):
        return f"{args.task.title or args.task.kind}, {args.method.title or args.method.kind}"
    return args.title if args else ""


def _subject(args: AnyArgs | None) -> str:
    match args:
        case TrainArgs():
            return args.model.path
        case EvaluateArgs() | ExportArgs():
            return args.tuned
        case ServeArgs():
            return ", ".join(args.models)
    return ""


def short(path: str) -> str:
    """The last part of a path or hub id; a checkpoint keeps its run."""
    head, _, last = path.rstrip("/").rpartition("/")
    return f"{short(head)}/{last}" if last.startswith("step-") else last


@dataclass
class _Seen:
    """What has been read of one run folder so far."""

    run: Run
    args: AnyArgs | None = None
    args_at: int = -1
    metrics: Tail = field(init=False)
    best: dict[str, float] = field(default_factory=dict)
    ended: tuple[int, Summary] | None = None

    def __post_init__(self) -> None:
        self.metrics = Tail(self.run.metrics_path)


_seen: OrderedDict[Path, _Seen] = OrderedDict()
_guard = threading.Lock()


def listed(workspace: Path) -> list[Summary]:
    """Every run of the workspace, newest first."""
    return [found for run in folders(workspace) if (found := summary(run))]


def summary(run: Run) -> Summary | None:
    """One run as it is now; None when its folder is gone."""
    with _guard:
        seen = _seen.setdefault(run.path, _Seen(run))
        _seen.move_to_end(run.path)
        while len(_seen) > KEPT:
            _seen.popitem(last=False)
        try:
            return _summary(seen)
        except FileNotFoundError:
            del _seen[run.path]
            return None


def _summary(seen: _Seen) -> Summary:
    run = seen.run
    stamp = run.status_path.stat().st_mtime_ns if run.status_path.exists() else 0
    if seen.ended and seen.ended[0] == stamp:
        return seen.ended[1]
    written = run.args_path.stat().st_mtime_ns
    if written != seen.args_at:
        seen.args, seen.args_at = _args(run), written
    status, state = run.status(), run.state()
    _read_best(seen)
    start, end = status.get("started_at"), status.get("ended_at")
    if state == "lost" and end is None:
        end = last_sign(run)
    found = Summary(
        run=run,
        state=state,
        kind=getattr(seen.args, "kind", "") or _kind_of(run),
        name=seen.args.name if seen.args else "",
        args=seen.args,
        began=status["queued_at"] / 1e9 if "queued_at" in status else written / 1e9,
        seconds=max(0.0, (end or time.time()) - start) if start else None,
        best_loss=seen.best.get("eval/loss", seen.best.get("train/loss")),
        aim=_aim(seen.args),
        best=seen.best.get(f"eval/{_aim(seen.args)}", seen.best.get(f"train/{_aim(seen.args)}")),
    )
    if state in ENDED:
        seen.ended = (stamp, found)
    return found


def _args(run: Run) -> AnyArgs | None:
    try:
        return text.load(run.args_path)
    except ArgsError:
        return None  # of another version: the list still shows the run, and its detail says what is wrong


def _kind_of(run: Run) -> str:
    try:
        content = text.read(run.args_path.read_text(encoding="utf-8"))
    except (ArgsError, UnicodeDecodeError):
        return ""
    return str(content.get("kind", "")) if isinstance(content, dict) else ""


def _aim(args: AnyArgs | None) -> str:
    return args.task.aim if isinstance(args, TrainArgs) else "loss"


def _read_best(seen: _Seen) -> None:
    aim = _aim(seen.args)
    choices = {f"train/{aim}": _latest, f"eval/{aim}": max, "train/loss": min, "eval/loss": min}
    for record in seen.metrics.records():
        values = record.get("values") or {}
        for name, choice in choices.items():
            if isinstance(value := values.get(name), (int, float)):
                seen.best[name] = choice(seen.best.get(name, value), value)


def _latest(before: float, value: float) -> float:
    return value


def last_sign(run: Run) -> float:
    """When a run that was lost was last seen to work: the newest of the files that it writes."""
    files = (run.metrics_path, run.events_path, run.log_path, run.args_path)
    return max(file.stat().st_mtime for file in files if file.exists())


def opened(workspace: Path, id: str) -> Run | None:
    """The run called `id`, or None when there is none (any more). `id` comes from the page: a name, never a path."""
    if not id or Path(id).name != id or id.startswith("."):
        return None
    run = Run(workspace / "runs" / id)
    return run if run.args_path.is_file() else None


def start_training(workspace: Path, args: TrainArgs, *, rows: int = 0, allowed: Sequence[Path] = ()) -> Run:
    """Start a training run; every `auto` is decided first, so that its arguments say what it does.

    Raises BoardError for a path out of bounds, ArgsError with everything else that keeps it from running here.
    """
    model_folder(workspace, args, allowed)
    if problems := preflight.problems(args, workspace, allowed):
        raise ArgsError(problems)
    facts = auto.Facts(machine.machine(), _parameters(workspace, args, allowed), rows)
    args = auto.resolved(preflight.grounded(args, workspace), facts)
    label = args.name or f"{args.task.kind}-{args.model.path.rstrip('/').rpartition('/')[2]}"
    devices = machine.device_ids(args.compute.device, args.launch.devices)
    return starter.start(workspace, label, text.dump(args), devices=devices, tries=starter.TRIES)


def start(workspace: Path, args: AnyArgs, label: str, *, allowed: Sequence[Path] = ()) -> Run:
    """Start a run of any other kind. A server shares its device; all else holds it alone. Raises as for training."""
    if problems := preflight.problems(args, workspace, allowed):
        raise ArgsError(problems)
    args = preflight.grounded(args, workspace)
    devices = machine.device_ids(args.device) if hasattr(args, "device") else []  # who only talks needs none
    return starter.start(
        workspace, args.name or label, text.dump(args), devices=devices, share=isinstance(args, ServeArgs)
    )


def resumed(parent: Run, checkpoint: str) -> TrainArgs:
    """The arguments of a new run that goes on from `checkpoint` (`step-40`) of `parent`; empty: from the newest."""
    args = text.load(parent.args_path, kind="train")
    if not checkpoint and (saved := parent.checkpoints()):
        checkpoint = saved[-1][1].name
    content: dict[str, Any] = args.model_dump()
    content["resume"] = {"run": parent.id, "checkpoint": checkpoint}
    return text.parse(content, kind="train")  # type: ignore[return-value]


def stop(run: Run) -> bool:
    """Ask a run to save and end; a second time kills it. False when there was nothing to stop."""
    return starter.stop(run)


def delete(run: Run) -> None:
    """Remove a run that has ended; BoardError while it moves."""
    try:
        run.delete()
    except RuntimeError as problem:
        raise BoardError(str(problem)) from None


def model_folder(workspace: Path, args: TrainArgs, allowed: Sequence[Path] = ()) -> Path | None:
    """The folder of the chosen model, or None for a hub model that is still to be fetched.

    A folder must lie in the workspace or an allowed folder; what the user's own hub cache holds may be read too.
    """
    name = args.model.path.strip()
    here = workspace / "models" / name
    local = here if re.fullmatch(r"[\w.-]+", name) and here.is_dir() else Path(name).expanduser()
    if local.is_dir() or name.startswith(("/", ".", "~")):
        inside(local, [workspace, *allowed])
    return models.find(name, workspace, args.model.revision).folder


def _parameters(workspace: Path, args: TrainArgs, allowed: Sequence[Path]) -> int:
    folder = model_folder(workspace, args, allowed)
    return models.card(folder).parameters if folder else 0
