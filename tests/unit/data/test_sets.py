"""From arguments to the rows of a run, over real files: held out, limited, repeated, mixed, read as a stream."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from data.datasets import sets, sources
from engine.contract.args import TrainArgs
from engine.contract.errors import DataError


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "datasets").mkdir()
    for name, rows in (("cats", 60), ("dogs", 20)):
        write(tmp_path, name, [f"{name} {number}" for number in range(rows)])
    return tmp_path


def write(workspace, name, questions):
    lines = (json.dumps({"prompt": question, "completion": "Yes."}) + "\n" for question in questions)
    (workspace / "datasets" / f"{name}.jsonl").write_text("".join(lines))


def read(workspace, train=("cats.jsonl", "dogs.jsonl"), **data):
    args = TrainArgs.model_validate({"data": {"train": list(train), "split": "100/0/0", **data}})
    return sets.read(args, workspace)


def asked(rows):
    return [row.messages[0]["content"] for row in rows]


def test_shares_are_held_out_over_all_datasets_together(workspace):
    found = read(workspace, split="80/10/10")
    assert [len(side) for side in (found.train, found.validation, found.test)] == [64, 8, 8]
    everything = asked(found.train) + asked(found.validation) + asked(found.test)
    assert sorted(everything) == sorted(asked(read(workspace).train)) and len(set(everything)) == 80


def test_a_question_that_two_datasets_share_is_on_one_side(workspace):
    write(workspace, "mice", [f"CATS  {number}" for number in range(60)])
    for seed in range(3):
        args = {"data": {"train": ["cats.jsonl", "mice.jsonl"], "split": "50/25/25"}, "steps": {"seed": seed}}
        found = sets.read(TrainArgs.model_validate(args), workspace)
        openings = [set(map(str.lower, map(" ".join, map(str.split, asked(side))))) for side in
                    (found.train, found.validation, found.test)]  # fmt: skip
        assert [len(side) for side in (found.train, found.validation, found.test)] == [60, 30, 30]
        assert not openings[0] & openings[1] and not openings[0] & openings[2] and not openings[1] & openings[2]


def test_nothing_held_out_is_repeated_and_no_repetition_is_held_out(workspace):
    found = read(workspace, split="90/10/0", repeat={"dogs.jsonl": 3, "cats.jsonl": 0.5}, mix="interleave", until="all")
    assert not set(asked(found.train)) & set(asked(found.validation))
    assert max(Counter(asked(found.validation)).values()) == 1 and len(found.validation) == 8
    plain = read(workspace, split="90/10/0")
    assert asked(plain.validation) == asked(found.validation)
    taken = read(workspace, split="90/10/0", repeat={"dogs": 3, "dogs.jsonl": 3, "cats.jsonl": 0.5}).train
    counts = Counter(asked(taken))
    dogs = [question for question in asked(plain.train) if question.startswith("dogs")]
    assert all(counts[question] == 3 for question in dogs)
    assert sum(question.startswith("cats") for question in counts) == round((72 - len(dogs)) / 2)


def test_limits_draw_with_the_seed_and_max_rows_takes_the_head(workspace):
    found = read(workspace, max_rows=30, limits={"cats.jsonl": 10})
    cats = [question for question in asked(found.train) if question.startswith("cats")]
    assert len(found.train) == 30 and len(cats) == 10
    assert cats != [f"cats {number}" for number in range(10)]
    assert all(int(question.split()[1]) < 30 for question in cats)
    assert asked(read(workspace, max_rows=30, limits={"cats.jsonl": 10}).train) == asked(found.train)


def test_weights_interleave_until_the_first_is_through(workspace):
    found = asked(read(workspace, mix="interleave", weights={"cats.jsonl": 2}).train)
    assert found[:6] == ["cats 0", "cats 1", "dogs 0", "cats 2", "cats 3", "dogs 1"]
    assert len(found) == 60 and found.count("dogs 19") == 1


def test_validation_datasets_stand_alone_and_the_test_share_is_still_held_out(workspace):
    found = read(workspace, train=["cats.jsonl"], validation=["dogs.jsonl"], split="80/10/10", repeat={"cats.jsonl": 2})
    assert asked(found.validation) == [f"dogs {number}" for number in range(20)]
    assert (len(found.train), len(found.test)) == (108, 6)
    assert asked(read(workspace, ["cats.jsonl"], validation=["dogs.jsonl"], limits={"dogs.jsonl": 5}).validation) != []
    assert len(read(workspace, ["cats.jsonl"], validation=["dogs.jsonl"], limits={"dogs.jsonl": 5}).validation) == 5


def test_large_files_give_the_same_rows_as_small_ones_without_being_held(workspace, monkeypatch):
    options = {"split": "70/20/10", "repeat": {"dogs.jsonl": 2.5}, "limits": {"cats.jsonl": 50}, "mix": "interleave",
               "until": "all", "weights": {"dogs.jsonl": 3}}  # fmt: skip
    small = read(workspace, **options)
    for room in (0, (workspace / "datasets" / "dogs.jsonl").stat().st_size):
        monkeypatch.setattr(sources, "IN_MEMORY", room)
        large = read(workspace, **options)
        assert isinstance(large.train, sources.Drawn) and isinstance(small.train, list)
        for side in ("train", "validation", "test"):
            one, other = getattr(small, side), getattr(large, side)
            assert len(one) == len(other) and asked(one) == asked(other) == asked(other)
            assert asked(one[::7]) == asked(other[::7]) and asked(one[3:5]) == asked(other[3:5])
            assert one[-1] == other[-1] and one[0] == other[0]
        with pytest.raises(IndexError):
            large.train[len(large.train)]


def test_a_file_that_shrinks_while_it_is_read_is_said(workspace, monkeypatch):
    monkeypatch.setattr(sources, "IN_MEMORY", 0)
    found = read(workspace)
    write(workspace, "dogs", ["only one"])
    with pytest.raises(DataError, match=r"dogs.jsonl: the file has become shorter.*Start again"):
        list(found.train)


def test_a_changed_file_is_read_again(workspace):
    assert len(read(workspace).train) == 80
    write(workspace, "dogs", ["only one"])
    assert len(read(workspace).train) == 61


def test_rows_that_cannot_be_read_stop_or_are_left_out(workspace):
    file = workspace / "datasets" / "dogs.jsonl"
    file.write_text(file.read_text() + json.dumps({"prompt": "dogs 20", "completion": ""}) + "\n")
    with pytest.raises(DataError, match="dogs.jsonl"):
        read(workspace)
    assert len(read(workspace, bad_rows="skip").train) == 80


def test_names_that_are_no_chosen_dataset_are_problems_at_their_field():
    def said(**data):
        args = TrainArgs.model_validate({"data": {"train": ["cats", "dogs/train.jsonl"], **data}})
        return {problem.path: problem.text for problem in sets.problems(args)}

    assert said(weights={"cats": 1}, mix="interleave", repeat={"train.jsonl": 2}, limits={"dogs/train.jsonl": 5}) == {}
    assert "mice is no dataset of this run, so it cannot be repeated." in said(repeat={"mice": 2})["data.repeat"]
    assert "Those chosen are cats, dogs/train.jsonl." in said(limits={"mice": 2})["data.limits"]
    assert (
        "only measures, so it is not mixed"
        in said(validation=["mice"], mix="interleave", weights={"mice": 2})["data.weights"]
    )
    assert said(validation=["mice"], limits={"mice": 2}) == {}
    assert "Set data.mix to interleave" in said(weights={"cats": 2})["data.weights"]
    assert "cats is named more than once. To take its rows twice" in said(train=["cats", "cats"])["data.train"]


def test_a_share_of_the_rows_that_is_none_is_a_sentence(workspace):
    with pytest.raises(DataError, match="no row is left to train on"):
        read(workspace, repeat={"cats.jsonl": 0.001, "dogs.jsonl": 0.001})


@pytest.mark.parametrize(("share", "general"), [(0.1, 9), (0.25, 27), (0.6, 120)])
def test_general_rows_make_their_share_spread_evenly_and_are_repeated_where_there_are_few(workspace, share, general):
    write(workspace, "chat", [f"chat {number}" for number in range(50)])
    task = {"general": ["chat.jsonl"], "general_share": share}
    args = TrainArgs.model_validate({"data": {"train": ["cats.jsonl", "dogs.jsonl"], "split": "100/0/0"}, "task": task})
    found = asked(sets.read(args, workspace).train)
    counts = Counter(question for question in found if question.startswith("chat"))
    assert len(found) == 80 + general and sum(counts.values()) == general
    assert max(counts.values()) == -(-general // 50)  # each once before any twice
    places = [place for place, question in enumerate(found) if question.startswith("chat")]
    gaps = [after - before for before, after in zip(places, places[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 1 + (share > 0.5)


def test_a_general_dataset_that_is_trained_on_already_is_a_problem(workspace):
    args = {"data": {"train": ["cats"]}, "task": {"general": ["cats"]}}
    [problem] = sets.problems(TrainArgs.model_validate(args))
    assert (problem.path, problem.text[:52]) == ("task.general", "cats is chosen under Data already, so it is nothing ")
