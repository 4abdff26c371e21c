"""What answers are worth: each function, model and person that a run's rewards name gives them a score.

    scored = scorers(setting)
    scores = scored(prompts, answers, rows)      # (answers, scorers)
    scored.total(scores)                         # (answers,), the weighted sum

A row is what `data.encoding.asked.facts` gives. Scores of functions are from 0 to 1. Knows no task and no trainer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data.rows.conversation import Message, said
from engine.contract import judging
from engine.contract.rewards import Rewards
from engine.feedback import correct, queries
from engine.feedback.scoring import Scorer
from engine.models import attached
from engine.recipes.setting import Setting
from engine.report import Stopped

Row = Mapping[str, Any]
Prompt = str | list[Message]
Judge = Callable[[Sequence[Prompt], Sequence[str], Sequence[Row]], Sequence[float]]
"""Prompts, the answers to them and their rows to one score for each."""

PERSON = "person"
LOOKED_EVERY = 0.2  # seconds between two looks for what a person has said
TABLES = ("schema", "sql_context", "context", "create_table", "db_schema", "ddl", "tables")
"""Columns that hold the tables of a question about a database."""


@dataclass(frozen=True)
class Scorers:
    """All that judges answers, in a fixed order. weights: (scorers,)."""

    names: tuple[str, ...]
    weights: torch.Tensor
    judges: tuple[Judge, ...]

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str], rows: Sequence[Row]) -> torch.Tensor:
        """(answers, scorers) float32."""
        scores = [list(judge(prompts, answers, rows)) for judge in self.judges]
        return torch.tensor(scores, dtype=torch.float32).reshape(len(self.names), len(answers)).T

    def total(self, scores: torch.Tensor) -> torch.Tensor:
        """(answers, scorers) to (answers,): each score times its weight, summed."""
        return scores @ self.weights.to(scores.device)

    @property
    def unasked(self) -> Scorers:
        """Those that ask no person: evaluations are theirs, for nobody judges the same questions again and again."""
        kept = [place for place, name in enumerate(self.names) if name != PERSON]
        names, judges = (tuple(one[place] for place in kept) for one in (self.names, self.judges))
        return Scorers(names, self.weights[kept], judges)


def scorers(setting: Setting, model: Any | None = None) -> Scorers:
    """Those that the task's `rewards` name; a reward model shares what weights it can with `model`, which is trained.

    Raises ModelError for a reward model that cannot score.
    """
    rewards: Rewards = setting.args.task.rewards  # type: ignore[union-attr]
    found: dict[str, tuple[float, Judge]] = {}
    for name, weight in rewards.functions.items():
        found[name] = weight, _each(FUNCTIONS[name](rewards, setting.tokenizer))
    if rewards.model:
        found["model"] = rewards.model_weight, _model(rewards, setting, model)
    if rewards.person:
        found[PERSON] = rewards.person_weight, _person(setting)
    weights = torch.tensor([weight for weight, _ in found.values()], dtype=torch.float32)
    return Scorers(tuple(found), weights, tuple(judge for _, judge in found.values()))


def _model(rewards: Rewards, setting: Setting, trained: Any | None) -> Judge:
    dtype = setting.args.model.dtype
    scorer = Scorer.of(rewards.model, setting.run.workspace, setting.device, rewards.label or None, dtype)
    if trained is not None and (freed := attached.share(scorer.model, trained)):
        setting.report.note(
            f"The reward model shares {freed / 1e6:,.1f} MB of weights with the trained one.", bytes=freed
        )

    def judge(prompts: Sequence[Prompt], answers: Sequence[str], rows: Sequence[Row]) -> Sequence[float]:
        texts = [
            prompt + answer if isinstance(prompt, str) else [*prompt, {"role": "assistant", "content": answer}]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        return list(scorer.scores(texts).tolist())

    return judge


def _person(setting: Setting) -> Judge:
    """Puts answers before the person and waits, however long it takes. Raises Stopped when the run is to stop."""
    run, report, stop = setting.run, setting.report, setting.stop

    def judge(prompts: Sequence[Prompt], answers: Sequence[str], rows: Sequence[Row]) -> Sequence[float]:
        asked = [prompt if isinstance(prompt, str) else said(prompt[-1]) for prompt in prompts]
        numbers = judging.ask(run, list(zip(asked, answers, strict=True)))
        report.phase(judging.PHASE)
        report.note(f"{len(numbers)} answers wait for your judgement.")
        known = -1
        while known < len(numbers):
            scores = judging.judged(run)
            done = sum(number in scores for number in numbers)
            if done != known:
                report.progress(known := done, len(numbers), unit="answers judged")
            if stop.asked:
                raise Stopped
            time.sleep(LOOKED_EVERY if done < len(numbers) else 0)
        report.phase("training")
        return [scores[number] for number in numbers]

    return judge


Score = Callable[[str, Row], float]
"""An answer and its row to a score of 0 to 1."""


def _each(score: Score) -> Judge:
    return lambda prompts, answers, rows: [score(*both) for both in zip(answers, rows, strict=True)]


def _exact(rewards: Rewards, tokenizer: Any) -> Score:
    return lambda answer, row: correct.exact(*_parts(rewards, answer, row), strict=rewards.strict)


def _numeric(rewards: Rewards, tokenizer: Any) -> Score:
    return lambda answer, row: correct.numeric(*_parts(rewards, answer, row), tolerance=rewards.tolerance)


def _regex(rewards: Rewards, tokenizer: Any) -> Score:
    def score(answer: str, row: Row) -> float:
        right, strict, seconds = row.get("answer"), rewards.strict, rewards.seconds
        return correct.found(answer, rewards.pattern, right, strict=strict, seconds=seconds)

    return score


def _format(rewards: Rewards, tokenizer: Any) -> Score:
    return lambda answer, row: correct.formed(answer, rewards.form, seconds=rewards.seconds)


def _length(rewards: Rewards, tokenizer: Any) -> Score:
    def score(answer: str, row: Row) -> float:
        unit = rewards.length_in
        parts = answer if unit == "characters" else answer.split() if unit == "words" else _tokens(answer, tokenizer)
        return correct.long(len(parts), rewards.length, limit=rewards.length_is == "limit")

    return score


def _tokens(answer: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(answer, add_special_tokens=False)["input_ids"])


def _json(rewards: Rewards, tokenizer: Any) -> Score:
    schema = json.loads(rewards.json_schema) if rewards.json_schema else None
    return lambda answer, row: correct.structured(_part(rewards, answer), rewards.keys, schema)


def _sql(rewards: Rewards, tokenizer: Any) -> Score:
    def score(answer: str, row: Row) -> float:
        query, right = map(correct.unfenced, _parts(rewards, answer, row))
        return queries.same(query, right, _tables(rewards, row), rewards.seconds)

    return score


def _tables(rewards: Rewards, row: Row) -> str:
    """The tables that a question is about: of their column, or else as the question says them."""
    names = (rewards.tables,) if rewards.tables else TABLES
    found = next((row[name] for name in names if isinstance(row.get(name), str)), "")
    return found if queries.statements(found) else "\n".join(said(message) for message in row.get("prompt", []))


def _parts(rewards: Rewards, answer: str, row: Row) -> tuple[str, str]:
    """What is compared: the part of the answer, and that of the right one where it has one."""
    right = str(row.get("answer", ""))
    return _part(rewards, answer), _part(rewards, right) or right


def _part(rewards: Rewards, answer: str) -> str:
    return correct.part(answer, rewards.within, rewards.seconds) or "" if rewards.within else answer


FUNCTIONS: dict[str, Callable[[Rewards, Any], Score]] = {
    "exact": _exact, "numeric": _numeric, "regex": _regex, "format": _format, "length": _length, "json": _json,
    "sql": _sql,
}  # fmt: skip
