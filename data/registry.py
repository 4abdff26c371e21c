"""The datasets that can be chosen by name: those shipped, those of the workspace's own list, and the files in it.

Knows where datasets lie and what is said about them, not what is in their rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from data import files, formats
from data.conversation import Kind, Row
from data.mapping import Mapping, Role
from data.paths import inside
from engine.contract.errors import DataError

HERE = Path(__file__).resolve().parent
LIST = "datasets.yaml"


class Entry(BaseModel):
    """One dataset, and how its files are read.

    path: absolute; a file, or a folder of them.   format, columns, roles: see `data.mapping.Mapping`.
    fill: replaces `{{name}}`.   skip_bad: rows that cannot be used are left out; somebody has seen them and agreed.
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
    skip_bad: bool = False
    origin: str = ""
    subset: str = ""
    split: str = ""
    patch: Path | None = None

    @property
    def mapping(self) -> Mapping:
        return Mapping(format=self.format, columns=self.columns, roles=self.roles)


class Count(NamedTuple):
    """Records in a dataset, and the name of their format."""

    rows: int
    format: str

    @property
    def kind(self) -> Kind:
        """What the rows can teach."""
        return formats.known(self.format).kind


def entries(workspace: Path) -> list[Entry]:
    """Every dataset that can be chosen; the workspace's own list wins over a shipped one of the same name."""
    folder = workspace / "datasets"
    found = {entry.name: entry for entry in [*_listed(HERE / LIST), *_listed(folder / LIST)]}
    listed = {entry.path for entry in found.values()}
    loose = sorted(folder.iterdir()) if folder.is_dir() else []
    for file in loose:
        if file.suffix.lower() in files.READERS and file.is_file() and file.resolve() not in listed:
            found.setdefault(file.name, Entry(name=file.name, title=file.stem, path=file.resolve()))
    return list(found.values())


def find(name_or_path: str, workspace: Path, allowed: Sequence[Path] = ()) -> Entry:
    """The dataset of that name, or the file at that path when it lies in the workspace or an `allowed` folder.

    A registered name wins over a file in the working directory (`./name` means the file). Raises DataError for an
    unknown name, with the nearest one, and BoardError for a path out of bounds.
    """
    known = {entry.name: entry for entry in entries(workspace)}
    if entry := known.get(name_or_path):
        return entry.model_copy(update={"path": inside(entry.path, [HERE, workspace, *allowed])})
    path = Path(name_or_path)
    if path.suffix.lower() in files.READERS or "/" in name_or_path or path.exists():
        real = inside(path, [workspace, *allowed])
        if not real.exists():
            raise DataError(f"the dataset {name_or_path!r} does not exist.", _choices(name_or_path, list(known)))
        return Entry(name=path.name, title=path.stem, path=real)
    raise DataError(f"there is no dataset {name_or_path!r}.", _choices(name_or_path, list(known)))


def count(entry: Entry) -> Count:
    """Rows and format of a dataset; read once and again only when the file has changed."""
    try:
        state = entry.path.stat()
    except OSError:
        raise DataError(
            "the file does not exist.", "Put it back, or choose another dataset.", file=entry.path
        ) from None
    return _count(entry.path, entry.format, state.st_mtime_ns, state.st_size)


def rows(entry: Entry, skipped: list[DataError] | None = None) -> Iterator[Row]:
    """The rows of the dataset one by one, as its patch leaves them; those that cannot be used go to `skipped`.

    Without a list, they are an error at the end unless the dataset says `skip_bad`.
    """
    if skipped is None and entry.skip_bad:
        skipped = []
    return formats.rows(entry.path, entry.mapping, entry.fill, skipped)


def load(entry: Entry, skipped: list[DataError] | None = None) -> list[Row]:
    """Every row of the dataset, in memory."""
    return list(rows(entry, skipped))


@lru_cache(maxsize=256)
def _count(path: Path, format: str, changed: int, size: int) -> Count:
    if format == "auto":
        head = islice(files.read(path), formats.LOOKED_AT)
        format = formats.recognise((found.record for found in head), path).format
    return Count(files.count(path), format)


def _choices(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Choose one of {', '.join(known)}, or give the path of a file."


def _listed(file: Path) -> list[Entry]:
    """The datasets of one list; raises DataError that names every entry that is wrong."""
    if not file.is_file():
        return []
    try:
        stated = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"the list of datasets is not valid YAML: {error}.", "Mend or remove it.", file=file) from None
    if not isinstance(stated, dict):
        raise DataError(
            "the list of datasets must map names to entries.", "Write `name:` and below it `path: ...`.", file=file
        )
    found, problems = [], []
    for name, fields in stated.items():
        try:
            entry = Entry(**{"name": str(name), "title": str(name), **(fields or {})})
            if entry.format != "auto":
                formats.known(entry.format)
            found.append(entry.model_copy(update={"path": (file.parent / entry.path).resolve()}))
        except ValidationError as error:
            problems += [f"{name}.{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        except (DataError, TypeError) as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise DataError("the list of datasets has mistakes:\n  " + "\n  ".join(problems), "Mend them.", file=file)
    return found
