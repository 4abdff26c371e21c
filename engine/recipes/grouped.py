"""What grpo and rloo share: questions from our own rows, answers written in groups, rewards, and what goes on record.

TRL's trainers do the arithmetic, on token ids of our own rendering. What they are held to is the model at its start
(`engine.feedback.reference`), so no second model is loaded. Knows no loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather, send_to_device
from datasets import concatenate_datasets
from peft.tuners.tuners_utils import BaseTunerLayer
from trl.trainer.utils import RepeatSampler

from data.encoding.asked import facts
from data.encoding.render import ChatTemplate
from data.encoding.tokens import TextTokenizer
from data.rows.conversation import said
from engine.contract.errors import ArgsError, Problem
from engine.devices import ranks
from engine.feedback import rewards, rollout
from engine.feedback.reference import Start
from engine.recipes.setting import Setting
from engine.serving.generate import Sampling
from engine.serving.turn import ends
from engine.training.trainer import Recording

SHOWN = 4  # answers to the first question of each rollout that the run's events show
WRITTEN = "written-{rank}.pt"  # in a checkpoint: answers that further steps of a process learn from


def settings(task: Any) -> dict[str, Any]:
    """Keywords of TRL's configuration for both tasks. Its own KL is off while it is made: it would load a model."""
    return {"beta": 0.0, "epsilon_high": task.epsilon_high, "num_generations_eval": 1, "disable_dropout": True}


def beside(setting: Setting, model: Any) -> dict[str, Any]:
    """Further keywords of `Task`: who rewards, and the model as it is before any step."""
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        said = "The output layer has an adapter, which the likelihood of answers would not see. Leave lm_head out."
        raise ArgsError([Problem("method.targets", said)])
    return {"setting": setting, "start": Start(model), "scorers": rewards.scorers(setting, model)}


@dataclass(frozen=True)
class Collate:
    """A batch is the questions themselves, `prompt` as TRL calls it: answers are not written yet."""

    pad_id: int

    def __call__(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**one, "prompt": one["input_ids"]} for one in asked]


class Questions(RepeatSampler):
    """TRL's order of questions, each group together, drawn anew in every epoch by its number: so that a run that goes
    on in a later epoch meets the same questions as one that was never interrupted."""

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)


class Grouped(Recording):
    """Mixin before a TRL trainer of groups; call `record` before `train`."""

    BEST = ("eval/reward", "max")
    TOLD = "reward"
    NAMES = {
        "loss": "loss",
        "learning_rate": "learning_rate",
        "grad_norm": "grad_norm",
        "reward": "reward",
        "reward_std": "reward_spread",
        "frac_reward_zero_std": "alike",
        "kl": "kl",
        "entropy": "entropy",
        "clip_ratio/region_mean": "clip_share",
        "completions/mean_length": "length",
        "ended": "ended",
    }

    def __init__(
        self, model: Any, *, setting: Setting, start: Start, scorers: rewards.Scorers, args: Any, train_dataset: Any,
        data_collator: Any, **more: Any,
    ) -> None:  # fmt: skip
        asked = args.generation_batch_size // args.num_generations
        if len(train_dataset) < asked:  # a step asks more questions than there are
            train_dataset = concatenate_datasets([train_dataset] * -(-asked // len(train_dataset)))
        judges: list[Any] = list(scorers.judges)
        super().__init__(model=model, reward_funcs=judges, args=args, train_dataset=train_dataset, **more)
        if "ref" in getattr(model, "peft_config", {}):
            model.delete_adapter("ref")  # RLOO's own copy of the start, which is kept otherwise here
        task = setting.args.task
        self.task, self.scorers, self.data_collator = task, scorers, Collate(self.processing_class.pad_token_id)
        self.reward_func_names, self.reward_weights = list(scorers.names), scorers.weights
        self.beta = args.beta = task.beta
        self.ref_model = start if task.beta else None
        named = setting.args.model.template
        template = ChatTemplate.of(setting.folder, None if named == "auto" else named)
        self.eos_token_ids = ends(model, template, TextTokenizer.of(setting.folder))
        self.sampling = Sampling(task.max_new_tokens, task.temperature, task.top_p, task.top_k, task.repetition_penalty)
        self.NAMES = self.NAMES | {f"rewards/{name}/mean": f"reward/{name}" for name in scorers.names}

    # Questions and answers

    def _get_train_sampler(self, dataset: Any = None) -> Questions:
        return Questions(
            self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            seed=self.args.seed,
        )

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}  # they come as token ids

    @torch.no_grad()
    def write(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        """An answer to each question as token ids, the one that ends it included."""
        mode = "train" if self.model.training else "eval"
        model = self.accelerator.unwrap_model(self.model)
        rollout.steady(model)
        with self.compute_loss_context_manager():
            found = rollout.write(model, prompts, sampling, self.eos_token_ids, self.processing_class.pad_token_id)
        model.train(mode == "train")
        self.tokens_seen += int(found.read.sum())
        self._metrics[mode]["ended"].append(float(found.ended.float().mean()))
        both = zip(found.tokens.tolist(), found.lengths.tolist(), strict=True)
        return [ids[:length] for ids, length in both]

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> torch.Tensor:
        """(answers, scorers), of all processes; some of what was written goes to the run's events."""
        answers = self.texts(completion_ids_list)
        scores = self.judged(inputs, answers, self.scorers)
        question = said(facts(inputs[0])["prompt"][-1])
        worth = zip(answers, self.scorers.total(scores).tolist(), strict=True)
        for answer, reward in islice(worth, min(SHOWN, self.num_generations)):
            self.report.sample(self.state.global_step, question, answer.strip(), reward)
        return gather(scores.to(self.args.device))

    def judged(
        self, asked: Sequence[Mapping[str, Any]], answers: Sequence[str], scorers: rewards.Scorers
    ) -> torch.Tensor:
        """(answers, scorers)."""
        rows = [facts(one) for one in asked]
        return scorers([row["prompt"] for row in rows], answers, rows)

    def texts(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """Answers as text, without what ends them."""
        bare = [ids[:-1] if ids[-1] in self.eos_token_ids else ids for ids in answers]
        return list(self.processing_class.batch_decode(bare, skip_special_tokens=True))

    def _get_per_token_logps_and_entropies(self, model: Any, *given: Any, **more: Any) -> Any:
        """As TRL does, with positions that leave padding out; of the model at its start where that is asked for."""
        if not isinstance(model, Start):
            return super()._get_per_token_logps_and_entropies(_placed(model), *given, **more)
        with model.of(self.accelerator.unwrap_model(self.model)) as start:
            return super()._get_per_token_logps_and_entropies(_placed(start), *given, **more)

    # Evaluation

    def weight(self, batch: list[dict[str, Any]]) -> float:  # type: ignore[override]
        return len(batch)

    def prediction_step(self, model: Any, inputs: list[dict[str, Any]], *_: Any, **__: Any) -> Any:
        """The model's own best answer to each held-out question. What is to be small is the reward's negative."""
        greedy = Sampling(self.task.max_new_tokens, 0.0, repetition_penalty=self.task.repetition_penalty)
        answers = self.write([one["input_ids"] for one in inputs], greedy)
        scorers = self.scorers.unasked
        scores = self.judged(inputs, self.texts(answers), scorers)
        reward = float(scorers.total(scores).mean())
        lengths = [len(ids) for ids in answers]
        numbers = {"reward": reward, "completions/mean_length": sum(lengths) / len(lengths)}
        means = zip(scorers.names, scores.mean(0).tolist(), strict=True)
        numbers |= {f"rewards/{name}/mean": mean for name, mean in means}
        for name, number in numbers.items():
            self._metrics["eval"][name].append(number)
        return torch.tensor(-reward), None, None

    def _prepare_inputs(self, inputs: Any) -> Any:
        return super()._prepare_inputs(inputs) if self.model.training else inputs

    # What goes on

    def tokens(self, inputs: Any) -> int:
        return 0  # counted where answers are written

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # of questions alone it would say nothing

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if _internal_call and self.state.global_step % self.num_iterations:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            held = {"step": self._step, "written": self._buffered_inputs}
            torch.save(held, folder / WRITTEN.format(rank=ranks.rank()))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if (file := Path(resume_from_checkpoint) / WRITTEN.format(rank=ranks.rank())).is_file():
            held = torch.load(file, map_location="cpu", weights_only=True)  # which knows no place cpu:0, as ranks have
            self._step, self._buffered_inputs = held["step"], send_to_device(held["written"], self.args.device)


def _placed(model: Any) -> Any:
    """`model` so that padding before a prompt takes no positions, which models that learn positions need."""

    def forward(**inputs: Any) -> Any:
        positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return model(**inputs, position_ids=positions)

    return forward
