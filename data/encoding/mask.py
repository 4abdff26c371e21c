"""Finds the tokens of a conversation that are trained: what the assistant says, and the token that ends its turn.

Works on rendered text and character offsets, so it fits any template; a template that does not allow it is refused,
never guessed at. Knows nothing of lengths, batches or models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import repeat
from os.path import commonprefix
from typing import Literal

from data.encoding.render import ChatTemplate
from data.encoding.tokens import Encoded, Offsets, TextTokenizer
from data.rows.conversation import Message, Row
from engine.contract.errors import DataError

TrainOn = Literal["assistant", "last", "everything"]
Stretches = list[tuple[int, int]]
"""Half-open ranges of tokens, in order and apart; one whose tokens weigh otherwise than 1 is a `Heavy`."""


class Heavy(tuple[int, int]):
    """A range of tokens that count `weight` times in the loss."""

    weight: float

    def __new__(cls, first: int, last: int, weight: float) -> Heavy:
        made = super().__new__(cls, (first, last))
        made.weight = weight
        return made


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and the half-open character spans in it that are trained; weights: of each span, where
    one weighs otherwise than 1."""

    text: str
    spans: list[tuple[int, int]]
    weights: tuple[float, ...] = ()


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


def locate(row: Row, template: ChatTemplate, train_on: TrainOn = "assistant", since: int = 0) -> Rendered:
    """The row as text with the spans to train; raises DataError, with file and row, as `tokenise` does.

    An answer whose message has the weight 0 is not trained, nor is one before the message `since`.
    """
    try:
        answers = [index for index in _answers(row) if index >= since]
        weights = {index: float(row.messages[index].get("weight", 1)) for index in answers}
        row = _unweighted(row)
        if train_on != "everything":
            wanted = [index for index in answers if weights[index]]
            return _weighed(row, template, wanted[-1:] if train_on == "last" else wanted, weights)
        apart = [index for index in answers if weights[index] != 1]
        if apart:
            return _complement(_weighed(row, template, apart, weights))
        text = template.render(row.messages, row.tools, training=True)
        return Rendered(text, [(0, len(text))])
    except DataError as problem:
        raise DataError(problem.text, problem.hint, file=row.file, row=row.number) from None


def _weighed(row: Row, template: ChatTemplate, answers: list[int], weights: dict[int, float]) -> Rendered:
    """As `_located`, each span with the weight of its answer."""
    values = sorted({weights[index] for index in answers})
    if values in ([], [1.0]):
        return _located(row, template, answers)
    each = [(value, _located(row, template, [index for index in answers if weights[index] == value]))
            for value in values]  # fmt: skip
    found = dict(sorted((span, value) for value, rendered in each for span in rendered.spans))
    return Rendered(each[0][1].text, list(found), tuple(found.values()))


def _located(row: Row, template: ChatTemplate, answers: list[int]) -> Rendered:
    """The row as text, with the spans of the answers, which are named by the index of their message."""
    if not answers:
        return Rendered(template.render(row.messages, row.tools, training=True), [])
    text, spans = (_by_markers if template.marks(row.tools) else _by_prefix)(row, template, answers)
    _refuse_lost(row, template, answers, text, "".join(text[begin:end] for begin, end in spans))
    return Rendered(text, spans)


def _complement(rendered: Rendered) -> Rendered:
    """All of the text, its spans by their weights and what is between them by 1; without what weighs nothing."""
    borders = [0, *(place for span in rendered.spans for place in span), len(rendered.text)]
    rest = [(span, 1.0) for span in zip(borders[::2], borders[1::2], strict=True)]
    both = sorted([*rest, *zip(rendered.spans, rendered.weights, strict=True)])
    kept = [(span, weight) for span, weight in both if span[0] < span[1] and weight]
    weights = tuple(weight for _, weight in kept)
    return Rendered(rendered.text, [span for span, _ in kept], weights if set(weights) - {1.0} else ())


def _unweighted(row: Row) -> Row:
    """The row as templates read it: they know no weights."""
    if not any("weight" in message for message in row.messages):
        return row
    plain = [{key: value for key, value in message.items() if key != "weight"} for message in row.messages]
    return replace(row, messages=plain)


def mark(rendered: Rendered, encoded: Encoded, tokenizer: TextTokenizer) -> Tokens:
    """Which of the tokens are trained, token by token, as `learnt` finds them."""
    trained = [False] * len(encoded)
    stretches, ends = learnt(rendered, encoded, tokenizer)
    for first, last in stretches:
        trained[first:last] = [True] * (last - first)
    return Tokens(encoded.ids, trained, rendered.text, encoded.offsets, ends)


def learnt(rendered: Rendered, encoded: Encoded, tokenizer: TextTokenizer) -> tuple[Stretches, bool]:
    """The tokens that are trained: those that start inside a span, up to and with the one that ends the turn.

    White space behind that token belongs to the template, not to the answer, and is not trained. A token that begins
    before a span and reaches into it is part of what the model is given, so it is not trained either. With them,
    whether every turn is closed by a special token.
    """
    special, stretches, ends = tokenizer.special_ids, [], True
    weights = rendered.weights or repeat(1.0)
    for (begin, end), weight in zip(rendered.spans, weights, strict=False):
        first, last = encoded.at(begin), encoded.at(end)
        while last > first and encoded.id(last - 1) not in special and _blank(rendered.text, encoded, last - 1):
            last -= 1
        if last > first:
            ends &= encoded.id(last - 1) in special
            stretches.append((first, last) if weight == 1 else Heavy(first, last, weight))
    return stretches, ends


def _blank(text: str, encoded: Encoded, index: int) -> bool:
    start, end = encoded.span(index)
    return not text[start:end].strip()


def _by_markers(row: Row, template: ChatTemplate, answers: list[int]) -> tuple[str, list[tuple[int, int]]]:
    """What the template marks; a turn is one of its spans, or what it marks beyond the text of what came before."""
    text, spans = template.spans(row.messages, row.tools)
    said = _answers(row)
    if answers != said and len(spans) == len(said):  # one each, even where earlier turns change afterwards
        spans = [spans[said.index(index)] for index in answers]
    elif answers != said:
        borders = [(_border(row, template, text, index), _border(row, template, text, index + 1)) for index in answers]
        spans = [(begin, end) for begin, end in spans if any(end > low and begin < high for low, high in borders)]
    spans = [(begin, end) for begin, end in spans if end > begin]
    if not spans:
        raise DataError(
            f"the template {template.name} marks nothing as said by the assistant.", "Choose another template."
        )
    return text, spans


def _border(row: Row, template: ChatTemplate, text: str, index: int) -> int:
    """Where in `text` the message `index` begins, as far as the rendering without it tells."""
    if index == len(row.messages):
        return len(text)
    return len(commonprefix([text, template.render(row.messages[:index], row.tools)])) if index else 0


def _by_prefix(row: Row, template: ChatTemplate, answers: list[int]) -> tuple[str, list[tuple[int, int]]]:
    """What stands between the rendering up to an answer and the rendering with it, verified to be a prefix each."""
    messages, tools = row.messages, row.tools
    text = template.render(messages, tools)
    last = _answers(row)[-1]
    spans = []
    for index in answers:
        asked = template.render(messages[:index], tools, add_generation_prompt=True)
        said = text if index + 1 == len(messages) else template.render(messages[: index + 1], tools)
        if not said.startswith(asked):
            raise _changed(template, index, last, "before the answer", "the answer is given")
        if not text.startswith(said):
            said = _without_closing(said, template, messages[index])
        if not text.startswith(said):
            raise _changed(template, index, last, "with the answer", "later turns follow")
        spans.append((len(asked), len(said)))
    return text, spans


def words(message: Message) -> str:
    """The text of a message; pictures and films between it are left out."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _answers(row: Row) -> list[int]:
    return [index for index, message in enumerate(row.messages) if message["role"] == "assistant"]


def _without_closing(said: str, template: ChatTemplate, answer: Message) -> str:
    """The rendering without the eos that some templates (Phi-3) put once behind the whole conversation.

    Only where the turn has an end of its own before it; else the eos is the turn's end, and taking it off would leave
    the turn open.
    """
    eos = template.tokens.get("eos_token")
    shorter = said.removesuffix(eos) if eos else said
    return said if shorter.rstrip().endswith(words(answer).rstrip()) else shorter


def _refuse_lost(row: Row, template: ChatTemplate, answers: list[int], text: str, said: str) -> None:
    """Many templates leave out in silence what they do not know, such as tools: that would train empty answers."""
    answered = [row.messages[index] for index in answers]
    if any(words(answer).split("</think>")[-1].strip() not in said for answer in answered):
        raise DataError(
            f"the template {template.name} does not write an answer as it stands in the row.",
            "Choose another template.",
        )
    calls = [call["function"]["name"] for answer in answered for call in answer.get("tool_calls") or []]
    lost = [name for name in calls if name not in said]
    lost += [name for tool in row.tools or [] if (name := tool["function"]["name"]) not in text]
    if lost:
        raise DataError(
            f"the template {template.name} does not write the tool {lost[0]!r}, which the conversation needs.",
            "Choose a template that knows tools, or a dataset without them.",
        )


def _changed(template: ChatTemplate, index: int, last: int, what: str, once: str) -> DataError:
    """The refusal of a template whose rendering up to message `index` is not a prefix of the whole."""
    earlier = index != last
    return DataError(
        f"the template {template.name} renders the conversation {what} (turn {index + 1}) differently once {once}, "
        "so its tokens in training would not be those that the model meets in use.",
        "Train on the last turn only, or choose another template." if earlier else "Choose another template.",
    )
