"""Implicit language Q-learning: learn from answers with scores what each token is worth, and write by it.

No answer is written while it learns. Two heads say what a token is worth where it stands (Q), one what the best of the
likely tokens is worth there (V). What came after a token teaches Q; slow copies of the Q heads teach V, by an expectile
instead of a mean, so that V is the worth of good continuations among those in the rows. A further term holds Q down for
tokens that no row says, and the language model itself learns the answers. `engine/feedback/guidance.py` writes by Q -
V.

Snell et al., 2022 (ILQL); Kostrikov et al., 2021 (the expectile); Kumar et al., 2020 (the conservative term).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import TrainerCallback

from engine.contract.reinforcement import Ilql
from engine.devices import ranks
from engine.feedback import heads
from engine.feedback.guidance import FACT, Guidance
from engine.models.loading import language_model as load  # noqa: F401 (what a recipe offers)
from engine.recipes.judging import Config as Config  # what a recipe offers
from engine.recipes.judging import Judging, laid
from engine.recipes.judging import settings as settings
from engine.recipes.setting import Setting

SIDES = 1  # of each example in a batch
PAIRS = {"first": "slow_first", "second": "slow_second"}  # the Q heads, and the slow copy of each


def beside(setting: Setting, model: Any) -> dict[str, Any]:
    """Further keywords of `Task`."""
    scores = torch.tensor(setting.rows.train["score"], dtype=torch.float64)
    centre, spread = float(scores.mean()), float(scores.std(correction=0))
    setting.report.note(f"The scores are {centre:.3g} on average, with a standard deviation of {spread:.3g}.")
    task = setting.args.task
    assert isinstance(task, Ilql)
    scale = (centre, spread or 1.0) if task.normalise else (0.0, 1.0)
    return {"task": task, "scale": scale}


def rewards(scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(tokens,): at the last token of each answer its score, else 0. scores: (answers,); rows: (tokens,) int64, the
    answer of each token, in order."""
    return torch.where(_last(rows), scores[rows], 0.0)


def wanted(rewards: torch.Tensor, values: torch.Tensor, rows: torch.Tensor, gamma: float) -> torch.Tensor:
    """(tokens,): what Q is to be: r_t + gamma V(s_{t+1}), where nothing is worth anything behind an answer's end."""
    behind = torch.where(_last(rows), 0.0, values.roll(-1))
    return (rewards + gamma * behind).detach()


def expectile_loss(values: torch.Tensor, worth: torch.Tensor, expectile: float) -> torch.Tensor:
    """(tokens,): |tau - [worth < V]| (worth - V)^2: below `worth` V errs tau / (1 - tau) times as dearly as above."""
    missed = worth.detach() - values
    return torch.where(missed < 0, 1 - expectile, expectile) * missed**2


def conservative_loss(worth: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """(tokens,): log sum_a exp Q(s, a) - Q(s, a_t). worth: (tokens, vocabulary); tokens: (tokens,) int64."""
    return functional.cross_entropy(worth, tokens, reduction="none")


def _last(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([rows[1:] != rows[:-1], rows.new_ones(1, dtype=torch.bool)])


class Task(heads.Headed, Judging):
    """ILQL on transformers' loop, with a mean over all tokens of a step's answers."""

    SIDES = 1
    NAMES = {name: name for name in (
        "loss", "learning_rate", "grad_norm", "q_loss", "value_loss", "cql_loss", "sft_loss", "q", "value", "advantage"
    )}  # fmt: skip

    def __init__(self, model: Any, *, task: Ilql, scale: tuple[float, float], **more: Any) -> None:
        width, words = heads.width(model), model.get_output_embeddings().weight.shape[0]
        fast = {name: heads.deep(width, words) for name in PAIRS}
        slow = {copied: copy.deepcopy(fast[name]).requires_grad_(False) for name, copied in PAIRS.items()}
        heads.attach(model, **fast, **slow, value=heads.deep(width, 1))
        super().__init__(model=model, task=task, **more)
        self.scale = scale
        self.model_accepts_loss_kwargs = True
        self.add_callback(Following(model.heads, task.target_rate))

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        task, ids = self.task, inputs["input_ids"]
        asked = inputs["completion_mask"][:, 1:].bool()
        tokens, rows = ids[:, 1:][asked], asked.nonzero()[:, 0]
        output = model(
            input_ids=ids, attention_mask=inputs["attention_mask"], output_hidden_states=True, use_cache=False
        )
        before = slice(-ids.shape[1], -1)  # some methods put tokens of their own before the row's
        logits, hidden = output.logits[:, before][asked], output.hidden_states[-1][:, before][asked].float()

        stands = self.accelerator.unwrap_model(self.model).heads
        with torch.autocast(hidden.device.type, enabled=False):
            said = {name: stands[name](hidden) for name in PAIRS}
            worth = torch.minimum(*(_of(stands[copied](hidden), tokens) for copied in PAIRS.values())).detach()
            values = stands["value"](hidden)[:, 0]
        centre, spread = self.scale
        earned = rewards((inputs["score"].float() - centre) / spread, rows)
        aim = wanted(earned, values, rows, task.gamma)

        q_loss = sum((_of(one, tokens) - aim) ** 2 for one in said.values())
        value_loss = expectile_loss(values, worth, task.expectile)
        cql_loss = sum(conservative_loss(one, tokens) for one in said.values())
        gains = (worth - values).detach()
        sft_loss = functional.cross_entropy(logits.float(), tokens, reduction="none") * (task.sft_beta * gains).exp()
        each = q_loss + value_loss + task.cql_weight * cql_loss + task.sft_weight * sft_loss
        self.note(q_loss=q_loss, value_loss=value_loss, cql_loss=cql_loss, sft_loss=sft_loss, q=worth, value=values,
                  advantage=gains)  # fmt: skip
        loss = each.sum() / (len(tokens) if num_items_in_batch is None else num_items_in_batch)
        return (loss, output) if return_outputs else loss

    def weight(self, batch: Mapping[str, Any]) -> int:
        super().weight(batch)
        return int(batch["completion_mask"][:, 1:].sum())

    def _get_num_items_in_batch(self, batch_samples: list[Mapping[str, Any]], device: torch.device) -> torch.Tensor:
        """The tokens that a step learns from; several processes average their gradients, so it is their mean."""
        tokens = sum(int(batch["completion_mask"][:, 1:].sum()) for batch in batch_samples)
        return torch.tensor(ranks.total(float(tokens)) / ranks.count(), device=device)

    def _show_samples(self) -> None:
        model = self.accelerator.unwrap_model(self.model)
        with Guidance(model.heads, self.task.guidance).on(model):
            super()._show_samples()

    def facts(self) -> dict[str, str]:
        return {FACT: str(self.task.guidance)}


class Following(TrainerCallback):
    """After each update the slow heads move `rate` of the way to the fast ones (Polyak averaging)."""

    def __init__(self, stands: torch.nn.ModuleDict, rate: float) -> None:
        self.stands, self.rate = stands, rate

    @torch.no_grad()
    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        for fast, slow in PAIRS.items():
            for one, copied in zip(self.stands[fast].parameters(), self.stands[slow].parameters(), strict=True):
                copied.lerp_(one, self.rate)


def _of(worth: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """(tokens,) out of (tokens, vocabulary): what is said of the tokens that were chosen."""
    return worth.gather(-1, tokens[:, None])[:, 0]


@dataclass(frozen=True)
class Collate:
    """Scored answers to a batch, padded on the right: (rows, longest) int64 ids and masks, and `score` (rows,)."""

    pad_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = laid([(row["input_ids"], row["labels"]) for row in rows], self.pad_id)
        return batch | {"score": torch.tensor([row["score"] for row in rows], dtype=torch.float32)}
