"""Finds the tokens of a conversation that are trained: what the assistant says, and the token that ends its turn.

Works on rendered text and character offsets, so it fits any template; a template that does not allow it is refused,
never guessed at. Knows nothing of lengths, batches or models.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from os.path import commonprefix
from typing import Literal

from data.conversation import Message, Row
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
            text = template.render(row.messages, row.tools, training=True)
            return Rendered(text, [(0, len(text))])
        by = _by_markers if template.marks(row.tools) else _by_prefix
        text, spans = by(row, template, train_on)
        _refuse_lost(row, template, train_on, text, "".join(text[begin:end] for begin, end in spans))
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


def _by_markers(row: Row, template: ChatTemplate, train_on: TrainOn) -> tuple[str, list[tuple[int, int]]]:
    """What the template marks; the last turn is its last span, or what it marks beyond the text of what came before."""
    text, spans = template.spans(row.messages, row.tools)
    known = 0
    if train_on == "last" and len(spans) == len(_answers(row)):  # one each, even where earlier turns change afterwards
        spans = spans[-1:]
    elif train_on == "last":
        before = template.render(row.messages[: _answers(row)[-1]], row.tools)
        known = len(commonprefix([text, before]))
    spans = [(begin, end) for begin, end in spans if end > max(begin, known)]
    if not spans:
        raise DataError(
            f"the template {template.name} marks nothing as said by the assistant.", "Choose another template."
        )
    return text, spans


def _by_prefix(row: Row, template: ChatTemplate, train_on: TrainOn) -> tuple[str, list[tuple[int, int]]]:
    """What stands between the rendering up to an answer and the rendering with it, verified to be a prefix each."""
    messages, tools = row.messages, row.tools
    text = template.render(messages, tools)
    answers = _answers(row)
    spans = []
    for index in answers[-1:] if train_on == "last" else answers:
        asked = template.render(messages[:index], tools, add_generation_prompt=True)
        said = text if index + 1 == len(messages) else template.render(messages[: index + 1], tools)
        if not said.startswith(asked):
            raise _changed(template, index, answers, "before the answer", "the answer is given")
        if not text.startswith(said):
            said = _without_closing(said, template, messages[index])
        if not text.startswith(said):
            raise _changed(template, index, answers, "with the answer", "later turns follow")
        spans.append((len(asked), len(said)))
    return text, spans


def _answers(row: Row) -> list[int]:
    return [index for index, message in enumerate(row.messages) if message["role"] == "assistant"]


def _without_closing(said: str, template: ChatTemplate, answer: Message) -> str:
    """The rendering without the eos that some templates (Phi-3) put once behind the whole conversation.

    Only where the turn has an end of its own before it; else the eos is the turn's end, and taking it off would leave
    the turn open.
    """
    eos = template.tokens.get("eos_token")
    shorter = said.removesuffix(eos) if eos else said
    return said if shorter.rstrip().endswith(answer["content"].rstrip()) else shorter


def _refuse_lost(row: Row, template: ChatTemplate, train_on: TrainOn, text: str, said: str) -> None:
    """Many templates leave out in silence what they do not know, such as tools: that would train empty answers."""
    answers = [row.messages[index] for index in _answers(row)][-1 if train_on == "last" else 0 :]
    if any(answer["content"].split("</think>")[-1].strip() not in said for answer in answers):
        raise DataError(
            f"the template {template.name} does not write an answer as it stands in the row.",
            "Choose another template.",
        )
    calls = [call["function"]["name"] for answer in answers for call in answer.get("tool_calls") or []]
    lost = [name for name in calls if name not in said]
    lost += [name for tool in row.tools or [] if (name := tool["function"]["name"]) not in text]
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
