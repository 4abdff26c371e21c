"""A second name for a file that nobody changes, in place of a copy."""

from __future__ import annotations

import os
import shutil


def linked(source: str, target: str) -> None:
    """A hard link, so that the file stays when its first name goes; a copy where the disk has no such names."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


def pointed(source: str, target: str) -> None:
    """The same for what is too large to copy: a symbolic link where the file lies on another disk."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        os.symlink(os.path.realpath(source), target)
