"""Pictures and films of a row: where each one lies, and where in the conversation it is shown.

A picture becomes an address: an absolute path, an https address or a data URL. Nothing is opened or fetched here, so
nothing is known of its size, nor whether it is there.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.contract.errors import DataError

SIGNATURES = (
    (b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"BM", "bmp"), (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
)  # fmt: skip
ADDRESS = re.compile(r"(https?://|data:)", re.IGNORECASE)
PLACEHOLDER = re.compile(r"<(image|video)>")
INLINE = re.compile(r"<img>([^<>\s]+)</img>")  # an address in the text itself, as Qwen-VL's first data had it
KEYS = ("url", "path", "bytes", "base64", "data", "image", "video", "value")
Part = dict[str, Any]


def address(value: Any, folders: Sequence[Path]) -> str:
    """The address of one picture or film, whatever the file says of it; a relative path starts at the first of the
    `folders` in which it is, else at the first."""
    if isinstance(value, dict):
        value = next((value[key] for key in ("bytes", *KEYS) if value.get(key)), None)
        if isinstance(value, dict):  # {"image_url": {"url": ...}} inside
            return address(value, folders)
    if isinstance(value, (bytes, bytearray)):
        return f"data:image/{_kind(value)};base64,{base64.b64encode(value).decode('ascii')}"
    if not isinstance(value, str) or not value.strip():
        raise DataError("a picture has no address.")
    if ADDRESS.match(value):
        return value
    value = value.removeprefix("file://")
    if "\0" in value:
        raise DataError(f"{value[:40]!r} is not the path of a picture.")
    paths = [os.path.normpath(folder / value) for folder in folders]
    return next((path for path in paths if len(paths) > 1 and os.path.exists(path)), paths[0])


def addresses(value: Any, folders: Sequence[Path]) -> list[str]:
    """Every picture of a column, which may hold one or a list of them."""
    if value is None or value == "":
        return []
    return [address(item, folders) for item in (value if isinstance(value, (list, tuple)) else [value])]


def _kind(data: bytes | bytearray) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for start, kind in SIGNATURES if data.startswith(start)), "png")


class Placed:
    """Puts the pictures of one row where its text says, in the order of the text."""

    def __init__(self, images: Any, videos: Any, folders: Sequence[Path]) -> None:
        self.folders = folders
        self.counts = {"image": 0, "video": 0}  # places that ask for a picture without naming it
        self.given = {"image": addresses(images, folders), "video": addresses(videos, folders)}
        self.waiting = {kind: iter(found) for kind, found in self.given.items()}

    def put(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages with every picture in its place; one that no place asks for comes before the first question."""
        found = self.inside(messages)
        for kind, given in self.given.items():
            if self.counts[kind] > len(given):
                raise DataError(f"{self.counts[kind]} places ask for {_named(kind)}, but there are {len(given)}.")
            if given and 0 < self.counts[kind] < len(given):
                raise DataError(f"there are {len(given)} {kind}s, but only {self.counts[kind]} <{kind}> in the text.")
        left = [{"type": kind, kind: item} for kind, rest in self.waiting.items() for item in rest]
        if not left:
            return found
        index = next((index for index, message in enumerate(found) if message["role"] == "user"), None)
        if index is None:
            raise DataError("there are pictures, but no question that they could belong to.")
        content = found[index]["content"]
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
        return [*found[:index], {**found[index], "content": [*left, *parts]}, *found[index + 1 :]]

    def inside(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages with the pictures that they name themselves."""
        return [self._message(message) for message in messages]

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        content = message["content"]
        texts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts = joined(part for each in texts for part in self._parts(each))
        if all(part["type"] == "text" for part in parts):
            return {**message, "content": "".join(part["text"] for part in parts)}
        return {**message, "content": parts}

    def _parts(self, part: Part) -> Iterator[Part]:
        kind = part["type"]
        if kind != "text":
            yield self._next(kind) if part[kind] is None else {"type": kind, kind: address(part[kind], self.folders)}
            return
        text, end = part["text"], 0
        for mark in self._marks(text):
            yield {"type": "text", "text": text[end : mark.start()]}
            if mark.re is INLINE:
                yield {"type": "image", "image": address(mark[1].strip(), self.folders)}
            else:
                yield self._next(mark[1])
            end = mark.end()
        yield {"type": "text", "text": text[end:]}

    def _marks(self, text: str) -> list[re.Match[str]]:
        """Placeholders count only where the row has pictures: `<image>` in a lesson on HTML is just text."""
        marks = [mark for mark in PLACEHOLDER.finditer(text) if self.given[mark[1]]] if "<" in text else []
        return sorted([*marks, *INLINE.finditer(text)], key=lambda mark: mark.start()) if "<" in text else []

    def _next(self, kind: str) -> Part:
        self.counts[kind] += 1
        return {"type": kind, kind: next(self.waiting[kind], "")}


def _named(kind: str) -> str:
    return "a picture" if kind == "image" else "a film"


def joined(parts: Iterator[Part]) -> list[Part]:
    """The parts with neighbouring texts as one, and none that is empty."""
    found: list[Part] = []
    for part in parts:
        if part["type"] == "text" and found and found[-1]["type"] == "text":
            found[-1] = {"type": "text", "text": found[-1]["text"] + part["text"]}
        elif part["type"] != "text" or part["text"]:
            found.append(part)
    return found
