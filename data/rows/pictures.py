"""Pictures and film frames out of addresses: opened once they are known to be small and whole enough to be opened.

An address is an absolute path, a data URL, or an https address that was fetched before into a folder of its own. Knows
nothing of models; what is wrong is a DataError without a place, which whoever knows the row adds.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import Request, urlopen

from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from data.paths import inside
from engine.contract.errors import BoardError, DataError

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")  # and no other: some parsers start programs
ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
FILMS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
MAX_BYTES = 64_000_000
MAX_PIXELS = 100_000_000
PATIENCE = 30  # seconds that a server may be silent
BESIDE = "Save the picture beside the rows, and name it by its path."
MAX_FRAMES = 4096  # of one film, before a few of them are chosen
DATA_URL = re.compile(r"data:(?P<kind>[\w.+/-]*)(?P<options>[^,]*),", re.IGNORECASE)


def of(messages: Iterable[Mapping[str, Any]], kind: str = "image") -> list[Any]:
    """The addresses of all pictures (or films: `kind="video"`) in a conversation, in their order."""
    contents = [message["content"] for message in messages if isinstance(message["content"], list)]
    return [part[kind] for content in contents for part in content if part["type"] == kind]


def picture(address: str | bytes, allowed: Sequence[Path] | None = None, cache: Path | None = None) -> Image.Image:
    """The picture as RGB, upright; its first frame if it moves.

    allowed: folders that a path must lie in; None allows any.   cache: where https addresses were fetched to.
    """
    with _opened(address, allowed, cache) as image:
        return _rgb(image)


def frames(
    film: str | Sequence[str], most: int, allowed: Sequence[Path] | None = None, cache: Path | None = None
) -> list[Image.Image]:
    """At most `most` frames of a film, evenly spread: from a list of pictures, a folder of them, or one that moves."""
    if isinstance(film, str) and not _remote(film) and not film.startswith("data:"):
        place = Path(film) if allowed is None else inside(film, allowed)
        if place.is_dir():
            film = sorted(str(file) for file in place.iterdir() if file.suffix.lower() in ENDINGS)
            if not film:
                raise DataError(f"the folder {place.name} holds no pictures to be frames of a film.")
        elif place.suffix.lower() in FILMS:
            return list(_decoded(place, most))
    if not isinstance(film, str):
        return [picture(film[index], allowed, cache) for index in spread(len(film), most)]
    with _opened(film, allowed, cache) as image:
        count = min(getattr(image, "n_frames", 1), MAX_FRAMES)
        wanted = set(spread(count, most))
        return [_rgb(frame) for index, frame in enumerate(ImageSequence.Iterator(image)) if index in wanted]


def stamp(address: Any) -> list[Any]:
    """Size and time of change of the files that an address names; empty where they are not there."""
    if not isinstance(address, str):
        return [stamp(one) for one in address]
    if address.startswith("data:") or not os.path.exists(address):
        return []
    place = Path(address)
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spread, the first among them."""
    if count <= most:
        return list(range(count))
    return [index * count // most for index in range(most)]


def thumbnail(address: str, edge: int = 256, allowed: Sequence[Path] | None = None, cache: Path | None = None) -> str:
    """The picture as a small data URL, at most `edge` pixels a side, for a page."""
    image = picture(address, allowed, cache)
    image.thumbnail((edge, edge))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def fetch(address: str, cache: Path) -> Path:
    """Get the picture at an https address, once; the file in `cache` that holds it."""
    file = _fetched(address, cache)
    if file.is_file():
        return file
    cache.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        with urlopen(Request(address, headers={"User-Agent": "tuneboard"}), timeout=PATIENCE) as answer:
            if not _remote(answer.url):  # where redirects led
                raise DataError(f"{_shown(address)} leads away from https.", BESIDE)
            content = answer.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise _too_large(address)
        partial.write_bytes(content)
        os.replace(partial, file)
    except (OSError, HTTPException, ValueError) as problem:
        raise DataError(f"{_shown(address)} cannot be fetched: {problem}.", BESIDE) from None
    finally:
        partial.unlink(missing_ok=True)
    return file


def _opened(address: str | bytes, allowed: Sequence[Path] | None, cache: Path | None) -> Image.Image:
    """The picture, its pixels not yet decoded."""
    shown = _shown(address)
    source = _source(address, allowed, cache)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(source, formats=FORMATS)
    except UnidentifiedImageError:
        raise DataError(f"{shown} is no picture, or of a kind that is not read here.", f"Use {_kinds()}.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(address) from None
    except (OSError, ValueError, SyntaxError) as problem:
        raise DataError(f"{shown} cannot be opened: {problem}.") from None
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _too_large(address)
    return image


def _source(address: str | bytes, allowed: Sequence[Path] | None, cache: Path | None) -> Path | io.BytesIO:
    if isinstance(address, bytes):
        return io.BytesIO(address)
    if address[:5].lower() == "data:":
        return io.BytesIO(_inline(address))
    if _remote(address):
        file = _fetched(address, cache) if cache is not None else None
        if file is None or not file.is_file():
            raise DataError(f"{_shown(address)} is not on this machine.", BESIDE)
        return file
    try:
        place = Path(address) if allowed is None else inside(address, allowed)
        if not place.is_file():
            raise DataError(f"there is no picture at {address}.", "Paths are taken from the folder of the rows.")
        if place.stat().st_size > MAX_BYTES:
            raise _too_large(address)
    except (ValueError, OSError) as problem:  # a NUL byte, a name too long
        raise DataError(f"{_shown(address)} is not a usable path: {problem}.") from None
    except DataError:
        raise
    except BoardError as problem:
        raise DataError(problem.text, problem.hint) from None
    return place


def _inline(address: str) -> bytes:
    head = DATA_URL.match(address)
    if head is None:
        raise DataError("a data URL of a picture is broken off.")
    if len(address) > MAX_BYTES * 4 // 3:
        raise _too_large(address)
    body = address[head.end() :]
    if ";base64" not in head["options"].lower():
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{_shown(address)} is not valid base64.") from None


def _rgb(image: Image.Image) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(image)
        return (upright or image).convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as problem:
        raise DataError(f"{_shown(getattr(image, 'filename', '') or 'a picture')} is damaged: {problem}.") from None


def _decoded(film: Path, most: int) -> Iterator[Image.Image]:
    try:
        import av
    except ImportError:
        raise DataError(
            f"{film.name} is a film, and nothing here decodes films.",
            "Give its frames as a list of pictures, as a folder of them or as a GIF; or: pip install av",
        ) from None
    try:
        with av.open(str(film)) as container:
            stream = container.streams.video[0]
            count = stream.frames or sum(1 for _ in container.decode(stream))
            container.seek(0)
            wanted = set(spread(min(count, MAX_FRAMES), most))
            for index, frame in enumerate(container.decode(stream)):
                if index in wanted:
                    yield frame.to_image().convert("RGB")
                if index >= max(wanted, default=0):
                    return
    except (av.FFmpegError, IndexError) as problem:
        raise DataError(f"{film.name} cannot be decoded: {problem}.") from None


def _remote(address: str) -> bool:
    scheme = urlsplit(address[:200]).scheme.lower() if ":" in address[:12] else ""
    if scheme == "http":
        raise DataError(f"{_shown(address)} is not a safe address.", f"Use https. {BESIDE}")
    return scheme == "https"


def _fetched(address: str, cache: Path) -> Path:
    return cache / hashlib.sha256(address.encode()).hexdigest()


def _too_large(address: str | bytes) -> DataError:
    return DataError(
        f"{_shown(address)} is too large a picture.",
        f"At most {MAX_PIXELS // 1_000_000} million pixels and {MAX_BYTES // 1_000_000} MB: make it smaller.",
    )


def _shown(address: str | bytes) -> str:
    if isinstance(address, bytes) or address[:5].lower() == "data:":
        return "an embedded picture"
    return address if len(address) <= 120 else f"{address[:117]}..."


def _kinds() -> str:
    return f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
