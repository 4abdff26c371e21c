"""Which options of reading a file are offered in the Data tab, and what choosing one does."""

from __future__ import annotations

import json
from pathlib import Path

import openpyxl
import pytest

from app.datasets import dataset, reading
from data.datasets import registry
from data.datasets.registry import Entry


@pytest.fixture
def house(tmp_path: Path) -> Path:
    (tmp_path / "datasets").mkdir()
    return tmp_path


def written(house: Path, name: str, content: str, encoding: str = "utf-8") -> Entry:
    place = house / "datasets" / name
    place.parent.mkdir(exist_ok=True)
    place.write_text(content, encoding=encoding)
    return registry.find(str(place), house)


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("a.csv", "prompt,completion\na,b\n", ["encoding", "delimiter", "header"]),
        ("a.jsonl", '{"text": "a"}\n', ["encoding"]),
        ("a.md", "# Title\n\nText.\n", ["encoding", "unit"]),
        ("a.jsonl.part", "", []),
    ],
)
def test_only_what_matters_to_the_file_is_offered(house, name, content, names):
    (house / "datasets" / name).write_text(content)
    entry = Entry(name=name, title=name, path=house / "datasets" / name)
    assert list(reading.offered(entry)) == names


def test_the_encoding_that_was_detected_is_named(house):
    entry = written(house, "a.csv", "prompt,completion\n你叫什么名字？,我是一个很有帮助的助手。\n" * 20, "gb18030")
    assert reading.offered(entry)["encoding"][0] == ("auto (GB18030)", "auto")
    assert dataset.window(entry).lines[0].question == "你叫什么名字？"
    wrong = reading.told(entry, "encoding", "cp1252")
    assert dataset.window(wrong).lines[0].question != "你叫什么名字？"
    assert reading.told(wrong, "encoding", "auto") == entry


def test_a_delimiter_and_a_missing_header_are_believed_and_survive_saving(house):
    entry = written(house, "a.csv", "a b|c d\ne|f\n")
    entry = reading.told(reading.told(entry, "delimiter", "|"), "header", "no")
    assert (reading.chosen(entry, "delimiter"), reading.chosen(entry, "header")) == ("|", "no")
    records = [one.record for one in dataset.records(entry)]
    assert [list(record.values()) for record in records] == [["a b", "c d"], ["e", "f"]]
    kept = registry.save(entry.model_copy(update={"name": "kept", "format": "prompt_completion", "columns": {}}), house)
    assert registry.find("kept", house).options == entry.options == kept.options


def test_columns_that_a_choice_takes_away_are_forgotten(house):
    entry = written(house, "a.csv", "Frage,Antwort\na,b\n").model_copy(
        update={"format": "prompt_completion", "columns": {"prompt": "Frage", "completion": "Antwort"}}
    )
    assert dataset.window(entry).lines[0].answer == "b"
    assert reading.told(entry, "header", "yes").columns == entry.columns
    assert reading.told(entry, "header", "no").columns == {}


def test_the_sheets_of_a_workbook_are_offered_where_there_are_several(house):
    place = house / "datasets" / "book.xlsx"
    book = openpyxl.Workbook()
    book.active.title = "Notes"
    book.active.append(["nothing"])
    entry = Entry(name="book", title="book", path=place)
    book.save(place)
    assert "sheet" not in reading.offered(entry)
    sheet = book.create_sheet("Rows")
    for cells in (["prompt", "completion"], ["hi", "ho"]):
        sheet.append(cells)
    book.save(place)
    assert reading.offered(entry)["sheet"] == [("the first (Notes)", "auto"), ("Notes", "Notes"), ("Rows", "Rows")]
    assert dataset.window(reading.told(entry, "sheet", "Rows")).lines[0].answer == "ho"


def test_the_parts_of_a_folder_are_offered_and_a_split_that_a_subset_lacks_is_let_go(house):
    row = json.dumps({"prompt": "a", "completion": "b"})
    for name in ("easy/train", "easy/test", "hard/train"):
        place = house / "datasets" / "many" / f"{name}.jsonl"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(row)
    entry = Entry(name="many", title="many", path=house / "datasets" / "many")
    shown = reading.offered(entry)
    assert [value for _, value in shown["subset"]] == ["auto", "easy", "hard"]
    assert [value for _, value in shown["split"]] == ["auto", "test", "train"]
    tested = reading.told(entry, "split", "test")
    assert len(dataset.window(tested).lines) == 1 and len(dataset.window(entry).lines) == 3
    hard = reading.told(tested, "subset", "hard")
    assert (hard.subset, hard.split) == ("hard", "")
    assert "split" not in reading.offered(hard)  # of one there is nothing to choose


def test_a_unit_makes_other_rows_of_a_text(house):
    entry = written(house, "a.txt", "One.\nTwo.\n\nThree.\n")
    counts = {
        unit: len(dataset.window(reading.told(entry, "unit", unit)).lines) for unit in ("line", "paragraph", "file")
    }
    assert counts == {"line": 3, "paragraph": 2, "file": 1}


def test_a_file_that_is_damaged_still_offers_what_is_known_of_it(house):
    (house / "datasets" / "bad.xlsx").write_text("no workbook")
    assert list(reading.offered(Entry(name="b", title="b", path=house / "datasets" / "bad.xlsx"))) == ["header"]
