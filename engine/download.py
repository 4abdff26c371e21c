"""Gets a model or a dataset from a hub as a run: progress, cancel, and sentences.

A stop may come at any moment: what has arrived is kept, and the next try goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import time
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import quote, urlencode

from data import models
from data.datasets import registry
from data.hubs import hub, web
from data.paths import inside
from engine import fetch
from engine.contract.args import DownloadArgs
from engine.contract.errors import ModelError
from engine.contract.rundir import Run, write_json
from engine.report import Report, Stop

SECONDS = 1.0


def run(args: DownloadArgs, run: Run, report: Report, stop: Stop) -> None:
    report.phase("downloading")
    get = _dataset if args.of == "dataset" else _from_modelscope if from_modelscope(args) else _from_huggingface
    folder = get(args, run, report)
    report.result(f"{args.id} is on this machine.", folder=str(folder))


def from_modelscope(args: DownloadArgs) -> bool:
    """Whether a model comes from ModelScope: when that is said, or the list knows it there alone."""
    if args.hub != "auto":
        return args.hub == "modelscope"
    entry = next((entry for entry in models.known() if entry["name"] == args.id), {})
    return bool(entry.get("modelscope")) and not entry.get("hub") and "wheel" not in entry


def _from_huggingface(args: DownloadArgs, run: Run, report: Report) -> Path:
    return fetch.fetch(
        args.id, run.workspace, revision=args.revision or None, code=args.trust_remote_code, say=report.note,
        progress=Pace(report).tell,
    )  # fmt: skip


def _from_modelscope(args: DownloadArgs, run: Run, report: Report) -> Path:
    """A model's files into `<workspace>/models/<name>`, which gets its name when all of them are there."""
    entry = next((entry for entry in models.known() if args.id in (entry["name"], *entry["hub"])), {})
    id = str(entry.get("modelscope") or args.id)
    if not models.HUB_ID.match(id):
        raise ModelError(f"{id!r} is not a model's name on ModelScope.", "It is written owner/name.")
    revision = args.revision or "master"
    query = urlencode({"Revision": revision, "Recursive": "True"})
    listed = hub.asked(id, f"models/{quote(id)}/repo/files?{query}").get("Files") or []
    wanted = [item for item in listed if item.get("Type") != "tree" and _is_wanted(item["Path"], args)]
    if not any(item["Path"].endswith(".safetensors") for item in wanted):
        hint = "Other formats can run code when loaded: choose a model that has them."
        raise ModelError(f"{id} has no safetensors weights on ModelScope.", hint)
    folder = run.workspace / "models" / id.partition("/")[2]
    with fetch.locked(folder, report.note):
        if folder.exists():
            return _there(folder, args.id)  # perhaps somebody else fetched it while we waited
        partial, pace = folder.with_name(f".partial-{id.replace('/', '--')}"), Pace(report)
        size = sum(int(item.get("Size") or 0) for item in wanted)
        web.room(partial, size - occupied(partial))
        here = 0

        def tell(arrived: int) -> None:
            nonlocal here
            here += arrived
            pace.tell(here, size)

        for item in wanted:
            to, bytes = inside(partial / item["Path"], [partial]), int(item.get("Size") or 0)
            sha256 = str(item.get("Sha256") or "")
            if to.is_file() and to.stat().st_size == bytes and sha256 in ("", _digest(to)):
                tell(bytes)
                continue
            address = urlencode({"Revision": revision, "FilePath": item["Path"]})
            url = f"{hub.modelscope_at()}/api/v1/models/{id}/repo?{address}"
            version = sha256 or revision
            web.fetch(url, to, version=version, size=bytes, sha256=sha256, tell=tell)
        write_json(partial / models.ORIGIN, {"id": args.id, "hub": "modelscope", "revision": revision})
        partial.rename(folder)
    return folder


def _there(folder: Path, id: str) -> Path:
    """The folder, which holds the model `id`; ModelError where it holds another of the same name."""
    whose = ""
    if (folder / models.ORIGIN).is_file():
        whose = str(json.loads((folder / models.ORIGIN).read_text(encoding="utf-8"))["id"])
    if whose != id:
        raise ModelError(
            f"{id} would lie in {folder}, which is there already{f' and holds {whose}' if whose else ''}.",
            "Rename or delete that folder.",
        )
    return folder


def _digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _is_wanted(path: str, args: DownloadArgs) -> bool:
    patterns = (*fetch.HUB_FILES, *(["*.py"] if args.trust_remote_code else []))
    return any(fnmatch(path, p) for p in patterns) and not any(fnmatch(path, p) for p in fetch.HUB_NOT)


def _dataset(args: DownloadArgs, run: Run, report: Report) -> Path:
    """The part of the dataset as files in the workspace, and its line in the list of datasets."""
    which: hub.Hub = "modelscope" if args.hub == "modelscope" else "huggingface"
    found, into = hub.look(args.id, which), run.workspace / "datasets"
    folder = hub.download(args.id, which, args.subset, args.split, into=into, progress=Pace(report).tell)
    registry.save(hub.entry(found, folder, args.subset, args.split), run.workspace)
    return folder


class Pace:
    """Turns bytes into a progress, once a second or at each hundredth, with the time that is left."""

    def __init__(self, report: Report) -> None:
        self.report, self.began, self.told, self.last = report, time.monotonic(), 0.0, 0
        self.first: int | None = None  # what was here already says nothing about the speed

    def tell(self, arrived: int, size: int) -> None:
        now = time.monotonic()
        self.first = arrived if self.first is None else self.first
        if now - self.told < SECONDS and arrived - self.last < size / 100:
            return
        self.told, self.last = now, arrived
        arrived = max(0, min(arrived, size))
        speed = (arrived - self.first) / max(now - self.began, 1e-9)
        left = (size - arrived) / speed if speed > 0 else None
        self.report.progress(round(arrived / 1e6), max(1, round(size / 1e6)), left, "MB")


def occupied(folder: Path) -> int:
    """Bytes of the files in a folder, those that still grow included."""
    total = 0
    for file in folder.iterdir() if folder.is_dir() else ():
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # renamed while we looked
            continue
    return total
