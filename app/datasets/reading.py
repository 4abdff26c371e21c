"""How the file itself is read, on the page: its encoding, delimiter, header, sheet, unit, and the part of a folder.

    panel = Reading()                 # makes the components where it is called
    panel.connect(draft)              # draft: a state that holds the open dataset's entry as JSON

Only what can matter to the open file is shown, and a choice goes into the draft at once. How files are read is
`data.reading.files`' to know.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import gradio as gr

from app.board import QUIET
from app.datasets import dataset
from app.theme import Help
from data.datasets.registry import Entry
from data.reading import encodings, files, members
from engine.contract.errors import BoardError

AUTO = "auto"
LOOKED_AT = 1000  # files of a folder that tell which kinds it holds
TABLES, PROSE = {".csv", ".tsv"}, {".txt", ".md"}
TEXTS = {*TABLES, *PROSE, ".json", ".jsonl", ".ndjson"}
NAMES = {
    "encoding": "Encoding", "delimiter": "Delimiter", "header": "Header", "sheet": "Sheet", "unit": "A row is",
    "subset": "Subset", "split": "Split",
}  # fmt: skip
DELIMITERS = [("comma ,", ","), ("semicolon ;", ";"), ("tab", "\t"), ("bar |", "|")]
HEADERS = [("the first row names the columns", "yes"), ("none: the first row is data", "no")]
UNITS = [("a line", "line"), ("a paragraph", "paragraph"), ("a section", "section"), ("the whole file", "file")]
HELP = {
    "data-read-encoding": Help(
        "How the file's bytes stand for letters.", "Change it when the sample below shows wrong letters.", "auto"
    ),
    "data-read-delimiter": Help("What divides the columns.", "Change it when several columns are read as one.", "auto"),
    "data-read-header": Help("Whether the first row is one of names, or of data.", usual="auto"),
    "data-read-sheet": Help("Which sheet of the workbook holds the rows."),
    "data-read-unit": Help("What of a text becomes one row.", "A section begins at each heading.", "auto"),
    "data-read-subset": Help("Which of the folder's parts is read."),
    "data-read-split": Help("Which of the folder's splits is read.", "Take one when the others are to measure."),
}

Choices = list[tuple[str, str]]


class Reading:
    """One dropdown for each option of `data.reading.files.Options`."""

    def __init__(self) -> None:
        with gr.Row(elem_classes="tb-row"):
            self.options = {
                name: gr.Dropdown([AUTO], value=AUTO, label=label, visible=False, elem_id=f"data-read-{name}")
                for name, label in NAMES.items()
            }

    def connect(self, draft: gr.State) -> None:
        draft.change(self._drawn, draft, list(self.options.values()), **QUIET)
        for name, option in self.options.items():
            option.input(lambda draft, said, name=name: self._told(draft, name, said), [draft, option], draft, **QUIET)

    def _drawn(self, draft: str) -> list[Any]:
        entry = dataset.entry(draft) if draft else None
        shown = offered(entry) if entry else {}
        return [
            gr.Dropdown(shown[name], value=chosen(entry, name), visible=True)
            if entry and name in shown
            else gr.Dropdown(visible=False)
            for name in NAMES
        ]

    def _told(self, draft: str, name: str, said: str) -> Any:
        return told(dataset.entry(draft), name, said).model_dump_json() if draft else gr.skip()


def offered(entry: Entry) -> dict[str, Choices]:
    """What can be chosen of each option that matters to the entry's file, `auto` first."""
    kinds = _kinds(entry.path)
    found: dict[str, Choices] = {}
    with suppress(BoardError, OSError):  # said in place of the rows; what was found out until then is offered
        if kinds & TEXTS:
            detected = files.encoding_of(entry.path)
            title = f"{AUTO} ({detected})" if detected else AUTO
            found["encoding"] = [(title, AUTO), *((title, name) for name, title in encodings.TITLES.items())]
        if kinds & TABLES:
            found["delimiter"] = [(AUTO, AUTO), *DELIMITERS]
        if kinds & {*TABLES, ".xlsx"}:
            found["header"] = [(AUTO, AUTO), *HEADERS]
        if ".xlsx" in kinds and entry.path.is_file() and len(sheets := files.sheets_of(entry.path)) > 1:
            found["sheet"] = [(f"the first ({sheets[0]})", AUTO), *((name, name) for name in sheets)]
        if kinds & PROSE:
            found["unit"] = [(AUTO, AUTO), *UNITS]
        if entry.path.is_dir():
            found |= _parts(entry)
    for name, choices in found.items():  # a list of datasets may state what is not offered here
        if (now := chosen(entry, name)) not in (value for _, value in choices):
            choices.append((now, now))
    return found


def chosen(entry: Entry, name: str) -> str:
    """What the entry says of an option, as its dropdown has it."""
    said = getattr(entry if name in ("subset", "split") else entry.options, name)
    return ("yes" if said else "no") if isinstance(said, bool) else said or AUTO


def told(entry: Entry, name: str, said: str) -> Entry:
    """The entry with another choice. What was said of columns is forgotten where they are not there any more."""
    if name in ("subset", "split"):
        changed = {name: "" if said == AUTO else said}
        if name == "subset" and entry.split not in (value for _, value in _splits(entry, changed["subset"])):
            changed["split"] = ""
        new = entry.model_copy(update=changed)
    else:
        default = getattr(files.Options(), name)
        value: Any = default if said == AUTO else said == "yes" if name == "header" else said
        new = entry.model_copy(update={"options": replace(entry.options, **{name: value})})
    with suppress(BoardError):  # a file that cannot be read so says nothing of its columns
        head = dataset.head(new)
        if {column for column in entry.columns.values() if column} - {*dataset.columns(head), *dataset.keys(head)}:
            return new.model_copy(update={"columns": {}})
    return new


def _kinds(path: Path) -> set[str]:
    """The endings of what is read; nothing for an archive, which is not opened for that."""
    if not path.is_dir():
        return {members.ending(path.name)}
    names = (name for name, _ in islice(members.folder(path), LOOKED_AT))
    return {members.ending(name) for name in members.with_rows(names)}


def _parts(entry: Entry) -> dict[str, Choices]:
    subsets = sorted({subset for subset, _ in files.parts_of(entry.path)} - {""})
    both = {"subset": [(name, name) for name in subsets], "split": _splits(entry, entry.subset)}
    return {
        name: [("all", AUTO), *choices] for name, choices in both.items() if len(choices) > 1 or getattr(entry, name)
    }


def _splits(entry: Entry, subset: str) -> Choices:
    found = {split for of, split in files.parts_of(entry.path) if subset in ("", of)} - {""}
    return [(name, name) for name in sorted(found)]
