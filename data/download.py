"""Fetches a file of rows from a web address into the workspace, going on where an earlier attempt broke off.

Knows nothing of hubs, nor of what the rows mean. Speaks https; plain http only with this machine itself.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urljoin, urlsplit

from data import members
from data.files import READERS, read
from data.intake import arriving, placed, refuse_unknown, safe_name
from engine.contract.errors import DataError

LIMIT = 200 << 30  # bytes of one file
CONNECT, QUIET = 10.0, 60.0  # seconds without a connection, and without a byte
MOST_REDIRECTS, MOST_ATTEMPTS = 5, 5
PIECE = 1 << 18
ENDINGS = {
    "application/json": ".json", "application/x-ndjson": ".jsonl", "application/jsonl": ".jsonl", "text/csv": ".csv",
    "text/tab-separated-values": ".tsv", "text/plain": ".txt", "text/markdown": ".md", "application/zip": ".zip",
    "application/vnd.apache.parquet": ".parquet", "application/x-tar": ".tar",
}  # fmt: skip
PAGE = re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE)
A_PAGE = "Copy the address of the file itself ('Raw' or 'Download' on its page); for a dataset on a hub give its id."
GO_ON = "What has arrived is kept; start it again to go on from there."

Progress = Callable[[int, int | None], None]


class Stopped(DataError):
    """Somebody asked the download to stop."""


def download(
    url: str,
    workspace: Path,
    progress: Progress = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
    limit: int = LIMIT,
) -> Path:
    """The file at the address, kept under its own name in `<workspace>/datasets`.

    progress: called with the bytes that have arrived, and with all that there are where the server says so. stop: asked
    between pieces. Raises Stopped, and DataError for whatever else ends it; nothing is left but what a later call for
    the same address goes on with.
    """
    import httpx  # a tenth of a second that only a download pays for

    unfinished = workspace / "datasets" / ".downloads"
    part = unfinished / hashlib.sha256(url.encode()).hexdigest()[:32]
    outside = not _is_loopback(urlsplit(url).hostname or "")  # where a proxy may have to be asked
    with httpx.Client(timeout=httpx.Timeout(QUIET, connect=CONNECT), trust_env=outside) as client:
        fetch = _Fetch(client, url, part, progress, stop, limit)
        for attempt in range(1, MOST_ATTEMPTS + 1):
            before = fetch.arrived
            try:
                unfinished.mkdir(parents=True, exist_ok=True)
                fetch.once()
                break
            except httpx.HTTPError as error:
                if fetch.arrived == before or attempt == MOST_ATTEMPTS:
                    raise _unreachable(error, url, fetch.arrived) from None
            except httpx.InvalidURL as error:
                raise DataError(f"this is no web address: {error}.", "Copy it from the browser.") from None
            except OSError as error:
                raise DataError(f"cannot be kept: {error.strerror or error}.", "Make room for it.") from None
    return _kept(part, fetch.name, workspace)


class _Fetch:
    """One file on its way: `part` holds what has arrived, and beside it stands by what the server tells it apart."""

    def __init__(self, client: Any, url: str, part: Path, progress: Progress, stop: Callable[[], bool], limit: int):
        self.client, self.url, self.part = client, url, part
        self.progress, self.stop, self.limit = progress, stop, limit
        self.mark = part.with_suffix(".json")
        self.name = ""

    @property
    def arrived(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def once(self) -> None:
        """Fetches what is missing. Raises httpx.HTTPError where the connection fails."""
        mark = json.loads(self.mark.read_text(encoding="utf-8")) if self.mark.exists() and self.arrived else None
        headers = {"Accept-Encoding": "identity"}
        if mark:
            headers |= {"Range": f"bytes={self.arrived}-", "If-Range": mark}
        url = self.url
        for _ in range(MOST_REDIRECTS + 1):
            _refuse_scheme(url, self.url)
            with self.client.stream("GET", url, headers=headers) as response:
                if not response.has_redirect_location:
                    self._receive(response)
                    return
                url = urljoin(url, response.headers["location"])
        raise DataError("the address leads from one to another without end.", "Copy the address of the file itself.")

    def _receive(self, response: Any) -> None:
        status, headers = response.status_code, response.headers
        goes_on = status == 206 and headers.get("content-range", "").startswith(f"bytes {self.arrived}-")
        if self.arrived and (status == 416 or (status == 206 and not goes_on)):  # it is not the file that it was
            self.part.unlink()
            return self.once()
        if status not in (200, 206):
            raise _refused(status, self.url)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml"):
            raise DataError("the address gives a web page, not a file.", A_PAGE)
        self.name = _name(headers.get("content-disposition", ""), str(response.url), kind)
        refuse_unknown(self.name)
        done = self.arrived if goes_on else 0
        stated = headers.get("content-length", "")
        total = done + int(stated) if stated.isdigit() and "content-encoding" not in headers else None
        self._refuse_size(total or 0, done)
        mark = headers.get("etag") or headers.get("last-modified")
        if mark and not mark.startswith("W/"):
            self.mark.write_text(json.dumps(mark), encoding="utf-8")
        else:
            self.mark.unlink(missing_ok=True)
        with self.part.open("ab" if goes_on else "wb") as file:
            self._write(response, file, done, total)

    def _write(self, response: Any, file: BinaryIO, done: int, total: int | None) -> None:
        for piece in response.iter_bytes(PIECE):
            if self.stop():
                raise Stopped("the download was stopped.", GO_ON)
            if not done and PAGE.match(piece):
                raise DataError("the address gives a web page, not a file.", A_PAGE)
            done += len(piece)
            self._refuse_size(done, done)
            file.write(piece)
            self.progress(done, total)

    def _refuse_size(self, size: int, done: int) -> None:
        if size > self.limit:
            raise DataError(f"the file is larger than {self.limit / (1 << 30):.3g} GB.", "Fetch it yourself, in parts.")
        free = shutil.disk_usage(self.part.parent).free
        if size - done > free:
            raise DataError(f"the file needs {size >> 20:,} MB, and {free >> 20:,} MB are free.", "Make room for it.")


def _kept(part: Path, name: str, workspace: Path) -> Path:
    """Gives the whole file its name, if a row of it can be read."""
    with arriving(workspace, name) as file:
        part.replace(file)
        part.with_suffix(".json").unlink(missing_ok=True)
        if members.ending(name) in READERS:
            next(read(file))
    return placed(file, name)


def _refuse_scheme(url: str, first: str) -> None:
    parts = urlsplit(url)
    local = _is_loopback(parts.hostname or "")
    if parts.scheme == "https" and (not local or url == first):
        return
    if parts.scheme == "http" and local and _is_loopback(urlsplit(first).hostname or ""):
        return
    if url != first:
        raise DataError(f"the address leads on to {parts.scheme}://{parts.hostname}.", "Copy the file's own address.")
    raise DataError("only addresses that begin with https:// are fetched.", "Copy the address from the browser.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _name(disposition: str, url: str, kind: str) -> str:
    """The file's name as the server states it, or as the address ends; with an ending that fits what it is."""
    stated = re.search(r"filename\*=(?:UTF-8'')?([^;]+)", disposition) or re.search(r'filename="?([^";]+)', disposition)
    name = safe_name(unquote(stated[1] if stated else PurePosixPath(urlsplit(url).path).name))
    known = members.ending(name) or members.compression(name)
    return name if known else name + ENDINGS.get(kind, "")


def _refused(status: int, url: str) -> DataError:
    host = urlsplit(url).hostname
    if status in (404, 410):
        return DataError("there is nothing at this address.", "Check its spelling; it may have moved.")
    if status in (401, 403):
        return DataError(f"{host} does not give this file to everybody.", "Fetch it in the browser, and upload it.")
    if status == 429 or status >= 500:
        return DataError(f"{host} cannot give the file now (status {status}).", "Try again later.")
    return DataError(f"{host} answers with status {status}.", "Check the address.")


def _unreachable(error: Exception, url: str, arrived: int) -> DataError:
    import httpx

    host = urlsplit(url).hostname
    if isinstance(error, httpx.UnsupportedProtocol):
        return DataError("this is no web address.", "Copy it from the browser.")
    if arrived:
        return DataError(f"the connection to {host} broke off after {arrived >> 20:,} MB.", GO_ON)
    if isinstance(error, httpx.TimeoutException):
        return DataError(f"{host} does not answer.", "Try again later, or check the network.")
    return DataError(f"there is no connection to {host}.", "Check the address and the network; a proxy may be needed.")
