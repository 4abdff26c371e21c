"""Which members of a folder or archive hold rows, in which order, and which subsets and splits they make.

Follows the names that the hub's datasets use. Knows names, and where a folder's links lead, but nothing of content.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from engine.contract.errors import DataError

TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".xlsx")
PROSE = (".txt", ".md")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
ARCHIVES = (".zip", ".tar")

SHORT = {".tgz": ".gz", ".tbz2": ".bz2", ".txz": ".xz"}

ABOUT = re.compile(
    r"(readme|licen[cs]e|copying|notice|changelog|citation|contributing|authors|credits|requirements)\b.*"
    r"|dataset_infos?\.json|dataset_dict\.json|state\.json|datasets\.yaml|.*\.index\.json",
    re.IGNORECASE,
)  # what lies beside data and tells about it
DEEPEST, MOST = 8, 100_000  # folders within folders, files in all

WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}")  # train_sft-00000-of-00003.parquet
Part = tuple[str, str]  # subset and split, either of which may be empty


def ending(name: str) -> str:
    """The ending that tells how the rows are written: `.jsonl` for `a.jsonl.gz`, `.tar` for `a.tgz`."""
    path = PurePosixPath(name.lower())
    if path.suffix in SHORT:
        return ".tar"
    return PurePosixPath(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def compression(name: str) -> str:
    """`.gz` for `a.jsonl.gz` and `a.tgz`; empty where nothing is compressed."""
    suffix = PurePosixPath(name.lower()).suffix
    return SHORT.get(suffix, suffix if suffix in COMPRESSED else "")


def with_rows(names: Iterable[str]) -> list[str]:
    """The members that hold rows, in the order in which people count (2 before 10).

    Text beside tables tells about them and is left out, as are readmes, licences and whatever is hidden.
    """
    seen = [name for name in names if not _is_about(name)]
    tables = [name for name in seen if ending(name) in TABLES + ARCHIVES]
    return sorted(tables or [name for name in seen if ending(name) in PROSE], key=_natural)


def parts(names: Iterable[str], card: str = "") -> dict[Part, list[str]]:
    """The members of each subset and split: as the dataset's card (the text of its README.md) states, or by name."""
    names = list(names)
    stated = _stated(card, names)
    if stated:
        return stated
    found: dict[Part, list[str]] = {}
    for name in names:
        found.setdefault(_part(name), []).append(name)
    return found


def chosen(names: Iterable[str], subset: str, split: str, card: str = "") -> list[str]:
    """The members with rows of one subset and split, either of which may be left open. Raises DataError for none."""
    names = with_rows(names)
    subset = "" if subset == "default" else subset  # the hub's name for the only one
    if not (subset or split):
        return names
    known = parts(names, card)
    wanted = {
        name
        for (of_subset, of_split), members in known.items()
        if subset in ("", of_subset) and split in ("", of_split)
        for name in members
    }
    if not wanted:
        there = ", ".join(sorted(" ".join(filter(None, part)) or "(unnamed)" for part in known)) or "nothing"
        raise DataError(f"there is no {' '.join(filter(None, (subset, split)))!r} in it.", f"It holds {there}.")
    return [name for name in names if name in wanted]


def folder(path: Path) -> Iterator[tuple[str, Path]]:
    """The files of a folder and of those in it, by name within it; links that lead out of it are left out.

    The links of a hub's snapshot lead to the blobs beside it, and count as inside.
    """
    home = path.resolve()
    repository = home.parent.parent
    if home.parent.name == "snapshots" and (repository / "blobs").is_dir():
        home = repository
    found = 0
    for here, folders, files in os.walk(path):
        depth = len(Path(here).relative_to(path).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and depth < DEEPEST)
        for name in sorted(files):
            found += 1
            if found > MOST:
                raise DataError(f"the folder holds more than {MOST:,} files.", "Choose a folder further in.", file=path)
            file = Path(here, name)
            mode = file.lstat().st_mode
            if stat.S_ISREG(mode) or (stat.S_ISLNK(mode) and file.resolve().is_relative_to(home)):
                yield file.relative_to(path).as_posix(), file


def card(path: Path) -> str:
    """The text of a folder's README.md, where a hub's dataset states its subsets and splits."""
    try:
        return (path / "README.md").read_text(encoding="utf-8", errors="replace")[: 1 << 20]
    except OSError:
        return ""


def _is_about(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return hidden or bool(ABOUT.fullmatch(path.name))


def _natural(name: str) -> list[Any]:
    return [(0, int(word), "") if word.isdecimal() else (1, 0, word) for word in re.split(r"(\d{1,18})", name)]


def _part(name: str) -> Part:
    path = PurePosixPath(name)
    folders = [folder for folder in path.parts[:-1] if folder not in ("data", "default")]
    if sharded := SHARD.match(path.name):
        split = "" if sharded[1] in ("data", "part") else sharded[1]
    else:
        split = next((WORDS[word] for word in re.split(r"[^a-z]+", path.name.lower()) if word in WORDS), "")
    if not split and folders and folders[-1].lower() in WORDS:
        split = WORDS[folders.pop().lower()]
    return "/".join(folders), split


def _stated(card: str, names: list[str]) -> dict[Part, list[str]]:
    if not card.startswith("---"):
        return {}
    try:
        head = yaml.safe_load(card[3:].partition("\n---")[0])
    except yaml.YAMLError:  # then the names decide
        return {}
    found: dict[Part, list[str]] = {}
    configs = head.get("configs") if isinstance(head, Mapping) else None
    for config in configs if isinstance(configs, list) else []:
        if not isinstance(config, Mapping):
            continue
        subset = str(config.get("config_name", ""))
        for split, pattern in _patterns(config.get("data_files")):
            members = [name for name in names if fnmatch(name, pattern)]
            found.setdefault(("" if subset == "default" else subset, split), []).extend(members)
    return {part: members for part, members in found.items() if members}


def _patterns(files: Any) -> Iterator[tuple[str, str]]:
    for entry in files if isinstance(files, list) else [files]:
        split, paths = ("train", entry)
        if isinstance(entry, Mapping):
            split, paths = str(entry.get("split", "train")), entry.get("path")
        yield from ((split, path) for path in (paths if isinstance(paths, list) else [paths]) if isinstance(path, str))
