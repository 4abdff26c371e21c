"""Changes to rows, kept beside the file: made, taken back, never lost, never put on the wrong row."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.datasets.patch import Patch, fingerprint
from data.rows.conversation import Row
from engine.contract.errors import BoardError, DataError


def row(number: int, question: str = "", answer: str = "Yes.") -> Row:
    said = [
        {"role": "user", "content": question or f"Question {number}?"},
        {"role": "assistant", "content": answer},
    ]
    return Row(said, None, "rows.jsonl", number)


def saying(number: int, answer: str) -> dict:
    return row(number, answer=answer).record()


def answers(rows):
    return {row.number: row.messages[-1]["content"] for row in rows}


ROWS = [row(number) for number in range(1, 6)]


@pytest.fixture
def patch(tmp_path):
    return Patch.of(tmp_path / "patches" / "rows.jsonl")


def test_without_changes_the_rows_are_the_files(patch):
    assert list(patch.apply(ROWS)) == ROWS
    assert patch.changes() == (0, 0) and patch.last() == "" == patch.undo()
    assert not patch.path.read_bytes() and patch.stale(ROWS) == []


def test_rows_are_edited_excluded_and_restored(patch):
    patch.edit(ROWS[1], saying(2, "No."))
    assert patch.exclude([ROWS[3], ROWS[4]]) == 2
    assert answers(patch.apply(ROWS)) == {1: "Yes.", 2: "No.", 3: "Yes."}
    assert patch.changes() == (1, 2) and patch.last() == "2 rows excluded"
    assert [(each.number, state) for each, state in patch.marked(ROWS)] == [
        (1, ""), (2, "edited"), (3, ""), (4, "excluded"), (5, "excluded"),
    ]  # fmt: skip
    assert patch.restore([2, 4, 1]) == 2
    assert answers(Patch.of(patch.path).apply(ROWS)) == {1: "Yes.", 2: "Yes.", 3: "Yes.", 4: "Yes."}
    assert patch.restore_all() == 1 and list(patch.apply(ROWS)) == ROWS


def test_the_last_act_is_taken_back_and_then_the_one_before(patch):
    patch.edit(ROWS[0], saying(1, "No."))
    patch.exclude(ROWS)
    patch.restore_all()
    assert patch.undo() == "all rows restored" and list(patch.apply(ROWS)) == []
    assert patch.undo() == "5 rows excluded" and answers(patch.apply(ROWS))[1] == "No."
    assert patch.undo() == "1 row edited" and list(patch.apply(ROWS)) == ROWS
    assert patch.undo() == ""


def test_an_edited_row_can_be_edited_again_and_still_belongs_to_the_files(patch):
    patch.edit(ROWS[0], saying(1, "No."))
    [edited, *_] = patch.apply(ROWS)
    patch.edit(edited, saying(1, "Perhaps."))
    [edited, *_] = patch.apply(ROWS)
    assert edited.messages[-1]["content"] == "Perhaps."
    patch.exclude([edited])
    assert len(list(patch.apply(ROWS))) == 4 and patch.stale(ROWS) == []


def test_many_edits_are_one_act(patch):
    assert patch.edit_all((each, saying(each.number, "No.")) for each in ROWS) == 5
    assert set(answers(patch.apply(ROWS)).values()) == {"No."}
    assert patch.undo() == "5 rows edited" and list(patch.apply(ROWS)) == ROWS


def test_a_changed_file_drops_the_changes_to_other_rows_and_says_so(patch):
    patch.edit(ROWS[1], saying(2, "No."))
    patch.exclude([ROWS[2], ROWS[4]])
    changed = [row(1), row(2, "Something else?"), row(3)]
    assert answers(patch.apply(changed)) == {1: "Yes.", 2: "Yes."}
    [found] = patch.stale(changed)
    assert (found.rows, found.count, found.fix) == ((2, 5), 2, "restore") and "2 changes are not made" in found.text
    patch.edit(changed[1], saying(2, "Perhaps."))
    assert answers(patch.apply(changed))[2] == "Perhaps." and patch.stale(changed)[0].rows == (5,)


def test_an_edit_that_is_no_row_is_refused_and_nothing_is_written(patch):
    with pytest.raises(DataError):
        patch.edit_all([(ROWS[0], saying(1, "No.")), (ROWS[1], {"messages": [{"role": "user", "content": "Hm?"}]})])
    assert patch.changes() == (0, 0)


def test_a_torn_last_line_costs_its_own_change_alone(patch):
    patch.exclude([ROWS[0]])
    patch.exclude([ROWS[1]])
    whole = patch.path.read_bytes()
    for end in range(whole.index(b"\n") + 1, len(whole)):
        patch.path.write_bytes(whole[:end])
        assert patch.changes() == (0, 1)
    patch.exclude([ROWS[2]])
    assert [each.number for each in patch.apply(ROWS)] == [2, 4, 5]
    assert all(json.loads(line) for line in patch.path.read_text().splitlines())


def test_what_is_no_patch_is_said_with_its_line(patch):
    patch.exclude([ROWS[0]])
    with open(patch.path, "a") as file:
        file.write('{"act": "sing"}\n')
    with pytest.raises(BoardError, match=r"rows.jsonl, line 2: this is no change to a dataset"):
        list(patch.apply(ROWS))


def test_writers_at_the_same_time_lose_nothing(patch):
    rows = [row(number) for number in range(1, 81)]

    def work(part):
        for each in part:
            Patch.of(patch.path).exclude([each])

    threads = [threading.Thread(target=work, args=(rows[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert patch.changes() == (0, 80)


@given(st.lists(st.tuples(st.sampled_from(["edit", "exclude", "restore", "all", "undo"]), st.integers(0, 4))))
def test_any_history_comes_to_what_it_says(tmp_path_factory, history):
    patch = Patch.of(tmp_path_factory.mktemp("patch") / "rows.jsonl")
    states = [{}]
    for step, (act, at) in enumerate(history):
        now, number = dict(states[-1]), at + 1
        if act == "undo":
            patch.undo()
            states = states[:-1] or [{}]
            continue
        if act == "edit":
            patch.edit(ROWS[at], saying(number, f"Answer {step}."))
            now[number] = f"Answer {step}."
        elif act == "exclude":
            patch.exclude([ROWS[at]])
            now[number] = None
        elif act == "restore":
            if not patch.restore([number]):
                continue
            del now[number]
        else:
            if not patch.restore_all():
                continue
            now = {}
        states.append(now)
    expected = {number: states[-1].get(number, "Yes.") for number in range(1, 6)}
    assert answers(patch.apply(ROWS)) == {number: said for number, said in expected.items() if said}


def test_a_fingerprint_is_of_what_is_said_not_of_where():
    assert fingerprint(row(1, "A?")) == fingerprint(row(2, "A?")) != fingerprint(row(1, "B?"))
