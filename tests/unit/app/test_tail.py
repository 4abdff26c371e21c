"""Following a file that grows, is torn, is cut short, is replaced."""

import json
import os

import pytest

from app.running import tail
from app.running.tail import Tail, last_lines


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def append(path, text):
    with open(path, "ab") as file:
        file.write(text if isinstance(text, bytes) else text.encode())


def test_each_poll_gives_only_what_is_new(path):
    follower = Tail(path)
    append(path, "a\nb\n")
    assert list(follower.lines()) == [b"a", b"b"]
    assert list(follower.lines()) == []
    append(path, "c\n")
    assert list(follower.lines()) == [b"c"]


def test_a_poll_reads_no_byte_that_was_read_before(path, monkeypatch):
    follower = Tail(path)
    append(path, "x" * 500 + "\n")
    list(follower.lines())
    append(path, "new\n")
    started = []
    real_open = open

    def watched(*args):
        file = real_open(*args)
        seek = file.seek

        class Watched:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def __getattr__(self, name):
                return getattr(file, name)

            def seek(self, place):
                started.append(place)
                return seek(place)

        return Watched()

    monkeypatch.setattr(tail, "open", watched, raising=False)
    assert list(follower.lines()) == [b"new"]
    assert started == [501]


def test_a_torn_last_line_waits_until_it_is_whole(path):
    follower = Tail(path)
    append(path, '{"step": 1}\n{"ste')
    assert [record["step"] for record in follower.records()] == [1]
    append(path, 'p": 2}\n')
    assert [record["step"] for record in follower.records()] == [2]
    assert follower.skipped == 0


def test_a_file_that_is_not_there_yet_is_empty(path):
    follower = Tail(path)
    assert list(follower.lines()) == []
    append(path, "a\n")
    assert list(follower.lines()) == [b"a"]
    assert follower.restarts == 0


def test_a_file_that_was_cut_short_starts_again(path):
    follower = Tail(path)
    append(path, "one\ntwo\n")
    list(follower.lines())
    path.write_text("new\n")
    assert list(follower.lines()) == [b"new"]
    assert follower.restarts == 1


def test_a_file_replaced_by_a_longer_one_starts_again(path, tmp_path):
    follower = Tail(path)
    append(path, "one\n")
    list(follower.lines())
    other = tmp_path / "other"
    other.write_text("first\nsecond\n")
    os.replace(other, path)
    assert list(follower.lines()) == [b"first", b"second"]
    assert follower.restarts == 1


def test_a_file_rewritten_in_place_and_longer_starts_again(path):
    follower = Tail(path)
    append(path, "one\n")
    list(follower.lines())
    path.write_text("a longer first line\n")
    assert list(follower.lines()) == [b"a longer first line"]


def test_a_deleted_file_that_comes_back_starts_again(path):
    follower = Tail(path)
    append(path, "one\n")
    list(follower.lines())
    path.unlink()
    assert list(follower.lines()) == []
    append(path, "one\ntwo\n")
    assert list(follower.lines()) == [b"one", b"two"]


def test_lines_longer_than_a_block_arrive_whole(path, monkeypatch):
    monkeypatch.setattr(tail, "CHUNK", 8)
    follower = Tail(path)
    lines = ["short", "x" * 50, "", "y" * 8, "z" * 7]
    append(path, "\n".join(lines) + "\n" + "torn" * 5)
    assert [line.decode() for line in follower.lines()] == lines
    append(path, "\n")
    assert list(follower.lines()) == [b"torn" * 5]


def test_lines_that_are_no_json_object_are_skipped_and_counted(path):
    follower = Tail(path)
    append(path, '{"step": 1}\n{"step": \n[1, 2]\n\n\x00\x00\n{"step": 2}\n')
    append(path, b'{"text": "\xff"}\n')
    assert [record["step"] for record in follower.records()] == [1, 2]
    assert follower.skipped == 4


def test_the_offset_counts_bytes_and_not_characters(path):
    follower = Tail(path)
    append(path, json.dumps({"text": "größer 漢字"}, ensure_ascii=False) + "\n")
    assert [record["text"] for record in follower.records()] == ["größer 漢字"]
    append(path, '{"text": "b"}\n')
    assert [record["text"] for record in follower.records()] == ["b"]


@pytest.mark.parametrize(
    ("content", "count", "expected"),
    [
        ("a\nb\nc\n", 2, ["b", "c"]),
        ("a\nb\nc", 2, ["b", "c"]),
        ("a\n", 5, ["a"]),
        ("", 5, []),
        ("a\n\nb\n", 2, ["", "b"]),
        ("10%\r50%\r100%\nend\r\n", 2, ["100%", "end"]),
    ],
)
def test_the_last_lines_of_a_log(path, content, count, expected):
    path.write_bytes(content.encode())
    assert last_lines(path, count) == expected


def test_the_last_lines_of_a_log_that_is_not_there(path):
    assert last_lines(path, 3) == []


def test_the_last_lines_are_read_from_the_end_only(path):
    append(path, b"".join(b"line %d\n" % number for number in range(50_000)))
    assert last_lines(path, 3) == ["line 49997", "line 49998", "line 49999"]
    assert len(last_lines(path, 40_000, most_bytes=1000)) < 100
