"""One file from an address to the disk: goes on where it broke off, stops when told to, lands whole or not at all.

Knows nothing of hubs or datasets. What goes wrong is a sentence; what has arrived by then is kept.
"""

from __future__ import annotations

import glob
import hashlib
import http.client
import itertools
import os
import re
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from engine.contract.errors import BoardError, DataError, ResourceError

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte
STOP_SECONDS = 1.0  # until a stop is noticed although nothing arrives
ATTEMPTS = 5  # a connection that breaks is made again, as long as something has arrived through it

LOOPBACK = ("127.0.0.1", "::1", "localhost")

Tell = Callable[[int], None]
Stop = Callable[[], bool]


class Confined(urllib.request.HTTPRedirectHandler):
    """Follows an address to https alone, and one of this machine also to this machine."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        here = new.hostname in LOOPBACK
        inside = here and old.hostname in LOOPBACK and new.scheme in ("http", "https")
        if not inside and (here or new.scheme != "https"):
            raise DataError(f"{old.hostname} leads on to {newurl}, where nothing is fetched.", "Use another address.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Stopped(BoardError):
    """Somebody asked for the download to end."""

    def __init__(self) -> None:
        super().__init__("The download was stopped.", "Start it again to go on from there.")


def fetch(
    url: str,
    to: Path,
    *,
    version: str = "",
    size: int | None = None,
    sha256: str = "",
    headers: Mapping[str, str] | None = None,
    tell: Tell | None = None,
    stop: Stop | None = None,
) -> None:
    """Gets what is at `url` into the file `to`.

    version: tells one content of the address from another, so that a part of the old is not continued with the new.
    size, sha256: of the whole, where they are known; anything else is refused.   tell: is given the bytes of each chunk
    as they arrive, those of an earlier try first.   Raises `Stopped`, DataError for what the server says, ResourceError
    for a full disk.
    """
    part = _part(to, version or url)
    start = part.stat().st_size if part.exists() else 0
    if size is not None and start > size:
        part.unlink()
        start = 0
    if tell and start:
        tell(start)
    room(to.parent, (size or 0) - start)
    try:
        for attempt in range(ATTEMPTS):
            before = part.stat().st_size if part.exists() else 0
            if size is not None and before == size and before:
                break
            try:
                _take(url, part, size, headers or {}, tell, stop)
                break
            except (TimeoutError, ConnectionError, http.client.HTTPException, urllib.error.URLError) as error:
                if isinstance(error, urllib.error.HTTPError):
                    raise _refused(url, error) from None
                got = part.stat().st_size if part.exists() else 0
                if got == before or attempt == ATTEMPTS - 1:
                    raise _lost(url, got, error) from None
        _whole(url, part, size, sha256)
        os.replace(part, to)
        part.with_suffix(".mark").unlink(missing_ok=True)
    except OSError as error:
        raise ResourceError(f"{to} cannot be written: {error.strerror or error}.", "Make room on the disk.") from None


def room(folder: Path, needed: int) -> None:
    """Raises ResourceError when the disk has not so many bytes left."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        text = f"The disk of {folder} has {free / 1e6:,.0f} MB left, and {needed / 1e6:,.0f} MB are to come."
        raise ResourceError(text, "Make room, or choose a smaller part.")


def get(url: str, into: Path, *, tell: Tell | None = None, stop: Stop | None = None) -> Path:
    """Gets the file at an https address into a folder, under its own name or, when that is taken, the next free one.

    The page of a file on Hugging Face or GitHub stands for the file. Raises as `fetch`, and DataError for what is no
    address of a file, or is a web page.
    """
    url = direct(url.strip())
    to = free(into / name_of(url))
    fetch(url, to, tell=tell, stop=stop)
    with to.open("rb") as file:
        start = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        to.unlink()
        raise _page(url)
    return to


def direct(url: str) -> str:
    """The address of the file that a hub's page shows."""
    for host, shown, raw in (("huggingface.co", "/blob/", "/resolve/"), ("github.com", "/blob/", "/raw/")):
        if url.startswith(f"https://{host}/"):
            return url.replace(shown, raw, 1)
    return url


def free(path: Path) -> Path:
    """The path, or the next one beside it that nothing has: `rows-2.jsonl.gz`."""
    stem, dot, endings = path.name.partition(".")
    names = (path.name if count == 1 else f"{stem}-{count}{dot}{endings}" for count in itertools.count(1))
    return next(path.with_name(name) for name in names if not path.with_name(name).exists())


def name_of(url: str) -> str:
    """The file name at the end of an address; raises DataError for what is no https address of a file."""
    try:
        parts = urlsplit(url)
        name = Path(unquote(parts.path)).name
        safe = parts.scheme == "https" or parts.scheme == "http" and parts.hostname in LOOPBACK
    except ValueError:
        name, safe = "", False
    if not safe or not name.strip(".") or re.search(r"[\x00-\x1f]", name):
        raise DataError(f"{url[:80]!r} is not the address of a file.", "It starts with https:// and ends with a name.")
    return name


def _part(to: Path, version: str) -> Path:
    """Where what has arrived waits; parts of other versions are removed."""
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(f".{to.name}.{hashlib.blake2b(version.encode(), digest_size=6).hexdigest()}.part")
    for old in to.parent.glob(f".{glob.escape(to.name)}.*.part"):
        if old != part:
            old.unlink(missing_ok=True)
            old.with_suffix(".mark").unlink(missing_ok=True)
    return part


def _take(
    url: str, part: Path, size: int | None, headers: Mapping[str, str], tell: Tell | None, stop: Stop | None
) -> None:
    start = part.stat().st_size if part.exists() else 0
    mark = part.with_suffix(".mark")  # by which the server tells this content of the address from another
    asked = urllib.request.Request(url, headers=dict(headers))
    if start:
        asked.add_header("Range", f"bytes={start}-")
        if mark.exists():
            asked.add_header("If-Range", mark.read_text(encoding="ascii"))
    try:
        answer = urllib.request.build_opener(Confined).open(asked, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # the part is longer than the whole, or the server cannot continue
            if tell:
                tell(-start)
            part.unlink()
            return _take(url, part, size, headers, tell, stop)
        raise
    if answer.headers.get_content_type() == "text/html":
        answer.close()
        raise _page(url)
    etag = answer.headers.get("ETag", "")
    if etag.startswith('"') and etag.isascii():
        mark.write_text(etag, encoding="ascii")
    else:
        mark.unlink(missing_ok=True)
    mode = "ab" if answer.status == 206 else "wb"
    with answer, part.open(mode) as file, _stoppable(answer.fileno(), stop):
        if start and answer.status != 206 and tell:
            tell(-start)  # it begins anew
        expected = answer.headers.get("Content-Length")
        left = int(expected) if expected and expected.isdecimal() else None
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            left = None if left is None else left - len(chunk)
            if tell:
                tell(len(chunk))
            if stop and stop():
                raise Stopped
        if left:
            raise ConnectionResetError("the answer ended early")
    return None


@contextmanager
def _stoppable(connection: int, stop: Stop | None) -> Iterator[None]:
    """Reads from the connection (a file number) end soon after `stop()`, although its server has fallen silent."""
    over = threading.Event()

    def look() -> None:
        while stop and not over.wait(STOP_SECONDS):
            if stop():
                with suppress(OSError):  # it has ended by itself
                    own.shutdown(socket.SHUT_RDWR)
                return

    with socket.socket(fileno=os.dup(connection)) as own:
        watch = threading.Thread(target=look, daemon=True, name="download stop")
        watch.start()
        try:
            yield
        except OSError:
            if stop and stop():
                raise Stopped from None
            raise
        finally:
            over.set()
            watch.join()


def _whole(url: str, part: Path, size: int | None, sha256: str) -> None:
    got = part.stat().st_size
    if size is not None and got != size:
        part.unlink()
        raise DataError(f"{url} has {got:,} bytes where {size:,} were stated.", "Try again later.")
    if sha256:
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            part.unlink()
            raise DataError(f"{url} arrived damaged: its checksum is not the one that was stated.", "Try again.")


def _page(url: str) -> DataError:
    return DataError(f"{url} is a web page, not a file of rows.", "Copy the address of its download link.")


def _refused(url: str, error: urllib.error.HTTPError) -> DataError:
    host = urlsplit(url).hostname
    if error.code in (401, 403):
        return DataError(f"{host} asks for a permission that the board does not have.", "Accept its terms and log in.")
    if error.code in (404, 410):
        return DataError(f"{host} has no such file: {url}.", "Check the address.")
    return DataError(f"{host} answered {error.code} {error.reason}.", "Try again later; what is here is kept.")


def _lost(url: str, got: int, error: Exception) -> DataError:
    reason = getattr(error, "reason", None) or error
    host = urlsplit(url).hostname
    if got:
        return DataError(f"{host} broke off after {got / 1e6:,.1f} MB: {reason}.", "Try again; it goes on from there.")
    return DataError(f"{host} cannot be reached: {reason}.", "Check the network and the address.")
