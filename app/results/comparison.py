"""What an evaluation found, as HTML: the verdict, a table of metrics with interval bars, rows side by side.

Reads the results of a run folder. Every text is escaped; nothing here decides, it shows what the engine wrote down.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from app import gallery
from app.running.live import progress, verdict
from app.running.watch import Watch
from app.theme import empty, pill, sentence_done, sentence_warning
from engine.contract import events
from engine.contract.rundir import Run, records

PER_PAGE = 10


@dataclass(frozen=True)
class Shown:
    """How a metric is shown: its label, decimals, unit, and whether lower is better."""

    label: str
    digits: int = 2
    unit: str = ""
    falls: bool = False
    about: str = ""


METRICS = {
    "loss": Shown("Loss", 3, falls=True, about="nats per token of the right answer; lower is better"),
    "perplexity": Shown("Perplexity", 2, falls=True, about="e to the loss; lower is better"),
    "chrf": Shown("chrF", 1, about="shared pieces of words with the right answer, 0 to 100"),
    "rouge_l": Shown("ROUGE-L", 1, about="words in the same order as the right answer, 0 to 100"),
    "bleu": Shown("BLEU", 1, about="shared word sequences with the right answer, 0 to 100"),
    "exact_match": Shown("Exact match", 1, " %", about="answers that equal the right one"),
    "preferred": Shown("Better preferred", 1, " %", about="pairs whose better answer is scored higher"),
    "margin": Shown("Margin", 2, about="how much higher the better answer is scored"),
}
ORDERS = {"Worst first": 1, "Best first": -1, "As in the data": 0}


def summary_of(run: Run) -> dict[str, Any] | None:
    path = run.results_path / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def head(watch: Watch) -> str:
    """State and title; while it works its progress, and the verdict as soon as there is one."""
    doing = "stopping" if watch.status.get("stopping") else watch.phase
    line = (
        f'<div class="tb-run-line">{pill(watch.state)}<strong>{escape(watch.title)}</strong>'
        f"<span>{escape(doing if watch.moving else '')}</span></div>"
    )
    result = watch.result.facts if watch.result else {}
    said = judged(watch.result.sentence, str(result.get("verdict", ""))) if watch.result else ""
    trouble = "" if watch.state == "done" else verdict(watch)
    warnings = [happening.event for happening in watch.story if isinstance(happening.event, events.Warn)]
    shown = "".join(sentence_warning(watch.plain(warning.text), watch.plain(warning.hint)) for warning in warnings)
    return f'<div class="tb-run-head">{trouble}{said}{line}{progress(watch) if watch.moving else ""}{shown}</div>'


def judged(sentence: str, verdict: str) -> str:
    """The verdict in large letters, and what it rests on below."""
    first, _, rest = sentence.partition("). ")
    word, colon, why = f"{first})".partition(": ") if rest else sentence.partition(": ")
    if not colon:
        return sentence_done(sentence)
    kind = {"better": "done", "worse": "error"}.get(verdict, "still")
    more = f"<p>{escape(rest)}</p>" if rest else ""
    return (
        f'<div class="tb-verdict tb-{kind}" role="status"><strong>{escape(word)}</strong>'
        f"<span>{escape(why[:1].upper() + why[1:])}</span>{more}</div>"
    )


def table(summary: dict[str, Any]) -> str:
    """Each metric of both candidates, with the interval of the difference drawn on a line of its own scale."""
    share = f"{100 * summary['confidence']:g} % interval"
    lines = [
        f"<tr><th scope=row class='tb-name' title='{escape(shown.about)}'>{shown.label}</th>"
        f"<td>{_number(found['base'], shown)}</td><td>{_number(found['tuned'], shown)}</td>"
        f"<td>{_number(found['difference'], shown, sign=True)}</td><td>{_bar(found, shown)}</td>"
        f"<td class='tb-to'>{_number(found['low'], shown, sign=True)} to "
        f"{_number(found['high'], shown, sign=True)}</td><td>{_word(found['verdict'])}</td></tr>"
        for key, shown in METRICS.items()
        if (found := summary["metrics"].get(key))
    ]
    return (
        '<table class="tb-metrics"><thead><tr><th class="tb-name">Metric</th>'
        f"<th>Base<small>{escape(summary['base'])}</small></th><th>Tuned<small>{escape(summary['tuned'])}</small></th>"
        "<th>Difference</th><th class='tb-scale'><span>worse</span><span>better</span></th>"
        f"<th class='tb-to'>{share}</th><th></th></tr></thead><tbody>{''.join(lines)}</tbody></table>"
        f'<p class="tb-muted">{summary["rows"]:,} rows, {escape(summary["rows_from"])}. '
        f"The interval is what chance in the choice of rows allows, from {summary['resamples']:,} resamples.</p>"
    )


def _number(value: float | None, shown: Shown, *, sign: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:{'+' if sign and value else ''},.{shown.digits}f}{shown.unit}".replace("-", "−")


def _word(verdict: str) -> str:
    kind = {"better": "done", "worse": "failed"}.get(verdict, "still")
    return f'<span class="tb-pill tb-{kind}">{escape(verdict)}</span>'


def _bar(found: dict[str, Any], shown: Shown) -> str:
    """Right is better, whatever the metric; zero in the middle, the interval as a band, the difference as a tick."""
    bounds = [found[name] for name in ("low", "high", "difference")]
    if None in bounds:
        return ""
    widest = max(map(abs, bounds)) * 1.08 or 1.0
    low, high, middle = (50 + 50 * (-value if shown.falls else value) / widest for value in bounds)
    low, high = sorted((low, high))
    kind = {"better": "tb-good", "worse": "tb-bad"}.get(found["verdict"], "")
    return (
        f'<div class="tb-interval {kind}" role="img" aria-label="interval of the difference">'
        f'<i style="left:{low:.1f}%;width:{high - low:.1f}%"></i><b style="left:{middle:.1f}%"></b></div>'
    )


def ordered(run: Run, metric: str, order: str) -> list[dict[str, Any]]:
    """The rows, those that got worst by `metric` first, or last, or as they stand in the data."""
    found = list(records(run.results_path / "rows.jsonl"))
    way = ORDERS.get(order, 1)
    if not way:
        return sorted(found, key=lambda row: (row["file"], row["number"]))
    return sorted(found, key=lambda row: way * gain(row, measured(metric, [row])[0]))


def measured(metric: str, found: Sequence[dict[str, Any]]) -> list[str]:
    """What the rows were measured by, `metric` first where it is among them; all there is while there are no rows."""
    known = [key for key in METRICS if not found or key in found[0]["tuned"]]
    return sorted(known, key=lambda key: key != metric)


def gain(row: dict[str, Any], metric: str) -> float:
    """How much better the tuned answer is; negative when worse."""
    base, tuned = row["base"].get(metric), row["tuned"].get(metric)
    if base is None or tuned is None:
        return 0.0
    return float(base - tuned if METRICS[metric].falls else tuned - base)


def rows(found: Sequence[dict[str, Any]], page: int, metric: str, roots: Sequence[Path] = ()) -> tuple[str, int, int]:
    """One page of rows as HTML, that page's number, and how many pages there are; pictures are read inside `roots`."""
    pages = max(1, -(-len(found) // PER_PAGE))
    page = min(max(0, page), pages - 1)
    shown = found[page * PER_PAGE : (page + 1) * PER_PAGE]
    if not shown:
        return empty("No rows yet", "Each row appears here once both models have answered it."), 0, 1
    return "".join(_row(row, metric, roots) for row in shown), page, pages


def _row(row: dict[str, Any], metric: str, roots: Sequence[Path]) -> str:
    metric = measured(metric, [row])[0]
    shown, better = METRICS[metric], gain(row, metric)
    kind = "done" if better > 0 else "failed" if better < 0 else "still"
    word = "better" if better > 0 else "worse" if better < 0 else "the same"
    moved = f"{shown.label} {_number(row['base'].get(metric), shown)} → {_number(row['tuned'][metric], shown)}"
    base, tuned = row["base"]["answer"], row["tuned"]["answer"]
    base, tuned = marked(base, tuned) if base else (escape(base), escape(tuned))  # beside nothing all would be marked
    ranked = "preferred" in row["tuned"]  # a pair: what each of them prefers, in place of what each of them writes
    right, *names = ("Better answer", "Base prefers", "Tuned prefers") if ranked else ("Right answer", "Base", "Tuned")
    base = base or ("either, as a coin would" if ranked else "")
    file = re.split(r"[\\/]", row["file"])[-1]
    return (
        f'<article class="tb-judged"><header><span class="tb-muted">{escape(file)}, row {row["number"]:,}</span>'
        f'<span class="tb-pill tb-{kind}">{word}</span><span>{moved}</span></header>'
        f"<dl><dt>Question</dt><dd>{gallery.strip(row.get('pictures', ()), roots)}{escape(row['prompt'])}</dd>"
        f"<dt>{right}</dt><dd>{escape(row['reference'])}</dd></dl>"
        f'<div class="tb-sides">{_side(names[0], base, row["base"])}{_side(names[1], tuned, row["tuned"])}</div>'
        "</article>"
    )


def _side(name: str, answer: str, found: dict[str, Any]) -> str:
    facts = [
        f"{shown.label} {_number(found[key], shown)}"
        for key, shown in METRICS.items()
        if key in ("loss", "chrf", "rouge_l", "margin") and found.get(key) is not None
    ]
    cut = ["cut short"] if found["cut"] else []
    said = answer or '<em class="tb-muted">nothing</em>'
    return f"<section><h4>{name}</h4><p>{said}</p><footer>{' · '.join([*facts, *cut])}</footer></section>"


def marked(base: str, tuned: str) -> tuple[str, str]:
    """Both answers as HTML, with the words in `<mark>` that the other does not have there."""
    left, right = (re.findall(r"\w+|\s+|[^\w\s]", text) for text in (base, tuned))
    said: tuple[list[str], list[str]] = ([], [])
    for tag, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for side, words in ((said[0], left[a:b]), (said[1], right[c:d])):
            text = escape("".join(words))
            side.append(f"<mark>{text}</mark>" if tag != "equal" and text.strip() else text)
    return "".join(said[0]), "".join(said[1])
