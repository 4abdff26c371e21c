"""Confines paths: whatever comes from a page or a registry file must lie where the user has allowed.

Knows nothing of what the paths hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.contract.errors import BoardError


def inside(path: str | Path, roots: Sequence[Path]) -> Path:
    """The real path, once `..` and symlinks are followed; raises BoardError when it lies in none of the `roots`.

    A relative path is taken from the working directory, so callers join it to their own folder first.
    """
    try:
        real = Path(path).expanduser().resolve()
        allowed = [Path(root).expanduser().resolve() for root in roots]
    except (ValueError, OSError, RuntimeError) as error:  # a NUL byte, a loop of symlinks, an unknown ~user
        raise BoardError(
            f"{str(path)!r} is not a usable path: {error}.", "Type the path of a file or folder."
        ) from None
    if any(real.is_relative_to(root) for root in allowed):
        return real
    moved = "" if real == Path(path).absolute() else f", which is really {str(real)!r},"
    raise BoardError(
        f"{str(path)!r}{moved} lies outside the folders that the board may read.",
        f"Move it into {str(allowed[0])!r}, or start the board with ALLOW=<folder> to add a folder."
        if allowed
        else "Start the board with ALLOW=<folder> to add a folder.",
    )
