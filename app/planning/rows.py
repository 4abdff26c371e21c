"""Rows as the model will see them: the rendered text, token by token, with what is trained in colour.

Uses the very rendering, mask and cut that training uses. It knows no widget; it gives escaped HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from app import gallery
from app.planning.forecast import Forecast
from data.checking import fitness, survey
from data.checking.fitness import Subject
from data.encoding.cut import View
from data.encoding.mask import Stretches
from data.rows.conversation import Row
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
    "crowded": "that leave no room for an answer",
    "divided": "that are divided", "leakage": "on both sides",
}  # fmt: skip
LOST = {"turns": "the oldest turns", "prompt": "the start of the question", "answer": "the end of the answer",
        "row": "the whole row"}  # fmt: skip
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
    roots = [workspace, *allowed]
    if row:
        rows = survey.numbered(args, row, workspace, allowed)
        if not rows:
            raise BoardError(f"There is no row {row:,}.", "Rows are counted from 1 in each dataset.")
        return Page(_shown(rows, args, folder, roots))
    listed = found.rows.shown.get(which) if found.rows and which != ORDER else None
    total = len(listed) if listed is not None else found.rows.total if found.rows else 0
    pages = max(1, -(-total // PAGE))
    number = min(max(0, number), pages - 1)
    place = slice(number * PAGE, (number + 1) * PAGE)
    rows = listed[place] if listed is not None else survey.ordered(args, place, workspace, allowed)
    return Page(_shown(rows, args, folder, roots), number, pages)


def _shown(rows: Sequence[Row], args: TrainArgs, folder: Path, roots: Sequence[Path]) -> str:
    args = fitness.meant(args)
    subject = fitness.subject(folder, args.model.template, args.model.new_tokens)
    return "".join(_row(row, subject, args) + gallery.of(row.messages, roots) for row in rows)


def _row(row: Row, subject: Subject, args: TrainArgs) -> str:
    name = f"<b>{escape(Path(row.file).name)}, row {row.number:,}</b>"
    if row.kind not in args.task.takes:
        why = f"This row is of another kind, {fitness.KINDS[row.kind]}; {args.task.title} does not learn from it."
        return _figure(name, f'<p class="tb-muted">{escape(why)}</p>')
    try:
        row = (
            row if row.kind == "prompt" else fitness.read(row, args)
        )  # those that were looked at are questions already
        views = fitness.viewed(row, subject, args.data)
        left = fitness.cut(row, views, subject, args.data)
    except DataError as problem:
        return _figure(name, f'<p class="tb-muted">{escape(problem.text)}</p>')
    if fitness.shows(row):
        name += " · each picture counted as one token here"
    titles = ("chosen", "rejected") if row.kind == "preference" else ("",)
    sides = left.sides or [([], [])] * len(views)
    return "".join(
        _talk(" · ".join(filter(None, (name, title))), view, side, left.lost, subject, args.task.generates)
        for title, view, side in zip(titles, views, sides, strict=True)
    )


def _talk(
    name: str, view: View, side: tuple[list[int], Stretches], lost: Sequence[str], subject: Subject, asks: bool
) -> str:
    length, (ids, stretches) = len(view.encoded), side
    trained = sum(last - max(first, 1) for first, last in stretches if last > 1)
    gone = length - len(ids)  # of two answers, only the longer one may be cut
    cut = f" · {gone:,} of them cut off ({', '.join(LOST[part] for part in lost)})" if gone else ""
    learnt = "the model writes the answer" if asks else f"{trained:,} learnt"
    caption = f"{name} · {length:,} tokens{cut} · {learnt}"
    kept = fitness.kept(view, ids) if lost else [True] * length
    return _figure(caption, f"<pre>{_marked(view, kept, subject)}</pre>")


def _figure(caption: str, inner: str) -> str:
    return f'<figure class="tb-row-seen"><figcaption>{caption}</figcaption>{inner}</figure>'


def _marked(view: View, kept: Sequence[bool], subject: Subject) -> str:
    """Each token a span; pieces of one character are one span. Text that no token covers stands between."""
    text, ids, special = view.rendered.text, view.encoded.ids, subject.tokenizer.special_ids
    trained = {index for first, last in view.stretches for index in range(first, last)}
    spans, place, shade = [], 0, 0
    for index, (start, end) in enumerate(view.encoded.offsets):
        if HEAD <= index < len(ids) - TAIL:
            if index == HEAD:
                spans.append(f'<em class="tb-muted">\n... {len(ids) - HEAD - TAIL:,} tokens in between ...\n</em>')
            place = max(place, end)
            continue
        if end <= place:
            continue
        spans.append(escape(text[place:start]))
        start, shade = max(start, place), 1 - shade
        kinds = ["tb-cut" if not kept[index] else "tb-learnt" if index in trained else "tb-given"]
        kinds += ["tb-special"] * (ids[index] in special) + ["tb-odd"] * shade
        said = escape(text[start:end]).replace("\n", f"{NEWLINE}\n")
        spans.append(f'<span class="{" ".join(kinds)}" title="{ids[index]}">{said}</span>')
        place = end
    return "".join(spans) + escape(text[place:])
