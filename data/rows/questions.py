"""Formats of one question and one answer, of text alone, and of questions that are still to be answered.

Knows nothing of files, nor of how several answers to one question are judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from data.rows.chats import (
    AROUND,
    CHATS,
    IMAGES,
    SYSTEM,
    TOOLS,
    TURN,
    VIDEOS,
    around,
    extended,
    objects,
    side,
    spoken,
    texts,
    unanswered,
)
from data.rows.conversation import Message, as_text, message
from data.rows.mapping import Field, Format, Values
from engine.contract.errors import DataError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SQL = re.compile(
    r"\s*\(?\s*(select|with|insert|update|delete|create|alter|drop|replace|pragma|explain)\b", re.IGNORECASE
)
ANSWERS = ("completion", "response", "output", "outputs", "target", "targets", "answer", "canonical_solution")


def pair(values: Values, asked: str, answered: str) -> list[Message]:
    """A question and its answer, each as text or as turns; two lists of text are several questions and answers."""
    question, answer = values(asked), values(answered)
    several, replies = texts(question), texts(answer)
    if several and isinstance(answer, list):
        if len(several) != len(answer):
            raise DataError(
                f"{values.column(asked)} has {len(several)} turns, {values.column(answered)} has {len(answer)}."
            )
        both = zip(several, answer, strict=True)
        return [message(role, text) for turn in both for role, text in zip(("user", "assistant"), turn, strict=True)]
    if replies:  # several answers that are all right, as SQuAD has them
        answer = replies[0]
    return side("user", question, values, asked) + side("assistant", answer, values, answered)


def asked(values: Values, *names: str, between: str = "\n") -> str:
    """The texts of the fields as one question."""
    found = [as_text(values(name), name) for name in names]
    return between.join(text for text in found if text.strip())


def _has(*names: str) -> Callable[[Values], bool]:
    return lambda values: all(values(name) is not None for name in names)


def _alpaca(values: Values) -> dict[str, Any]:
    question = asked(values, "instruction", "input")
    answer = as_text(values("output"), "output")
    return {"messages": around(values, [message("user", question), message("assistant", answer)])}


def _pair(first: str, second: str) -> Callable[[Values], dict[str, Any]]:
    def build(values: Values) -> dict[str, Any]:
        turns = pair(values, first, second)
        told = asked(values, "context") if "context" in values.fields else ""
        if told and isinstance(turns[0]["content"], str):
            turns[0] = {**turns[0], "content": f"{told}\n\n{turns[0]['content']}"}
        return {"messages": around(values, turns)}

    return build


def _choices(value: Any) -> list[tuple[str, str]]:
    """Letter and text of each choice."""
    if isinstance(value, dict) and isinstance(value.get("text"), list):  # ARC: {"text": [...], "label": [...]}
        labels = value.get("label") or LETTERS
        pairs = list(zip(labels, value["text"], strict=False))
    elif isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(zip(LETTERS, value, strict=False))
    else:
        raise DataError("the choices must be a list.")
    found = [(str(letter), as_text(text, "a choice")) for letter, text in pairs]
    return [(letter, re.sub(rf"^\(?{re.escape(letter)}[).:、]\s*", "", text)) for letter, text in found]


def _right(value: Any, choices: list[tuple[str, str]]) -> str:
    """The letter of the right choice, which a file may give as a letter, a number counted from 0, or the text."""
    said = as_text(value[0] if isinstance(value, list) and len(value) == 1 else value, "the right choice").strip()
    letters = [letter for letter, _ in choices]
    bare = said.strip("().: ")
    if bare in letters:
        return bare
    if bare.upper() in letters:
        return bare.upper()
    if bare.isdecimal() and int(bare) < len(choices):
        return letters[int(bare)]
    if found := next((letter for letter, text in choices if text.strip() == said), None):
        return found
    raise DataError(f"the right choice {said[:40]!r} is none of {', '.join(letters)}.")


def _choice_fits(values: Values) -> bool:
    choices = values("choices")
    return isinstance(choices, (list, dict)) and len(choices) > 1 and _has("question", "answer")(values)


def _choice(values: Values) -> dict[str, Any]:
    choices = _choices(values("choices"))
    question = asked(values, "context", "question", between="\n\n")
    listed = "\n".join(f"{letter}. {text}" for letter, text in choices)
    right = _right(values("answer"), choices)
    return {"messages": around(values, [message("user", f"{question}\n{listed}"), message("assistant", right)])}


def _sql_fits(values: Values) -> bool:
    query = values("sql")
    return isinstance(query, str) and bool(SQL.match(query)) and isinstance(values("question"), str)


def _sql(values: Values) -> dict[str, Any]:
    schema = values("schema")
    told = ", ".join(map(str, schema)) if isinstance(schema, list) else as_text(schema, "schema")
    values.read.discard(values.column("schema"))  # kept beside the conversation: a query is judged by running it
    question = "\n\n".join(text for text in (told, asked(values, "question")) if text.strip())
    answer = as_text(values("sql"), "sql")
    return {"messages": around(values, [message("user", question), message("assistant", answer)])}


def _text(values: Values) -> dict[str, Any]:
    return {"messages": [], "text": as_text(values("text"), "the text")}


def _prompt_fits(values: Values) -> bool:
    if values("messages") is not None:
        return unanswered(values) or bool(texts(values("turns")))
    if any(values.record.get(name) is not None for name in ANSWERS):
        return False
    return isinstance(values("prompt"), str) or bool(objects(values("prompt")) or texts(values("turns")))


def _prompt(values: Values) -> dict[str, Any]:
    """A bench that asks several questions in turn is asked the first; the others stay as `follow_ups`."""
    more: dict[str, Any] = {}
    if turns := objects(values("messages")):
        said = [spoken(turn, values) for turn in turns]
    elif several := texts(values("turns")):
        said = [message("user", several[0])]
        more = {"extra": {"follow_ups": several[1:]}} if len(several) > 1 else {}
    else:
        said = side("user", values("prompt"), values, "prompt")
        if given := as_text(values("input"), "input"):
            said = [*said[:-1], extended(said[-1], given)] if said else [message("user", given)]
    return {"messages": around(values, said), **more}


INPUT = Field("input", ("input", "context"), "what the task is about")
PASSAGE = Field("context", ("context", "passage", "article", "support", "background"), "what the question is about")
FORMATS = (
    Format(
        "alpaca",
        "Alpaca: instruction and output",
        "conversation",
        (
            Field("instruction", ("instruction",), "the task", required=True),
            INPUT,
            Field("output", ("output", "response", "completion", "answer", "target"), "the answer", required=True),
            *AROUND,
        ),
        _has("instruction", "output"),
        _alpaca,
    ),
    Format(
        "multiple_choice",
        "Questions with choices",
        "conversation",
        (
            Field("question", ("question", "question_stem", "stem", "ctx", "query", "prompt", "input"), "the question",
                  required=True),
            Field(
                "choices",
                ("options", "choices", "endings", "A, B, C, D, E", "A, B, C, D", "A, B, C",
                 "choice0, choice1, choice2, choice3", "option_a, option_b, option_c, option_d", "opa, opb, opc, opd"),
                "the choices: a list, or several columns", required=True, many=True,
            ),
            Field("answer", ("label", "answer_idx", "answerKey", "answer", "gold", "cop", "target"),
                  "the right one: its letter, its number counted from 0, or its text", required=True),
            PASSAGE, SYSTEM, IMAGES,
        ),
        _choice_fits,
        _choice,
    ),
    Format(
        "text_to_sql",
        "Question to SQL",
        "conversation",
        (
            Field("question", ("question", "sql_prompt", "utterance", "nl", "prompt", "instruction"), "the question",
                  required=True),
            Field("sql", ("sql.human_readable", "sql", "query", "sql_query", "answer", "response", "completion"),
                  "the query that answers it", required=True),
            Field("schema", ("schema", "sql_context", "context", "create_table", "db_schema", "ddl", "table.header",
                             "tables"), "the tables that there are"),
            SYSTEM,
        ),
        _sql_fits,
        _sql,
    ),
    Format(
        "question_answer",
        "Question and answer",
        "conversation",
        (
            Field("question", ("question", "problem"), "the question", required=True),
            Field("answer", ("answer", "answers.text", "answers", "response", "solution", "output", "completion"),
                  "the answer", required=True),
            PASSAGE, *AROUND, *TURN,
        ),
        _has("question", "answer"),
        _pair("question", "answer"),
    ),
    Format(
        "prompt_completion",
        "Prompt and completion",
        "conversation",
        (
            Field("prompt", ("prompt", "query", "input", "inputs"), "the prompt, as text or messages", required=True),
            Field("completion", ANSWERS, "the answer, as text or messages", required=True),
            *AROUND, *TURN,
        ),
        _has("prompt", "completion"),
        _pair("prompt", "completion"),
    ),
    Format(
        "text",
        "Text alone",
        "text",
        (Field("text", ("text", "content", "document", "body", "markdown", "response", "completion", "output"),
               "the text", required=True),),
        lambda values: isinstance(values("text"), str),
        _text,
    ),
    Format(
        "prompt",
        "Prompts without an answer",
        "prompt",
        (
            Field("prompt", ("prompt", "question", "instruction", "query", "problem", "input"), "the prompt", True),
            Field("messages", tuple(name for name in CHATS if name != "turns"), "the prompt as turns"),
            Field("turns", ("turns",), "several questions, one after the other"),
            Field("input", ("input",), "what the task is about"),
            SYSTEM, TOOLS, IMAGES, VIDEOS, *TURN,
        ),
        _prompt_fits,
        _prompt,
    ),
)  # fmt: skip
