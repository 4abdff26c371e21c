"""Proximal policy optimisation: write answers, have them rewarded, and make likelier what did better than expected.

A step takes the prompts of one global batch. The model writes an answer to each (the rollout). A reward judges each
answer as a whole; every token pays for moving away from the model at its start. A value head says what was to be
expected from each token on, and what came of it beyond that is the token's advantage. From these the model and its
value head learn, `passes` times over, in `minibatches` updates each, all at the learning rate of the step.

Schulman et al., 2015 (generalised advantages) and 2017 (the clipped objective); Ziegler et al., 2019 (the KL penalty
and its controller); Stiennon et al., 2020 (the score at the end of the answer).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import set_seed
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from data.encoding.asked import facts
from data.encoding.render import ChatTemplate
from data.encoding.tokens import TextTokenizer
from data.rows.conversation import said
from engine.contract.args import TrainArgs
from engine.contract.reinforcement import Ppo
from engine.devices import ranks
from engine.feedback import heads, rollout
from engine.feedback.advantages import (
    Coefficient,
    advantages,
    explained_variance,
    mean,
    policy_loss,
    token_rewards,
    value_loss,
    whitened,
)
from engine.feedback.reference import Start
from engine.feedback.rewards import Scorers, scorers
from engine.feedback.rollout import Answers, Thoughts
from engine.models.loading import language_model as load  # noqa: F401 (what a recipe offers)
from engine.recipes.setting import Setting
from engine.serving.generate import Sampling
from engine.serving.turn import ends
from engine.training.trainer import Recording

Config = TrainingArguments
SIDES = 1  # of each example in a batch
SHOWN = 2  # answers of each step that the run's events show


def settings(args: TrainArgs) -> dict[str, Any]:
    """Keywords of `Config` that do not go one to one."""
    return {}


def beside(setting: Setting, model: Any) -> dict[str, Any]:
    """Further keywords of `Task`: the model that `model` is held to, before any step, and who rewards."""
    return {"setting": setting, "start": Start(model), "scorers": scorers(setting, model)}


@dataclass(frozen=True)
class Rollout:
    """Answers, and all that was known of them when they were written.

    logps, before: (rows, answer): log-probabilities by the model, and by the model at its start.
    values: (rows, answer): what the value head expected from each token on.
    rewards, scores: (rows,): what was said of the answers, and what is learnt from.
    """

    answers: Answers
    logps: torch.Tensor
    before: torch.Tensor
    values: torch.Tensor
    rewards: torch.Tensor
    scores: torch.Tensor

    @property
    def kl(self) -> torch.Tensor:
        """(rows,): how much likelier an answer is than at the start, in nats; its mean estimates the KL."""
        return ((self.logps - self.before) * self.answers.said).sum(1)


@dataclass(frozen=True)
class Collate:
    """A batch is the prompts themselves, each of its own length: what is read is padded when it is written on."""

    pad_id: int

    def __call__(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return asked


class Task(heads.Headed, Recording, Trainer):
    """PPO on transformers' loop: each `training_step` writes, and the last of an optimiser step also learns."""

    NAMES = {name: name for name in (
        "loss", "learning_rate", "grad_norm", "reward", "score", "kl", "kl_coefficient", "entropy", "clip_share",
        "policy_loss", "value_loss", "explained_variance", "length", "ended",
    )}  # fmt: skip
    BEST = ("eval/reward", "max")
    TOLD = "reward"

    def __init__(self, model: Any, *, setting: Setting, start: Start, scorers: Scorers, **more: Any) -> None:
        heads.attach(model, value=heads.linear(model))
        super().__init__(model=model, **more)
        task = setting.args.task
        assert isinstance(task, Ppo)
        self.task, self.start, self.scorers = task, start, scorers
        self.sampling = Sampling(task.max_new_tokens, task.temperature, task.top_p, task.top_k)
        named = setting.args.model.template
        template = ChatTemplate.of(setting.folder, None if named == "auto" else named)
        self.ends = ends(model, template, TextTokenizer.of(setting.folder))
        self.coefficient = Coefficient(task.kl_coefficient, task.kl_target, task.kl_gain)
        self.NAMES = self.NAMES | {f"reward/{name}": f"reward/{name}" for name in scorers.names}
        self.written: list[Rollout] = []
        if ranks.joined():  # or each would write the same to the same question
            set_seed(setting.args.steps.seed, device_specific=True)
        self._metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "eval": defaultdict(list)}

    def training_step(self, model: Any, inputs: list[dict[str, Any]], *_: Any, **__: Any) -> torch.Tensor:
        """Writes answers to the prompts of a batch; behind the last batch of a step, learns from all of them."""
        self.moving()
        self.written.append(self.write(inputs, shown=SHOWN if not self.written else 0))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        found, self.written = self._joined(self.written), []
        return self.learn(model, found)

    @torch.no_grad()
    def write(self, asked: list[dict[str, Any]], shown: int = 0) -> Rollout:
        """An answer to each prompt, and what is known of it; the first `shown` go to the run's events."""
        answers = self.answer(asked, self.sampling)
        model, temperature = self.accelerator.unwrap_model(self.model), self.task.temperature
        with self.compute_loss_context_manager():
            thoughts = rollout.thoughts(model, answers, temperature)
            with self.start.of(model) as start:
                before = rollout.thoughts(start, answers, temperature)
        found = self.judge(asked, answers, self.scorers, "train", shown)
        lost = self.task.missing_end
        return Rollout(
            answers, thoughts.logps(answers.tokens), before.logps(answers.tokens), self.expected(thoughts), found,
            found if lost is None else found.where(answers.ended, lost),
        )  # fmt: skip

    def answer(self, asked: list[dict[str, Any]], sampling: Sampling) -> Answers:
        """An answer to each prompt."""
        model, pad = self.accelerator.unwrap_model(self.model), self.processing_class.pad_token_id
        rollout.steady(model)
        with self.compute_loss_context_manager():
            return rollout.write(model, [one["input_ids"] for one in asked], sampling, self.ends, pad)

    def judge(
        self, asked: list[dict[str, Any]], answers: Answers, scorers: Scorers, side: str, shown: int = 0
    ) -> torch.Tensor:
        """(rows,): the reward of each answer."""
        rows = [facts(one) for one in asked]
        texts = self.processing_class.batch_decode(answers.bare(), skip_special_tokens=True)
        scores = scorers([row["prompt"] for row in rows], texts, rows)
        self._note(side, **{f"reward/{name}": mean for name, mean in zip(scorers.names, scores.mean(0), strict=True)})
        found = scorers.total(scores)
        for row, text, reward in list(zip(rows, texts, found.tolist(), strict=True))[:shown]:
            self.report.sample(self.state.global_step, said(row["prompt"][-1]), text.strip(), reward)
        return found.to(answers.ids.device)

    def expected(self, thoughts: Thoughts) -> torch.Tensor:
        """(rows, answer): what the value head expects from each token on."""
        found: torch.Tensor = self.accelerator.unwrap_model(self.model).heads["value"](thoughts.hidden)[..., 0]
        return found

    def learn(self, model: Any, found: Rollout) -> torch.Tensor:
        """Several updates from one rollout, the last of which is left to the trainer. Returns their mean loss."""
        task, said = self.task, found.answers.said
        each = token_rewards(found.scores, found.logps, found.before, said, self.coefficient.value)
        gains, returns = advantages(each, found.values, said, task.gamma, task.gae_lambda)
        self._note(
            "train",
            reward=found.rewards.mean(),
            score=each.sum(1).mean(),
            kl=found.kl.mean(),
            ended=found.answers.ended.float().mean(),
            length=found.answers.lengths.float().mean(),
            explained_variance=explained_variance(found.values, returns, said),
            kl_coefficient=self.coefficient.value,
        )
        gains = whitened(gains, said, ranks.totals)
        self.coefficient.follow(ranks.total(float(found.kl.mean())) / ranks.count())
        self.tokens_seen += int(found.answers.read.sum())

        updates = [rows for _ in range(task.passes) for rows in torch.randperm(len(said)).chunk(task.minibatches)]
        losses = []
        for number, update in enumerate(updates):
            if number:
                self._step(model)
            tokens = ranks.total(float(said[update].sum())) / ranks.count()  # of processes whose gradients are averaged
            for rows in update.split(self.args.per_device_train_batch_size):
                loss = self.loss(model, found, gains, returns, rows) / tokens
                self.accelerator.backward(loss)
                losses.append(loss.detach())
        return torch.stack(losses).sum() / len(updates)

    def loss(
        self, model: Any, found: Rollout, gains: torch.Tensor, returns: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """The summed loss of all tokens of some rows: policy, value, and the bonus for doubt.

        gains, returns: (all rows, answer): whitened advantages, and what the value head is to learn.
        """
        task, answers = self.task, found.answers[rows]
        said = answers.said
        logps, gains, values, returns = (
            one[rows, : said.shape[1]] for one in (found.logps, gains, found.values, returns)
        )
        with self.compute_loss_context_manager():
            thoughts = rollout.thoughts(model, answers, task.temperature)
        policy, held = policy_loss(thoughts.logps(answers.tokens), logps, gains, task.clip)
        value = value_loss(self.expected(thoughts), values, returns, task.value_clip)
        with torch.set_grad_enabled(task.entropy_weight > 0):
            entropy = thoughts.entropy()
        self._note(
            "train", policy_loss=mean(policy, said), value_loss=mean(value, said), entropy=mean(entropy, said),
            clip_share=mean(held.float(), said),
        )  # fmt: skip
        return ((policy + task.value_weight * value - task.entropy_weight * entropy) * said).sum()

    def _step(self, model: Any) -> None:
        """An update in the middle of a step, as the trainer makes its own at the end."""
        self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
        self.optimizer.step()
        model.zero_grad()

    def evaluate(self, *given: Any, **more: Any) -> dict[str, float]:
        """As ever; and chance goes on as if nothing had been measured, though a loader of rows draws from it."""
        with torch.random.fork_rng(devices=[]):
            return super().evaluate(*given, **more)  # type: ignore[no-any-return]

    def weight(self, batch: list[dict[str, Any]]) -> int:  # type: ignore[override]
        return len(batch)

    def prediction_step(self, model: Any, inputs: list[dict[str, Any]], *_: Any, **__: Any) -> Any:
        """The model's own best answer to each held-out prompt. What is to be small is the reward's negative."""
        found = self.answer(inputs, replace(self.sampling, temperature=0.0))
        reward = self.judge(inputs, found, self.scorers.unasked, "eval")
        self._note("eval", reward=reward.mean(), length=found.lengths.float().mean(), ended=found.ended.float().mean())
        return -reward.mean(), None, None

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs  # prompts, which are put together when they are written on

    def log(self, logs: dict[str, float], *rest: Any, **more: Any) -> None:
        side = "eval" if "eval_loss" in logs else "train"
        if side == "eval" or "loss" in logs:
            logs |= {("eval_" if side == "eval" else "") + name: mean for name, mean in self.means(side).items()}
            self._metrics[side].clear()
        super().log(logs, *rest, **more)

    def facts(self) -> dict[str, str]:
        return {"kl_coefficient": repr(self.coefficient.value)}

    def recall(self, facts: dict[str, str]) -> None:
        self.coefficient.value = float(facts["kl_coefficient"])

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # of prompts alone it would say nothing

    def _joined(self, parts: list[Rollout]) -> Rollout:
        answers = rollout.joined([part.answers for part in parts], self.processing_class.pad_token_id)
        longest = answers.said.shape[1]

        def wide(name: str) -> torch.Tensor:
            return torch.cat(
                [functional.pad(one := getattr(part, name), (0, longest - one.shape[1])) for part in parts]
            )

        return Rollout(
            answers, wide("logps"), wide("before"), wide("values"), torch.cat([part.rewards for part in parts]),
            torch.cat([part.scores for part in parts]),
        )  # fmt: skip

    def _note(self, side: str, **numbers: Any) -> None:
        for name, number in numbers.items():
            self._metrics[side][name].append(float(torch.as_tensor(number).detach()))
