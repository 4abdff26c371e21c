"""What is made of one row: a function for each kind of making. Each asks the model and gives new rows, or none.

The rows are records in the conversational form that `data.rows.formats` reads. Nothing here knows files, runs or
threads.
"""

from __future__ import annotations

import base64
import mimetypes
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.rows.conversation import Message, Row
from engine.contract import making
from engine.contract.errors import DataError

Ask = Callable[..., str]
Made = list[dict[str, Any]]
COLUMN = re.compile(r"\{([^{}]+)\}")
NUMBERING = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):])\s*")
PICTURE_BYTES = 20 * 2**20


def answer(row: Row, ask: Ask, what: making.Answer, draw: random.Random) -> Made:
    """The row's questions, each answered afresh by the persona, in the light of what was said before."""
    _speaks_for_itself(row)
    persona = {"role": "system", "content": what.persona}
    said: list[Message] = []
    for question in questions(row):
        said.append({"role": "user", "content": question})
        said.append({"role": "assistant", "content": ask([persona, *said])})
    if not all(message["content"] for message in said) or not said:
        return []
    return [{"messages": [persona, *said] if what.keep_persona else [*opening(row), *said]}]


def converse(row: Row, ask: Ask, what: making.Converse, draw: random.Random) -> Made:
    """A conversation that begins with the row's question; the model plays the assistant and the one who asks."""
    _speaks_for_itself(row)
    found = questions(row)
    if not found:
        return []
    said: list[Message] = [{"role": "user", "content": found[0]}]
    while True:
        said.append({"role": "assistant", "content": ask([*opening(row), *said])})
        if not said[-1]["content"]:
            return []
        if len(said) // 2 == what.turns:
            return [{"messages": [*opening(row), *said]}]
        heard = [{**turn, "role": "user" if turn["role"] == "assistant" else "assistant"} for turn in said]
        # The first turn was the guest's own; most servers want the conversation to begin with the other side.
        start = [{"role": "system", "content": what.guest}, {"role": "user", "content": "Begin."}]
        if not (question := ask([*start, *heard])):
            return []
        said.append({"role": "user", "content": question})


def paraphrase(row: Row, ask: Ask, what: making.Paraphrase, draw: random.Random) -> Made:
    """The row with its first question in other words, as often as wanted; everything else stays."""
    found = questions(row)
    if not found or row.messages[-1]["role"] != "assistant":
        raise DataError("the row has no question with an answer that could stay.", "Choose conversations.")
    order = f"Write {what.times} other wordings of the question below, one a line and nothing else.\n\n{found[0]}"
    lines = [NUMBERING.sub("", line).strip() for line in ask([{"role": "user", "content": order}]).splitlines()]
    words = [line for line in dict.fromkeys(lines) if line and line != found[0]][: what.times]
    place = next(index for index, message in enumerate(row.messages) if message["role"] == "user")
    return [
        {"messages": [*row.messages[:place], _reworded(row.messages[place], new), *row.messages[place + 1 :]]}
        for new in words
    ]


def mark(row: Row, ask: Ask, what: making.Filter, draw: random.Random) -> Made:
    """The row itself when its mark is good enough, with the mark in the column `mark`; else nothing."""
    if not row.messages or row.messages[-1]["role"] != "assistant":
        raise DataError("the row has no answer to be marked.", "Choose conversations.")
    said = "\n\n".join(f"{message['role'].upper()}: {text_of(message)}" for message in row.messages)
    order = f"{what.rubric}\n\nGive this conversation a mark from 1 to 10. Write the number alone.\n\n{said}"
    found = re.search(r"\d+(?:\.\d+)?", ask([{"role": "user", "content": order}], temperature=0))
    if not found or not 1 <= float(found[0]) <= 10:
        raise DataError(f"the model gave no mark from 1 to 10 to row {row.number}.")
    good = float(found[0]) >= what.least
    return [{"messages": row.messages, "mark": float(found[0])} | ({"tools": row.tools} if row.tools else {})] * good


def grow(examples: Sequence[Row], ask: Ask, what: making.Grow, draw: random.Random) -> Made:
    """One new row of the kind of `examples`: first a question that none of them asks, then its answer in their way."""
    asked = [questions(row)[0] for row in examples]
    about = f" It should be about this: {what.about}" if what.about else ""
    listed = "\n".join(f"{number}. {question}" for number, question in enumerate(asked, 1))
    order = (
        f"Here are {len(asked)} questions:\n\n{listed}\n\nWrite one new question of this kind.{about} Write it alone."
    )
    question = NUMBERING.sub("", ask([{"role": "user", "content": order}])).strip()
    if not question or question in asked:
        return []
    shown = [turn for row in examples for turn in (row.messages[-2:] if len(row.messages) > 1 else ())]
    shown = [turn for turn in shown if turn["role"] in ("user", "assistant")]
    reply = ask([*opening(examples[0]), *shown, {"role": "user", "content": question}])
    if not reply:
        return []
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return [{"messages": [*opening(examples[0]), *turns]}]


def pairs(record: Mapping[str, Any], folders: Sequence[Path], ask: Ask, what: making.Pairs) -> Made:
    """A pair for each question template; an answer that no template gives is the model's, which sees the record."""
    made = []
    picture = as_data_url(record.get(what.picture), folders) if what.picture else None
    for template in filter(str.strip, what.question.splitlines()):
        question = filled(template, record)
        part: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": picture}}] if picture else []
        if what.answer.strip():
            reply = filled(what.answer, record)
        else:
            known = "\n".join(f"{name}: {value}" for name, value in record.items() if name != what.picture)
            order = f"Answer from what stands here, briefly.\n\n{known}\n\n{question}" if known else question
            reply = ask([{"role": "user", "content": [*part, {"type": "text", "text": order}] if part else order}])
        if reply.strip():
            seen: Any = (
                [{"type": "image", "image": picture}, {"type": "text", "text": question}] if picture else question
            )
            made.append({"messages": [{"role": "user", "content": seen}, {"role": "assistant", "content": reply}]})
    return made


WRITERS: dict[str, Callable[[Row, Ask, Any, random.Random], Made]] = {
    "answer": answer,
    "converse": converse,
    "paraphrase": paraphrase,
    "filter": mark,
}
"""The kinds that make something of one row at a time; `grow` draws several, `pairs` reads columns."""


def filled(template: str, record: Mapping[str, Any]) -> str:
    """The template with `{column}` replaced by what the record holds there. Raises DataError naming what is missing."""
    names = COLUMN.findall(template)
    if missing := [name for name in names if record.get(name) is None]:
        raise DataError(
            f"there is no column {', '.join(missing)}; the row has {', '.join(map(str, record))}.",
            "Name the columns in the templates as the file does.",
        )
    return COLUMN.sub(lambda found: str(record[found[1]]), template).strip()


def as_data_url(picture: Any, folders: Sequence[Path]) -> str:
    """A picture of a record for a request: an address, a data URL, embedded bytes, or a path within the folders."""
    if isinstance(picture, Mapping):
        content, path = picture.get("bytes"), picture.get("path")
        if content:
            return _encoded(bytes(content), str(path or "x.png"))
        picture = path
    if not isinstance(picture, str) or not picture:
        raise DataError("the row has no picture.", "Name the column that holds it.")
    if picture.startswith(("data:image/", "https://")):
        return picture
    homes = [folder.resolve() for folder in folders]
    places = [place for home in homes if (place := (home / picture).resolve()).is_relative_to(home)]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise DataError(f"there is no picture {picture} beside the rows.")
    if file.stat().st_size > PICTURE_BYTES:
        raise DataError(f"the picture {picture} is larger than {PICTURE_BYTES // 2**20} MB.")
    return _encoded(file.read_bytes(), file.name)


def _encoded(content: bytes, name: str) -> str:
    kind = mimetypes.guess_type(name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def questions(row: Row) -> list[str]:
    """What the user says in a row, turn by turn, as text."""
    found = [text_of(message).strip() for message in row.messages if message["role"] == "user"]
    return [text for text in found if text]


def has_pictures(row: Row) -> bool:
    return any(not isinstance(message["content"], str) for message in row.messages)


def _speaks_for_itself(row: Row) -> None:
    if has_pictures(row):
        raise DataError("what is asked about a picture cannot be asked without it.", "Make pairs with what.picture.")


def _reworded(message: Message, new: str) -> Message:
    """The message with other words, and with its pictures."""
    if isinstance(message["content"], str):
        return {**message, "content": new}
    seen = [part for part in message["content"] if part.get("type") != "text"]
    return {**message, "content": [*seen, {"type": "text", "text": new}]}


def opening(row: Row) -> list[Message]:
    """The system message of a row, if it has one."""
    return [message for message in row.messages[:1] if message["role"] == "system"]


def text_of(message: Message) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")
