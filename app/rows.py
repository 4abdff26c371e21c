"""Rows as the model will see them: the rendered text, token by token, with what is trained in colour.

Uses the very rendering and mask that training uses. It knows no widget; it gives escaped HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from app import forecast, runs
from data.mask import Tokens, tokenise
from data.render import ChatTemplate
from engine.contract.args import TrainArgs

PAGE = 3  # rows on one page of the preview
NEWLINE = "↵"
LEGEND = (
    '<p class="tb-legend-line">As the model reads them. <span class="tb-learnt">Coloured</span> tokens are learnt, '
    "the others are only read.</p>"
)


def pages(args: TrainArgs, workspace: Path, allowed: Sequence[Path], page: int) -> tuple[str, int, int]:
    """(HTML of page `page`, the page shown, how many there are); pages are counted from 0. Raises BoardError."""
    folder = runs.model_folder(workspace, args, allowed)
    if folder is None:
        return '<p class="tb-muted">The rows can be shown once the model is on this machine.</p>', 0, 1
    rows = forecast.loaded(args, args.data.train, workspace, allowed)
    last = max(0, (len(rows) - 1) // PAGE)
    page = min(max(0, page), last)
    template = ChatTemplate.of(folder, None if args.model.template == "auto" else args.model.template)
    tokenizer = forecast.tokenizer(folder)
    shown = [
        _row(number, Path(row.file).name, tokenise(row, template, tokenizer, args.data.train_on), args.data.max_length)
        for number, row in enumerate(rows[page * PAGE : (page + 1) * PAGE], page * PAGE + 1)
    ]
    return LEGEND + "".join(shown), page, last + 1


def _row(number: int, file: str, tokens: Tokens, longest: int) -> str:
    kept = len(tokens.ids[:longest])
    # The first token of a row is never predicted.
    trained = sum(tokens.trained[1:kept])
    cut = f", cut after {longest:,}" if kept < len(tokens.ids) else ""
    return (
        f'<figure class="tb-row-seen"><figcaption><b>Row {number:,}</b> {escape(file)} · '
        f"{len(tokens.ids):,} tokens{cut} · {trained:,} trained</figcaption><pre>{_marked(tokens, kept)}</pre></figure>"
    )


def _marked(tokens: Tokens, kept: int) -> str:
    """Each token a span; pieces of one character are one span. Text that no token covers stands between."""
    spans, place = [], 0
    for index, (start, end) in enumerate(tokens.offsets):
        if end <= place:
            continue
        if start > place:
            spans.append(escape(tokens.text[place:start]))
        start = max(start, place)
        kind = "tb-cut" if index >= kept else "tb-learnt" if tokens.trained[index] else "tb-given"
        said = escape(tokens.text[start:end]).replace("\n", f"{NEWLINE}\n")
        spans.append(f'<span class="{kind}">{said}</span>')
        place = end
    return "".join(spans) + escape(tokens.text[place:])
