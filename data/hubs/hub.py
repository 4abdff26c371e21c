"""Datasets of the Hugging Face hub and of ModelScope: what they hold, and a part of one as files on this machine.

Knows nothing of rows. Programs that come with a dataset are never run: one that has only a program is refused.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote, urlencode, urlsplit

from data.datasets.entries import Entry
from data.hubs import web
from data.hubs.refusal import refused
from data.paths import inside
from data.reading import files, members
from engine.contract.errors import BoardError, DataError

Hub = Literal["huggingface", "modelscope"]
TITLES: dict[str, str] = {"huggingface": "Hugging Face", "modelscope": "ModelScope"}
MODELSCOPE = "https://www.modelscope.cn"
CARD = "README.md"
STATE = ".hub.json"
PAGE = 500  # files that ModelScope names at a time
NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class HubFile:
    """One file of a dataset. version: another content has another; sha256 where the hub knows it."""

    path: str
    size: int
    version: str
    sha256: str = ""


@dataclass(frozen=True)
class HubDataset:
    """A dataset on a hub.

    parts: configuration -> split -> its files; a name is empty where the dataset has none.   size: bytes of them all.
    revision: the state that was looked at, which a download gets too.   gated: its owner wants terms to be accepted.
    """

    id: str
    hub: Hub
    revision: str
    parts: dict[str, dict[str, tuple[HubFile, ...]]]
    card: HubFile | None = None
    licence: str = ""
    gated: bool = False

    @property
    def size(self) -> int:
        held = (file for splits in self.parts.values() for files in splits.values() for file in files)
        return sum({file.path: file.size for file in held}.values())

    def files(self, config: str = "", split: str = "") -> list[HubFile]:
        """The files of a configuration and a split, either of which may be left open: then it is the configuration
        without a name, where there is one, else all of them. Raises DataError for none."""
        configs = {config} if config or "" in self.parts else set(self.parts)
        found = [
            file
            for its_config, splits in self.parts.items()
            if its_config in configs
            for its_split, held in splits.items()
            if split in ("", its_split)
            for file in held
        ]
        if found:
            return list({file.path: file for file in found}.values())
        there = "; ".join(f"{name or '(one)'}: {', '.join(filter(None, splits)) or '(one)'}"
                          for name, splits in self.parts.items())  # fmt: skip
        asked = " ".join(filter(None, (config, split)))
        raise DataError(f"{self.id} has no part {asked!r}.", f"It has these configurations and splits: {there}.")


def look(id: str, hub: Hub = "huggingface") -> HubDataset:
    """What a dataset on a hub holds. Raises DataError with a sentence when it is not there, or cannot be asked."""
    if not NAME.fullmatch(id):
        raise DataError(f"{id!r} is not the name of a dataset on a hub.", "It is written owner/name.")
    if hub not in get_args(Hub):
        raise DataError(f"{hub!r} is not a hub.", f"Use one of {', '.join(get_args(Hub))}.")
    found = _huggingface(id) if hub == "huggingface" else _modelscope(id)
    if not found.parts:
        raise DataError(
            f"{id} has no files that rows can be read from.", f"Files end in {', '.join(files.READERS)}, or .gz of it."
        )
    return found


def download(
    id: str,
    hub: Hub = "huggingface",
    config: str = "",
    split: str = "",
    *,
    into: Path,
    progress: Progress | None = None,
    stop: web.Stop | None = None,
) -> Path:
    """Gets a part of a dataset, or all of it, into the folder `into / "owner--name"`, which it gives back.

    What is there already is not fetched again, and what broke off goes on. progress: is told the bytes that are here
    and those of the whole.   stop: is asked after every chunk. Raises `data.hubs.web.Stopped`, DataError,
    ResourceError.
    """
    found = look(id, hub)
    wanted = found.files(config, split)
    if found.card:
        wanted = [*wanted, found.card]  # it states the parts, by which they are found again when rows are read
    folder = into / folder_of(id)
    folder.mkdir(parents=True, exist_ok=True)
    have = _state(folder)
    here, total = 0, sum(file.size for file in wanted)

    def tell(arrived: int) -> None:
        nonlocal here
        here += arrived
        if progress:
            progress(min(here, total), total)

    tell(0)
    missing = []
    for file in wanted:
        to = inside(folder / file.path, [folder])
        if have.get(file.path) == file.version and to.is_file() and to.stat().st_size == file.size:
            tell(file.size)
        else:
            missing.append((file, to))
    web.room(folder, sum(file.size for file, _ in missing))
    for file, to in missing:
        if stop and stop():
            raise web.Stopped
        url, headers = _address(found, file)
        known = None if file is found.card else file.size  # a hub may rewrite the card's line ends
        web.fetch(url, to, version=file.version, size=known, sha256=file.sha256, headers=headers, tell=tell, stop=stop)
        have[file.path] = file.version
        _keep(folder, {"id": id, "hub": hub, "revision": found.revision, "files": have})
    return folder


def folder_of(id: str) -> str:
    return id.replace("/", "--")


def entry(found: HubDataset, folder: Path, config: str = "", split: str = "") -> Entry:
    """What `data.datasets.registry.save` wants to know of a downloaded part."""
    part = ", ".join(filter(None, (config, split)))
    name = found.id.partition("/")[2]
    return Entry(
        name=f"{name} ({part})" if part else name,
        title=f"{found.id} ({part})" if part else found.id,
        path=folder,
        licence=found.licence,
        origin=f"{found.hub}:{found.id}",
        subset=config,
        split=split,
    )


def _state(folder: Path) -> dict[str, str]:
    """The version of every file that was fetched; nothing where that is not known."""
    try:
        return dict(json.loads((folder / STATE).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _keep(folder: Path, state: dict[str, Any]) -> None:
    new = folder / f"{STATE}.new"
    new.write_text(json.dumps(state, indent=1), encoding="utf-8")
    os.replace(new, folder / STATE)


def _parted(names: dict[str, HubFile], card: str, id: str) -> dict[str, dict[str, tuple[HubFile, ...]]]:
    rows = members.with_rows(names)
    if not rows and any(name.endswith(".py") for name in names):
        raise DataError(
            f"{id} is made by a program of its own, and other people's programs are not run here.",
            "Look for the same data as files: many such datasets have a copy in Parquet.",
        )
    found: dict[str, dict[str, tuple[HubFile, ...]]] = {}
    for (config, split), held in members.parts(rows, card).items():
        found.setdefault(config, {})[split] = tuple(names[name] for name in held)
    return found


def _address(found: HubDataset, file: HubFile) -> tuple[str, dict[str, str]]:
    """Where a file lies, and what to say when asking for it."""
    if found.hub == "modelscope":
        asked = urlencode({"Source": "SDK", "Revision": found.revision, "FilePath": file.path})
        return f"{modelscope_at()}/api/v1/datasets/{found.id}/repo?{asked}", {}
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers

    at = _huggingface_at()
    url = hf_hub_url(found.id, file.path, repo_type="dataset", revision=found.revision, endpoint=at)
    try:
        location = get_hf_file_metadata(url, timeout=web.TIMEOUT, endpoint=at).location
    except (errors.HfHubHTTPError, OSError) as problem:
        raise _hf_problem(found.id, problem) from None
    own = urlsplit(location).netloc == urlsplit(url).netloc
    return location, build_hf_headers() if own else {}  # the token is for the hub, not for where it keeps its files


def _huggingface(id: str) -> HubDataset:
    from huggingface_hub import HfApi, errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # what its own client raises
    from huggingface_hub.hf_api import RepoFile

    _online(id)
    api = HfApi(endpoint=_huggingface_at())
    try:
        about = api.dataset_info(id, timeout=web.TIMEOUT)
        tree = list(api.list_repo_tree(id, recursive=True, revision=about.sha, repo_type="dataset"))
    except (errors.HfHubHTTPError, errors.HFValidationError, HTTPError, OSError) as problem:
        raise _hf_problem(id, problem) from None
    names = {
        item.path: HubFile(item.path, item.size, item.blob_id, item.lfs.sha256 if item.lfs else "")
        for item in tree
        if isinstance(item, RepoFile)
    }
    stated = about.card_data.to_dict() if about.card_data else {}
    card = f"---\n{json.dumps(stated, default=str)}\n---\n" if stated else ""  # JSON is YAML
    licence = stated.get("license") or ""
    return HubDataset(
        id, "huggingface", about.sha or "main", _parted(names, card, id), names.get(CARD),
        ", ".join(licence) if isinstance(licence, list) else str(licence), bool(about.gated),
    )  # fmt: skip


def _hf_problem(id: str, problem: Exception) -> BoardError:
    from huggingface_hub import errors

    if isinstance(problem, errors.HfHubHTTPError):
        return DataError(*refused(id, problem, "dataset"))
    return DataError(f"Hugging Face cannot be reached: {problem}.", "Check the network, or try ModelScope.")


def _online(id: str) -> None:
    if set_by := offline():
        raise DataError(
            f"{id} cannot be looked up: the board is offline, because {set_by} is set.",
            "Unset it and start the board again, or choose what is here.",
        )


def offline() -> str:
    """The variable by which somebody has said that no hub is to be asked, as its client reads it; empty when none."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        return ""
    return "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"


def _huggingface_at() -> str:
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def modelscope_at() -> str:
    """The address of ModelScope; MODELSCOPE_ENDPOINT names another."""
    return (os.environ.get("MODELSCOPE_ENDPOINT") or MODELSCOPE).rstrip("/")


def _modelscope(id: str) -> HubDataset:
    about = asked(id, f"datasets/{quote(id)}")
    tree: dict[str, HubFile] = {}
    for page in range(1, members.MOST // PAGE + 1):
        query = {"Revision": "master", "Root": "/", "Recursive": "True", "PageNumber": page, "PageSize": PAGE}
        held = asked(id, f"datasets/{about.get('Id', id)}/repo/tree?{urlencode(query)}").get("Files") or []
        known = len(tree)
        for item in held:
            if item.get("Type") != "tree" and (path := str(item.get("Path") or item.get("Name") or "").lstrip("/")):
                version = str(item.get("Sha256") or item.get("Revision") or item.get("CommittedDate") or "")
                tree[path] = HubFile(path, int(item.get("Size") or 0), version, str(item.get("Sha256") or ""))
        if len(held) < PAGE or len(tree) == known:  # the last page, or a server that knows no pages
            break
    card = _text(id, tree[CARD]) if CARD in tree else ""
    licence = str(about.get("License") or "")
    return HubDataset(id, "modelscope", "master", _parted(tree, card, id), tree.get(CARD), licence)


def _text(id: str, file: HubFile) -> str:
    url, _ = _address(HubDataset(id, "modelscope", "master", {}), file)
    return _get(id, url)[: 1 << 20].decode("utf-8", "replace")


def asked(id: str, path: str) -> dict[str, Any]:
    """The data of an answer of ModelScope's API; `id` is what a refusal is about. Raises DataError."""
    try:
        answer = json.loads(_get(id, f"{modelscope_at()}/api/v1/{path}"))
        data = answer["Data"]
        if not isinstance(data, dict):
            raise TypeError(answer.get("Message") or "no data")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"ModelScope does not give {id}: {error}.", "Check the spelling, or try again later.") from None
    return data


def _get(id: str, url: str) -> bytes:
    _online(id)
    try:
        with urllib.request.urlopen(url, timeout=web.TIMEOUT) as answer:
            return bytes(answer.read(members.MOST * 1000))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise DataError(f"{id} was not found on ModelScope.", "Check the spelling.") from None
        if error.code in (401, 403):
            raise DataError(
                f"{id} is not open on ModelScope.", "Download it from its page, and give its path."
            ) from None
        raise DataError(f"ModelScope answered {error.code} {error.reason}.", "Try again later.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"ModelScope cannot be reached: {reason}.", "Check the network, or try Hugging Face.") from None
