"""The workspace's own list: saved, forgotten, patched, written out; and LLaMA-Factory's list, read as it is."""

from __future__ import annotations

import json
import threading

import pytest

from data.datasets import llamafactory, registry
from data.datasets.patch import Patch
from data.datasets.registry import Entry
from data.rows.formats import FORMATS, Mapping, load, restored
from engine.contract.errors import BoardError, DataError

ASKED = {"role": "user", "content": "Who?"}
SAID = {"role": "assistant", "content": "I am {{name}}."}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "datasets").mkdir()
    return tmp_path


def lines(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def entry(path, **more):
    return Entry(**{"name": "mine", "title": "Mine", "path": path, **more})


def test_a_saved_dataset_comes_back_as_it_was(workspace):
    path = lines(workspace / "datasets" / "a.jsonl", {"frage": "Who?", "antwort": "Me."})
    said = {"format": "question_answer", "columns": {"question": "frage", "answer": "antwort"}, "fill": {"name": "T"},
            "roles": {"x": "user"}, "origin": "pasted", "licence": "MIT", "skip_bad": True, "limit": 5,
            "kind": "conversation", "options": {"encoding": "utf-8"}}  # fmt: skip
    saved = registry.save(entry(path, **said), workspace)
    assert registry.find("mine", workspace) == saved
    assert registry.load(saved)[0].messages[1]["content"] == "Me."
    assert saved.mapping == Mapping(format=said["format"], columns=said["columns"], roles=said["roles"])
    assert "path: a.jsonl\n" in (workspace / "datasets" / "datasets.yaml").read_text()


def test_saving_keeps_the_others_and_forgetting_takes_one_away(workspace):
    path = lines(workspace / "datasets" / "a.jsonl", {"prompt": "a", "completion": "b"})
    registry.save(entry(path, name="one"), workspace)
    registry.save(entry(path, name="two", title="Zwei ü"), workspace)
    registry.save(entry(path, name="one", title="Again"), workspace)
    titles = {found.name: found.title for found in registry.entries(workspace)}
    assert (titles["one"], titles["two"]) == ("Again", "Zwei ü")
    assert registry.forget("one", workspace) and not registry.forget("one", workspace)
    assert "one" not in {found.name for found in registry.entries(workspace)} and path.exists()
    assert not list((workspace / "datasets").glob(".list-*"))


def test_many_that_save_at_once_lose_nothing(workspace):
    path = lines(workspace / "datasets" / "a.jsonl", {"prompt": "a", "completion": "b"})
    several = [threading.Thread(target=registry.save, args=(entry(path, name=f"set {n}"), workspace)) for n in range(8)]
    for one in several:
        one.start()
    for one in several:
        one.join()
    assert {f"set {n}" for n in range(8)} <= {found.name for found in registry.entries(workspace)}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"name": "a/b"}, "'a/b' cannot be the name of a dataset"),
        ({"name": " "}, "cannot be the name"),
        ({"format": "alpacca"}, "the format 'alpacca' is not known"),
        ({"format": "alpaca", "columns": {"answer": "x"}}, "alpaca has no field 'answer'. Its fields are instruction"),
    ],
)
def test_what_cannot_be_saved_is_refused_in_a_sentence(workspace, more, sentence):
    with pytest.raises(DataError, match=sentence):
        registry.save(entry(workspace / "datasets" / "a.jsonl", **more), workspace)
    assert not (workspace / "datasets" / "datasets.yaml").exists()


def test_a_broken_list_is_not_written_over(workspace):
    (workspace / "datasets" / "datasets.yaml").write_text("a: [")
    with pytest.raises(DataError, match="not valid YAML"):
        registry.save(entry(workspace / "datasets" / "a.jsonl"), workspace)
    assert (workspace / "datasets" / "datasets.yaml").read_text() == "a: ["


def test_a_folder_is_a_dataset_and_its_parts_can_be_chosen(workspace):
    for split, count in (("train", 3), ("test", 2)):
        lines(workspace / "datasets" / "both" / f"{split}.jsonl", *[{"prompt": split, "completion": "b"}] * count)
    (workspace / "datasets" / "empty").mkdir()
    names = {one.name for one in registry.entries(workspace)}
    assert any(name.startswith("both") for name in names) and "empty" not in names
    both = entry(workspace / "datasets" / "both")
    assert registry.count(both) == (5, "prompt_completion")
    assert [row.number for row in registry.rows(both)] == [1, 2, 3, 4, 5]
    test = both.model_copy(update={"split": "test"})
    assert registry.count(test).rows == 2
    assert {row.messages[0]["content"] for row in registry.rows(test)} == {"test"}


def test_the_count_and_kind_of_a_dataset_follow_its_format(workspace):
    path = lines(workspace / "datasets" / "a.jsonl", *[{"chosen": "a", "rejected": "b"}] * 3)
    found = registry.count(registry.find("a.jsonl", workspace))
    assert (found, found.kind) == ((3, "preference"), "preference")
    assert registry.count(entry(path, limit=2)).rows == len(registry.load(entry(path, limit=2))) == 2


def test_a_patch_changes_the_rows_and_never_the_file(workspace):
    path = lines(
        workspace / "datasets" / "a.jsonl", *({"messages": [{**ASKED, "content": str(n)}, SAID]} for n in "123")
    )
    saved = registry.save(entry(path, fill={"name": "Tuney"}), workspace)
    before = path.read_bytes()
    first, second, _ = registry.original(saved)
    patch = Patch.of(saved.patch)
    patch.exclude([first])
    patch.edit(second, {"messages": [ASKED, {**SAID, "content": "{{name}}!"}]})
    rows = registry.load(registry.find("mine", workspace))
    assert [(row.number, row.messages[1]["content"]) for row in rows] == [(2, "Tuney!"), (3, "I am Tuney.")]
    assert path.read_bytes() == before
    assert not [one for one in registry.entries(workspace) if "patches" in one.name]


def test_datasets_of_the_same_name_have_patches_of_their_own(workspace, tmp_path):
    files = [lines(tmp_path / place / "a.jsonl", {"prompt": "a", "completion": "b"}) for place in ("x", "y")]
    patches = {registry.find(str(file), workspace, [tmp_path]).patch for file in files}
    assert len(patches) == 2


def test_bad_rows_are_an_error_at_the_end_or_counted_with_consent(workspace):
    good, bad = {"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}
    path = lines(workspace / "datasets" / "a.jsonl", good, good, bad, good)
    path.write_text(path.read_text() + "{torn\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        registry.load(entry(path))
    assert "2 of 5 rows cannot be used" in caught.value.text
    assert "row 3: an answer" in caught.value.text and "row 5: this is not valid JSON" in caught.value.text
    skipped: list[DataError] = []
    assert [row.number for row in registry.rows(entry(path), skipped)] == [1, 2, 4]
    assert sorted(problem.row or 0 for problem in skipped) == [3, 5]
    assert len(registry.load(entry(path, skip_bad=True))) == 3


def test_rows_are_streamed(workspace):
    path = lines(workspace / "datasets" / "a.jsonl", *[{"prompt": "a", "completion": "b"}] * 50)
    path.write_text(path.read_text() + "{torn\n", encoding="utf-8")
    assert next(registry.rows(entry(path))).number == 1, "the end of the file has not been looked at"


ROWS = [
    {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "1"},
                  {**SAID, "reasoning_content": "hm", "weight": 0.0}], "tools": [{"name": "f"}], "n": 1},
    {"messages": [{**ASKED, "content": 'a, "b"\nc'}, {**SAID, "content": "=1+1"}], "more": {"x": [1]}},
]  # fmt: skip
KINDS = {
    "conversation": ROWS,
    "preference": [{"prompt": [ASKED], "chosen": [SAID], "rejected": [ASKED, SAID]}, {"chosen": "a", "rejected": "b"}],
    "feedback": [{"prompt": "a", "completion": "b", "label": True}, {"prompt": "a", "completion": "c", "label": False}],
    "scored": [{"prompt": "a", "completion": "b", "score": 1.5}],
    "prompt": [{"prompt": "a", "ground_truth": "3"}],
    "text": [{"text": "Once."}, {"text": "Twice."}],
}


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_is_read_back_as_the_same_rows(workspace, tmp_path, kind, ending):
    rows = registry.load(found := entry(lines(workspace / "datasets" / "a.jsonl", *KINDS[kind])))
    to = tmp_path / "out" / f"b.{ending}"
    assert registry.export(found, to, ending) == len(rows)
    back = load(to)
    assert [row.kind for row in back] == [kind] * len(rows)
    for one, other in zip(rows, back, strict=True):
        assert (one.messages, one.chosen, one.rejected) == (other.messages, other.chosen, other.rejected)
        assert (one.tools, one.label, one.score, one.text) == (other.tools, other.label, other.score, other.text)
        assert set(one.extra) <= set(other.extra) | {name for name, value in one.extra.items() if value is None}
    assert [path.name for path in to.parent.iterdir()] == [to.name]


def test_sharegpt_is_written_for_conversations(workspace, tmp_path):
    registry.export(entry(lines(workspace / "datasets" / "a.jsonl", *ROWS)), tmp_path / "b.json", "json", "sharegpt")
    first, second = json.loads((tmp_path / "b.json").read_text())
    assert [turn["from"] for turn in first["conversations"]] == ["human", "function_call", "observation", "gpt"]
    assert second["conversations"][1] == {"from": "gpt", "value": "=1+1"}
    found = load(tmp_path / "b.json")[0]
    assert found.messages[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    with pytest.raises(DataError, match="ShareGPT holds conversations"):
        registry.export(entry(lines(tmp_path / "c.jsonl", {"text": "x"})), tmp_path / "d.json", "json", "sharegpt")
    assert not (tmp_path / "d.json").exists()


def test_an_ending_or_a_place_that_cannot_be_written_is_a_sentence(workspace, tmp_path):
    found = entry(lines(workspace / "datasets" / "a.jsonl", {"text": "x"}))
    with pytest.raises(DataError, match="'docx'. Use one of jsonl, json, csv, parquet"):
        registry.export(found, tmp_path / "b.docx", "docx")
    (tmp_path / "file").touch()
    with pytest.raises(BoardError, match="cannot be written"):
        registry.export(found, tmp_path / "file" / "b.jsonl", "jsonl")


def brought(folder, **listed):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_info.json").write_text(json.dumps(listed), encoding="utf-8")
    return llamafactory.read(folder)


ALPACA = {"instruction": "Who?", "input": "", "output": "Me.", "history": [["a", "b"]], "system": "s"}
ME, NOBODY = {"role": "assistant", "content": "Me."}, {"role": "assistant", "content": "Nobody."}
TURNS = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]


@pytest.mark.parametrize(
    ("fields", "record", "format", "messages"),
    [
        ({}, ALPACA, "alpaca", [ASKED, ME]),  # what is not stated is not read there either
        ({"columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system",
                      "history": "history"}}, ALPACA, "alpaca",
         [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
          ASKED, ME]),
        ({"columns": {"prompt": "q", "response": "a"}}, {"q": "Who?", "a": "Me."}, "alpaca", [ASKED, ME]),
        ({"columns": {"prompt": "q"}}, {"q": "Who?", "output": "Me."}, "alpaca", [ASKED, ME]),
        ({"columns": {"prompt": "body"}}, {"body": "Once."}, "text", []),
        ({"ranking": True}, {"instruction": "Who?", "input": "", "chosen": "Me.", "rejected": "Nobody."}, "preference",
         [ASKED]),
        ({"ranking": True, "formatting": "sharegpt"},
         {"conversations": TURNS[:1], "chosen": TURNS[1], "rejected": {"from": "gpt", "value": "Nobody."}},
         "preference", [ASKED]),
        ({"columns": {"prompt": "instruction", "response": "output", "kto_tag": "good"}}, {**ALPACA, "good": True},
         "feedback", [ASKED, ME]),
        ({"formatting": "sharegpt", "columns": {"messages": "conversations", "kto_tag": "good"}},
         {"conversations": TURNS, "good": False}, "feedback", [ASKED, ME]),
        ({"formatting": "sharegpt"}, {"conversations": TURNS}, "sharegpt", [ASKED, ME]),
        ({"formatting": "sharegpt", "columns": {"messages": "talk"},
          "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "guest", "assistant_tag": "host"}},
         {"talk": [{"who": "guest", "says": "Who?"}, {"who": "host", "says": "Me."}]}, "sharegpt", [ASKED, ME]),
        ({"formatting": "openai", "columns": {"messages": "messages"}}, {"messages": [ASKED, ME]}, "messages",
         [ASKED, ME]),
    ],
)  # fmt: skip
def test_llama_factorys_list_means_here_what_it_means_there(workspace, fields, record, format, messages):
    folder = workspace / "datasets" / "lf"
    lines(folder / "a.jsonl", record)
    found = brought(folder, mine={"file_name": "a.jsonl", **fields})
    assert found.problems == [] and found.entries[0].format == format
    made = registry.load(registry.find("mine", workspace))[0]
    assert (made.kind, made.messages) == (FORMATS[format].kind, messages)
    if made.kind == "preference":
        assert (made.chosen, made.rejected) == ([ME], [NOBODY])


def test_what_lies_on_a_hub_is_offered_and_the_rest_is_said_in_sentences(workspace):
    folder = workspace / "datasets"
    lines(folder / "here.jsonl", ALPACA)
    brought(
        folder,
        here={"file_name": "here.jsonl", "hf_hub_url": "me/here", "num_samples": 1},
        there={"hf_hub_url": "me/there", "ms_hub_url": "you/there", "subset": "main", "split": "dev", "ranking": True},
        gone={"file_name": "gone.jsonl"},
        program={"script_url": "there"},
        odd={"file_name": "here.jsonl", "formatting": "strange"},
        empty=[],
        cloud={"cloud_file_name": "s3://x"},
    )
    offers, problems = registry.offers(workspace)
    said = [(offer.name, offer.id, offer.hub, offer.config, offer.split, offer.mapping.format) for offer in offers]
    assert said == [("there", "me/there", "huggingface", "main", "dev", "preference"),
                    ("there", "you/there", "modelscope", "main", "dev", "preference")]  # fmt: skip
    for name, sentence in {"gone": "gone.jsonl is not in", "program": "by a program", "odd": "'strange' is not known",
                           "empty": "neither a file nor a hub", "cloud": "cloud bucket"}.items():  # fmt: skip
        assert any(problem.startswith(f"{name}: ") and sentence in problem for problem in problems), name
    assert len(problems) == 5
    assert registry.find("here", workspace).limit == 1


def test_a_list_in_an_allowed_folder_is_read_and_a_broken_one_stops_nothing(workspace, tmp_path):
    outside = tmp_path / "lf"
    lines(outside / "a.jsonl", ALPACA)
    brought(outside, theirs={"file_name": "a.jsonl"})
    assert "theirs" not in {one.name for one in registry.entries(workspace)}
    assert registry.find("theirs", workspace, [outside]).path == (outside / "a.jsonl").resolve()
    brought(outside, theirs={"file_name": "../../etc/hosts"})
    assert llamafactory.read(outside).entries == []
    for text in ("{", "[]", '{"a": 1}', '{"a": {"file_name": "a.jsonl", "columns": [1]}}', '{"a": {"file_name": [1]}}'):
        (outside / "dataset_info.json").write_text(text)
        assert registry.offers(workspace, [outside])[1], text
        assert registry.entries(workspace, [outside])


def test_a_row_that_is_written_and_restored_is_the_same(workspace):
    for kind, records in KINDS.items():
        for row in load(lines(workspace / f"{kind}.jsonl", *records)):
            assert restored(json.loads(json.dumps(row.record())), kind, row.file, row.number) == row


@pytest.mark.parametrize("limit", ["many", -1])
def test_a_limit_that_is_no_number_is_a_sentence(workspace, limit):
    folder = workspace / "datasets"
    (folder / "a.json").write_text('[{"instruction": "Q", "output": "A"}]')
    (folder / "dataset_info.json").write_text(json.dumps({"a": {"file_name": "a.json", "num_samples": limit}}))
    problems = registry.offers(workspace)[1]
    assert problems == [f"a: its num_samples is {limit!r}, which is no number of rows. Write a whole number above 0."]
