"""What is said of a dataset as a whole: how many rows, of which format, what cannot be read, what the split gives."""

from __future__ import annotations

from html import escape

from app.datasets import dataset
from app.datasets.dataset import Head, Window
from data.datasets.registry import Entry
from data.datasets.splitting import openings, sides
from data.reading import encodings, files
from data.rows.formats import FORMATS
from engine.contract.args import TrainArgs
from engine.contract.dataset import Split
from engine.contract.errors import DataError

NAMED = 30  # rows that cannot be read, of which the sentence is shown


def html(entry: Entry, window: Window, head: Head) -> str:
    """`640 rows · ShareGPT · 3 edited`, what the usual split gives, and which rows cannot be read, behind a fold.

    window: the first rows of the dataset.
    """
    rows = sum(not line.excluded for line in window.lines)
    edited = sum(line.edited for line in window.lines)
    excluded = len(window.lines) - rows
    form = FORMATS[head.mapping.format]
    said = entry.options.encoding
    encoding = encodings.title(said) if said else files.encoding_of(entry.path)
    many = f"{rows:,} row{'' if rows == 1 else 's'}"
    if window.more:
        total = dataset.total(entry)
        many = f"{total:,} rows" if total else f"more than {many}"
    parts = [
        f"<b>{many}</b>",
        escape(form.title),
        *([encoding] if encoding else []),
        *([f"{edited:,} edited"] if edited else []),
        *([f"{excluded:,} excluded"] if excluded else []),
        *([escape(entry.licence)] if entry.licence else []),
        f'<span class="tb-muted" title="{escape(str(entry.path))}">{escape(entry.path.name)}</span>',
        f'<span class="tb-muted data-split">{escape(divided(entry, window))}</span>',
    ]
    return f'<p class="data-about">{" · ".join(part for part in parts if part)}</p>{_skipped(entry, window)}'


def divided(entry: Entry, window: Window) -> str:
    """What the usual split makes of the rows: `95/5/0 gives 63 rows to train and 3 to validate`.

    Exact when all rows are in memory: rows that ask the same stay on one side. Else by the shares alone.
    """
    usual = TrainArgs()
    split = Split.of(usual.data.split)
    if window.more:
        total = dataset.total(entry)
        if not total or split.counted:
            return ""
        held = [max(1, round(share * total)) if share else 0 for share in (split.validation, split.test)]
        return _said(usual.data.split, "gives about", total - sum(held), held[0])
    try:
        found = sides(openings(row.filled(entry.fill) for row in window.rows), split, usual.steps.seed)
    except DataError as problem:
        return f"{usual.data.split}: {problem.text}"
    return _said(usual.data.split, "gives", len(found.train), len(found.validation))


def _said(split: str, gives: str, train: int, validation: int) -> str:
    return f"{split} {gives} {train:,} row{'' if train == 1 else 's'} to train and {validation:,} to validate"


def _skipped(entry: Entry, window: Window) -> str:
    total = window.skipped.total
    if not total:
        return ""
    listed = "".join(f"<li>{escape(problem.text)}</li>" for problem in window.skipped[:NAMED])
    more = f"<li>and {total - NAMED:,} more</li>" if total > NAMED else ""
    rows, them, they = ("1 row", "it", "it is") if total == 1 else (f"{total:,} rows", "them", "they are")
    if entry.skip_bad:
        what, way_out = f"and training leaves {them} out", ""
    else:
        what = f"and training refuses the dataset until {they} mended or left out"
        way_out = f'<button type="button" data-skip="bad">Leave {them} out</button>'
    return (
        f'<details class="data-skipped tb-{"warning" if entry.skip_bad else "error"}"><summary>{rows} cannot be read, '
        f"{what}. Which?</summary><ul>{listed}{more}</ul>{way_out}</details>"
    )
