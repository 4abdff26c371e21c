"""Turns the records of many dataset formats into one kind of row: a conversation.

`FORMATS` is the one place where a format is added. A row's messages are in the form that chat templates read:
`{"role": "system"|"user"|"assistant"|"tool", "content": str}`, where an assistant may also carry `tool_calls` and
`reasoning_content`. Knows nothing of templates, tokens or models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from data.conversation import Message, Row, as_text, check, conversation, filled, from_json, message, tools
from data.files import Read, Record, read
from engine.contract.errors import DataError

LOOKED_AT = 20  # rows that decide on the format
NAMED = 10  # bad rows that an error names, before it only counts


INSTRUCTION_INPUTS = ("input", "context")
INSTRUCTION_OUTPUTS = ("output", "response")
PAIRS = (
    ("prompt", "completion"),
    ("question", "answer"),
    ("query", "response"),
    ("prompt", "response"),
    ("input", "output"),
)


@dataclass(frozen=True)
class Format:
    """How one format is told from the others (`recognises`) and turned into messages; both take a record."""

    name: str
    columns: str
    recognises: Callable[[Record], bool]
    messages: Callable[[Record], list[Message]]


def load(path: str | Path, format: str = "auto", fill: Mapping[str, str] | None = None) -> list[Row]:
    """Every row of the file as a conversation; `fill` replaces `{{name}}` in what is said by its value.

    Raises one DataError that names up to ten unusable rows and counts the rest.
    """
    path = Path(path)
    numbered = read(path)
    head = list(islice(numbered, LOOKED_AT))
    chosen = known(recognise((found.record for found in head), path) if format == "auto" else format)
    rows: list[Row] = []
    problems: list[tuple[int, str]] = []

    def everything() -> Iterator[Read]:
        yield from head
        yield from numbered

    for number, record, _ in everything():
        try:
            messages = [filled(turn, fill or {}) for turn in chosen.messages(record)]
            check(messages, record)
            rows.append(Row(messages, tools(record), str(path), number))
        except DataError as problem:
            problems.append((number, problem.text))
    if problems:
        raise _unusable(problems, len(rows) + len(problems), chosen, path)
    return rows


def recognise(records: Iterable[Record], file: Path | str | None = None) -> str:
    """The name of the format that most of the first records follow; raises DataError when it is less than half."""
    sample = list(islice(records, LOOKED_AT))
    votes = {name: sum(map(form.recognises, sample)) for name, form in FORMATS.items()}
    best = max(votes, key=lambda name: votes[name])  # the first of equals: the table is ordered
    if sample and votes[best] * 2 >= len(sample):
        return best
    columns = list(dict.fromkeys(str(column) for record in sample for column in record))
    lines = "\n".join(f"  {form.name}: {form.columns}" for form in FORMATS.values())
    raise DataError(
        f"the columns {', '.join(columns) or '(none)'} fit no format that is known:\n{lines}",
        "Rename the columns to fit one of them.",
        file=file,
    )


def known(name: str) -> Format:
    """The format of that name; raises DataError that lists all when there is none."""
    if name in FORMATS:
        return FORMATS[name]
    raise DataError(f"the format {name!r} is not known.", f"Use auto or one of {', '.join(FORMATS)}.")


def _unusable(problems: list[tuple[int, str]], total: int, form: Format, path: Path) -> DataError:
    lines = [f"  row {number}: {text}" for number, text in problems[:NAMED]]
    if len(problems) > NAMED:
        lines.append(f"  and {len(problems) - NAMED} more")
    return DataError(
        f"{len(problems)} of {total} rows cannot be used as {form.name} ({form.columns}):\n" + "\n".join(lines),
        "Mend or remove these rows, or choose another format.",
        file=path,
        row=problems[0][0] if len(problems) == total == 1 else None,
    )


# One pair of functions per format


def _list_of(column: Any, *keys: str) -> bool:
    """Whether the column is a list of objects and the first has all the keys."""
    return (
        isinstance(column, list) and bool(column) and isinstance(column[0], dict) and all(k in column[0] for k in keys)
    )


def _column(record: Record, *keys: str) -> Any:
    """The conversation of a record, whichever of its usual names it has."""
    for name in ("messages", "conversations", "conversation"):
        value = record.get(name)
        if isinstance(value, str) and value.lstrip().startswith("["):  # as a table cell holds it
            value = from_json(value, name)
        if value is not None and (not keys or _list_of(value, *keys)):
            return value
    return None


def _has_column(*keys: str) -> Callable[[Record], bool]:
    def recognises(record: Record) -> bool:
        try:
            return _column(record, *keys) is not None
        except DataError:
            return False

    return recognises


def _turns(record: Record) -> list[Any]:
    turns = _column(record)
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise DataError("the conversation must be a list of objects.")
    return turns


def _messages(record: Record) -> list[Message]:
    return conversation(record, [message(turn.get("role"), turn.get("content"), turn) for turn in _turns(record)])


def _sharegpt(record: Record) -> list[Message]:
    return conversation(record, [message(turn.get("from"), turn.get("value")) for turn in _turns(record)])


def _firefly(record: Record) -> list[Message]:
    pairs = ((role, turn.get(role)) for turn in _turns(record) for role in ("human", "assistant"))
    return conversation(record, [message(role, text) for role, text in pairs])


def _first(record: Record, names: Iterable[str]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _is_alpaca(record: Record) -> bool:
    return "instruction" in record and any(name in record for name in INSTRUCTION_OUTPUTS)


def _alpaca(record: Record) -> list[Message]:
    asked = [as_text(record.get("instruction"), "instruction"), as_text(_first(record, INSTRUCTION_INPUTS), "input")]
    question = "\n".join(text for text in asked if text)
    answer = as_text(_first(record, INSTRUCTION_OUTPUTS), "output")
    return conversation(record, [message("user", question), message("assistant", answer)])


def _pair(record: Record) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if all(name in record for name in pair)), None)


def _prompt_completion(record: Record) -> list[Message]:
    pair = _pair(record)
    if pair is None:
        raise DataError(f"there is neither {', nor '.join(' and '.join(pair) for pair in PAIRS)}.")
    asked, answered = (record[name] for name in pair)
    if isinstance(asked, list) and asked and isinstance(asked[0], str) and isinstance(answered, list):
        if len(asked) != len(answered):
            raise DataError(f"{pair[0]} has {len(asked)} turns, {pair[1]} has {len(answered)}.")
        both = [turn for turns in zip(asked, answered, strict=True) for turn in turns]
        turns = [message(role, text) for role, text in zip(("user", "assistant") * len(asked), both, strict=True)]
        return conversation(record, turns)
    return conversation(record, _side("user", asked) + _side("assistant", answered))


def _side(role: str, value: Any) -> list[Message]:
    if _list_of(value, "role"):
        return _messages({"messages": value})
    return [message(role, as_text(value, "a prompt or completion"))]


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("messages", "messages: role, content", _has_column("role"), _messages),
        Format("sharegpt", "conversations: from, value", _has_column("from", "value"), _sharegpt),
        Format("firefly", "conversation: human, assistant", _has_column("human", "assistant"), _firefly),
        Format("alpaca", "instruction, output; perhaps input, system, history", _is_alpaca, _alpaca),
        Format(
            "prompt_completion",
            "; ".join(", ".join(pair) for pair in PAIRS),
            lambda record: _pair(record) is not None,
            _prompt_completion,
        ),
    )
}
