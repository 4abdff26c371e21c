"""The rows of a dataset as a table, and a row as a conversation: what is found, in which order, and safely drawn."""

from __future__ import annotations

import base64

import pytest
from PIL import Image

from app.datasets import table, turns
from app.datasets.table import Line, Query
from data.rows.conversation import Row
from engine.contract.errors import DataError

HOSTILE = "<script>alert(1)</script>${window.x = 1}{{x}}"


def talk(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def row(number: int, *texts: str, **more) -> Row:
    return Row(talk(*texts), None, "some.jsonl", number, **more)


def numbers(lines: list[Line]) -> list[int]:
    return [line.number for line in lines]


@pytest.fixture
def lines() -> list[Line]:
    call = {"type": "function", "function": {"name": "find", "arguments": {"place": "Zürich"}}}
    called = [*talk("Where?"), {"role": "assistant", "content": "", "tool_calls": [call]}]
    return [
        Line(row(1, "Hello", "Good day to you")),
        Line(row(2, "a", "b", "c", "The Last Word"), edited=True),
        Line(row(4, "What is hello?", "A greeting"), excluded=True, marks=("duplicate",)),
        Line(Row(called, [{"type": "function", "function": {"name": "find"}}], "some.jsonl", 7)),
    ]


class TestQuery:
    def test_every_word_must_be_somewhere_in_the_row(self, lines):
        assert numbers(table.chosen(lines, Query("hello"))) == [1, 4]
        assert numbers(table.chosen(lines, Query("greeting hello"))) == [4]
        assert numbers(table.chosen(lines, Query("zürich"))) == [7]
        assert not table.chosen(lines, Query("nowhere"))

    @pytest.mark.parametrize(
        ("keep", "kept"),
        [("edited", [2]), ("excluded", [4]), ("finding:", [4]), ("finding:duplicate", [4]), ("finding:secret", []),
         ("tools", [7]), ("kind:conversation", [1, 2, 4, 7]), ("kind:text", []), ("role:tool", [])],
    )  # fmt: skip
    def test_a_filter_keeps_its_rows(self, lines, keep, kept):
        assert numbers(table.chosen(lines, Query(keep=keep))) == kept

    def test_rows_are_sorted_by_any_column_both_ways(self, lines):
        assert numbers(table.chosen(lines, Query(order="turns", down=True)))[0] == 2
        assert numbers(table.chosen(lines, Query(order="characters")))[0] == 2
        assert numbers(table.chosen(lines, Query(order="question"))) == [2, 1, 4, 7]
        for column in table.COLUMNS:
            assert len(table.chosen(lines, Query(order=column))) == 4

    def test_lengths_limit_both_ends(self, lines):
        assert numbers(table.chosen(lines, Query(shortest=18, longest=21))) == [1]

    @pytest.mark.parametrize(
        ("text", "limits"),
        [("", (None, None)), ("100-2,000", (100, 2000)), ("100-", (100, None)), ("- 20", (None, 20)), ("7", (7, None))],
    )
    def test_lengths_are_read(self, text, limits):
        assert table.lengths(text) == limits

    def test_lengths_that_are_none_are_refused_with_the_form(self):
        with pytest.raises(DataError, match="100-2000"):
            table.lengths("long")

    def test_only_filters_that_keep_something_are_offered(self, lines):
        words = [word for _, word in table.filters(lines, {"duplicate": "Duplicates"})]
        assert words == ["everything", "tools", "edited", "excluded", "finding:", "finding:duplicate"]
        assert [word for _, word in table.filters(lines[:1], {})] == ["everything"]


class TestDrawing:
    def test_hostile_text_stays_text(self):
        nasty = row(1, HOSTILE, HOSTILE, extra={HOSTILE: HOSTILE})
        for drawn in (table.html([Line(nasty, marks=(HOSTILE,))], Query(), 0), turns.conversation(nasty)):
            assert "<script>" not in drawn
            assert "&lt;script&gt;" in drawn

    def test_a_page_holds_fifty_rows(self):
        many = [Line(row(number, "q", "a")) for number in range(1, 121)]
        drawn = table.html(many, Query(), 2)
        assert drawn.count("<tr class") == 20
        assert 'data-row="101"' in drawn
        assert table.pages(120) == 3 and table.pages(0) == 1

    def test_the_row_before_and_after_follow_what_is_found(self, lines):
        found = table.chosen(lines, Query("hello"))
        assert table.neighbours(found, 1) == (0, 1, 4)
        assert table.neighbours(found, 4) == (1, 2, 0)
        assert table.neighbours(found, 99) == (0, 0, 1)

    def test_a_finding_marks_the_rows_that_it_names(self, lines):
        marked = list(table.marked(lines, {"secret": [1, 7], "short": [7]}))
        assert [line.marks for line in marked] == [("secret",), (), (), ("secret", "short")]
        assert marked[1].edited

    def test_a_long_text_is_one_short_line(self):
        assert table.clipped("a\n\n b") == "a b"
        assert table.clipped("x" * 9000) == "x" * table.CLIPPED + "…"

    def test_both_answers_of_a_preference_stand_side_by_side(self):
        pair = row(1, "Which?", kind="preference", chosen=talk("", "This one")[1:], rejected=talk("", "That")[1:])
        drawn = turns.conversation(pair)
        assert drawn.index("Chosen") < drawn.index("This one") < drawn.index("Rejected") < drawn.index("That")
        assert Line(pair).answer == "This one"

    def test_tools_and_thoughts_are_folded(self, lines):
        drawn = turns.conversation(lines[3].row)
        assert "<summary>Calls find</summary>" in drawn and "<summary>1 tool: find</summary>" in drawn
        thought = Row([{"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}], None, "f", 1)
        assert "<summary>Thought</summary>" in turns.conversation(thought)

    @pytest.mark.parametrize(
        "source", ["/etc/passwd", "https://example.org/a.png", 'data:image/png;base64,AA" onload="x', "javascript:x",
                   "data:image/svg+xml;base64,AAAA"],
    )  # fmt: skip
    def test_a_picture_that_does_not_lie_in_the_row_is_not_fetched(self, source):
        parts = [{"type": "image", "image": source}, {"type": "text", "text": "What is this?"}]
        drawn = turns.conversation(Row([{"role": "user", "content": parts}], None, "f", 1))
        assert "<img" not in drawn and "What is this?" in drawn and "tb-gallery" in drawn

    def test_a_picture_in_the_row_or_beside_its_file_is_shown_and_no_other(self, tmp_path):
        (tmp_path / "rows").mkdir()
        for place in (tmp_path / "rows" / "red.png", tmp_path / "secret.png"):
            Image.new("RGB", (9, 6), "red").save(place)
        embedded = base64.b64encode((tmp_path / "secret.png").read_bytes()).decode("ascii")

        def drawn(source: str) -> str:
            parts = [{"type": "image", "image": source}]
            return turns.conversation(
                Row([{"role": "user", "content": parts}], None, str(tmp_path / "rows" / "rows.jsonl"), 1)
            )

        assert 'src="data:image/jpeg;base64,' in drawn(str(tmp_path / "rows" / "red.png"))
        assert 'src="data:image/jpeg;base64,' in drawn(f"data:image/png;base64,{embedded}")
        assert "<img" not in drawn(str(tmp_path / "secret.png"))
