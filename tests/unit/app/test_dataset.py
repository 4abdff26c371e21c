"""What the Data tab holds of a dataset, how handed-over files get their place, and how a row is edited as text."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from app.datasets import adding, advice, arrivals, dataset, editor, turns
from app.datasets.adding import Adding
from data.datasets import registry
from data.datasets.registry import Entry
from data.hubs.hub import HubDataset, HubFile
from data.review.finding import Finding
from data.rows.conversation import Row
from engine.contract.errors import BoardError, DataError

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    (tmp_path / "datasets").mkdir()
    return tmp_path


def listed(house: Path, name: str, lines: list[dict] | str) -> Entry:
    text = lines if isinstance(lines, str) else "\n".join(map(json.dumps, lines))
    (house / "datasets" / name).write_text(text, encoding="utf-8")
    return registry.find(name, house)


def pairs(count: int) -> list[dict]:
    return [{"prompt": f"q{number}", "completion": f"a{number}"} for number in range(1, count + 1)]


def numbers(window: dataset.Window) -> list[int]:
    return [line.number for line in window.lines]


class TestWindow:
    def test_a_large_file_is_seen_through_one_window_after_another(self, house, monkeypatch):
        monkeypatch.setattr(dataset, "ROWS", 4)
        entry = listed(house, "ten.jsonl", pairs(10))
        first = dataset.window(entry)
        assert (numbers(first), first.more, first.end) == ([1, 2, 3, 4], True, 4)
        last = dataset.window(entry, 8)
        assert (numbers(last), last.more, last.end) == ([9, 10], False, 10)

    def test_long_texts_make_the_window_shorter(self, house, monkeypatch):
        monkeypatch.setattr(dataset, "CHARACTERS", 10)
        assert len(dataset.window(listed(house, "ten.jsonl", pairs(10))).lines) == 3

    def test_rows_that_cannot_be_read_are_kept_apart_with_their_sentence(self, house):
        entry = listed(house, "bad.jsonl", '{"prompt": "a", "completion": "b"}\n{"prompt": \n{"prompt": "c"}\n')
        window = dataset.window(entry)
        assert numbers(window) == [1] and window.skipped.total == 2
        assert "row 2" in window.skipped[0].text

    def test_a_change_is_seen_at_once_and_excluded_rows_stay_in_sight(self, house):
        entry = listed(house, "three.jsonl", pairs(3))
        dataset.patch(entry).exclude([dataset.window(entry).lines[1].row])
        window = dataset.window(entry)
        assert [line.excluded for line in window.lines] == [False, True, False]
        assert [row.number for row in window.rows] == [1, 3]
        entry.path.write_text(json.dumps(pairs(1)[0]))
        assert numbers(dataset.window(entry)) == [1]

    def test_a_format_whose_columns_are_not_chosen_yet_says_that_and_nothing_of_the_rows(self, house):
        entry = listed(house, "odd.jsonl", [{"frage": "q", "antwort": "a"}])
        entry = entry.model_copy(update={"format": "question_answer", "columns": {"question": "frage"}})
        with pytest.raises(DataError, match=r"No column is chosen for Answer\."):
            dataset.window(entry)
        entry = entry.model_copy(update={"columns": {"question": "frage", "answer": "antwort"}})
        assert numbers(dataset.window(entry)) == [1]

    def test_columns_that_nobody_knows_are_said_in_one_line(self, house):
        entry = listed(house, "odd.csv", "eins,zwei\n1,2\n")
        with pytest.raises(dataset.Unrecognised, match="the columns eins, zwei fit no format") as problem:
            dataset.window(entry)
        assert "\n" not in problem.value.text
        assert dataset.records(entry)[0].record == {"eins": "1", "zwei": "2"}

    def test_speakers_with_names_of_their_own_are_found(self, house):
        said = [{"from": "Klient", "value": "hi"}, {"from": "assistant", "value": "ho"}]
        entry = listed(house, "chat.jsonl", [{"conversations": said}])
        head = dataset.head(entry)
        assert dataset.speakers(head) == ["Klient"]
        assert dataset.keys(head) == ["from", "value"]
        assert dataset.columns(head) == ["conversations"]

    def test_what_is_found_marks_rows_and_can_be_mended(self, house):
        entry = listed(house, "same.jsonl", [*pairs(2), *pairs(1)])
        window = dataset.window(entry)
        assert dataset.known(window) == {}
        found = dataset.look(entry)
        assert found["duplicate"].rows == (3,) and dataset.known(window) is found
        dataset.mended(entry, 0, "duplicate")
        assert [line.excluded for line in dataset.window(entry).lines] == [False, False, True]
        with pytest.raises(DataError, match="not there any more"):
            dataset.mended(entry, 0, "duplicate")

    def test_a_file_that_is_gone_is_said(self, house):
        entry = listed(house, "gone.jsonl", pairs(1))
        entry.path.unlink()
        with pytest.raises(BoardError, match="does not exist"):
            dataset.window(entry)


class TestArrivals:
    @pytest.mark.parametrize(
        ("text", "ending"),
        [('[{"a": 1}]', "json"), ('{"a": 1}\n{"a": 2}', "jsonl"), ('{"a":\n1}', "json"), ("a,b\n1,2", "csv"),
         ("a\tb\n1\t2", "tsv"), ("Dear Sir, or Madam\nhello", "txt"), ("a", "txt")],
    )  # fmt: skip
    def test_pasted_text_is_kept_as_what_it_looks_like(self, house, text, ending):
        place = arrivals.pasted(text, house)
        assert place.parent == house / "datasets" and place.suffix == f".{ending}"
        assert place.read_text() == text + "\n"

    @pytest.mark.parametrize("name", ["../../etc/cron.d/x.csv", ".hidden.csv", "a/b.csv", "\0.csv", "....csv", ".csv"])
    def test_no_name_leads_out_of_the_folder(self, name):
        safe = arrivals.safe(name)
        assert safe == Path(safe).name and not safe.startswith(".") and "\0" not in safe

    def test_an_upload_never_overwrites(self, house):
        places = []
        for number in range(3):
            upload = house / "rows.csv.gz"
            upload.write_text(str(number))
            places.append(arrivals.stored([upload], house))
        assert [place.name for place in places] == ["rows.csv.gz", "rows-2.csv.gz", "rows-3.csv.gz"]
        assert [place.read_text() for place in places] == ["0", "1", "2"]

    def test_several_files_become_a_folder_and_none_is_moved_when_one_is_refused(self, house):
        parts = [house / f"part-{number}.jsonl" for number in (1, 2)]
        for part in parts:
            part.write_text(json.dumps(pairs(1)[0]))
        with pytest.raises(DataError, match=r"picture\.bmp: files that end like this are not read"):
            arrivals.stored([*parts, house / "picture.bmp"], house)
        assert all(part.exists() for part in parts)
        folder = arrivals.stored(parts, house)
        assert folder == house / "datasets" / "part"
        assert len(dataset.window(registry.find("part", house)).lines) == 2


class TestTyped:
    @pytest.mark.parametrize(
        ("text", "kind", "what"),
        [("", "nothing", ""), ('{"a": 1}', "rows", '{"a": 1}'), ("a\nb", "rows", "a\nb"),
         ("https://a.org/b.jsonl", "address", "https://a.org/b.jsonl"), ("owner/name", "hub", "owner/name"),
         ("https://huggingface.co/datasets/owner/name/tree/main", "hub", "owner/name"),
         ("https://huggingface.co/datasets/o/n/resolve/main/a.csv", "address",
          "https://huggingface.co/datasets/o/n/resolve/main/a.csv"),
         ("https://www.modelscope.cn/datasets/o/n", "hub", "o/n"),
         ("/data/x", "path", "/data/x"), ("rows.csv", "path", "rows.csv"), ("dir/rows.csv", "path", "dir/rows.csv")],
    )  # fmt: skip
    def test_what_is_typed_is_taken_for_what_it_is(self, text, kind, what):
        assert Adding._kind(None, text) == (kind, what)  # type: ignore[arg-type]

    def test_progress_says_what_has_arrived(self):
        assert "width:50.0%" in adding._progress(500, 1000)
        assert "width" not in adding._progress(500, 0)


class TestAdding:
    FOUND = HubDataset("owner/name", "huggingface", "main", {
        "easy": {"train": (HubFile("easy/train.jsonl", 10, "1"),), "test": (HubFile("easy/test.jsonl", 10, "1"),)},
        "hard": {"validation": (HubFile("hard/validation.jsonl", 10, "1"),)},
    }, licence="MIT")  # fmt: skip

    def panel(self, house: Path) -> Adding:
        with gr.Blocks():
            return Adding(SimpleNamespace(workspace=house, allowed=()))  # type: ignore[arg-type]

    def test_a_hub_dataset_is_looked_up_and_a_part_of_it_downloaded(self, house, monkeypatch):
        def download(id, hub, config, split, *, into, progress, stop):
            assert (id, config, split, stop()) == ("owner/name", "easy", "test", False)
            progress(10, 10)
            (into / "owner--name").mkdir()
            (into / "owner--name" / "test.jsonl").write_text(json.dumps(pairs(1)[0]))
            return into / "owner--name"

        monkeypatch.setattr(adding.hub, "look", lambda id, hub: self.FOUND)
        monkeypatch.setattr(adding.hub, "download", download)
        panel = self.panel(house)
        looking, found = panel._add("owner/name", "huggingface", adding.ANY, adding.ANY, None)
        assert "Looking it up" in looking[2] and found[5] is self.FOUND
        assert found[3].choices == [(adding.ANY, adding.ANY), ("easy", "easy"), ("hard", "hard")]
        assert "3 files on Hugging Face, MIT" in adding._about(self.FOUND)
        *progress, done = panel._add("owner/name", "huggingface", "easy", "test", self.FOUND)
        assert progress and isinstance(progress[0][6], adding.Fetching)
        assert done[0].value == "name (easy, test)"
        assert registry.find("name (easy, test)", house).origin == "huggingface:owner/name"

    def test_a_web_page_is_no_file_of_rows(self, house):
        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(b"<!doctype html><title>Rows</title>")

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}/rows.csv"
            *_, last = self.panel(house)._add(url, "huggingface", adding.ANY, adding.ANY, None)
            server.shutdown()
        assert "is a web page, not a file of rows" in last[2] and last[7].interactive
        assert not (house / "datasets" / "rows.csv").exists()

    def test_splits_follow_the_subset(self):
        assert adding._splits(self.FOUND, "easy") == ([adding.ANY, "train", "test"], "train")
        assert adding._splits(self.FOUND, "hard") == (["validation"], "validation")
        assert adding._splits(self.FOUND, adding.ANY)[0] == [adding.ANY, "train", "test", "validation"]

    def test_a_download_that_breaks_is_a_sentence_and_frees_the_button(self, house, monkeypatch):
        def download(*_, **__):
            raise DataError("the hub is gone.", "Try again.")

        monkeypatch.setattr(adding.hub, "download", download)
        *_, last = self.panel(house)._add("owner/name", "huggingface", adding.ANY, adding.ANY, self.FOUND)
        assert "the hub is gone." in last[2] and last[7].interactive


class TestEditor:
    def row(self) -> Row:
        call = {"type": "function", "function": {"name": "f", "arguments": {}}}
        messages = [
            {"role": "user", "content": HOSTILE},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "1"},
            {"role": "assistant", "content": "\nOne\n", "reasoning_content": "so"},
        ]
        return Row(messages, None, "f", 1)

    def test_texts_are_changed_where_they_stand_and_nothing_else_is(self):
        record = self.row().record()
        assert list(editor.texts(record)) == [
            "messages.0.content", "messages.2.content", "messages.3.reasoning_content", "messages.3.content",
        ]  # fmt: skip
        changed = editor.changed(record, {"messages.3.content": "Two"})
        assert changed["messages"][3] == {"role": "assistant", "content": "Two", "reasoning_content": "so"}
        assert changed["messages"][:3] == record["messages"][:3] and record == self.row().record()

    @pytest.mark.parametrize("path", ["messages.1.content", "messages.9.content", "messages.0.role", "tools", "", "."])
    def test_a_place_that_holds_no_text_is_refused(self, path):
        with pytest.raises(DataError, match="changed meanwhile"):
            editor.changed(self.row().record(), {path: "x"})

    def test_boxes_hold_the_texts_escaped_and_whole(self):
        drawn = turns.editable(self.row())
        assert "<img" not in drawn and "&lt;img src=x" in drawn
        assert ">\n\nOne\n</textarea>" in drawn

    def test_a_record_is_written_and_read_back(self):
        record = self.row().record() | {"note": "a\nb: c\n", "when": "2024-01-01", "no": "no"}
        assert editor.read(editor.written(record)) == record
        assert "note: |\n" in editor.written(record)

    @pytest.mark.parametrize("text", ["a: [", "\t- x", "a: b: c", "!!python/object:os.system x", "[" * 3000])
    def test_what_is_no_yaml_is_a_sentence(self, text):
        with pytest.raises(DataError):
            editor.read(text)

    def test_a_row_must_have_named_parts(self):
        with pytest.raises(DataError, match="named parts"):
            editor.read("- 1")


def test_findings_are_listed_by_their_weight_and_escaped():
    found = {
        "a": Finding("a", "note", HOSTILE, 1, (1,), HOSTILE),
        "b": Finding("b", "error", "bad", 2, (), "", "exclude"),
    }
    drawn = advice.html(found, "Looked at all 2 rows.")
    assert "<img" not in drawn
    assert drawn.index("bad") < drawn.index("&lt;img")
    assert 'data-show="a"' in drawn and 'data-show="b"' not in drawn
    assert 'data-mend="b">Leave these rows out' in drawn
    assert advice.titles(found) == {"a": "Found: a (1)"}


def test_findings_name_fields_by_their_labels():
    found = {"a": Finding("a", "note", "2 rows say {{name}} (data.fill).", 2, (), "Raise data.repeat.")}
    drawn = advice.html(found, "Looked at all 2 rows.")
    assert "2 rows say {{name}} (“Fill in”)." in drawn and "Raise “Repeat”." in drawn
