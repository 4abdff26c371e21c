"""From rows to questions that the model answers: what is asked, what is right, and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.encoding.asked import Asked, facts, question
from data.encoding.batches import batches, records
from data.encoding.render import ChatTemplate
from data.encoding.tokens import TextTokenizer
from data.rows.conversation import Row
from engine.contract.errors import DataError


def row(*turns: str, kind: Any = "conversation", **extra: Any) -> Row:
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": said} for place, said in enumerate(turns)]
    return Row(messages, None, "rows.jsonl", 1, kind, extra=extra)


@pytest.fixture
def maker(tiny_model: Path) -> Any:
    def make(**options: Any) -> Asked:
        return Asked(ChatTemplate.of(tiny_model), TextTokenizer.of(tiny_model), **options)

    return make


def made(maker: Asked, *rows: Row) -> tuple[list[dict[str, Any]], Any]:
    [batch] = batches(rows, maker)
    return [dict(zip(batch.columns.schema.names, one, strict=True)) for one in records(batch)], batch.report


def test_the_last_answer_is_taken_off_and_is_the_right_one() -> None:
    asked = question(row("2+2?", "4", "and 3+3?", "<think>hm</think>\n6"))
    assert [turn["content"] for turn in asked.messages] == ["2+2?", "4", "and 3+3?"]
    assert asked.extra["answer"] == "6"


@pytest.mark.parametrize(
    ("extra", "right", "answer"),
    [
        ({"ground_truth": "3"}, "", "3"), ({"solution": 3, "note": "x"}, "", "3"), ({"note": "x"}, "note", "x"),
        ({"answer": ["only"]}, "", "only"), ({"answer": "a", "gold": "b"}, "gold", "b"), ({"note": "x"}, "", None),
        ({"answer": "a"}, "gold", None),
    ],
)  # fmt: skip
def test_the_right_answer_is_in_its_column(extra: dict[str, Any], right: str, answer: str | None) -> None:
    asked = question(row("2+1?", kind="prompt", **extra), right)
    assert asked.extra.get("answer") == answer
    assert question(asked, right) == asked  # asking twice changes nothing


def test_a_question_ends_where_the_model_writes_on(maker: Any) -> None:
    [one], report = made(maker(), row("2+2?", "4", source="book"))
    template = maker().template
    text = template.render([{"role": "user", "content": "2+2?"}], add_generation_prompt=True)
    assert maker().tokenizer.decode(one["input_ids"]) == text
    assert facts(one) == {"source": "book", "answer": "4", "prompt": [{"role": "user", "content": "2+2?"}]}
    assert (report.rows_used, report.tokens, report.warnings) == (1, len(one["input_ids"]), [])


def test_a_question_that_leaves_no_room_is_left_out_and_counted(maker: Any) -> None:
    rows = [row("short?", "yes"), row("long? " * 50, "yes")]
    kept, report = made(maker(max_length=60), *rows)
    assert len(kept) == 1 and report.lost == {"row": 1} and report.dropped == 1
    assert report.warnings == ["1 of 2 rows are longer than the maximum and are cut; 1 of them are left out."]


def test_what_cannot_be_asked_or_compared_is_refused_with_its_place(maker: Any) -> None:
    kept, report = made(maker(compares=True), row("2+2?", kind="prompt"), row("2+2?", "4"))
    assert len(kept) == 1 and report.refused == 1
    assert "rows.jsonl, row 1: the row has no right answer to compare with." in report.refusals[0][0]
    with pytest.raises(DataError, match="no right answer"):
        report.stop_if_refused()
    kept, report = made(maker(needs=("made",)), row("2+2?", "4", made=""), row("2+2?", "4", made="CREATE TABLE a (b)"))
    assert len(kept) == 1 and "the row has nothing in its column made." in report.refusals[0][0]
    only_said = Row([{"role": "assistant", "content": "Hello."}], None, "rows.jsonl", 1)
    assert "nothing is asked" in made(maker(), only_said)[1].refusals[0][0]


def test_the_page_counts_what_the_run_asks(workspace: Path) -> None:
    from data.checking import fitness, survey
    from engine.contract import text

    said = ["model=tiny", "data=sums.jsonl", "task=grpo", "task.max_new_tokens=80", "data.max_length=128"]
    args: Any = text.parse({}, [*said, "data.split=100/0/0"], kind="train")
    found = survey.sampled(args, workspace / "models" / "tiny", workspace)
    [crowded] = [finding for finding in found.findings if finding.kind == "crowded"]
    assert (found.max_length, found.trained, crowded.count, found.used) == (48, 0, 2, 10)
    assert {row.kind for row in found.shown["first"]} == {"prompt"}
    assert fitness.meant(args).data.max_length == 48


def test_the_page_shows_a_question_and_says_who_answers(workspace: Path) -> None:
    from app.planning import rows
    from app.planning.forecast import Forecast
    from data import models
    from data.checking import survey
    from engine.contract import text

    args: Any = text.parse({}, ["model=tiny", "data=sums.jsonl", "task=grpo", "data.max_length=256"], kind="train")
    folder = workspace / "models" / "tiny"
    found = survey.sampled(args, folder, workspace)
    for which in (rows.ORDER, "longest"):
        seen = rows.page(Forecast(args=args, card=models.card(folder), rows=found), workspace, [], which).html
        assert "the model writes the answer" in seen and "tb-learnt" not in seen and "It is" not in seen
