"""The demo datasets are well-formed, true to their promise (every query runs) and small enough for two minutes."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest
from tokenizers import Tokenizer

REPOSITORY = Path(__file__).resolve().parents[3]
SAMPLES = REPOSITORY / "data" / "samples"
MODEL = Path(os.environ.get("TUNEBOARD_DEMO_MODEL") or REPOSITORY / "workspace/models/SmolLM2-135M-Instruct")
EPOCHS = 3
BUDGET = 30_000
"""Tokens that the demo's run may read: two minutes on two processor cores."""


def rows(name: str) -> list[list[dict[str, str]]]:
    lines = (SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"] for line in lines]


@pytest.mark.parametrize("name", ["identity", "sql"])
def test_turns_alternate_and_end_with_the_assistant(name):
    for messages in rows(name):
        assert all(message.keys() == {"role", "content"} and message["content"].strip() for message in messages)
        roles = [message["role"] for message in messages]
        talk = roles[1:] if roles[0] == "system" else roles
        assert talk == ["user", "assistant"] * (len(talk) // 2) and talk, messages


@pytest.mark.parametrize("name", ["identity", "sql"])
def test_no_row_is_there_twice(name):
    seen = Counter(json.dumps(messages) for messages in rows(name))
    asked = Counter(json.dumps(messages[:-1]).lower() for messages in rows(name))
    assert max(seen.values()) == 1 and max(asked.values()) == 1


@pytest.mark.parametrize("name", ["identity", "sql"])
def test_some_rows_have_a_system_turn_and_some_several_questions(name):
    assert sum(messages[0]["role"] == "system" for messages in rows(name)) >= 4
    assert sum(sum(message["role"] == "user" for message in messages) > 1 for messages in rows(name)) >= 3


@pytest.mark.parametrize(("name", "known"), [("identity", {"{{name}}", "{{author}}"}), ("sql", set())])
def test_only_the_known_placeholders_are_used(name, known):
    text = json.dumps(rows(name))
    assert set(re.findall(r"\{\{.*?\}\}", text)) == known
    assert not re.search(r"[{}]{2}", re.sub("|".join(map(re.escape, known)) or "$^", "", " ".join(said(name))))


def said(name: str) -> list[str]:
    return [message["content"] for messages in rows(name) for message in messages]


def test_most_identity_answers_say_who_speaks_and_a_few_do_not_need_to():
    answers = [messages[-1]["content"] for messages in rows("identity")]
    named = sum("{{name}}" in answer or "{{author}}" in answer for answer in answers)
    assert 0.8 * len(answers) <= named <= 0.95 * len(answers), "other questions keep it from talking of itself only"


def test_every_query_runs_on_its_own_schema():
    for messages in rows("sql"):
        schema = "".join(re.findall(r"CREATE TABLE [^;]+;", messages[0]["content"]))
        assert schema, messages
        with sqlite3.connect(":memory:") as database:
            database.executescript(schema)
            for message in messages:
                if message["role"] == "assistant":
                    assert re.fullmatch(r"(SELECT|INSERT|UPDATE|DELETE) [^;]+;", message["content"]), message
                    database.execute(message["content"])


def test_both_halves_are_varied_enough_to_hold_some_rows_back():
    schemas = {re.search(r"CREATE TABLE (\w+)", messages[0]["content"])[1] for messages in rows("sql")}
    shapes = {re.sub(r"\w*[a-z]\w*|'.*?'|\d+", "_", messages[-1]["content"]) for messages in rows("sql")}
    assert len(schemas) >= 25 and len(shapes) >= 25
    assert len({messages[-1]["content"] for messages in rows("identity")}) >= 60


def exact() -> Callable[[list[dict[str, str]]], int]:
    """Counts with the model's own template and tokenizer."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    template = jinja2.Environment().from_string((MODEL / "chat_template.jinja").read_text(encoding="utf-8"))
    return lambda messages: len(tokenizer.encode(filled(template.render(messages=messages))).ids)


def bound(messages: list[dict[str, str]]) -> int:
    """Without the model: a token for each word, sign and digit, more for the made-up names, what the template adds,
    and 3 % for the words that take two."""
    text = filled(" ".join(message["content"] for message in messages)).replace("Tune", "T une ")
    pieces = re.findall(r"[A-Za-z]+|[^A-Za-z ]", text)
    return round(1.03 * (len(pieces) + 5 * len(messages) + (0 if messages[0]["role"] == "system" else 21)) + 0.5)


def filled(text: str) -> str:
    return text.replace("{{name}}", "Tuney").replace("{{author}}", "the Tuneboard project")


def test_the_demo_run_reads_no_more_than_its_budget():
    everything = rows("identity") + rows("sql")
    most = sum(map(bound, everything))
    total = sum(map(exact(), everything)) if (MODEL / "tokenizer.json").is_file() else most
    assert total <= most, "the bound is none"
    assert BUDGET / 2 < EPOCHS * total <= EPOCHS * most <= BUDGET
