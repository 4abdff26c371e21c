"""The pictures of a row, small, as HTML; what cannot be shown says why in a sentence.

Opens only what lies in the row itself or in folders that the page may read. Fetches nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path

from data.rows import pictures
from data.rows.conversation import Message
from engine.contract.errors import DataError

EDGE = 160  # pixels
MOST = 12  # pictures of one row


def of(messages: Iterable[Message], roots: Sequence[Path]) -> str:
    """The pictures and the films of a conversation; empty when it has none."""
    said = list(messages)
    return strip(pictures.of(said), roots, films=len(pictures.of(said, "video")))


def strip(addresses: Sequence[str], roots: Sequence[Path], films: int = 0) -> str:
    """Pictures side by side, each read only where it lies inside `roots`."""
    if not addresses and not films:
        return ""
    shown = [
        _small(address, json.dumps(pictures.stamp(address)), tuple(map(str, roots))) for address in addresses[:MOST]
    ]
    more = len(addresses) - MOST
    words = [f"and {more} more"] if more > 0 else []
    words += ["a film" if films == 1 else f"{films} films"] if films else []
    return f'<p class="tb-gallery">{"".join(shown)}<span class="tb-muted">{", ".join(words)}</span></p>'


@lru_cache(maxsize=256)
def _small(address: str, stamp: str, roots: tuple[str, ...]) -> str:
    """One picture; `stamp` makes a changed file a new picture."""
    try:
        small = pictures.thumbnail(address, EDGE, [Path(root) for root in roots])
    except DataError as problem:
        return f'<span class="tb-muted">{escape(problem.text)}</span>'
    name = "embedded" if address.startswith("data:") else Path(address).name
    return f'<img src="{small}" alt="{escape(name)}" title="{escape(name)}">'
