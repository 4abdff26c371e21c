"""What makes an answer good, for the tasks that learn from rewards: functions, a model that scores, a person.

Declares and checks; what each function does with an answer is in `engine/feedback/rewards.py`. Knows no task.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from engine.contract.errors import Problem
from engine.contract.fields import Section, arg
from engine.contract.own import Own

# Each with its usual weight: less for what an answer looks like than for whether it is right.
FUNCTIONS = {
    "exact": Own(1.0, "The answer is the row's own."),
    "numeric": Own(1.0, "Its last number is that of the row's answer."),
    "regex": Own(1.0, "A pattern is found in it."),
    "format": Own(0.2, "All of it has a form, such as thoughts and answer in their tags."),
    "length": Own(0.2, "It is as long as wanted."),
    "json": Own(1.0, "It is JSON, with the keys or by the schema that you give."),
    "sql": Own(1.0, "It is a query that finds what the row's own query finds."),
}
HEAVIEST = 1000
COMPARES = ("exact", "numeric", "sql")  # with the answer of the row
# What is known of JSON schema, and what each word takes.
WORDS: dict[str, tuple[type, ...]] = {
    "type": (str, list), "properties": (dict,), "required": (list,), "items": (dict,), "enum": (list,),
    "additionalProperties": (bool, dict), "minimum": (int, float), "maximum": (int, float), "minItems": (int,),
    "maxItems": (int,), "minLength": (int,), "maxLength": (int,), "title": (str,), "description": (str,),
    "$schema": (str,),
}  # fmt: skip
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


class Rewards(Section):
    """What makes an answer good. Every function gives 0 to 1; the reward is their sum, each times its weight."""

    title: ClassVar[str] = "Rewards"

    functions: dict[str, float] = arg(
        {"exact": 1.0},
        "What an answer is judged by, and with what weight. exact: it is the row's own answer; numeric: its last "
        "number is; regex: the pattern is found in it; format: all of it has the form; length: it is as long as "
        "wanted; json: it is JSON; sql: it is a query that finds what the row's own finds.",
        when="Always: choose what can be checked, and add format or length with a small weight.",
        usual="one that says whether the answer is right, at 1, and one or two for its form at 0.1 to 0.5",
        label="Judged by",
        basic=True,
        lines=2,
        known=FUNCTIONS,
    )
    column: str = arg(
        "",
        "The column that holds the right answer; empty takes the answer of the row's conversation, or a column called "
        "answer, solution, ground_truth or the like.",
        when="When the rows have it under another name.",
        usual="empty",
        label="Right answer",
    )
    within: str = arg(
        "",
        "Where in what the model writes the answer stands, as a pattern whose first group is taken; empty takes all.",
        when="When the model thinks first: <answer>(.*?)</answer>.",
        usual="empty, or a pattern with one group",
        label="Answer within",
    )
    strict: bool = arg(
        False,
        "Compares exactly as written; off, case, spaces and punctuation around the answer make no difference.",
        when="For code, or where spelling is what is learnt.",
        usual="off",
        label="Exact to the letter",
    )
    tolerance: float = arg(
        1e-6,
        "How far from the right number a number may be, as a share of it.",
        when="0.01 for answers that are rounded.",
        usual="0.000001 to 0.05",
        label="Tolerance of numbers",
        only="functions.numeric",
        ge=0,
        lt=1,
    )
    pattern: str = arg(
        "",
        "For regex: what must be found in the answer. With a group, what the group holds must be the row's own answer.",
        when="With regex.",
        usual="a regular expression",
        label="Pattern to find",
        only="functions.regex",
    )
    form: str = arg(
        r"\s*<think>.+?</think>\s*<answer>.+?</answer>\s*",
        "For format: the form of the whole answer, as a pattern; a dot stands for line breaks too.",
        when="With format.",
        usual="thoughts and answer, each in its tags",
        label="Form of the answer",
        only="functions.format",
    )
    length: int = arg(
        200,
        "For length: how long an answer should be.",
        when="With length.",
        usual="50 to 1,000",
        label="Answer length",
        only="functions.length",
        ge=1,
        le=1_000_000,
    )
    length_in: Literal["tokens", "characters", "words"] = arg(
        "tokens",
        "For length: what is counted.",
        when="With length.",
        usual="tokens",
        label="Length in",
        only="functions.length",
    )
    length_is: Literal["limit", "target"] = arg(
        "limit",
        "For length: limit gives 1 up to it and less beyond, 0 at twice the length; target gives less on both sides.",
        when="With length.",
        usual="limit",
        label="Length is a",
        only="functions.length",
    )
    keys: list[str] = arg(
        [],
        "For json: the keys that the object must have.",
        when="With json.",
        usual="empty: any JSON",
        lines=2,
        label="JSON keys",
        only="functions.json",
    )
    json_schema: str = arg(
        "",
        "For json: a JSON schema. Known are type, properties, required, items, enum, additionalProperties, minimum, "
        "maximum, minItems, maxItems, minLength, maxLength.",
        when="With json, when keys alone do not say enough.",
        usual='empty, or {"type": "object", "required": ["name"]}',
        lines=3,
        label="JSON schema",
        only="functions.json",
    )
    tables: str = arg(
        "",
        "For sql: the column with the tables (CREATE TABLE ...); empty takes one called schema, context or the like, "
        "or what the question itself says.",
        when="With sql, when the column has another name.",
        usual="empty",
        label="Column with tables",
        only="functions.sql",
    )
    seconds: float = arg(
        1.0,
        "The longest that a pattern or a query may take on one answer; one that takes longer is worth 0.",
        when="Raise it for queries on large tables.",
        usual="0.1 to 5",
        unit="seconds",
        label="Time limit",
        gt=0,
        le=60,
    )
    model: str = arg(
        "",
        "A model that scores answers as well: a run with the task reward, a folder, or a text classifier.",
        when="When good answers cannot be checked by rule.",
        usual="empty",
        label="Reward model",
        choices="weights",
    )
    model_weight: float = arg(
        1.0,
        "What the reward model's score counts.",
        when="Beside functions, to balance them.",
        usual="0.1 to 1",
        label="Its weight",
        ge=-HEAVIEST,
        le=HEAVIEST,
    )
    label: str = arg(
        "",
        "Of a text classifier: the class whose log-odds are the score; empty where the model gives one number.",
        when="With a classifier, such as one for sentiment.",
        usual="empty, or POSITIVE",
        label="Its class",
    )
    person: bool = arg(
        False,
        "You score the answers: the run waits, and shows you one answer after the other.",
        when="For a small run on what only a person can tell.",
        usual="off",
        label="I judge",
    )
    person_weight: float = arg(
        1.0,
        "What your score, from 0 to 1, counts.",
        when="Beside functions, to balance them.",
        usual="1",
        label="My weight",
        ge=-HEAVIEST,
        le=HEAVIEST,
    )

    @field_validator("functions", mode="before")
    @classmethod
    def _bare_names(cls, given: Any) -> Any:
        """`exact`, or `exact, format=0.5`, on one line or several: a name alone has the weight 1."""
        if isinstance(given, str):
            given = re.split(r"[,\s]+", given.strip())
        if isinstance(given, list) and all(isinstance(name, str) for name in given):
            pairs = (name.partition("=") for name in given if name)
            given = {name.strip(): weight.strip() for name, _, weight in pairs}
        if not isinstance(given, dict):
            return given
        return {name: 1.0 if weight in ("", None) else weight for name, weight in given.items()}

    @property
    def compares(self) -> bool:
        """Whether rows need a right answer."""
        grouped = "regex" in self.functions and bool(self.pattern) and re.compile(self.pattern).groups > 0
        return grouped or any(name in self.functions for name in COMPARES)

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that a row must have beside the right answer."""
        return (self.tables,) if self.tables and "sql" in self.functions else ()

    def problems(self, path: str) -> Iterator[Problem]:
        """Rules between the section's own fields; `path` is where it stands."""
        yield from self._function_problems(path)
        for name in ("within", "pattern", "form"):
            yield from self._pattern_problems(path, name)
        if self.label and not self.model:
            yield Problem(f"{path}.label", f"A label is of a classifier. Set {path}.model, or leave it empty.")
        if self.json_schema:
            try:
                wrong = _unknown_in(json.loads(self.json_schema))
            except (ValueError, RecursionError) as problem:
                wrong = f"This is not JSON: {problem}."
            if wrong:
                yield Problem(f"{path}.json_schema", wrong)

    def _function_problems(self, path: str) -> Iterator[Problem]:
        for name, weight in self.functions.items():
            if name not in FUNCTIONS:
                near = get_close_matches(name, FUNCTIONS, n=1, cutoff=0.5)
                guess = f" Did you mean {near[0]}?" if near else ""
                said = f"There is no function {name!r}.{guess} There are {', '.join(FUNCTIONS)}."
                yield Problem(f"{path}.functions", said)
            elif not abs(weight) <= HEAVIEST:
                said = f"The weight of {name} must be a number from -{HEAVIEST:,} to {HEAVIEST:,}, not {weight}."
                yield Problem(f"{path}.functions", said)
        if not (self.functions or self.model or self.person):
            said = f"Nothing judges the answers. Name a function, set {path}.model, or turn {path}.person on."
            yield Problem(f"{path}.functions", said)
        if "regex" in self.functions and not self.pattern:
            yield Problem(f"{path}.pattern", f"regex ({path}.functions) needs a pattern to look for.")
        if "format" in self.functions and not self.form:
            yield Problem(f"{path}.form", f"format ({path}.functions) needs a pattern that the whole answer fits.")

    def _pattern_problems(self, path: str, name: str) -> Iterator[Problem]:
        said = getattr(self, name)
        try:
            groups = re.compile(said).groups
        except (re.error, OverflowError, RecursionError) as wrong:
            yield Problem(f"{path}.{name}", f"This is not a regular expression: {wrong}.")
            return
        if name == "within" and said and not groups:
            hint = "Put parentheses around it, as in <answer>(.*?)</answer>."
            yield Problem(f"{path}.within", f"No group says what part of it is the answer. {hint}")


def _unknown_in(schema: Any) -> str:
    """What of a JSON schema is not understood, as a sentence; empty when all of it is."""
    if not isinstance(schema, dict):
        return "A JSON schema is an object: {...}."
    for word, value in schema.items():
        if word not in WORDS:
            return f"The word {word!r} of JSON schema is not understood here. Leave it out."
        if not isinstance(value, WORDS[word]) or (isinstance(value, bool) and bool not in WORDS[word]):
            return f"{word!r} of the JSON schema is not as it should be: {json.dumps(value)[:60]}."
    kinds = schema.get("type", [])
    if strange := [kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if kind not in TYPES]:
        return f"The JSON schema names a type {strange[0]!r}. There are {', '.join(TYPES)}."
    within = [*schema.get("properties", {}).values(), *(schema[at] for at in ("items",) if at in schema)]
    within += [more] if isinstance(more := schema.get("additionalProperties"), dict) else []
    return next(filter(None, map(_unknown_in, within)), "")
