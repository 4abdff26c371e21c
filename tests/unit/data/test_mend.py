"""A finding is mended at a click: in a patch, for every row it is about, and taken back at another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.datasets.advice import FIXES
from data.datasets.patch import Patch
from data.review import findings
from data.review.finding import Finding
from data.review.findings import mend
from data.review.fixes import FIXES as MENDED
from data.review.fixes import edits
from data.review.wording import cleaned
from data.rows import formats
from tests.unit.data.test_findings import TURNS, chat, clean, pair


@pytest.fixture
def patch(tmp_path):
    return Patch.of(tmp_path / "patch.jsonl")


def mended(rows, kind, patch):
    """The rows after that finding is mended, and how many were changed."""
    [finding] = [finding for finding in findings.look(rows) if finding.kind == kind]
    count = mend(finding, patch, rows)
    return list(patch.apply(rows)), count


def last(row):
    return row.messages[-1]["content"]


def test_every_fix_that_a_finding_offers_exists_and_has_words_on_its_button():
    offered = {rule.fix for rule in findings.RULES} | {"keep_first", "exclude", "restore"}
    assert offered == set(FIXES) == {*MENDED, "keep_first", "exclude", "restore"}


def test_copies_are_left_out_but_the_first_and_come_back(patch):
    rows = [*clean(5), *(replace(row, number=row.number + 5) for row in clean(2))]
    after, count = mended(rows, "duplicate", patch)
    assert (count, [row.number for row in after]) == (2, [1, 2, 3, 4, 5])
    assert findings.look(after) == []
    patch.undo()
    assert list(patch.apply(rows)) == rows


def test_secrets_are_masked_everywhere_in_their_rows_alone(patch):
    mail = "ann.berg@post.cam.ac.uk"
    told = chat(9, f"Write to {mail}.", f"I wrote to {mail}.", extra={"source": f"letter of {mail}"})
    told.messages[1]["reasoning_content"] = f"So {mail} it is."
    rows = [*clean(5), told]
    after, count = mended(rows, "personal", patch)
    assert count == 1 and after[:5] == rows[:5] and findings.look(after) == []
    assert last(after[5]) == "I wrote to [e-mail address]." and mail not in str(after[5])
    assert after[5].extra == {"source": "letter of [e-mail address]"}


def test_more_rows_than_a_finding_names_are_mended_all_the_same(patch):
    rows = [chat(n, f"What is {n}?", f"It is\x07 {n}.") for n in range(1200)]
    after, count = mended(rows, "control", patch)
    assert count == 1200 and all(last(row) == f"It is {row.number}." for row in after)
    assert patch.last() == "1,200 rows edited"


def test_garbled_characters_are_set_right_and_others_kept(patch):
    rows = [chat(1, "Où?", "Au cafÃ© prÃ¨s d’ici â€” Ã gauche, â\x80\x94 déjà."), chat(2, "Où?", "À Genève.")]
    after, count = mended(rows, "garbled", patch)
    assert count == 1 and last(after[0]) == "Au café près d’ici — Ã gauche, — déjà." and after[1] == rows[1]


def test_text_that_was_garbled_twice_or_around_a_control_character_is_set_right_at_once():
    assert cleaned("cafÃƒÂ©") == "café" and cleaned("Â\x1f\xa0") == "\xa0"


def test_mark_up_is_taken_out_of_answers_and_code_kept(patch):
    said = "<p>One<br>two &amp; three</p>\n```\n<b>kept</b>\n```"
    after, _ = mended([chat(1, "What <b>is</b> new?", said)], "tags", patch)
    assert last(after[0]) == "One\ntwo & three\n\n```\n<b>kept</b>\n```"
    assert after[0].messages[0]["content"] == "What <b>is</b> new?"


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": True}}}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("written_call", 'So.\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": true}}\n</tool_call>'),
        ("written_call", 'So.\nAction: add\nAction Input: {"a": 1, "b": true}'),
        ("broken_call", "So.\n<tool_call>\n{'name': 'add', 'arguments': {'a': 1, 'b': True}}\n</tool_call>"),
        ("broken_call", 'So.\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": true,}}\n</tool_call>'),
        ("broken_call", 'So.\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": true}\n</tool_call>'),
    ],
)
def test_calls_in_text_are_made_calls_of_their_own(patch, kind, text):
    tools = [{"type": "function", "function": {"name": "add"}}]
    after, count = mended([chat(1, "What is 1 and 1?", text, tools=tools)], kind, patch)
    assert count == 1 and after[0].messages[-1] == {"role": "assistant", "content": "So.", "tool_calls": [CALL]}
    assert findings.look(after) == []


def test_a_call_that_cannot_be_understood_is_left_as_it_is(patch):
    rows = [chat(1, "What is 1 and 1?", '<tool_call>{"name": add the two}</tool_call>')]
    after, count = mended(rows, "broken_call", patch)
    assert count == 0 and after == rows


def test_what_hangs_over_is_trimmed_and_what_would_be_no_row_stays(patch):
    hello = {"role": "assistant", "content": "Hello!"}
    rows = [
        replace(chat(1, "What is new?", "Nothing.", "And now?")),
        replace(chat(2, "Who?", "I."), messages=[hello, *chat(2, "Who?", "I.").messages]),
        replace(chat(3, ""), messages=[hello]),
    ]
    after, count = mended(rows, "order", patch)
    assert count == 2
    assert [turn["content"] for turn in after[0].messages] == ["What is new?", "Nothing."]
    assert [turn["content"] for turn in after[1].messages] == ["Who?", "I."]
    assert after[2] == rows[2]


def test_pairs_are_masked_on_both_sides(patch):
    row = pair(1, "Ask ann@post.cam.ac.uk.", "Ask bob@post.cam.ac.uk, or not.")
    after, _ = mended([row], "personal", patch)
    assert (after[0].chosen[0]["content"], after[0].rejected[0]["content"]) == (
        "Ask [e-mail address].", "Ask [e-mail address], or not.",
    )  # fmt: skip


def test_changes_that_are_stale_are_forgotten(patch):
    patch.exclude([chat(1, "Old?", "Yes.")])
    rows = [chat(1, "New?", "Yes.")]
    [finding] = patch.stale(rows)
    assert isinstance(finding, Finding) and mend(finding, patch, rows) == 1
    assert patch.stale(rows) == []


def test_pictures_stay_where_a_text_beside_them_is_masked(patch):
    parts = [
        {"type": "image", "image": "/pictures/ann@post.cam.ac.uk.png"},
        {"type": "text", "text": "ann@post.cam.ac.uk"},
    ]
    row = chat(1, "", "I see an address.")
    row.messages[0]["content"] = parts
    [(_, record)] = edits([row], MENDED["mask"])
    assert record["messages"][0]["content"] == [parts[0], {"type": "text", "text": "[e-mail address]"}]


@example([{"role": "user", "content": [{"type": "text", "text": "Â"}, {"type": "text", "text": "\x1f\xa0"}]}], "clean")
@given(TURNS, st.sampled_from(sorted(set(MENDED) - {"untag"})))  # an entity may spell another
def test_what_is_mended_is_a_row_again_and_mending_it_again_changes_nothing(turns, fix):
    row = chat(1, "What?", "That.")
    row.messages[1:1] = turns
    for _, record in edits([row], MENDED[fix]):
        again = formats.restored(record, row.kind, row.file, row.number)
        assert list(edits([again], MENDED[fix])) == []
