"""Records out of files of every kind: what is read, in which order, and what is said of what cannot be."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow
import pytest
from pyarrow import ipc, parquet

from data.reading.files import count, is_readable, parts_of, read, stamp
from engine.contract.errors import DataError
from tests.written import as_lines, records, workbook

RECORDS = [{"prompt": "a, b", "completion": "一"}, {"prompt": "c\nd", "completion": "2"}]


def test_reads_every_kind_of_file_alike(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(as_lines(RECORDS))
    (tmp_path / "a.json").write_text(json.dumps(RECORDS), encoding="utf-8")
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, RECORDS)), encoding="utf-8")
    (tmp_path / "list.jsonl").write_text(json.dumps(RECORDS, indent=1), encoding="utf-8")
    (tmp_path / "wrapped.json").write_text(json.dumps({"version": 1, "data": RECORDS}), encoding="utf-8")
    (tmp_path / "a.csv").write_text('\ufeffprompt,completion\n"a, b",一\n"c\nd",2\n', encoding="utf-8")
    (tmp_path / "a.tsv").write_text('prompt\tcompletion\na, b\t一\n"c\nd"\t2\n', encoding="utf-8")
    table = pyarrow.Table.from_pylist(RECORDS)
    parquet.write_table(table, tmp_path / "a.parquet")
    with ipc.new_file(tmp_path / "file.arrow", table.schema) as file:
        file.write_table(table)
    with ipc.new_stream(tmp_path / "stream.arrow", table.schema) as stream:
        stream.write_table(table)
    workbook(tmp_path / "a.xlsx", ["prompt", "completion"], ["a, b", "一"], ["c\nd", "2"])
    lines = as_lines(RECORDS)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(lines))
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(lines))
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    with pyarrow.CompressedOutputStream(str(tmp_path / "a.jsonl.zst"), "zstd") as packed:
        packed.write(lines)
    for path in sorted(tmp_path.iterdir()):
        assert list(read(path)) == [(1, RECORDS[0], str(path)), (2, RECORDS[1], str(path))], path.name
        assert count(path) == 2, path.name


def test_row_numbers_of_json_lines_are_line_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"a": 1}\n\n{"a": 2}\n', encoding="utf-8")
    assert list(read(path)) == [(1, {"a": 1}, str(path)), (3, {"a": 2}, str(path))]


@pytest.mark.parametrize(
    ("name", "content", "row", "text"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', 2, "not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n[1, 2]\n', 2, "must be a JSON object, not [1, 2]"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', 2, "not UTF-8 (byte 0xe9"),
        ("a.jsonl", "{}".encode("utf-16") + b"!", 1, "not UTF-16"),
        ("a.jsonl", b"[" * 100_000, 1, "nested too deeply"),
        ("a.jsonl", b'{"a": ' + b"[" * 100_000, 1, "nested too deeply"),
        ("a.jsonl", b"", None, "holds no rows"),
        ("a.json", b" \n", None, "holds no rows"),
        ("a.json", b"[]", None, "holds no rows"),
        ("a.json", b'[{"a": 1}, 2]', 2, "must be a JSON object, not 2"),
        ("a.json", b'{"a": 1}\n{"a": 2', 2, "not valid JSON"),
        ("a.json", b'[{"a": 1},', 2, "not valid JSON"),
        ("a.json", b'"text"', None, "must hold a list"),
        ("a.csv", b"a,b\n", None, "holds no rows"),
        ("a.csv", b"a,a\n1,2\n", None, "two columns have the same name"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", 2, "3 cells, the header 2"),
        ("a.csv", b'a,b\n"1\n1",2\n1,\xff\n', 2, "not UTF-8"),
        ("a.csv", b"\xff,b\n1,2\n", None, "not UTF-8"),
        ("a.parquet", b"no parquet", None, "not a Parquet file"),
        ("a.arrow", b"no arrow", None, "not an Arrow file"),
        ("a.docx", b"text", None, "'.docx' files are not read"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_with_its_row_and_a_way_out(tmp_path, name, content, row, text):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read(path))
    assert text in caught.value.text and name in caught.value.text
    assert caught.value.row == row
    assert caught.value.hint


def test_a_missing_file_and_an_empty_folder_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        list(read(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="folder holds no file with rows"):
        list(read(tmp_path))


def test_a_long_list_is_the_same_wherever_the_pieces_end(tmp_path, monkeypatch):
    rows = [{"n": n, "text": "é\\" * (n % 7), "deep": [{"a": [n]}], "e": 1e10} for n in range(50)]
    for piece in (1, 2, 3, 7, 64):
        monkeypatch.setattr("data.reading.jsons.PIECE", piece)
        for form in (json.dumps(rows), json.dumps(rows, indent=2), json.dumps({"v": [1], "data": rows, "x": 1})):
            (tmp_path / "a.json").write_text(form, encoding="utf-8")
            assert records(tmp_path / "a.json") == rows, piece
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        assert records(tmp_path / "a.jsonl") == rows, piece


def test_objects_one_after_the_other_are_rows(tmp_path):
    (tmp_path / "a.json").write_text("\n".join(json.dumps(row, indent=1) for row in RECORDS), encoding="utf-8")
    assert records(tmp_path / "a.json") == RECORDS
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, indent=1) for row in RECORDS), encoding="utf-8")
    assert records(tmp_path / "a.jsonl") == RECORDS
    (tmp_path / "one.json").write_text(json.dumps({"prompt": "a", "data": [1, 2]}), encoding="utf-8")
    assert records(tmp_path / "one.json") == [{"prompt": "a", "data": [1, 2]}]


def test_a_wrapper_too_long_to_be_a_row_is_entered(tmp_path, monkeypatch):
    monkeypatch.setattr("data.reading.jsons.PIECE", 100)
    monkeypatch.setattr("data.reading.jsons.WHOLE", 1000)
    rows = [{"n": n} for n in range(1000)]
    (tmp_path / "a.json").write_text(json.dumps({"about": {"a": 1}, "rows": rows, "more": 1}), encoding="utf-8")
    assert records(tmp_path / "a.json") == rows


def test_what_json_does_not_have_is_read_as_missing(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": NaN, "b": -Infinity, "a": NaN, "c": 1}', encoding="utf-8")
    assert records(tmp_path / "a.jsonl") == [{"a": None, "b": None, "c": 1}]


def test_with_consent_bad_rows_are_counted_and_the_others_keep_their_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n[1]\n{"a": "\xff"}\n{"a": "\\ud800"}\n{"a": 6}\n')
    skipped: list[DataError] = []
    assert [(found.number, found.record) for found in read(path, skipped)] == [(1, {"a": 1}), (6, {"a": 6})]
    assert [error.row for error in skipped] == [2, 3, 4, 5]
    assert count(path) == 6  # lines are counted, not parsed


@pytest.mark.parametrize("indent", [None, 1])
def test_a_broken_row_of_a_list_costs_that_row_alone_where_rows_begin_lines(tmp_path, indent):
    rows = [json.dumps({"a": n, "b": [{"c": 1}]}, indent=indent) for n in range(5)]
    rows[2] = rows[2].replace(":", "", 1)
    path = tmp_path / "a.json"
    path.write_text("[\n" + ",\n".join(rows) + "\n]", encoding="utf-8")
    skipped: list[DataError] = []
    assert [found.record["a"] for found in read(path, skipped)] == [0, 1, 3, 4]
    assert [error.row for error in skipped] == [3]


def test_two_faults_in_a_list_cost_two_rows(tmp_path):
    rows = [json.dumps({"a": n}) for n in range(8)]
    rows[4] = '{"a" 4}'
    written = "[\n" + ",\n".join(rows) + "\n]"
    (tmp_path / "a.json").write_text(written.replace("1},", "1}"), encoding="utf-8")
    skipped: list[DataError] = []
    found = [(found.number, found.record["a"]) for found in read(tmp_path / "a.json", skipped)]
    assert found == [(n + 1, n) for n in (0, 1, 3, 5, 6, 7)] and [error.row for error in skipped] == [3, 5]
    assert "a comma is missing" in skipped[0].text and "Expecting ':' delimiter near" in skipped[1].text


def test_when_nothing_can_be_read_consent_does_not_help(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a\n[]\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl, row 1: this is not valid JSON"):
        list(read(tmp_path / "a.jsonl", []))


def test_too_many_bad_rows_end_the_reading(tmp_path, monkeypatch):
    monkeypatch.setattr("data.reading.raw.MOST_SKIPPED", 5)
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + "?\n" * 9, encoding="utf-8")
    with pytest.raises(DataError, match="more than 5 rows"):
        list(read(tmp_path / "a.jsonl", []))


def test_a_row_longer_than_the_limit_is_refused_and_one_below_is_fine(tmp_path, monkeypatch):
    long = [{"a": "x" * 3000}, {"a": "y" * 900}]
    (tmp_path / "fine.jsonl").write_bytes(as_lines([{"a": "x" * 5_000_000}]))
    assert len(records(tmp_path / "fine.jsonl")[0]["a"]) == 5_000_000
    for module in ("raw", "jsons", "tables", "prose"):
        monkeypatch.setattr(f"data.reading.{module}.ROW_LIMIT", 1000)
    monkeypatch.setattr("data.reading.jsons.PIECE", 100)
    (tmp_path / "a.jsonl").write_bytes(as_lines(long))
    (tmp_path / "a.json").write_text("[\n" + ",\n".join(map(json.dumps, long)) + "]", encoding="utf-8")
    (tmp_path / "a.csv").write_text(f"a,b\n{'x' * 3000},1\n{'y' * 900},2\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text(f"{'x' * 3000}.\n{'y' * 900}.\n", encoding="utf-8")
    for path in sorted(tmp_path.glob("a.*")):
        skipped: list[DataError] = []
        assert [found.number for found in read(path, skipped)] == [2], path.name
        assert [error.row for error in skipped] == [1] and "longer than" in skipped[0].text


def test_a_quotation_mark_that_is_never_closed_does_not_swallow_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("data.reading.tables.ROW_LIMIT", 1000)
    (tmp_path / "a.csv").write_text('a,b\n1,2\n"3,4\n' + "5,6\n" * 1000, encoding="utf-8")
    with pytest.raises(DataError, match="row 2: .*quotation mark|row 2: .*field limit"):
        records(tmp_path / "a.csv")


# Folders and archives


def filled(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    for shard, rows in (("2", RECORDS[1:]), ("10", RECORDS)):
        (folder / "data" / f"part-{shard}.jsonl").write_bytes(as_lines(rows))
    for name in ("README.md", "LICENSE", "dataset_info.json", "notes.txt", ".hidden.jsonl", "picture.png"):
        (folder / name).write_bytes(b"no rows")
    return folder


def test_a_folder_and_its_archives_read_alike(tmp_path):
    folder = filled(tmp_path / "set")
    wanted = [(1, RECORDS[1], "part-2.jsonl"), (2, RECORDS[0], "part-10.jsonl"), (3, RECORDS[1], "part-10.jsonl")]
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    for ending in ("tar", "tar.gz", "tgz", "tar.xz", "tar.bz2"):
        mode = {"tar": "w", "tgz": "w:gz"}.get(ending, f"w:{ending.removeprefix('tar.')}")
        with tarfile.open(tmp_path / f"set.{ending}", mode) as archive:
            for shard in ("2", "10"):
                archive.add(folder / "data" / f"part-{shard}.jsonl", f"data/part-{shard}.jsonl")
            archive.add(folder / "README.md", "README.md")
    for path in sorted(tmp_path.iterdir()):
        found = [(number, record, Path(file).name) for number, record, file in read(path)]
        assert found == wanted, path.name
        assert count(path) == 3 and is_readable(path)
    assert [Path(found.file) for found in read(folder)][0] == folder / "data" / "part-2.jsonl"


def test_a_broken_member_is_named_with_its_own_row(tmp_path):
    folder = filled(tmp_path / "set")
    (folder / "data" / "part-3.jsonl").write_text('{"a": 1}\n?\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"part-3\.jsonl, row 2"):
        list(read(folder))
    skipped: list[DataError] = []
    assert [found.number for found in read(folder, skipped)] == [1, 2, 3, 4] and len(skipped) == 1


def test_text_in_a_folder_is_rows_only_where_there_are_no_tables(tmp_path):
    (tmp_path / "a.txt").write_text("One.\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("about\n", encoding="utf-8")
    assert records(tmp_path) == [{"text": "One."}]
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,A cat\n", encoding="utf-8")
    assert records(tmp_path) == [{"file_name": "a.png", "text": "A cat"}]


def test_a_snapshot_of_the_hub_is_read_through_its_links_and_by_split(tmp_path):
    snapshot = tmp_path / "datasets--o--n" / "snapshots" / "abc"
    (snapshot / "data").mkdir(parents=True)
    (tmp_path / "datasets--o--n" / "blobs").mkdir()
    for number, split in enumerate(("train", "test_sft")):
        blob = tmp_path / "datasets--o--n" / "blobs" / f"{number}"
        parquet.write_table(pyarrow.table({"a": [split]}), blob)
        (snapshot / "data" / f"{split}-00000-of-00001.parquet").symlink_to(blob)
    assert records(snapshot) == [{"a": "test_sft"}, {"a": "train"}]
    assert [*parts_of(snapshot)] == [("", "test_sft"), ("", "train")]
    assert records(snapshot, split="train") == [{"a": "train"}]
    with pytest.raises(DataError, match="no 'dev' in it. It holds test_sft, train"):
        records(snapshot, split="dev")


def test_what_the_card_states_comes_before_the_names(tmp_path):
    for name in ("main/a.jsonl", "main/b.jsonl", "socratic/a.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"from": name}), encoding="utf-8")
    assert {part for part in parts_of(tmp_path)} == {("main", ""), ("socratic", "")}
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: train, path: main/a*}\n"
        "  - {split: test, path: [main/b.jsonl]}\n---\n# It\n", encoding="utf-8",
    )  # fmt: skip
    assert parts_of(tmp_path) == {("main", "train"): ["main/a.jsonl"], ("main", "test"): ["main/b.jsonl"]}
    assert records(tmp_path, subset="main", split="test") == [{"from": "main/b.jsonl"}]


def test_what_datasets_saves_is_read(tmp_path):
    import datasets

    saved = datasets.DatasetDict({"train": datasets.Dataset.from_list(RECORDS)})
    saved.save_to_disk(tmp_path / "saved")
    assert records(tmp_path / "saved") == RECORDS == records(tmp_path / "saved", split="train")


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "secret.jsonl").write_text('{"secret": 1}', encoding="utf-8")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jsonl").write_text('{"a": 1}', encoding="utf-8")
    (tmp_path / "set" / "b.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set")
    assert records(tmp_path / "set") == [{"a": 1}]


def test_pipes_are_refused_and_links_to_nothing_are_said(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        list(read(tmp_path / "pipe.jsonl"))
    (tmp_path / "a.jsonl").write_text('{"a": 1}', encoding="utf-8")
    assert records(tmp_path) == [{"a": 1}]
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "nothing")
    assert stamp(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        list(read(tmp_path))


def test_a_member_has_an_encoding_and_a_compression_of_its_own(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", "问题,答案\n北京今天天气怎么样,今天是晴天气温二十五度\n".encode("gb18030"))
        archive.writestr("b.jsonl.gz", gzip.compress(as_lines(RECORDS)))
    assert records(tmp_path / "a.zip") == [{"问题": "北京今天天气怎么样", "答案": "今天是晴天气温二十五度"}, *RECORDS]


def test_the_stamp_changes_with_any_file_of_a_folder(tmp_path):
    folder = filled(tmp_path / "set")
    before = stamp(folder)
    assert stamp(folder) == before
    (folder / "data" / "part-2.jsonl").write_text("{}", encoding="utf-8")
    assert stamp(folder) != before
