"""What a person hands over, put into the workspace as files: uploads and pasted text.

Decides where a file lies and what it is called, so that no name from outside leads anywhere else. Knows nothing of
what the rows are, and never overwrites.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from data.datasets import llamafactory
from data.datasets.entries import PATCHES
from data.reading import files
from data.reading.tables import names_columns
from engine.contract.errors import DataError

SHORTEST_TABLE = 2  # lines


def stored(uploaded: Sequence[Path], workspace: Path) -> Path:
    """Moves uploaded files into the workspace's datasets: one as a file, several together as a folder; where they are.

    Raises DataError, before anything is moved, when one of them can never hold rows.
    """
    if not uploaded:
        raise DataError("nothing has arrived.", "Choose a file again.")
    for file in uploaded:
        if file.name != llamafactory.LIST and not files.is_readable(file):
            raise DataError(
                f"{file.name}: files that end like this are not read.",
                f"Use one of {', '.join((*files.READERS, *files.MEMBERS))}, compressed or not.",
            )
    folder = workspace / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    if len(uploaded) == 1 and uploaded[0].name != llamafactory.LIST:
        place = free(folder / safe(uploaded[0].name))
        shutil.move(uploaded[0], place)
        return place
    common = os.path.commonprefix([file.stem for file in uploaded]).strip(" -_.")
    place = free(
        folder / (safe(common) if len(common) > 2 and common != PATCHES else time.strftime("upload-%Y%m%d-%H%M%S"))
    )
    place.mkdir()
    for file in uploaded:
        shutil.move(file, free(place / safe(file.name)))
    return place


def pasted(text: str, workspace: Path) -> Path:
    """Writes pasted rows into a file whose ending says what they look like; where it is."""
    folder = workspace / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    place = free(folder / time.strftime(f"pasted-%Y%m%d-%H%M%S.{ending(text)}"))
    place.write_text(text.strip() + "\n", encoding="utf-8", errors="replace")
    return place


def ending(text: str) -> str:
    """How text is to be read: `json`, `jsonl`, `csv`, `tsv`, or `txt` where it is no rows."""
    text = text.strip()
    if text.startswith("["):
        return "json"
    if text.startswith("{"):
        return "json" if _is_json(text) else "jsonl"
    lines = text.splitlines()
    for delimiter, name in (("\t", "tsv"), (",", "csv")):
        if len(lines) >= SHORTEST_TABLE and delimiter in lines[0]:
            table = [row for row in csv.reader(lines, delimiter=delimiter) if row]
            if len({len(row) for row in table}) == 1 and names_columns(table[0]):  # prose has commas too
                return name
    return "txt"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def safe(name: str) -> str:
    """A name that is one file in the folder where it is put, whatever was in it."""
    name = re.sub(r"[^\w .()+-]+", "-", Path(name).name).strip(" .-")
    stem, dot, last = name[-120:].partition(".")
    return f"{stem or 'data'}{dot}{last}"


def free(place: Path) -> Path:
    """The path, or with -2, -3 ... before its ending where something lies there already."""
    stem, dot, rest = place.name.partition(".")
    number = 1
    while place.exists():
        number += 1
        place = place.with_name(f"{stem}-{number}{dot}{rest}")
    return place
