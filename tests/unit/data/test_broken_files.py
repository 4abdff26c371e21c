"""Broken and hostile files of every kind: each ends in rows or in a sentence, in bounded time and memory, unchanged."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pyarrow
import pytest
from openpyxl import Workbook
from pyarrow import ipc, parquet

from data.reading.files import count, encoding_of, is_readable, read
from engine.contract.errors import DataError

ROOT = Path(__file__).resolve().parents[3]
ROWS = [{"prompt": f"Frage {n}, größer?", "completion": f'一 {n}\n"two"', "n": n} for n in range(40)]
AT_MOST = 10.0  # seconds of the processor for a file of at most a few megabytes: what takes longer hangs


def corpus() -> dict[str, bytes]:
    """A small good file of each kind."""
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()
    table = pyarrow.Table.from_pylist(ROWS)
    packed, sheet, columns, stream, file = (io.BytesIO() for _ in range(5))
    parquet.write_table(table, columns)
    with ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    with ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", lines)
        archive.writestr("b.csv", "a,b\n1,2\n")
    book = Workbook()
    book.active.append(list(ROWS[0]))
    for row in ROWS:
        book.active.append(list(row.values()))
    book.save(sheet)
    cells = "\n".join(f'{n},"a, ""b""\n{n}",ü' for n in range(40))
    return {
        "a.jsonl": lines,
        "a.json": json.dumps(ROWS, indent=1).encode(),
        "compact.json": json.dumps({"about": 1, "data": ROWS}, ensure_ascii=False).encode(),
        "wide.jsonl": lines.decode().encode("utf-16"),
        "chinese.csv": "问题,答案\n北京今天天气怎么样,今天是晴天\n".encode("gb18030") * 20,
        "a.csv": f"n,text,more\n{cells}\n".encode(),
        "a.txt": b"It was the best\nof times.\n\nIt was the worst\nof times.\n" * 20,
        "a.md": b"# One\n```\ncode\n```\n# Two\n" * 10,
        "a.parquet": columns.getvalue(),
        "stream.arrow": stream.getvalue(),
        "file.arrow": file.getvalue(),
        "a.xlsx": sheet.getvalue(),
        "a.jsonl.gz": gzip.compress(lines),
        "a.jsonl.bz2": bz2.compress(lines),
        "a.jsonl.xz": lzma.compress(lines),
        "a.jsonl.zst": pyarrow.compress(lines, "zstd", asbytes=True),
        "a.zip": packed.getvalue(),
        "a.tar": tarred({"a.jsonl": lines, "b.csv": b"a,b\n1,2\n"}),
        "a.tar.gz": gzip.compress(tarred({"a.jsonl": lines, "b.csv": b"a,b\n1,2\n"})),
    }


def tarred(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def outcome(path: Path, content: bytes) -> int:
    """How many rows are read; with and without consent, all else is a DataError that says a file and a way out."""
    path.write_bytes(content)
    began = time.process_time()
    for skipped in (None, []):
        rows = 0
        try:
            for found in read(path, skipped):
                assert isinstance(found.record, dict) and found.number > 0
                rows += 1
        except DataError as error:
            assert error.text and error.hint and error.file, error
            assert "\n" not in error.text
        for error in skipped or []:
            assert error.text and error.file
    for look in (count, encoding_of):
        try:
            look(path)
        except DataError as error:
            assert error.text
    assert time.process_time() - began < AT_MOST
    assert path.read_bytes() == content
    return rows


GOOD = corpus()


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_is_read_whole(tmp_path, name):
    path = tmp_path / name
    assert outcome(path, GOOD[name]) >= (1 if name.endswith((".md", ".txt")) else 20)
    assert [*read(path)] == [*read(path, [])]


@pytest.mark.parametrize("name", GOOD)
def test_a_file_that_is_cut_off_gives_the_rows_up_to_there_or_a_sentence(tmp_path, name):
    good = GOOD[name]
    whole = outcome(tmp_path / name, good)
    for cut in sorted(random.Random(name).sample(range(len(good)), 30)):
        assert outcome(tmp_path / name, good[:cut]) <= whole
    # Formats whose rows can be read from the front keep them.
    if name in ("a.jsonl", "a.json", "compact.json", "a.csv", "stream.arrow", "a.tar", "wide.jsonl"):
        assert outcome(tmp_path / name, good[: len(good) * 3 // 4]) >= whole // 3


@pytest.mark.parametrize("name", GOOD)
def test_a_file_with_wrong_bytes_gives_rows_or_a_sentence(tmp_path, name):
    for seed in range(40):
        chance = random.Random(f"{name} {seed}")
        content = bytearray(GOOD[name])
        for _ in range(chance.choice((1, 3, 20))):
            place = chance.randrange(len(content))
            kind = chance.randrange(4)
            if kind == 0:
                content[place] ^= 1 << chance.randrange(8)
            elif kind == 1:
                content[place:place] = b"\0" * chance.randrange(1, 5)
            elif kind == 2:
                content[place : place + chance.randrange(1, 9)] = bytes(chance.randrange(256) for _ in range(4))
            else:
                del content[place : place + chance.randrange(1, 50)]
        outcome(tmp_path / name, bytes(content))


@pytest.mark.parametrize("name", [name for name in GOOD if is_readable(Path(name))])
def test_a_file_under_the_wrong_ending_gives_rows_or_a_sentence(tmp_path, name):
    for other in GOOD.values():
        outcome(tmp_path / name, other)


HOSTILE = {
    "deep.jsonl": b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}\n",
    "deep.json": b"[" + b'{"a":' * 100_000,
    "deeper.json": b'{"data":' * 100_000,
    "number.jsonl": b'{"a": ' + b"9" * 10_000 + b"}\n",
    "nulls.jsonl": b'{"a": null, "b": [null, {"c": null}]}\n',
    "mixed.jsonl": b'{"a": 1}\n{"a": "x"}\n{"a": [1, {"b": 2}]}\n"text"\nnull\n3\n',
    "twice.jsonl": b'{"a": 1, "a": 2}\n',
    "infinite.jsonl": b'{"a": NaN, "b": Infinity, "c": -Infinity, "d": 1e999}\n',
    "zeros.jsonl": b"\0" * 100_000,
    "zeros.csv": b"\0" * 100_000,
    "formulas.csv": b"a,b\n\"=cmd|' /C calc'!A0\",+1\n-1,@SUM(A1)\n",
    "quotes.csv": b'a,b\n"' + b"x" * 100_000,
    "columns.csv": b"a" + b",b" * 100_000 + b"\n",
    "blank.csv": b",,,\n" * 1000,
    "spaces.json": b"[" + b" " * 3_000_000,
    "newlines.jsonl": b"\n" * 1_000_000,
    "commas.json": b"[" + b"," * 1_000_000,
    "line.jsonl": b'{"a": "' + b"x" * 3_000_000 + b'"}\n',
    "open.json": b'[{"a": "' + b"x" * 3_000_000,
    "mark.csv": b"\xef\xbb\xbf",
    "mark.jsonl": b"\xff\xfe",
    "half.jsonl": b'\xff\xfe{\0"',
    "empty.zip": b"PK\x05\x06" + b"\0" * 18,
    "empty.tar": b"\0" * 10240,
    "empty.jsonl.gz": gzip.compress(b""),
    "many.zip": b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, 65535, 65535, 1 << 30, 0, 0),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_gives_rows_or_a_sentence(tmp_path, name):
    outcome(tmp_path / name, HOSTILE[name])


def test_formulas_stay_the_text_that_they_are(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(HOSTILE["formulas.csv"])
    assert [found.record for found in read(path)] == [
        {"a": "=cmd|' /C calc'!A0", "b": "+1"}, {"a": "-1", "b": "@SUM(A1)"},
    ]  # fmt: skip


# Archives that are made to do harm


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [("../out.jsonl", "leads out of the archive"), ("a/../../out.jsonl", "leads out"), ("/etc/out.jsonl", "outside"),
     ("C:\\out.jsonl", "outside"), ("..\\out.jsonl", "leads out"), ("inner.zip", "an archive in an archive"),
     ("inner.tar.gz", "an archive in an archive")],
)  # fmt: skip
def test_a_member_that_may_not_be_read_is_named(tmp_path, name, text):
    members = {name: b'{"a": 1}\n', "fine.jsonl": b'{"a": 2}\n'}
    deep = tmp_path / "here" / "below"
    deep.mkdir(parents=True)
    (deep / "a.tar").write_bytes(tarred(members))
    for path in (zipped(deep / "a.zip", members), deep / "a.tar"):
        with pytest.raises(DataError) as caught:
            list(read(path))
        assert text in caught.value.text and path.name in caught.value.text
        skipped: list[DataError] = []
        assert [found.record for found in read(path, skipped)] == [{"a": 2}] and len(skipped) == 1
    assert [file.name for file in tmp_path.rglob("out.jsonl")] == []


def test_links_and_devices_in_an_archive_are_never_followed(tmp_path):
    (tmp_path / "secret.jsonl").write_text('{"secret": 1}\n', encoding="utf-8")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind, target in (
            (tarfile.SYMTYPE, "secret.jsonl"),
            (tarfile.LNKTYPE, "/etc/passwd"),
            (tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(f"{kind!r}.jsonl")
            info.type, info.linkname = kind, target
            archive.addfile(info)
        archive.add(tmp_path / "secret.jsonl", "fine.jsonl")
    with pytest.raises(DataError, match="is a link or a special file"):
        list(read(tmp_path / "a.tar"))
    skipped: list[DataError] = []
    assert len(list(read(tmp_path / "a.tar", skipped))) == 1 and len(skipped) == 3


def test_a_member_with_a_password_is_named(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.jsonl": b'{"a": 1}\n'})
    content = bytearray(path.read_bytes())
    content[content.rfind(b"PK\x01\x02") + 8] |= 1
    content[6] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="has a password"):
        list(read(path))


@pytest.mark.parametrize("ending", ["zip", "jsonl.gz", "jsonl.zst", "tar.xz", "jsonl.bz2"])
def test_what_unpacks_to_far_more_than_its_size_is_refused(tmp_path, ending, monkeypatch):
    monkeypatch.setattr("data.reading.raw.FLOOR", 1 << 20)
    bomb = b'{"a": 1}\n' * 300_000
    path = tmp_path / f"a.{ending}"
    if ending == "zip":
        zipped(path, {f"{n}.jsonl": bomb for n in range(2)})
    else:
        pack = {"jsonl.gz": gzip.compress, "tar.xz": lambda content: lzma.compress(tarred({"a.jsonl": content})),
                "jsonl.zst": lambda content: pyarrow.compress(content, "zstd", asbytes=True),
                "jsonl.bz2": bz2.compress}[ending]  # fmt: skip
        path.write_bytes(pack(bomb))
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        for _ in read(path):
            pass


@pytest.mark.parametrize("ending", ["jsonl", "csv", "txt"])
def test_lines_without_end_that_hold_nothing_are_refused_soon(tmp_path, ending, monkeypatch):
    monkeypatch.setattr("data.reading.raw.MOST_EMPTY", 2000)
    first = {"jsonl": b'{"a": 1}\n', "csv": b"a,b\n1,2\n", "txt": b"a\n"}[ending]
    last = first.splitlines()[-1]
    path = zipped(tmp_path / "a.zip", {f"a.{ending}": first + b"\n\r\n" * 900 + last})
    assert len(list(read(path))) == 2
    zipped(path, {f"a.{ending}": first + b"\n" * 2_000_000 + last})
    with pytest.raises(DataError, match="more than 2,000 lines in a row are empty"):
        list(read(path))


def test_an_archive_of_too_many_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("data.reading.packed.MOST_MEMBERS", 5)
    members = {f"{n}.txt": b"" for n in range(9)}
    (tmp_path / "a.tar").write_bytes(tarred(members))
    for path in (zipped(tmp_path / "a.zip", members), tmp_path / "a.tar"):
        with pytest.raises(DataError, match="more than 5 members"):
            list(read(path))


def test_a_tar_whose_header_never_ends_is_refused(tmp_path):
    info = tarfile.TarInfo("x" * 5_000_000)  # a long name is a member of its own, which tarfile holds whole
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(DataError, match="too long"):
        list(read(tmp_path / "a.tar"))


def test_a_workbook_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("data.reading.raw.FLOOR", 1 << 20)
    path = zipped(tmp_path / "a.xlsx", {"xl/worksheets/sheet1.xml": b"<row/>" * 1_000_000})
    with pytest.raises(DataError, match="unpacks to more than"):
        list(read(path))


# Memory

PROGRAM = """
import resource, sys
from data.reading.files import count, read
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(1 for _ in read(sys.argv[1]))
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def peak(path: Path) -> tuple[int, int]:
    """Rows read by a fresh interpreter, and the megabytes by which it grew."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    rows, grown = done.stdout.split()
    return int(rows), int(grown)


def written(path: Path, rows: int) -> Path:
    row = {"prompt": "a word " * 100, "completion": "größer " * 50}
    line = json.dumps(row, ensure_ascii=False)
    kind = path.name.partition(".")[2]
    with (
        gzip.open(path, "wt", 1, encoding="utf-8") if kind.endswith("gz") else path.open("w", encoding="utf-8") as file
    ):
        if kind in ("parquet", "arrow"):
            table = pyarrow.Table.from_pylist([{**row, "n": str(n)} for n in range(rows)])
            if kind == "parquet":
                parquet.write_table(table, path, compression=None, use_dictionary=False)
            else:
                with ipc.new_stream(path, table.schema) as stream:
                    stream.write_table(table, max_chunksize=1000)
        elif kind == "csv":
            file.write("prompt,completion\n" + f"{row['prompt']},{row['completion']}\n" * rows)
        elif kind == "txt":
            file.write(f"{row['prompt']}.\n" * rows)
        elif kind == "json":
            file.write("[" + line + f",\n{line}" * (rows - 1) + "]")
        else:
            file.write(f"{line}\n" * rows)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "txt", "parquet", "arrow", "jsonl.gz"])
def test_memory_does_not_grow_with_the_file(tmp_path, kind):
    few, many = 4_000, 60_000  # 5 and 66 MB
    small, large = (peak(written(tmp_path / f"{rows}.{kind}", rows)) for rows in (few, many))
    assert (small[0], large[0]) == (few, many)
    assert large[1] - small[1] < 16, f"{small} and {large}"


@pytest.mark.shared
def test_every_file_of_the_shared_data_opens_and_stays_as_it_is(shared):
    opened = 0
    for path in sorted(shared.rglob("*")):
        if path.is_file() and is_readable(path) and "tokenizers" not in path.parts:
            before = path.stat()
            rows = [*read(path)]
            assert rows and count(path) == len(rows), path
            assert encoding_of(path).startswith("UTF-8")
            assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)
            opened += 1
    assert opened > 100
