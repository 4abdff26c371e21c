"""What was found in a dataset, as a list beside its rows: how bad, how many, what to do, and the mend at a click.

Takes findings, gives escaped HTML whose buttons static/data.js reads. It finds and mends nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from app import naming
from app.theme import sentence_done
from data.review.finding import Finding
from engine.contract.args import TrainArgs

LEVELS = {"error": "Stops a run", "warning": "Worth a look", "note": "Good to know"}
ACTS = {"look": "Look at all", "stop": "Stop"}
FIXES = {
    "exclude": "Leave these rows out", "keep_first": "Keep the first of each", "mask": "Mask them",
    "clean": "Set them right", "untag": "Take it out", "trim": "Put them in order", "repair": "Make calls of them",
    "restore": "Forget these changes",
}  # fmt: skip


def html(found: Mapping[str, Finding], looked_at: str, act: str = "") -> str:
    """The findings by their marks, the worst first. `looked_at` says in which rows they were looked for.

    act: a word of `ACTS`, offered beside it.
    """
    button = f'<button type="button" data-all="{act}">{ACTS[act]}</button>' if act else ""
    looked = f'<p class="tb-muted tb-looked">{escape(looked_at)}{button}</p>'
    if not found:
        return f"{sentence_done('Nothing is wrong with these rows.')}{looked}"
    parts = []
    for level, title in LEVELS.items():
        items = "".join(_item(mark, one) for mark, one in found.items() if one.level == level)
        if items:
            parts.append(f'<h3 class="tb-level tb-level-{level}">{title}</h3><ul class="data-found">{items}</ul>')
    return f"{''.join(parts)}{looked}"


def _item(mark: str, one: Finding) -> str:
    name = escape(mark)
    show = f'<button type="button" data-show="{name}">Show</button>' if one.rows else ""
    words = FIXES.get(one.fix, one.fix)
    mend = f'<button type="button" data-mend="{name}">{escape(words)}</button>' if one.fix else ""
    text, hint = (naming.plain(TrainArgs, said, kinds={}) for said in (one.text, one.hint))
    more = f"<p>{escape(hint)}</p>" if hint else ""
    return f'<li class="tb-level-{one.level}"><strong>{escape(text)}</strong>{more}<div>{show}{mend}</div></li>'


def titles(found: Mapping[str, Finding]) -> dict[str, str]:
    """The findings that name rows, each with what the filter calls it."""
    return {mark: f"Found: {mark} ({one.count:,})" for mark, one in found.items() if one.rows}
