"""Finds the tokens of a conversation that are trained: what the assistant says, and the token that ends its turn.

Works on rendered text and character offsets, so it fits any template; a template that does not allow it is refused,
never guessed at. Knows nothing of lengths, batches or models.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

from data.conversation import Row
from data.render import ChatTemplate
from data.tokens import Encoded, Offsets, TextTokenizer
from engine.contract.errors import DataError

TrainOn = Literal["assistant", "last", "everything"]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and the half-open character spans in it that are trained."""

    text: str
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class Tokens:
    """A conversation as tokens: `ids[i]` covers `offsets[i]` of `text`, and `trained[i]` says if the loss falls on it.

    `ends` is False when some trained turn is not closed by a special token, so that the model is not taught to stop.
    """

    ids: list[int]
    trained: list[bool]
    text: str
    offsets: Offsets
    ends: bool


def tokenise(row: Row, template: ChatTemplate, tokenizer: TextTokenizer, train_on: TrainOn = "assistant") -> Tokens:
    """The row as the model will see it; raises DataError, with file and row, when the template does not allow it."""
    rendered = locate(row, template, train_on)
    return mark(rendered, tokenizer.encode(rendered.text), tokenizer)


def locate(row: Row, template: ChatTemplate, train_on: TrainOn = "assistant") -> Rendered:
    """The row as text with the spans to train; raises DataError, with file and row, as `tokenise` does."""
    try:
        if train_on == "everything":
            text = template.render(row.messages, row.tools)
            return Rendered(text, [(0, len(text))])
        if template.marks(row.tools):
            text, spans = template.spans(row.messages, row.tools)
            if not spans:
                raise DataError("the template marks nothing as said by the assistant.", "Choose another template.")
        else:
            text, spans = _by_prefix(row, template, train_on)
        spans = spans[-1:] if train_on == "last" else spans
        _refuse_lost_tools(row, template, train_on, text, "".join(text[begin:end] for begin, end in spans))
    except DataError as problem:
        raise DataError(problem.text, problem.hint, file=row.file, row=row.number) from None
    return Rendered(text, spans)


def mark(rendered: Rendered, encoded: Encoded, tokenizer: TextTokenizer) -> Tokens:
    """Which of the tokens are trained: those that start inside a span, up to and with the one that ends the turn.

    White space behind that token belongs to the template, not to the answer, and is not trained. A token that begins
    before a span and reaches into it is part of what the model is given, so it is not trained either.
    """
    starts = [start for start, _ in encoded.offsets]
    trained = [False] * len(starts)
    ends = True
    for begin, end in rendered.spans:
        first, stop = bisect_left(starts, begin), bisect_left(starts, end)
        last = stop
        while last > first and _blank(rendered.text, encoded, last - 1, tokenizer):
            last -= 1
        if last == first:
            continue
        closed = encoded.ids[last - 1] in tokenizer.special_ids
        ends &= closed
        trained[first:last] = [True] * (last - first)
    return Tokens(encoded.ids, trained, rendered.text, encoded.offsets, ends)


def _blank(text: str, encoded: Encoded, index: int, tokenizer: TextTokenizer) -> bool:
    start, end = encoded.offsets[index]
    return not text[start:end].strip() and encoded.ids[index] not in tokenizer.special_ids


def _by_prefix(row: Row, template: ChatTemplate, train_on: TrainOn) -> tuple[str, list[tuple[int, int]]]:
    """What stands between the rendering up to an answer and the rendering with it, verified to be a prefix each."""
    messages, tools = row.messages, row.tools
    text = template.render(messages, tools)
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    spans = []
    for index in answers[-1:] if train_on == "last" else answers:
        asked = template.render(messages[:index], tools, add_generation_prompt=True)
        said = text if index + 1 == len(messages) else template.render(messages[: index + 1], tools)
        if not said.startswith(asked):
            raise _changed(template, index, answers, "before the answer", "the answer is given")
        if not text.startswith(said):
            raise _changed(template, index, answers, "with the answer", "later turns follow")
        spans.append((len(asked), len(said)))
    return text, spans


def _refuse_lost_tools(row: Row, template: ChatTemplate, train_on: TrainOn, text: str, said: str) -> None:
    """Many templates know nothing of tools and leave them out in silence, which would train empty answers."""
    answers = [message for message in row.messages if message["role"] == "assistant"]
    calls = [call for answer in answers[-1 if train_on == "last" else 0 :] for call in answer.get("tool_calls") or []]
    lost = [call["function"]["name"] for call in calls if call["function"]["name"] not in said]
    lost += [name for tool in row.tools or [] if (name := str(tool["function"].get("name"))) not in text]
    if lost:
        raise DataError(
            f"the template {template.name} does not write the tool {lost[0]!r}, which the conversation needs.",
            "Choose a template that knows tools, or a dataset without them.",
        )


def _changed(template: ChatTemplate, index: int, answers: list[int], what: str, once: str) -> DataError:
    """The refusal of a template whose rendering up to message `index` is not a prefix of the whole."""
    earlier = index != answers[-1]
    return DataError(
        f"the template {template.name} renders the conversation {what} (turn {index + 1}) differently once {once}, "
        "so its tokens in training would not be those that the model meets in use.",
        "Train on the last turn only, or choose another template." if earlier else "Choose another template.",
    )
