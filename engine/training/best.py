"""Which evaluation of a run was the best, when no better one is to be expected, and how the best weights stay.

All of it is read from the trainer's own history, which every checkpoint holds, so it goes on with a resumed run. Knows
no task: which number is watched, and whether it is to fall or to rise, a recipe says.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from engine.devices import ranks
from engine.models.links import linked


class Moment(NamedTuple):
    """An evaluation: after which step, and what it found."""

    step: int
    value: float


class Best(TrainerCallback):
    """Watches a trainer that is `Recording`.

    patience: evaluations without a better one that end the run; None for no end.
    keeps: whether the checkpoint of the best evaluation stays, and its weights are the run's result.
    parent: the checkpoints of the run that this one goes on from.
    """

    def __init__(self, trainer: Any, patience: int | None, keeps: bool, parent: Path | None) -> None:
        self.trainer, self.patience, self.keeps, self.parent = trainer, patience, keeps, parent
        self.ended = False
        name, self.way = trainer.BEST
        ours = {f"eval/{ours}": f"eval_{theirs}" for theirs, ours in trainer.NAMES.items()}
        self.name, self.watched = name, ours[name]

    @property
    def moments(self) -> list[Moment]:
        """Every evaluation behind the first step; the one before it is of a model that has learnt nothing."""
        history = self.trainer.state.log_history
        return [Moment(entry["step"], entry[self.watched]) for entry in history
                if entry["step"] and math.isfinite(entry.get(self.watched, math.nan))]  # fmt: skip

    @property
    def moment(self) -> Moment | None:
        """The best evaluation, the first of those that are equal."""
        pick = min if self.way == "min" else max
        return pick(self.moments, key=lambda moment: moment.value, default=None)

    @property
    def folder(self) -> Path | None:
        """The checkpoint that stays."""
        best = self.moment if self.keeps else None
        return self.trainer.run.checkpoints_path / f"step-{best.step}" if best else None

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> Any:
        best = self.moment if metrics and state.global_step else None
        if best is None:
            return control
        if best.step == state.global_step:
            control.should_save = control.should_save or self.keeps
            return control
        since = sum(moment.step > best.step for moment in self.moments)
        if self.patience and since >= self.patience and not self.ended and state.global_step < state.max_steps:
            self.ended = control.should_training_stop = True
            many = "The last evaluation was" if since == 1 else f"The last {since} evaluations were"
            self.trainer.report.note(
                f"{many} no better than that at step {best.step} ({self.name} {best.value:.4g}): the run ends early, "
                f"at step {state.global_step} of {state.max_steps}.",
                best_step=best.step, best=best.value, step=state.global_step,
            )  # fmt: skip
        return control

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Bring the best checkpoint of the run that this one goes on from.

        Where it is gone, the evaluations up to now count no more: only weights that are there can be the result.
        """
        folder, best = self.folder, self.moment
        if folder is None or best is None or folder.is_dir():
            return
        found = self.parent / folder.name if self.parent else folder
        with ranks.one_first():
            if found.is_dir() and not folder.is_dir():
                shutil.copytree(found, folder, copy_function=linked)
        if folder.is_dir():
            self.trainer.report.checkpoint(best.step, f"checkpoints/{folder.name}")
            return
        self.trainer.report.warn(
            f"The best weights so far, those of step {best.step}, were not kept: from here on the best are.",
            "Resume from that step, if its checkpoint is there.",
        )
        state.log_history = [entry for entry in state.log_history if self.watched not in entry]

    def restore(self) -> Moment | None:
        """Put the best weights into the model, if they are to be the result and are not there already."""
        folder, best = self.folder, self.moment
        if folder is None or best is None:
            return None
        trainer = self.trainer
        if best.step != trainer.state.global_step:
            if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
                trainer.state.best_model_checkpoint = str(folder)
                trainer._load_best_model()
            else:
                trainer._load_from_checkpoint(str(folder))
            trainer.report.note(
                f"Kept the weights of step {best.step}, the best ({self.name} {best.value:.4g}).",
                best_step=best.step, best=best.value,
            )  # fmt: skip
        return best
