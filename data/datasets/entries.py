"""What is known of one dataset, and the lists (`datasets.yaml`) in which it is written down.

Knows nothing of what is in the rows, nor which lists there are.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.reading.files import Options
from data.rows import formats
from data.rows.conversation import Kind
from data.rows.mapping import Mapping, Role
from engine.contract.errors import DataError

LIST = "datasets.yaml"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where the platform has it
PATCHES = "patches"
MISTAKES = {
    "extra_forbidden": "there is no such field",
    "unexpected_keyword_argument": "there is no such field",
    "missing": "it is missing",
    "path_type": "it must be a path",
}  # in our words, by pydantic's name for it


class Entry(BaseModel):
    """One dataset, and how its files are read.

    path: absolute; a file, or a folder of them.   format, columns, roles: see `data.rows.mapping.Mapping`.
    options: how the files themselves are read.   fill: replaces `{{name}}`.
    limit: only that many rows, from the first on.
    skip_bad: rows that cannot be used are left out; somebody has seen them and agreed.
    kind: what its rows can teach, where that is known without reading them.
    origin: where it came from (`huggingface:owner/name`, an https address, `pasted`, `made`), with `subset` and `split`
    where only these were taken.   patch: edits and exclusions to apply, kept beside the data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    path: Path
    format: str = "auto"
    description: str = ""
    licence: str = ""
    fill: dict[str, str] = {}
    columns: dict[str, str] = {}
    roles: dict[str, Role] = {}
    kind: Kind | None = None
    options: Options = Options()
    limit: int | None = Field(None, ge=1)
    skip_bad: bool = False
    origin: str = ""
    subset: str = ""
    split: str = ""
    patch: Path | None = None

    @property
    def mapping(self) -> Mapping:
        return Mapping(format=self.format, columns=self.columns, roles=self.roles)

    @property
    def reading(self) -> Options:
        """How the files are read; a part is chosen from a folder only."""
        if not self.path.is_dir():
            return self.options
        part = {name: said for name in ("subset", "split") if (said := getattr(self, name))}
        return replace(self.options, **part)


def patched(entry: Entry, workspace: Path) -> Entry:
    """The entry with what follows from it: the kind that its format has, and the file for changes to its rows, of which
    each name and place has its own."""
    slug = re.sub(r"[^\w.-]+", "-", entry.name).strip(".-") or "dataset"
    place = hashlib.blake2b(f"{entry.name}\0{entry.path}".encode("utf-8", "surrogateescape"), digest_size=4)
    file = workspace / "datasets" / PATCHES / f"{slug[:80]}-{place.hexdigest()}.jsonl"
    kind = entry.kind if entry.format == formats.AUTO else formats.known(entry.format).kind
    return entry.model_copy(update={"patch": file, "kind": kind})


def listed(file: Path) -> tuple[list[Entry], DataError | None]:
    """The datasets of one list, and an error that names every entry that is wrong and so not among them."""
    found: list[Entry] = []
    problems: list[str] = []
    try:
        stated = _stated(file)
    except DataError as error:
        return found, error
    for name, fields in stated.items():
        if isinstance(fields, dict) and "hub" in fields:
            continue  # on a hub and not here: `data.hubs.catalogue` knows it
        if not isinstance(fields, dict):
            problems.append(f"{name}: it must hold fields, the first of them `path: ...`")
            continue
        try:
            entry = Entry(**{"name": str(name), "title": str(name), **fields})
            check(entry)
            found.append(entry.model_copy(update={"path": (file.parent / entry.path).resolve()}))
        except ValidationError as error:
            problems += [
                f"{name}.{'.'.join(map(str, item['loc']))}: {MISTAKES.get(item['type'], item['msg'])}"
                for item in error.errors()
            ]
        except (DataError, TypeError) as error:
            problems.append(f"{name}: {error}")
    said = "the list of datasets has mistakes:\n  " + "\n  ".join(problems)
    return found, DataError(said, "Mend them.", file=file) if problems else None


def check(entry: Entry) -> None:
    """Raises DataError when the format is unknown, or has none of the fields that columns are stated for."""
    if entry.format != formats.AUTO:
        formats.mapped(entry.mapping, [])


def save(entry: Entry, workspace: Path) -> Entry:
    """Puts the dataset on the workspace's own list, in place of one of the same name; the others stay as they are.

    Raises DataError for a name that cannot be one, a mapping that is wrong, or a list that is.
    """
    if not entry.name.strip() or entry.name != entry.name.strip() or re.search(r"[/\\\x00-\x1f]", entry.name):
        raise DataError(f"{entry.name!r} cannot be the name of a dataset.", "Use letters, digits, spaces, - and _.")
    check(entry)
    folder = workspace / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    path = entry.path.resolve()
    fields = entry.model_dump(mode="json", exclude={"name", "patch", "path"}, exclude_defaults=True)
    inside = path.is_relative_to(folder.resolve())
    with _changing(folder / LIST) as stated:
        stated[entry.name] = {"path": str(path.relative_to(folder.resolve()) if inside else path), **fields}
    return patched(entry.model_copy(update={"path": path}), workspace)


def forget(name: str, workspace: Path) -> bool:
    """Takes the dataset off the workspace's own list, and says whether it was on it; its files stay."""
    file = workspace / "datasets" / LIST
    if name not in _stated(file):
        return False
    with _changing(file) as stated:
        return stated.pop(name, None) is not None


@contextmanager
def _changing(file: Path) -> Iterator[dict[str, Any]]:
    """The list, to be changed; one page alone does that at a time, and a reader sees the old list or the new one."""
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        stated = _stated(file)
        yield stated
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=".list-", encoding="utf-8", delete=False) as new:
            try:
                yaml.safe_dump(stated, new, allow_unicode=True, sort_keys=False, width=120)
                new.flush()
                os.fsync(new.fileno())
                os.chmod(new.name, 0o644)
                os.replace(new.name, file)
            except BaseException:
                os.unlink(new.name)
                raise
    finally:
        os.close(folder)  # and frees the lock


def _stated(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        stated = _read(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"the list of datasets is not valid YAML: {error}.", "Mend or remove it.", file=file) from None
    if not isinstance(stated, dict):
        raise DataError(
            "the list of datasets must map names to entries.", "Write `name:` and below it `path: ...`.", file=file
        )
    return dict(stated)


@lru_cache(maxsize=8)
def _read(text: str) -> Any:
    """What a list says: taken apart once for each wording, as a list is read at every look at any dataset."""
    return yaml.load(text, Loader=LOADER) or {}
