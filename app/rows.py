"""Rows as the model will see them: the rendered text, token by token, with what is trained in colour.

Uses the very rendering, mask and cut that training uses. It knows no widget; it gives escaped HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from app.forecast import Forecast
from data import fitness, survey
from data.conversation import Row
from data.fitness import Subject
from data.mask import Tokens, mark
from engine.contract.args import TrainArgs
from engine.contract.errors import BoardError, DataError

PAGE = 3  # rows on one page
HEAD, TAIL = 700, 300  # tokens that are shown of a row with more
NEWLINE = "↵"
ORDER = "order"
CHOICES = {ORDER: "in their order", "random": "drawn by chance", "longest": "the longest"}
KINDS = {
    "kind": "of another kind", "refused": "that cannot be rendered", "untrained": "with nothing to learn",
    "open": "whose answer has no end", "open_earlier": "whose earlier answers have no end",
    "stop": "that end elsewhere", "foreign": "not in the model's own form", "double_bos": "that begin twice",
    "special": "with special tokens in the text", "unknown": "with unknown tokens", "cut": "that are cut",
}  # fmt: skip
LEGEND = (
    '<p class="tb-legend-line"><span class="tb-learnt">learnt</span> <span class="tb-given">only read</span> '
    '<span class="tb-special tb-given">special token</span> <span class="tb-cut">cut off</span> '
    f"<span>{NEWLINE} new line</span></p>"
)


@dataclass(frozen=True)
class Page:
    """One page of rows: its HTML, its number from 0 on, and how many pages there are."""

    html: str
    number: int = 0
    pages: int = 1


def choices(found: Forecast | None) -> list[tuple[str, str]]:
    """Which rows may be looked at, as (words, value)."""
    shown = found.rows.shown if found and found.rows else {}
    counts = {finding.kind: finding.count for finding in found.rows.findings} if found and found.rows else {}
    listed = [(words, which) for which, words in CHOICES.items() if which == ORDER or shown.get(which)]
    return [*listed, *((f"{KINDS[kind]} ({counts[kind]:,})", kind) for kind in KINDS if shown.get(kind))]


def page(
    found: Forecast, workspace: Path, allowed: Sequence[Path], which: str = ORDER, number: int = 0, row: int = 0
) -> Page:
    """Page `number` of the rows `which` (a value of `choices`), or the row that is numbered `row` in its file.

    Raises BoardError.
    """
    args, folder = found.args, found.card.folder if found.card else None
    if folder is None:
        return Page('<p class="tb-muted">The rows can be shown once the model is on this machine.</p>')
    if row:
        rows = survey.numbered(args, row, workspace, allowed)
        if not rows:
            raise BoardError(f"There is no row {row:,}.", "Rows are counted from 1 in each dataset.")
        return Page(_shown(rows, args, folder))
    listed = found.rows.shown.get(which) if found.rows and which != ORDER else None
    total = len(listed) if listed is not None else found.rows.total if found.rows else 0
    pages = max(1, -(-total // PAGE))
    number = min(max(0, number), pages - 1)
    place = slice(number * PAGE, (number + 1) * PAGE)
    rows = listed[place] if listed is not None else survey.ordered(args, place, workspace, allowed)
    return Page(_shown(rows, args, folder), number, pages)


def _shown(rows: Sequence[Row], args: TrainArgs, folder: Path) -> str:
    subject = fitness.subject(folder, args.model.template)
    return "".join(_row(row, subject, args) for row in rows)


def _row(row: Row, subject: Subject, args: TrainArgs) -> str:
    name = f"<b>{escape(Path(row.file).name)}, row {row.number:,}</b>"
    if row.kind not in args.task.takes:
        why = f"This is one of {fitness.KINDS[row.kind]}, from which {args.task.title} does not learn."
        return _figure(name, f'<p class="tb-muted">{escape(why)}</p>')
    try:
        talks = fitness.rendered(row, subject, args.data.train_on)
    except DataError as problem:
        return _figure(name, f'<p class="tb-muted">{escape(problem.text)}</p>')
    titles = ("chosen", "rejected") if row.kind == "preference" else ("",)
    return "".join(
        _talk(name, title, mark(talk, subject.tokenizer.encode(talk.text), subject.tokenizer), subject, args)
        for title, talk in zip(titles, talks, strict=True)
    )


def _talk(name: str, title: str, tokens: Tokens, subject: Subject, args: TrainArgs) -> str:
    length, kept = len(tokens.ids), len(tokens.ids[: args.data.max_length])
    trained = sum(tokens.trained[1:kept])  # the first token of a row is never predicted
    parts = [
        title,
        f"{length:,} tokens",
        f"{length - kept:,} of them cut off" if kept < length else "",
        f"{trained:,} learnt",
    ]
    return _figure(f"{name} · {' · '.join(filter(None, parts))}", f"<pre>{_marked(tokens, kept, subject)}</pre>")


def _figure(caption: str, inner: str) -> str:
    return f'<figure class="tb-row-seen"><figcaption>{caption}</figcaption>{inner}</figure>'


def _marked(tokens: Tokens, kept: int, subject: Subject) -> str:
    """Each token a span; pieces of one character are one span. Text that no token covers stands between."""
    spans, place, shade, length = [], 0, 0, len(tokens.ids)
    special = subject.tokenizer.special_ids
    for index, (start, end) in enumerate(tokens.offsets):
        if HEAD <= index < length - TAIL:
            if index == HEAD:
                spans.append(f'<em class="tb-muted">\n... {length - HEAD - TAIL:,} tokens in between ...\n</em>')
            place = max(place, end)
            continue
        if end <= place:
            continue
        if start > place:
            spans.append(escape(tokens.text[place:start]))
        start, shade = max(start, place), 1 - shade
        kinds = ["tb-cut" if index >= kept else "tb-learnt" if tokens.trained[index] else "tb-given"]
        kinds += ["tb-special"] * (tokens.ids[index] in special) + ["tb-odd"] * shade
        said = escape(tokens.text[start:end]).replace("\n", f"{NEWLINE}\n")
        spans.append(f'<span class="{" ".join(kinds)}" title="{tokens.ids[index]}">{said}</span>')
        place = end
    return "".join(spans) + escape(tokens.text[place:])
