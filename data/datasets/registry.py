"""The datasets that can be chosen by name: those shipped, those of the workspace's own list, and the files in it.

Knows where datasets lie and what is said about them, not what is in their rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from data.datasets import llamafactory, writing
from data.datasets.entries import LIST, PATCHES, Entry, forget, listed, patched, save
from data.datasets.patch import Patch
from data.paths import inside
from data.reading import files, members
from data.rows import formats
from data.rows.conversation import Kind, Row
from engine.contract.errors import DataError

__all__ = [
    "Count",
    "Entry",
    "count",
    "entries",
    "export",
    "find",
    "forget",
    "load",
    "mistakes",
    "offers",
    "original",
    "rows",
    "save",
]

HERE = Path(__file__).resolve().parents[1]
LOOKED_AT = 1000  # files of a folder that tell which splits it holds; one of pictures may have very many


class Count(NamedTuple):
    """Records in a dataset, and the name of their format."""

    rows: int
    format: str

    @property
    def kind(self) -> Kind:
        """What the rows can teach."""
        return formats.known(self.format).kind


def entries(workspace: Path, allowed: Sequence[Path] = ()) -> list[Entry]:
    """Every dataset that can be chosen; the workspace's own list wins over a shipped one of the same name.

    Besides: what a `dataset_info.json` in the workspace or an `allowed` folder says, and files and folders that lie in
    the workspace without being listed. An entry with a mistake is left out: `mistakes` says why.
    """
    folder = workspace / "datasets"
    found = {entry.name: entry for entry in [*listed(HERE / LIST)[0], *listed(folder / LIST)[0]]}
    for entry in chain.from_iterable(llamafactory.read(place).entries for place in _brought(folder, allowed)):
        found.setdefault(entry.name, entry)
    for path in _loose(folder, [entry.path for entry in found.values()]):
        for entry in _by_split(path):
            found.setdefault(entry.name, entry)
    return [patched(entry, workspace) for entry in found.values()]


def mistakes(workspace: Path) -> DataError | None:
    """What is wrong with the workspace's own list of datasets, if anything is."""
    return listed(workspace / "datasets" / LIST)[1]


def offers(workspace: Path, allowed: Sequence[Path] = ()) -> tuple[list[llamafactory.Offer], list[str]]:
    """The hub datasets that a `dataset_info.json` names and that are not here yet; and what could not be read of it."""
    brought = [llamafactory.read(place) for place in _brought(workspace / "datasets", allowed)]
    return [offer for one in brought for offer in one.offers], [problem for one in brought for problem in one.problems]


def _loose(folder: Path, listed: Collection[Path]) -> Iterator[Path]:
    """Files and folders of a folder that rows can be read from, and that are not `listed`, nor hold what is."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or not files.is_readable(path) or path.name == PATCHES:
            continue
        if path.is_dir():
            if (path / llamafactory.LIST).exists() or not any(members.with_rows([n]) for n, _ in members.folder(path)):
                continue
        elif not members.with_rows([path.name]):  # a list of datasets, a readme
            continue
        real = path.resolve()
        if not any(known.is_relative_to(real) for known in listed):
            yield real


def _by_split(path: Path) -> Iterator[Entry]:
    """The file or folder as a dataset; each split of a folder is one, lest the test set be trained on."""
    seen = [name for name, _ in islice(members.folder(path), LOOKED_AT)] if path.is_dir() else []
    splits = {split for _, split in members.parts(members.with_rows(seen), members.card(path))}
    named = sorted(splits - {""}, key=lambda split: (not split.startswith("train"), split))
    if len(named) > 1:
        for split in named:
            yield Entry(name=f"{path.name}/{split}", title=f"{path.name}, {split}", path=path, split=split)
    if len(named) < 2 or "" in splits:
        yield Entry(name=path.name, title=path.stem, path=path)


def _brought(folder: Path, allowed: Iterable[Path]) -> list[Path]:
    """The folders that hold a `dataset_info.json`."""
    beneath = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [place for place in (folder, *beneath, *allowed) if (place / llamafactory.LIST).is_file()]


def find(name_or_path: str, workspace: Path, allowed: Sequence[Path] = ()) -> Entry:
    """The dataset of that name, or the file or folder at that path, when that lies in the workspace or is `allowed`.

    A registered name wins over a file in the working directory (`./name` means the file). Raises DataError for an
    unknown name, with the nearest one, and BoardError for a path out of bounds.
    """
    known = {entry.name: entry for entry in entries(workspace, allowed)}
    if entry := known.get(name_or_path):
        return entry.model_copy(update={"path": inside(entry.path, [workspace, *allowed, HERE])})
    path = Path(name_or_path)
    if files.is_readable(path) or "/" in name_or_path or path.exists():
        real = inside(path, [workspace, *allowed])
        if not real.exists():
            raise DataError(f"the dataset {name_or_path!r} does not exist.", _choices(name_or_path, list(known)))
        return patched(Entry(name=path.name, title=path.stem, path=real), workspace)
    if wrong := mistakes(workspace):  # it may be the one that is looked for
        raise wrong
    raise DataError(f"there is no dataset {name_or_path!r}.", _choices(name_or_path, list(known)))


def count(entry: Entry) -> Count:
    """Records and format of a dataset, before its patch; read once and again only when a file has changed."""
    try:
        state = files.stamp(entry.path)
    except OSError:
        raise DataError(
            "the file does not exist.", "Put it back, or choose another dataset.", file=entry.path
        ) from None
    found = _count(entry.path, entry.format, entry.skip_bad, entry.reading, state)
    return found if entry.limit is None else found._replace(rows=min(found.rows, entry.limit))


@lru_cache(maxsize=256)
def _count(path: Path, format: str, skip_bad: bool, options: files.Options, state: tuple[int, int]) -> Count:
    if format == formats.AUTO:
        head = islice(files.read(path, [] if skip_bad else None, options), formats.LOOKED_AT)
        format = formats.recognise((found.record for found in head), path).format
    return Count(files.count(path, options), format)


def original(entry: Entry, skipped: list[DataError] | None = None) -> Iterator[Row]:
    """The rows as the files have them, before patch and placeholders: what changes to single rows are written against.

    Those that cannot be used go to `skipped`. Without a list they are an error at the end, unless the dataset says
    `skip_bad`.
    """
    if skipped is None and entry.skip_bad:
        skipped = formats.Problems()
    return islice(formats.rows(entry.path, entry.mapping, None, skipped, entry.reading), entry.limit)


def rows(entry: Entry, skipped: list[DataError] | None = None) -> Iterator[Row]:
    """The rows of the dataset one by one as they are to be used: mended by its patch, placeholders filled."""
    found = original(entry, skipped)
    if entry.patch is not None and entry.patch.exists():
        found = Patch.of(entry.patch).apply(found)
    return (row.filled(entry.fill) for row in found) if entry.fill else found


def load(entry: Entry, skipped: list[DataError] | None = None) -> list[Row]:
    """Every row of the dataset, in memory."""
    return list(rows(entry, skipped))


def export(entry: Entry, to: Path, ending: str = "jsonl", form: str = "canonical") -> int:
    """Writes the rows as they are used to the file `to`; how many they were. For ending and form see
    `data.datasets.writing`.
    """
    return writing.write(lambda: rows(entry), to, ending, form)


def _choices(name: str, known: list[str]) -> str:
    if parts := [whole for whole in known if whole.startswith(f"{name}/")]:
        return f"It has parts: choose {' or '.join(parts)}."
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"Choose one of {', '.join(known)}, or give the path of a file."
