"""How long the rows are, as bars with the line at which they are cut. Takes facts, gives escaped HTML."""

from __future__ import annotations

from html import escape

from data.checking.fitness import parts
from data.checking.inspection import Inspection, round_widths

BINS = 40
TICKS = 6


def histogram(found: Inspection) -> str:
    """Bars of the lengths in tokens, the cut, and the numbers that say the same."""
    bins = found.histogram(BINS)
    most = max((bin.rows for bin in bins), default=0)
    if not most:
        return '<p class="tb-muted">There is no row whose tokens could be counted.</p>'
    last = bins[-1]
    end = max(last.low + (bins[0].high + 1), 1)  # where the axis ends; the last bar may hold all that is longer
    far = last.high >= end
    bars = "".join(
        f'<i class="{"tb-over" if bin.low >= found.max_length else ""}" style="height:{bin.rows / most:.2%}" '
        f'title="{bin.low:,} to {bin.high:,} tokens: {bin.rows:,} {"row" if bin.rows == 1 else "rows"}"></i>'
        for bin in bins
    )
    cut = ""
    if found.max_length < end:
        place = found.max_length / end
        side = " tb-left" if place > 0.6 else ""
        cut = f'<b class="tb-cut-line{side}" style="left:{place:.2%}"><span>cut at {found.max_length:,}</span></b>'
    step = next(width for width in round_widths() if width * TICKS >= end)
    ticks = "".join(
        f'<span{" class=tb-end" * (at > 0.95 * end)} style="left:{at / end:.2%}">{at:,}</span>'
        for at in range(0, round(end * (0.8 if far else 1)) + 1, step)
    )
    if far:
        ticks += f'<span class="tb-far">and up to {last.high:,}</span>'
    return (
        f'<figure class="tb-lengths" role="img" aria-label="{escape(words(found))}">'
        f'<div class="tb-most">up to {most:,} rows</div><div class="tb-bars">{bars}{cut}</div>'
        f'<div class="tb-ticks">{ticks}</div><figcaption>{escape(words(found))}</figcaption></figure>'
    )


def words(found: Inspection) -> str:
    """The same as a sentence, for those who do not see the bars, and for all others."""
    lengths = (
        f"Tokens in a row: half have at most {found.quantile(0.5):,}, 95 % at most {found.quantile(0.95):,}; "
        f"the longest has {found.longest:,}."
    )
    if not found.cut:
        return f"{lengths} None is cut."
    return f"{lengths} {found.cut / found.rows * 100:.1f} % of the rows are cut: {parts(found.lost)}."
