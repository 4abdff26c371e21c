"""Brings a file into the workspace: one that was uploaded, or text that was pasted.

Knows nothing of formats. What arrives is a file in `<workspace>/datasets` under a name of its own, all at once or not
at all; nothing there is ever overwritten.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data import members
from data.files import MEMBERS, READERS, is_readable, read
from data.jsons import is_json
from data.tables import names_columns
from engine.contract.errors import DataError

LONGEST_NAME = 120  # bytes; file systems end at 255, and -2.jsonl.gz is added
UNSAFE = re.compile(r"[\x00-\x1f\x7f<>:\"/\\|?*]+")


def store(upload: Path, workspace: Path, name: str = "") -> Path:
    """Copies an upload into the workspace, under its own name as far as that is safe.

    Raises DataError for a kind of file that is not read, before anything is copied, and where there is no room.
    """
    name = safe_name(name or upload.name)
    refuse_unknown(name)
    with arriving(workspace, name) as part:
        shutil.copyfile(upload, part)
    return placed(part, name)


def pasted(text: str, name: str, workspace: Path) -> Path:
    """Keeps pasted text as a file of the kind that it is, once all of it has been read.

    The name's ending decides where it has one. Raises DataError for what is empty or cannot be read.
    """
    if not text.strip():
        raise DataError("nothing was pasted.", "Paste rows as JSON, as a table or as text.")
    ending = members.ending(name)
    plain = ending in READERS and not members.compression(name) and ending not in (".parquet", ".arrow", ".xlsx")
    name = safe_name(name if plain else f"{name or 'pasted'}{kind_of(text)}")
    with arriving(workspace, name) as part:
        part.write_bytes(text.encode(errors="replace"))
        for _ in read(part):
            pass
    return placed(part, name)


def kind_of(text: str) -> str:
    """The ending of the file that the text would be: `.json`, `.jsonl`, `.csv`, `.tsv` or `.txt`."""
    start = text.lstrip("\ufeff \t\r\n")
    first, _, rest = start.partition("\n")
    if start.startswith("["):
        return ".json"
    if start.startswith("{"):
        return ".jsonl" if rest.strip() and is_json(first) else ".json"
    rows = start.splitlines()[:50]
    for delimiter, ending in (("\t", ".tsv"), (",", ".csv"), (";", ".csv"), ("|", ".csv")):
        try:
            table = [cells for cells in csv.reader(rows, delimiter=delimiter) if cells]
        except csv.Error:
            continue
        if len(table) > 1 and len(table[0]) > 1 and names_columns(table[0]):
            if sum(len(cells) == len(table[0]) for cells in table) >= 0.9 * len(table):
                return ending
    return ".txt"


def safe_name(name: str) -> str:
    """A name without folders, signs that file systems dislike, or a leading dot; its ending stays."""
    name = UNSAFE.sub("_", re.split(r"[/\\]", name)[-1]).strip(" .")
    stem, dot, ending = name.partition(".")
    room = LONGEST_NAME - len(ending.encode())
    stem = (stem or "data").encode()[: max(room, 8)].decode(errors="ignore")
    return f"{stem}{dot}{ending}"


def refuse_unknown(name: str) -> None:
    """Raises DataError for a name whose ending tells of no kind of file that is read."""
    if not is_readable(Path(name)) or Path(name).is_dir():
        raise DataError(f"{name!r} is no kind of file that is read.", f"Use one of {', '.join((*READERS, *MEMBERS))}.")


@contextmanager
def arriving(workspace: Path, name: str) -> Iterator[Path]:
    """A file to be filled, which is gone again if that fails. `placed` then gives it its name."""
    folder = workspace / "datasets"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".arriving-", dir=folder)) / name
        try:
            yield part
        except BaseException:
            shutil.rmtree(part.parent)
            raise
    except OSError as error:
        raise DataError(
            f"cannot be kept: {error.strerror or error}.", "Make room, or choose a folder.", file=name
        ) from None


def placed(part: Path, name: str) -> Path:
    """Moves a file that has arrived to its name, or to `name-2` and so on where that is taken."""
    folder = part.parent.parent
    stem, dot, ending = name.partition(".")
    number = 1
    while True:
        target = folder / (name if number == 1 else f"{stem}-{number}{dot}{ending}")
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))  # takes the name, against another process
        except FileExistsError:
            number += 1
        else:
            part.replace(target)
            part.parent.rmdir()
            return target
