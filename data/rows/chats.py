"""Formats that hold whole conversations: messages, ShareGPT, Firefly; and what all formats know of turns.

Knows nothing of files, and of the other formats only that their prompts and answers may be turns too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from data.rows.conversation import ROLES, Message, as_text, conversation, from_json, message
from data.rows.mapping import Field, Format, Values
from engine.contract.errors import DataError

CHATS = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns", "body.messages", "data")
ROLE = Field("role", ("role", "from", "speaker", "author"), "who speaks", inside="messages")
CONTENT = Field("content", ("content", "value", "text", "message", "utterance"), "what is said", inside="messages")
SYSTEM = Field("system", ("system", "system_prompt", "system_message"), "what the assistant is told beforehand")
HISTORY = Field("history", ("history",), "earlier questions and answers, as pairs")
TOOLS = Field("tools", ("tools", "functions", "tool_definitions"), "the tools that the assistant may call")
IMAGES = Field("images", ("images", "image", "image_path", "img"), "pictures: paths, addresses or the bytes themselves")
VIDEOS = Field("videos", ("videos", "video"), "films: paths or addresses")
AROUND = (SYSTEM, HISTORY, TOOLS, IMAGES, VIDEOS)
TURN = (ROLE, CONTENT)


def listed(value: Any) -> list[Any] | None:
    """The turns in a column, when it holds some: a list, the same as JSON text, or an object of equally long lists."""
    if isinstance(value, str) and value.lstrip().startswith(("[{", "[[")):  # as a table cell holds it
        try:
            value = from_json(value, "the conversation")
        except DataError:
            return None
    if isinstance(value, dict) and value and all(isinstance(inner, list) for inner in value.values()):
        if len({len(inner) for inner in value.values()}) == 1:  # as Parquet may store a list of objects
            value = [dict(zip(value, turn, strict=True)) for turn in zip(*value.values(), strict=True)]
    return value if isinstance(value, list) and value else None


def objects(value: Any) -> list[dict[str, Any]] | None:
    """The turns in a column when all of them are objects."""
    turns = listed(value)
    return turns if turns and all(isinstance(turn, dict) for turn in turns) else None


def texts(value: Any) -> list[str] | None:
    """The turns in a column when all of them are bare texts."""
    turns = listed(value)
    return turns if turns and all(isinstance(turn, str) for turn in turns) else None


def spoken(turn: dict[str, Any], values: Values) -> Message:
    """One turn as a message; a turn may say its role and its content under any of the usual keys."""
    role, content = values.key("role", turn), values.key("content", turn)
    more = turn if len(turn) > 2 else None  # nothing but the role and the content
    return message(turn.get(role), turn.get(content), more, values.roles, pictures=True)


def alternating(turns: list[str]) -> list[Message]:
    return [message(("user", "assistant")[index % 2], text) for index, text in enumerate(turns)]


def side(role: str, value: Any, values: Values, what: str) -> list[Message]:
    """One side of a question and its answer: bare text is said by `role`, turns say themselves who speaks."""
    if value in ([], "[]"):  # as text in a table cell
        return []
    if isinstance(value, dict) and values.key("role", value):
        return [spoken(value, values)]
    if turns := objects(value):
        return [spoken(turn, values) for turn in turns]
    return [message(role, as_text(value, what))]


def extended(message: Message, text: str) -> Message:
    """The message with more text below its own."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": f"{content}\n{text}" if content else text}
    return {**message, "content": [*content, {"type": "text", "text": text}]}


def around(values: Values, turns: list[Message]) -> list[Message]:
    """The turns after the system text and the history of the record."""
    return conversation(turns, values("system"), values("history"), values.roles)


def speaks(turn: dict[str, Any], values: Values) -> str:
    """The role of a turn, or an empty text where it is not known."""
    role = turn.get(values.key("role", turn))
    return values.roles.get(str(role)) or ROLES.get(str(role).strip().lower(), "")


def unanswered(values: Values) -> bool:
    """Whether the conversation is known to have no word of the assistant."""
    turns = objects(values("messages"))
    return bool(turns) and all(speaks(turn, values) in ("system", "user") for turn in turns or [])


def _said_by(*keys: str) -> Callable[[Values], bool]:
    def fits(values: Values) -> bool:
        turns = objects(values("messages"))
        if not turns:
            return "role" in keys and len(texts(values("messages")) or []) > 1 and values.column("messages") != "turns"
        return values.key("role", turns[0]) in keys and not unanswered(values)

    return fits


def _messages(values: Values) -> dict[str, Any]:
    value = values("messages")
    if turns := objects(value):
        return {"messages": around(values, [spoken(turn, values) for turn in turns])}
    if plain := texts(value):
        return {"messages": around(values, alternating(plain))}
    if isinstance(value, str) and value.lstrip().startswith("["):
        from_json(value, "the conversation")
    raise DataError("the conversation must be a list of objects.")


def _pairs_fit(values: Values) -> bool:
    turns = objects(values("messages"))
    return (
        bool(turns)
        and not values.key("role", turns[0])
        and all(values.key(k, turns[0]) for k in ("human", "assistant"))
    )


def _pairs(values: Values) -> dict[str, Any]:
    turns = objects(values("messages"))
    if not turns:
        raise DataError("the conversation must be a list of objects.")
    found: list[Message] = []
    for turn in turns:
        told = as_text(turn.get("system"), "system")
        found += [message("system", told)] if told.strip() and not found else []
        for role, field in (("user", "human"), ("assistant", "assistant")):
            found.append(message(role, turn.get(values.key(field, turn)), turn if field == "assistant" else None))
    return {"messages": around(values, found)}


def _instances_fit(values: Values) -> bool:
    found = objects(values("instances")) or []
    return bool(found) and "output" in found[0] and isinstance(values("instruction"), str)


def _instances(values: Values) -> dict[str, Any]:
    """Several examples of one task become turns of one conversation, in which only the first states the task."""
    found: list[Message] = []
    for instance in objects(values("instances")) or []:
        asked = "" if found else as_text(values("instruction"), "instruction")
        given = as_text(instance.get("input"), "input")
        found.append(message("user", "\n".join(text for text in (asked, given) if text)))
        found.append(message("assistant", as_text(instance.get("output"), "output")))
    return {"messages": around(values, found)}


MESSAGES = Field("messages", CHATS, "the turns, each with a role and a content", required=True)
FORMATS = (
    Format("messages", "Messages", "conversation", (MESSAGES, *AROUND, *TURN),
           _said_by("role", "speaker", "author"), _messages),
    Format(
        "sharegpt",
        "ShareGPT",
        "conversation",
        (
            Field("messages", ("conversations", *CHATS), "the turns, each with from and value", required=True),
            *AROUND, *TURN,
        ),
        _said_by("from"),
        _messages,
    ),
    Format(
        "firefly",
        "Firefly: pairs of a question and an answer",
        "conversation",
        (
            Field("messages", ("conversation", *CHATS), "the pairs, each with human and assistant", required=True),
            *AROUND,
            Field("human", ("human", "user", "input", "question", "query"), "the question", inside="messages"),
            Field("assistant", ("assistant", "bot", "output", "answer", "response"), "the answer", inside="messages"),
            ROLE,
        ),
        _pairs_fit,
        _pairs,
    ),
    Format(
        "self_instruct",
        "A task with examples",
        "conversation",
        (
            Field("instruction", ("instruction",), "the task", required=True),
            Field("instances", ("instances",), "examples, each with input and output", required=True),
            SYSTEM,
        ),
        _instances_fit,
        _instances,
    ),
)  # fmt: skip
