"""ARGUMENTS.md says what the declarations say, today."""

from __future__ import annotations

import re

from engine.contract import docs
from engine.contract.args import KINDS
from engine.contract.fields import walk


def test_arguments_md_is_current() -> None:
    assert docs.FILE.read_text(encoding="utf-8") == docs.markdown(), "run: python -m engine docs"


def test_every_argument_of_every_kind_has_a_row() -> None:
    parts = re.split(r"^## (\w+)$", docs.markdown(), flags=re.MULTILINE)[1:]
    said = dict(zip(parts[::2], parts[1::2], strict=True))
    assert list(said) == list(KINDS)
    for kind, root in KINDS.items():
        rows = re.findall(r"^\| `([\w.]+)`", said[kind], re.MULTILINE)
        assert rows == [spec.path for spec in walk(root)]


def test_every_row_has_the_columns_of_its_table() -> None:
    rows = [line for line in docs.markdown().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}
