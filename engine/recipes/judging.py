"""What the trainers of judged answers share: a batch's likelihoods, what it is held to, and the numbers of the curves.

A task gives the loss of a batch. Numbers are kept as sums and counts, so that their means are exact over rows, however
these fall into batches. Knows no loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from trl.trainer.utils import disable_dropout_in_model

from engine.contract.args import TrainArgs
from engine.devices import ranks
from engine.feedback.anchor import Anchor
from engine.recipes.setting import Setting
from engine.training.trainer import Recording

Config = TrainingArguments


def settings(args: TrainArgs) -> dict[str, Any]:
    """Keywords of `Config` that do not go one to one: none."""
    return {}


def beside(setting: Setting, model: Any) -> dict[str, Any]:
    """Further keywords of `Task`."""
    return {"task": setting.args.task}


class Judging(Recording, Trainer):
    """A trainer of judged answers; `compute_loss` is the task's own."""

    SIDES = 2  # rows of a batch for each example in it

    def __init__(self, *given: Any, task: Any, anchor: Anchor | None = None, **more: Any) -> None:
        """task: its section of the arguments.   anchor: what the model is held to, for tasks that have such."""
        super().__init__(*given, **more)
        self.task, self.anchor = task, anchor
        self.model_accepts_loss_kwargs = False  # a batch's loss is a mean over its examples
        self._metrics: dict[str, dict[str, list[float]]] = {"train": {}, "eval": {}}
        self._sums: dict[str, dict[str, tuple[float, int]]] = {"train": {}, "eval": {}}
        self.counting = False
        if task.steady:
            disable_dropout_in_model(self.model)

    def record(self, *given: Any, **more: Any) -> None:
        super().record(*given, **more)
        if self.anchor and self.anchor.once:
            self.report.phase("preparing")
            self.train_dataset = self._asked(self.train_dataset)
            self.eval_dataset = self._asked(self.eval_dataset) if self.eval_dataset is not None else None
            self.anchor = None  # and with it the second model

    def weight(self, batch: Mapping[str, Any]) -> int:
        self.counting = True  # asked only of batches that count
        return len(batch["input_ids"]) // self.SIDES

    def before(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """(rows,): what the reference gives the answers of a batch, as `scores` does."""
        if "reference" in inputs:
            return inputs["reference"]  # type: ignore[no-any-return]
        assert self.anchor is not None
        with torch.no_grad(), self.accelerator.autocast():
            return self.scores(self.anchor.ask(inputs), inputs)

    def once(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """(numbers, examples): all that the task asks the reference about a batch."""
        return self.before(inputs).view(self.SIDES, -1)

    def scores(self, logps: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor:
        """(rows,) of (rows, length - 1): the log-probability of each answer."""
        return logps.sum(1)

    def note(self, **values: torch.Tensor) -> None:
        """Numbers for the curves, one for each example that has one; their names are among `NAMES`."""
        if not self.model.training and not self.counting:
            return
        sums = self._sums["train" if self.model.training else "eval"]
        for name, value in values.items():
            total, count = sums.get(name, (0.0, 0))
            sums[name] = total + float(value.detach().double().sum()), count + value.numel()

    def log(self, logs: dict[str, float], *rest: Any, **more: Any) -> None:
        if "eval_loss" in logs or "loss" in logs:
            mode, prefix = ("eval", "eval_") if "eval_loss" in logs else ("train", "")
            names = list(self.NAMES)
            found = ranks.totals([number for name in names for number in self._sums[mode].get(name, (0.0, 0))])
            means = zip(names, found[::2], found[1::2], strict=True)
            logs.update({f"{prefix}{name}": total / count for name, total, count in means if count})
            self._sums[mode].clear()
        super().log(logs, *rest, **more)

    def evaluate(self, *given: Any, **more: Any) -> dict[str, float]:
        self._sums["eval"].clear()
        return super().evaluate(*given, **more)

    def prediction_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[Any, None, None]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        self.counting = False
        return loss, None, None

    def _asked(self, rows: Any) -> Any:
        """The rows, each with what the reference gives its answers: as many numbers as it has sides."""
        found: list[list[float]] = []
        loader = DataLoader(rows, batch_size=self.args.per_device_eval_batch_size, collate_fn=self.data_collator)
        for batch in loader:
            self.stop.check()
            found += self.once(self._prepare_inputs(batch)).T.tolist()
            self.report.progress(len(found), len(rows), None, unit="rows")
        return Known(rows, found)


@dataclass(frozen=True)
class Known:
    """Rows, with what was asked about them: a dataset as torch has it."""

    rows: Any
    reference: Sequence[Sequence[float]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {**self.rows[place], "reference": self.reference[place]}


@dataclass(frozen=True)
class Collate:
    """Pairs to a batch: all chosen answers, then all rejected ones, each behind its prompt.

    (2 x pairs, longest) int64 tensors, padded on the right; `completion_mask` is 1 where the answer's own tokens are.
    `reference` (2 x pairs,) is what the reference was found to give them, where it was asked beforehand.
    """

    pad_id: int

    def __call__(self, pairs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sides = [(pair[f"{side}_ids"], pair[f"{side}_labels"]) for side in ("chosen", "rejected") for pair in pairs]
        return laid(sides, self.pad_id) | known(pairs)


def laid(rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> dict[str, torch.Tensor]:
    """Rows of ids and labels as a batch, padded on the right."""
    longest = max(len(ids) for ids, _ in rows)

    def padded(found: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([row + [fill] * (longest - len(row)) for row in found])

    return {
        "input_ids": padded([list(ids) for ids, _ in rows], pad_id),
        "attention_mask": padded([[1] * len(ids) for ids, _ in rows], 0),
        "completion_mask": padded([[int(label != -100) for label in labels] for _, labels in rows], 0),
    }


def known(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """What was asked beforehand about the examples of a batch, in the order of its rows."""
    if "reference" not in examples[0]:
        return {}
    return {"reference": torch.tensor([example["reference"] for example in examples]).T.reshape(-1)}
