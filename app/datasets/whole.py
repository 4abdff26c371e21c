"""What is wrong in all rows of a dataset, where the page holds only a window of them: asked of an engine process.

Knows nothing of what is looked for. An answer holds as long as the files and the changes to their rows do.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from app.datasets import dataset
from app.errands import Errands
from data.datasets.registry import Entry
from data.review.finding import LookedThrough

_errands = Errands("findings", LookedThrough)


def known(entry: Entry, workspace: Path) -> LookedThrough | None:
    """What was found, if somebody has looked. Raises DataError when the file is gone."""
    return _errands.known(key(entry), workspace)


def ask(entry: Entry, workspace: Path) -> str:
    """See to it that all rows are looked at, and say how far that is: `12,000 of 120,000 rows`, or nothing."""
    return _errands.ask(key(entry), workspace, entry.model_dump_json(), lambda file: ["look", str(file)])


def failed(entry: Entry, workspace: Path) -> bool:
    return _errands.failed(key(entry), workspace)


def leave(entry: Entry, workspace: Path) -> None:
    """Nobody waits for it any more."""
    _errands.leave(key(entry), workspace)


def key(entry: Entry) -> str:
    """Another word whenever something else might be found."""
    patched = dataset.stamp(entry.patch) if entry.patch and entry.patch.exists() else None
    said = f"{entry.model_dump_json()}\0{dataset.stamp(entry.path)}\0{patched}"
    return hashlib.blake2b(said.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
