"""Formats that judge answers: two of which one is better, one that is good or bad, one with a score.

Knows nothing of files, nor of how a judgement is learnt.
"""

from __future__ import annotations

import math
import re
from typing import Any

from data.rows.chats import AROUND, CHATS, TURN, alternating, around, extended, objects, side, spoken, texts
from data.rows.conversation import Message, as_text, message
from data.rows.mapping import Field, Format, Values
from data.rows.questions import ANSWERS, INPUT, pair
from engine.contract.errors import DataError

LABELS = {
    "true": True, "1": True, "1.0": True, "yes": True, "good": True, "chosen": True, "desirable": True, "+": True,
    "false": False, "0": False, "0.0": False, "no": False, "bad": False, "rejected": False, "undesirable": False,
    "-": False, "-1": False,
}  # fmt: skip
SPEAKER = re.compile(r"\n*\b(Human|Assistant):[ \t]*")  # whole conversations as text, in the form of HH-RLHF


def _better_fits(values: Values) -> bool:
    return values("chosen") is not None and values("rejected") is not None


def _better(values: Values) -> dict[str, Any]:
    chosen, rejected = (_answer(values(name), values, name) for name in ("chosen", "rejected"))
    if chosen and rejected and chosen[0]["role"] != "assistant" and rejected[0]["role"] != "assistant":
        split = shared(chosen, rejected)
        prompt, chosen, rejected = chosen[:split], chosen[split:], rejected[split:]
        values("prompt")  # the same again, so it is not kept as a further column
    else:
        prompt = _asked(values)
    return {"messages": around(values, prompt), "chosen": chosen, "rejected": rejected}


def shared(chosen: list[Message], rejected: list[Message]) -> int:
    """How many turns two whole conversations have in common before the answers that differ begin."""
    length = 0
    for one, other in zip(chosen[:-1], rejected[:-1], strict=False):
        if one != other:
            break
        length += 1
    while length and not (chosen[length]["role"] == rejected[length]["role"] == "assistant"):
        length -= 1
    if not length:
        raise DataError("the chosen and the rejected conversation do not begin with the same question.")
    return length


def _answer(value: Any, values: Values, name: str) -> list[Message]:
    if isinstance(value, str) and value.lstrip().startswith("Human:"):
        pieces = SPEAKER.split(value.strip())[1:]
        roles = ("user" if who == "Human" else "assistant" for who in pieces[::2])
        return [message(role, text.strip()) for role, text in zip(roles, pieces[1::2], strict=True)]
    if several := texts(value):
        return alternating(several) if len(several) > 1 else [message("assistant", several[0])]
    return side("assistant", value, values, f"the {name} answer")


def _asked(values: Values) -> list[Message]:
    value = values("prompt")
    if several := texts(value):
        return alternating(several)
    turns = [] if value is None else side("user", value, values, "prompt")
    if given := _given(values):
        return [*turns[:-1], extended(turns[-1], given)] if turns else [message("user", given)]
    return turns


def _given(values: Values) -> str:
    """What the task is about, unless the same column, or something in it, is the prompt already."""
    if values.column("prompt").partition(".")[0] == values.column("input"):
        return ""
    return as_text(values("input"), "input")


def _label(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    return LABELS.get(str(value).strip().lower()) if isinstance(value, (str, int, float)) else None


def _score(value: Any) -> float | None:
    try:
        score = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    return score if math.isfinite(score) else None


def _judged(values: Values) -> list[Message]:
    if turns := objects(values("messages")):
        return around(values, [spoken(turn, values) for turn in turns])
    said = pair(values, "prompt", "completion")
    if given := _given(values):
        said[0] = extended(said[0], given)
    return around(values, said)


def _is_judged(values: Values) -> bool:
    if objects(values("messages")):
        return True
    return values("prompt") is not None and values("completion") is not None


def _feedback(values: Values) -> dict[str, Any]:
    label = _label(values("label"))
    if label is None:
        raise DataError(f"the label must be true or false, not {str(values('label'))[:40]!r}.")
    return {"messages": _judged(values), "label": label}


def _scored(values: Values) -> dict[str, Any]:
    score = _score(values("score"))
    if score is None:
        raise DataError(f"the score must be a number, not {str(values('score'))[:40]!r}.")
    return {"messages": _judged(values), "score": score}


PROMPT = ("prompt", "question", "instruction", "query", "problem")
JUDGED = (
    Field("messages", CHATS, "the whole conversation, the answer last"),
    Field("prompt", (*PROMPT, "input"), "what is asked, as text or messages"),
    INPUT,
    Field("completion", ANSWERS, "the answer, as text or messages"),
    *AROUND,
    *TURN,
)
FORMATS = (
    Format(
        "preference",
        "Preference: a chosen and a rejected answer",
        "preference",
        (
            Field("chosen", ("chosen", "chosen_messages", "chosen_response", "response_chosen", "preferred_output",
                             "preferred", "accepted", "response_j"), "the better answer", required=True),
            Field("rejected", ("rejected", "rejected_messages", "rejected_response", "response_rejected",
                               "non_preferred_output", "dispreferred", "response_k"), "the worse answer",
                  required=True),
            Field("prompt", (*PROMPT, "input.messages", *CHATS, "input"), "what is asked, as text or messages"),
            INPUT, *AROUND, *TURN,
        ),
        _better_fits,
        _better,
    ),
    Format(
        "feedback",
        "Feedback: an answer and whether it is good (KTO)",
        "feedback",
        (
            Field("label", ("label", "kto_tag", "is_good", "desirable"), "whether the answer is good", required=True),
            *JUDGED,
        ),
        lambda values: _label(values("label")) is not None and _is_judged(values),
        _feedback,
    ),
    Format(
        "scored",
        "Scores: an answer and how good it is",
        "scored",
        (Field("score", ("score", "reward", "rating"), "how good the answer is", required=True), *JUDGED),
        lambda values: _score(values("score")) is not None and _is_judged(values),
        _scored,
    ),
)  # fmt: skip
