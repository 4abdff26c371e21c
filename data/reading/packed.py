"""Files within files: what is compressed (.gz, .bz2, .xz, .zst) and what is in an archive (.zip, .tar and .tar.*).

Nothing is ever unpacked to where a member says; its bytes are read where they lie. An archive in an archive is refused,
and so are links, names that lead out of the archive, passwords, and what unpacks to far more than it should.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from data.reading.members import ARCHIVES, chosen, compression, ending
from data.reading.raw import BROKEN, Allowance, Source, Unpacked
from engine.contract.errors import DataError

MOST_MEMBERS = 100_000
DIRECTORY_LIMIT = 64 << 20  # bytes of a zip's list of members, which zipfile holds as a whole
HEADER_LIMIT = 1 << 20  # bytes between two members of a tar, which tarfile holds as a whole
AGAIN = "Fetch or pack the file again."


def _zstandard(stream: BinaryIO) -> Any:
    from pyarrow import CompressedInputStream  # Python itself has it from 3.14 on

    return CompressedInputStream(stream, "zstd")


DECOMPRESSED: dict[str, Callable[[Any], Any]] = {
    ".gz": lambda stream: gzip.GzipFile(fileobj=stream, mode="rb"),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _zstandard,
}


def decompressed(source: Source) -> Source:
    """The source as it is once it is no longer compressed."""
    inner = DECOMPRESSED[compression(source.name)]
    return replace(
        source,
        open=lambda: Unpacked(lambda: inner(source.open()), Allowance(source.size)),
        path=None,
        size=0,
    )


def zip_members(source: Source) -> Iterator[Source]:
    """The members of a .zip that hold rows, each to be read before the next."""
    with source.seekable() as file, _told():
        _check_directory(file)
        with zipfile.ZipFile(file) as archive:
            allowance = Allowance(source.size)
            members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            for name in _readable(members, source):
                info = members[name]
                if info.flag_bits & 1:
                    source.bad(None, f"its member {name!r} has a password.", "Pack it again without one.")
                    continue
                stream = partial(Unpacked, partial(archive.open, info), allowance)
                yield _member(source, name, stream, info.file_size)


def tar_members(source: Source) -> Iterator[Source]:
    """The members of a .tar, compressed or not, that hold rows, in the order in which they lie there.

    Reads it twice, since what a member is may depend on those after it.
    """
    links = {}
    sizes = {}
    for _, info in _walk(source):
        if info.isreg() and not info.issparse():
            sizes[info.name] = info.size
        elif not info.isdir():
            links[info.name] = info
    for name in chosen(links, "", ""):
        source.bad(None, f"its member {name!r} is a link or a special file.", "Pack the file itself.")
    wanted = set(_readable(sizes, source))
    for archive, info in _walk(source):
        if info.name in wanted and info.isreg():
            wanted.remove(info.name)  # a name that comes twice is read once
            stream = partial(Unpacked, partial(archive.extractfile, info), Allowance(1 << 62))
            yield _member(source, info.name, stream, info.size)


def _walk(source: Source) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Every member in turn; what is between two of them may not be longer than a name or two."""
    inner = DECOMPRESSED.get(compression(source.name), lambda stream: stream)
    stream = Unpacked(lambda: inner(source.open()), Allowance(source.size))
    stream.limit = HEADER_LIMIT
    with stream, _told(), tarfile.open(fileobj=stream, mode="r|") as archive:
        for _ in range(MOST_MEMBERS + 1):
            stream.limit = archive.offset + HEADER_LIMIT
            info = archive.next()
            stream.limit = None
            if info is None:
                return
            yield archive, info
        raise DataError(f"the archive has more than {MOST_MEMBERS:,} members.", "Divide it.")


def _readable(names: Any, source: Source) -> list[str]:
    """The members that hold rows; of those that do not, what may have been meant to is named."""
    if len(names) > MOST_MEMBERS:
        raise DataError(f"the archive has more than {MOST_MEMBERS:,} members.", "Divide it.")
    for name in names:
        if leads := _leads_out(name):
            source.bad(None, f"its member {name!r} {leads}.", "Such an archive is not to be trusted; pack it again.")
        elif ending(name) in ARCHIVES:
            source.bad(None, f"its member {name!r} is an archive in an archive.", "Unpack it and choose what is in it.")
    sound = [name for name in names if not _leads_out(name) and ending(name) not in ARCHIVES]
    return chosen(sound, source.options.subset, source.options.split)


def _leads_out(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or path.parts[:1] and path.parts[0].endswith(":"):
        return "names a place outside the archive"
    return "leads out of the archive" if ".." in path.parts else ""


def _member(source: Source, name: str, stream: Callable[[], Any], size: int) -> Source:
    return replace(source, name=f"{source.name}/{name}", open=stream, path=None, size=size)


def _check_directory(file: BinaryIO) -> None:
    """Refuses a zip whose list of members alone would fill the memory."""
    size = file.seek(0, 2)
    tail_at = max(0, size - (1 << 16) - 100)
    file.seek(tail_at)
    tail = file.read()
    file.seek(0)
    end, wide = tail.rfind(b"PK\x05\x06"), tail.rfind(b"PK\x06\x06")
    stated = 0
    if 0 <= end <= len(tail) - 22:
        stated = struct.unpack_from("<L", tail, end + 12)[0]
    if stated == 0xFFFFFFFF and 0 <= wide <= len(tail) - 56:
        stated = struct.unpack_from("<Q", tail, wide + 40)[0]
    if stated > DIRECTORY_LIMIT:
        raise DataError("the archive has too many members.", "Divide it.")


@contextmanager
def _told() -> Iterator[None]:
    """Says in a sentence what is wrong with an archive."""
    try:
        yield
    except BROKEN as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise DataError(f"the archive is broken or cut off ({reason}).", AGAIN) from None
