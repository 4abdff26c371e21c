"""Where a tuned model comes from: its base, the run that trained it, and what that run was told.

Evaluate, Export and the model card ask here. Reads files only; loads no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data import weights
from data.weights import Weights
from engine.contract import text
from engine.contract.args import TrainArgs
from engine.contract.rundir import Run


@dataclass(frozen=True)
class Lineage:
    """`weights` as found; `base` is the word for what it was trained from, empty when nobody wrote it down.

    run and args are those of the training, when it is still here.
    """

    weights: Weights
    base: str
    run: Run | None = None
    args: TrainArgs | None = None

    @property
    def origin(self) -> str:
        """The base as a stranger may know it: the model that was named, also where the run began with a changed one."""
        return self.args.model.path if self.args and self.args.model.changed else self.base

    @property
    def trust_remote_code(self) -> bool:
        """Consent is given once, for the training, and holds for what came of it."""
        return self.args is not None and self.args.model.trust_remote_code

    @property
    def template(self) -> str | None:
        """The template of ours that it was trained with, or None for the model's own."""
        return None if self.weights.template == "auto" else self.weights.template

    @property
    def revision(self) -> str:
        return self.args.model.revision if self.args else self.weights.revision


def of(ref: str, workspace: Path) -> Lineage:
    """The lineage of a run, a checkpoint, an export or a folder. Raises ModelError with the way out."""
    found = weights.find(ref, workspace)
    if found.run is not None:
        args = _args(found.run)
        start = found.run.start_path
        base = str(start) if start.is_dir() else args.model.path if args else found.base
        return Lineage(found, base, found.run, args)
    receipt = weights.receipt(found.adapter or Path(found.base))
    run = Run(workspace / "runs" / receipt["run"]) if receipt.get("run") else None
    if run is not None and run.args_path.is_file():
        return Lineage(found, receipt.get("base", ""), run, _args(run))
    return Lineage(found, found.base if found.adapter else receipt.get("base", ""))


def _args(run: Run) -> TrainArgs | None:
    args = text.load(run.args_path)
    return args if isinstance(args, TrainArgs) else None
