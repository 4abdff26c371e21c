"""The event union, its lines, and a journal that never leaves half a line behind."""

from __future__ import annotations

import contextlib
import json
import math
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract import events
from engine.contract.events import Journal, Metrics, Note, Phase, decode, encode
from engine.contract.rundir import records

EXAMPLES = [
    events.Phase("loading"),
    events.Progress(3, 10, 1.5),
    events.Note("140 rows", {"rows": 140}),
    events.Checkpoint(40, "checkpoints/step-40"),
    events.Sample(4, "Who?", "Nobody.\nReally 😀"),
    events.Warn("It is slow.", "Wait."),
    events.Failure("It broke.", "Mend it.", bug=True),
    events.Serving("http://127.0.0.1:1"),
    events.Result("Better.", {"loss": 1.5}),
    events.Metrics(3, 0.5, {"train/loss": 1.25}),
]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.kind)
def test_an_event_survives_its_line(event: Any) -> None:
    line = encode(event, attempt=2, t=12.3456)
    assert line.endswith("\n") and line.count("\n") == 1
    record = json.loads(line)
    assert (record["kind"], record["t"], record["attempt"]) == (event.kind, 12.346, 2)
    assert decode(record) == event


def test_every_kind_of_event_is_in_the_union() -> None:
    assert {event.kind for event in EXAMPLES} == set(events.KINDS)


@pytest.mark.parametrize(
    "record",
    [{}, {"kind": "dance", "step": 1}, {"kind": "phase"}, {"kind": "phase", "name": "a", "new": 1}, {"kind": None}],
)
def test_what_another_version_wrote_is_passed_over(record: dict[str, Any]) -> None:
    assert decode(record) is None


@given(st.dictionaries(st.text(), st.one_of(st.floats(), st.lists(st.floats()), st.text()), max_size=5))
def test_nan_and_infinity_are_written_as_null(facts: dict[str, Any]) -> None:
    def forbidden(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    record = json.loads(encode(Note("x", facts)), parse_constant=forbidden)
    for key, value in facts.items():
        if isinstance(value, float) and not math.isfinite(value):
            assert record["facts"][key] is None


def test_a_journal_appends_whole_lines_and_keeps_what_was_there(tmp_path: Path) -> None:
    for name in ("a", "b"):
        journal = Journal(tmp_path / "events.jsonl")
        journal.write(Phase(name))
        journal.close()
    assert [record["name"] for record in records(tmp_path / "events.jsonl")] == ["a", "b"]


@pytest.mark.parametrize("tail", [b'{"kind": "phase", "na', b"{", b"x" * 200_000])
@pytest.mark.parametrize("before", [b"", b'{"kind": "phase", "name": "a"}\n', b'{"a": "' + b"y" * 100_000 + b'"}\n'])
def test_a_torn_last_line_is_cut_at_opening(tmp_path: Path, before: bytes, tail: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(before + tail)
    journal = Journal(path)
    assert path.read_bytes() == before
    journal.write(Phase("b"))
    assert path.read_bytes() == before + encode(Phase("b"), t=list(records(path))[-1]["t"]).encode()


def test_many_threads_never_mix_their_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl")
    threads = [
        threading.Thread(target=lambda n=n: [journal.write(Note(str(n) * 5000, {"n": k})) for k in range(50)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = list(records(tmp_path / "events.jsonl"))
    assert len(found) == 200 and all(len(set(record["text"])) == 1 for record in found)
    for n in range(4):
        assert [record["facts"]["n"] for record in found if record["text"][0] == str(n)] == list(range(50))


@contextlib.contextmanager
def files_of_at_most(limit: int) -> Iterator[None]:
    """A limit on the size of files, which cuts a write short as a full disk does. No fixture: pytest itself writes, and
    perhaps to a file, before a fixture is taken down."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_line_that_the_disk_cuts_short_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal, written, limit = Journal(path), 0, 1000
    with files_of_at_most(limit):
        with pytest.raises(OSError):
            for written in range(100):
                journal.write(Metrics(written, 0.0, {"train/loss": 1.0}))
        text = path.read_bytes()
        with pytest.raises(OSError):
            journal.write(Metrics(written, 0.0, {"train/loss": 1.0}))
    assert path.read_bytes() == text
    assert text.endswith(b"}\n") and limit - 200 < len(text) <= limit
    assert [record["step"] for record in records(path)] == list(range(written))


def test_a_journal_goes_on_once_there_is_space_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl")
    journal.write(Phase("a"))
    with files_of_at_most(80), pytest.raises(OSError):
        journal.write(Phase("b" * 80))
    journal.write(Phase("c"))
    assert [record["name"] for record in records(tmp_path / "events.jsonl")] == ["a", "c"]


def test_a_killed_writer_loses_no_whole_line_and_leaves_a_file_that_reads(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from engine.contract.events import Journal, Note
        journal, n = Journal(Path(sys.argv[1])), 0
        while True:
            journal.write(Note("x" * 3000, {"n": n}))
            print(n, flush=True)
            n += 1
    """)
    writer = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    said = [int(writer.stdout.readline()) for _ in range(200)]
    writer.kill()
    said += [int(line) for line in writer.stdout if line.endswith("\n")]
    writer.wait()
    found = [record["facts"]["n"] for record in records(path)]
    assert found == list(range(len(found))) and set(said) <= set(found)
