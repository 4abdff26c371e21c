"""Text whose encoding, delimiter and header nobody states, workbooks, columns and prose: what they come to as rows."""

from __future__ import annotations

import gzip
import json
from datetime import date, datetime
from decimal import Decimal

import pyarrow
import pytest
from openpyxl import Workbook
from pyarrow import parquet

from data.reading.files import encoding_of, read, sheets_of
from data.reading.tables import names_columns
from engine.contract.errors import DataError
from tests.written import as_lines, records, workbook

# Encodings

TEXTS = {
    "gb18030": "问题：北京今天天气怎么样？回答：今天是晴天，气温二十五度。",
    "gbk": "问题：北京今天天气怎么样？回答：今天是晴天，气温二十五度。",
    "big5": "請提供一個媒體招待會的流程表，內容是執行完這個活動",
    "cp932": "東京の天気はどうですか。今日は晴れです。ありがとうございます",
    "euc_jp": "東京の天気はどうですか。今日は晴れです。ありがとうございます",
    "cp949": "오늘 서울 날씨 어때요? 오늘은 맑습니다. 감사합니다",
    "cp1252": "Quel est le plus élevé des sommets ? Le mont Blanc, situé à la frontière, très élevé",
    "cp1251": "Какая сегодня погода в Москве? Сегодня солнечно и тепло.",
    "utf-8": "naïve 中文 😀", "utf-8-sig": "naïve 中文 😀", "utf-16": "naïve 中文 😀 and more",
    "utf-16-le": "naïve 中文 😀 and more", "utf-16-be": "naïve 中文 😀 and more", "utf-32": "naïve 中文 😀",
}  # fmt: skip


@pytest.mark.parametrize("encoding", TEXTS)
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "txt", "jsonl.gz"])
def test_the_encoding_of_a_text_is_found(tmp_path, encoding, ending):
    text = TEXTS[encoding].replace(",", "")
    rows = [{"prompt": f"{number}", "text": text} for number in range(3)]
    written = {
        "jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "json": json.dumps(rows, ensure_ascii=False),
        "csv": "prompt,text\r\n" + "".join(f"{row['prompt']},{text}\r\n" for row in rows),
        "tsv": "prompt\ttext\n" + "".join(f"{row['prompt']}\t{text}\n" for row in rows),
        "txt": f"{text}\n" * 3,
    }[ending.removesuffix(".gz")].encode(encoding)
    path = tmp_path / f"a.{ending}"
    path.write_bytes(gzip.compress(written) if ending.endswith("gz") else written)
    assert [record["text"] for record in records(path)] == [text] * 3
    assert encoding_of(path)


def test_the_page_can_say_the_encoding_and_people_can_choose_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a\n" + "1\n" * 200_000 + TEXTS["gbk"], encoding="gbk")
    assert encoding_of(path) == "GB18030"  # though the first 400 kB are ASCII
    path.write_bytes("a,b\né,1\n".encode("cp1252"))
    with pytest.raises(DataError, match="not UTF-8"):  # one letter tells nothing
        records(path)
    assert records(path, encoding="cp1252") == [{"a": "é", "b": "1"}]
    with pytest.raises(DataError, match="'klingon' is not known"):
        records(path, encoding="klingon")
    with pytest.raises(DataError, match="decoded|not known"):
        records(path, encoding="idna")


def test_a_damaged_utf8_file_is_called_damaged_and_not_another_alphabet(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_lines([{"a": "中文" * 20}]) + b'\n{"a": "\xe4\xb8"}\n')
    with pytest.raises(DataError, match="row 2: the text is not UTF-8"):
        records(path)


# Tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_the_delimiter_is_found(tmp_path, delimiter, ending):
    path = tmp_path / f"a.{ending}"
    rows = [["prompt", "completion"], ["what, is; it?", '"quoted\nover ""two"" lines"'], ["b", "c"]]
    quoted = [[f'"{cell}"' if {*",;"} & {*cell} and cell[0] != '"' else cell for cell in row] for row in rows]
    path.write_text("\n".join(delimiter.join(row) for row in quoted), encoding="utf-8")
    assert records(path) == [
        {"prompt": "what, is; it?", "completion": 'quoted\nover "two" lines'},
        {"prompt": "b", "completion": "c"},
    ]


def test_a_table_without_a_header_gets_names(tmp_path):
    path = tmp_path / "mmlu.csv"
    path.write_text(
        'Find all c in Z_3 such that Z_3[x]/(x^2 + c) is a field.,0,1,2,3,B\n"Statement 1 | If",True,"x, y",a,b,D\n',
        encoding="utf-8",
    )
    assert [found.number for found in read(path)] == [1, 2]
    assert records(path)[0]["column_6"] == "B"
    assert records(path, header=True)[0]["B"] == "D"
    path.write_text("question,2023\na,b\n", encoding="utf-8")
    assert records(path) == [{"question": "a", "2023": "b"}]
    assert records(path, header=False)[0] == {"column_1": "question", "column_2": "2023"}


def test_odd_tables_are_read_as_a_spreadsheet_shows_them(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"sep=;\r\n;text;;\r\n0;=1+1;;\r\n\r\n;;;\r\n1;-x\r\n2;@y;;\r\n")
    assert [(found.number, found.record) for found in read(path)] == [
        (1, {"column_1": "0", "text": "=1+1"}), (2, {"column_1": "1", "text": "-x"}),
        (3, {"column_1": "2", "text": "@y"}),
    ]  # fmt: skip


def test_a_zero_byte_costs_its_row(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,2\n3,\x004\n5,6\n")
    skipped: list[DataError] = []
    assert [found.number for found in read(tmp_path / "a.csv", skipped)] == [1, 3]
    assert "zero byte" in skipped[0].text and skipped[0].row == 2


def test_a_workbook_gives_values_and_never_evaluates(tmp_path):
    path = workbook(
        tmp_path / "a.xlsx", [None, None], ["a", "b", "c"], ["=1+1", 2.5, True], [None, date(2024, 5, 6), None]
    )
    book = Workbook()
    book.active.append(["first"])
    book.active.append([1])
    book.create_sheet("second").append(["x"])
    book["second"].append(["y"])
    book.save(tmp_path / "two.xlsx")
    assert records(path) == [{"a": None, "b": 2.5, "c": True}, {"a": None, "b": "2024-05-06T00:00:00"}]
    assert sheets_of(tmp_path / "two.xlsx") == ["Sheet", "second"]
    assert records(tmp_path / "two.xlsx", sheet="second") == [{"x": "y"}]
    with pytest.raises(DataError, match="no sheet 'third'.*Sheet, second"):
        records(tmp_path / "two.xlsx", sheet="third")


def test_columns_that_json_does_not_have_become_what_it_has(tmp_path):
    table = pyarrow.table({
        "when": [datetime(2024, 5, 6)], "price": [Decimal("1.50")], "score": [float("nan")], "picture": [b"\xff"],
        "map": pyarrow.array([[("k", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "a.parquet")
    assert records(tmp_path / "a.parquet") == [
        {"when": "2024-05-06T00:00:00", "price": "1.50", "score": None, "picture": b"\xff", "map": {"k": 1}}
    ]


# Raw text


def test_a_row_of_text_is_a_line_or_a_paragraph_as_the_file_is_written(tmp_path):
    articles, book, notes = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.md"
    articles.write_text("One article, whole.\n\nAnother one!\n", encoding="utf-8")
    assert records(articles) == [{"text": "One article, whole."}, {"text": "Another one!"}]
    book.write_text("It was the best\nof times, it was\nthe worst.\n\n\nIt was the age\nof wisdom.", encoding="utf-8")
    assert records(book) == [{"text": "It was the best\nof times, it was\nthe worst."},
                             {"text": "It was the age\nof wisdom."}]  # fmt: skip
    assert len(records(book, unit="line")) == 5 and len(records(book, unit="file")) == 1
    notes.write_text("intro\n\n# A\n```\n# code\n```\n## A.1\ntext\n# B\ntext\n", encoding="utf-8")
    assert len(records(notes)) == 1
    assert [record["text"].partition("\n")[0] for record in records(notes, unit="section")] == ["intro", "# A", "# B"]


def test_prose_with_commas_names_no_columns():
    assert names_columns(["question", "answer (short)", "问题"])
    assert not names_columns(["Hello", " world"]) and not names_columns(["This is a sentence.", "b"])
    assert not names_columns(["a", ""])
