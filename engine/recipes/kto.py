"""KTO: good answers grow likelier than the model has become overall, bad ones less likely; each is judged alone.

How far the model has moved overall is estimated from answers that belong to other questions (`Mismatched`), on each
batch in training and once on all held-out rows in evaluation, so that its loss does not move with the batch size.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch.nn.functional import sigmoid

from engine.contract.preference import Kto
from engine.devices import ranks
from engine.feedback.anchor import anchor
from engine.feedback.logps import logps
from engine.models.loading import language_model as load  # noqa: F401 (what a recipe offers)
from engine.recipes.judging import Config as Config  # what a recipe offers
from engine.recipes.judging import Judging, laid
from engine.recipes.judging import settings as settings
from engine.recipes.setting import Setting

SIDES = 1  # of each example in a batch
TRIES = 8  # rows that are looked at for an answer to another question


def beside(setting: Setting, model: Any) -> dict[str, Any]:
    """Further keywords of `Task`."""
    task, labels = setting.args.task, setting.rows.train["label"]
    assert isinstance(task, Kto)
    good = sum(labels)
    weights = task.weights(good, len(labels) - good)
    setting.report.note(
        f"{good:,} answers are good and {len(labels) - good:,} bad; they count {weights[0]:.3g} and {weights[1]:.3g}.",
        good=good, bad=len(labels) - good, good_weight=weights[0], bad_weight=weights[1],
    )  # fmt: skip
    if said := task.lopsided(good, len(labels) - good):
        setting.report.warn(said)
    return {
        "task": task, "anchor": anchor(setting, model), "weights": weights,
        "limit": setting.args.data.max_length, "seed": setting.args.steps.seed,
    }  # fmt: skip


class Mismatched:
    """Rows, each with the answer of another one behind its own prompt: a dataset as torch has it.

    The other is as far away for every row, by chance, or a little further where it answers the same question.
    """

    def __init__(self, rows: Any, limit: int, seed: int) -> None:
        """limit: the most tokens of a row."""
        self.rows, self.limit = rows, limit
        self.away = Random(seed).randrange(1, len(rows)) if len(rows) > 1 else 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        row = self.rows[place]
        prompt = row["input_ids"][: _answer(row)]
        for further in range(TRIES):
            other = self.rows[(place + self.away + further) % len(self.rows)]
            begin = _answer(other)
            if other["input_ids"][:begin] != prompt:
                break
        ids, labels = (other[name][begin:] for name in ("input_ids", "labels"))
        end = self.limit - len(prompt)
        return {**row, "other_ids": prompt + ids[:end], "other_labels": [-100] * len(prompt) + labels[:end]}


def _answer(row: Mapping[str, Any]) -> int:
    """Where the answer begins."""
    return next(place for place, label in enumerate(row["labels"]) if label != -100)


@dataclass(frozen=True)
class Collate:
    """Judged answers to a batch, padded on the right: (rows, longest) int64 ids and masks, and `label` (rows,).

    `other` is a batch of the same prompts with answers to other questions.
    """

    pad_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = laid([(row["input_ids"], row["labels"]) for row in rows], self.pad_id)
        batch["label"] = torch.tensor([row["label"] for row in rows])
        if "other_ids" in rows[0]:
            batch["other"] = laid([(row["other_ids"], row["other_labels"]) for row in rows], self.pad_id)
        if "reference" in rows[0]:
            batch["reference"], batch["other"]["reference"] = torch.tensor([row["reference"] for row in rows]).T
        return batch


class Task(Judging):
    """KTO (Ethayarajh et al., 2024, eq. 8), or its relative without an estimate, APO-zero on single answers."""

    SIDES = 1
    NAMES = {
        **Judging.NAMES,
        "good_reward": "good_reward",
        "bad_reward": "bad_reward",
        "good_logp": "good_logp",
        "bad_logp": "bad_logp",
        "agreed": "agreed",
        "kl": "kl",
    }

    def __init__(self, *given: Any, weights: tuple[float, float], limit: int, seed: int, **more: Any) -> None:
        """weights: of a good and of a bad answer.   limit: tokens of a row.   seed: of who borrows whose answer."""
        super().__init__(*given, **more)
        self.weights, self.held_kl = weights, torch.zeros(())
        self.train_dataset = Mismatched(self.train_dataset, limit, seed)
        self.eval_dataset = Mismatched(self.eval_dataset, limit, seed) if self.eval_dataset is not None else None

    def once(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        return torch.stack([self.before(inputs), self.before(inputs["other"])])

    def evaluate(self, eval_dataset: Any = None, *given: Any, **more: Any) -> dict[str, float]:
        started, drifts = time.monotonic(), list[float]()
        self.still()
        self.model.eval()
        for batch, counts in self._held_out(eval_dataset) if self.task.loss == "kto" else ():
            drift = self._drift(self.model, self._prepare_inputs(batch))
            drifts += drift.tolist() if counts else []
            if ranks.any_of(self.stop.asked):
                break
        self.held_kl = _mean(torch.tensor(drifts))
        self.logged_at += time.monotonic() - started  # as what follows, this is no training time
        return super().evaluate(eval_dataset, *given, **more)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        good, before = inputs["label"], self.before(inputs)
        kl = torch.zeros(())
        if self.task.loss == "kto":
            kl = _mean(self._drift(model, inputs)) if self.model.training else self.held_kl
        said = self.scores(logps(model, inputs), inputs)
        ratios = said - before
        beta = self.task.beta
        lead = torch.where(good, ratios - kl.to(ratios), kl.to(ratios) - ratios)
        weights = torch.where(good, *(ratios.new_tensor(weight) for weight in self.weights))
        rewards = beta * ratios
        self.note(
            good_reward=rewards[good], bad_reward=rewards[~good], good_logp=said[good], bad_logp=said[~good],
            agreed=(lead > 0).double(), kl=kl,
        )  # fmt: skip
        return (weights * (1 - sigmoid(beta * lead))).mean()

    def _drift(self, model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
        """(rows,): how much likelier answers to other questions have become."""
        other = inputs["other"]
        with torch.no_grad(), self.accelerator.autocast():
            return self.scores(logps(model, other), other) - self.before(other)


def _mean(drifts: torch.Tensor) -> torch.Tensor:
    """The distance moved, over all processes; it is never below nothing."""
    total, count = ranks.totals([float(drifts.sum()), float(drifts.numel())])
    return torch.tensor(max(0.0, total / max(1.0, count)))
