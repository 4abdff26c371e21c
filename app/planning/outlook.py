"""A forecast in words and bars: what the right card of Train says, and the lines under the model and the data.

Takes facts, gives escaped HTML. It reads nothing and knows no widget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from app.planning.forecast import Forecast, sequences
from app.running.live import duration
from data.datasets.registry import Count, Entry
from data.models import Card
from data.planning.plan import Plan
from data.review.finding import Level
from engine.contract.adapters import Lora, Tuner
from engine.contract.args import TrainArgs
from engine.contract.methods import Freeze

DTYPES = {"f16": "fp16", "f32": "fp32"}  # safetensors' words in ours
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
# How long it takes, by what it was told.
BASIS = {
    "measured": "at the speed of the two steps that were measured.",
    "earlier": "at the speed of your last run like this.",
    "rate": "a guess from how fast this processor multiplies.",
}


def model_line(card: Card | None, waiting: str = "") -> str:
    """`135 M parameters · 8,192 tokens of context · bf16 · own template · apache-2.0`."""
    if card is None:
        return f'<div class="tb-line tb-muted">{escape(waiting)}&nbsp;</div>'
    parts = [
        f"{count(card.parameters)} parameters",
        f"{card.context:,} tokens of context" if card.context else "",
        DTYPES.get(card.dtype, card.dtype),
        "chat template of its own" if card.template == "own" else "no chat template",
        f"licence {card.licence}" if card.licence else "no licence stated",
        size(card.size),
    ]
    return f'<div class="tb-line tb-muted">{escape(" · ".join(filter(None, parts)))}</div>'


def data_line(chosen: Sequence[tuple[Entry, Count]], forecast: Forecast | None) -> str:
    """`identity: 68 rows, messages · sql: 79 rows, messages · 7 rows held out`."""
    parts = [f"{entry.name}: {found.rows:,} rows, {found.format}" for entry, found in chosen]
    if forecast and forecast.rows and forecast.rows.held_out:
        about = "" if forecast.rows.exact else "about "
        parts.append(f"{about}{forecast.rows.held_out:,} {'row' if forecast.rows.held_out == 1 else 'rows'} held out")
    return f'<div class="tb-line tb-muted">{escape(" · ".join(parts))}&nbsp;</div>'


def outlook(found: Forecast, counted: str = "", linked: Callable[[str], str] = escape) -> str:
    """What will happen, as sentences, a bar of memory and what was found in the rows; `counted`: how far that is.

    linked: a sentence that may name fields, as HTML.
    """
    inner = (
        f"{_sentence(found)}{_away(found, linked)}{_time(found)}{_memory(found)}{_checks(found, linked)}"
        f"{_findings(found, counted, linked)}"
    )
    return f'<div class="tb-outlook">{inner}</div>'


def wrong(lines: Sequence[tuple[str, str]]) -> str:
    """What must be mended before Start, as (field, sentence), both HTML."""
    items = "".join(f"<li><strong>{label}</strong> {text}</li>" for label, text in lines)
    return f'<div class="tb-outlook"><p class="tb-lead">Mend this first</p><ul class="tb-wrongs">{items}</ul></div>'


def _away(found: Forecast, linked: Callable[[str], str]) -> str:
    """What keeps a run that can be planned from starting."""
    items = "".join(f"<li>{linked(problem.text)}</li>" for problem in found.out_of_reach)
    return f'<ul class="tb-wrongs">{items}</ul>' if items else ""


def start(found: Forecast | None, busy: bool) -> str:
    """The word on the button that starts."""
    if found and found.may_start and found.rows and found.rows.of("warning"):
        return "Queue anyway" if busy else "Start anyway"
    return "Queue" if busy else "Start"


def _sentence(found: Forecast) -> str:
    args, known, rows = found.args, found.plan, found.rows
    which = f"{count(known.trained)} of {count(known.subject.parameters)} parameters" if known else "the model"
    told = f"Trains <b>{escape(which)}</b> ({escape(_method(args))}{_packed(args)})"
    if rows is None:
        return f'<p class="tb-lead">{told}. Rows and steps are counted once the model is here.</p>'
    if not rows.used:
        return f'<p class="tb-lead">{told}, and there is <b>nothing to train on</b>: see what was found.</p>'
    about = "" if rows.exact else "about "
    many = f"{rows.used if rows.exact else round(rows.used * rows.scale):,} rows"
    packing = f", packed into {about}{sequences(rows):,} sequences" if args.packs else ""
    unit = "answers" if args.task.together > 1 else "rows"
    return (
        f'<p class="tb-lead">{told} on <b>{about}{many}</b>{packing}, <b>{about}{count(rows.tokens * rows.scale)} '
        f"tokens</b> an epoch, in <b>{about}{found.steps:,} steps</b> of {args.steps.global_batch} {unit}"
        f"{_made(args)}.{_writes(known)}</p>"
    )


def _writes(plan: Plan | None) -> str:
    """What the model writes itself, and all that goes through it then."""
    if plan is None or plan.work is None or not plan.work.written:
        return ""
    work = plan.work
    return (
        f" The model writes up to <b>{count(work.written)} tokens</b>; with the questions "
        f"{count(work.tokens)} go through it."
    )


def _made(args: TrainArgs) -> str:
    """What the rows of a step are made of, where it is more than one batch: ` (4 at once × 8 batches × 2 devices)`."""
    batches, devices = int(args.steps.accumulation), args.launch.replicas
    times = [f"{many} {what}" for many, what in ((batches, "batches"), (devices, "devices")) if many > 1]
    return f" ({' × '.join([f'{args.steps.batch_size} at once', *times])})" if times else ""


def _packed(args: TrainArgs) -> str:
    return "" if args.model.quantisation == "none" else f", on {args.model.quantisation} weights"


def _method(args: TrainArgs) -> str:
    if isinstance(args.method, Lora):
        kind = "DoRA" if args.method.dora else "LoRA"
        return f"{kind}, rank {args.method.rank}"
    if isinstance(args.method, Freeze) and args.method.which == "spectrum":
        return f"the {args.method.share:.0%} of each kind of matrix with the most signal"
    if isinstance(args.method, Freeze) and args.method.which in ("last", "first"):
        which = args.method.which
        return f"the {which} {args.method.layers} layers" if args.method.layers > 1 else f"the {which} layer"
    if isinstance(args.method, Tuner):
        return str(args.method.tuner)
    return "all weights" if args.method.kind == "full" else args.method.title


def _time(found: Forecast) -> str:
    plan = found.plan
    if plan is None or plan.work is None or (found.rows and not found.rows.used):
        return ""
    work = plan.work
    if work.seconds is None or work.basis is None:
        said = "How long it takes is known after the first steps, or once it is measured."
        return f'<p class="tb-muted">{said}</p>'
    about = f"{count(work.operations)} operations"
    task = found.args.task
    judged = " What you take to judge the answers comes on top." if task.generates and task.rewards.person else ""
    return (
        f"<p>About <b>{duration(max(1.0, work.seconds))}</b>, {BASIS[work.basis]} "
        f'<span class="tb-muted">({about}){judged}</span></p>'
    )


def _memory(found: Forecast) -> str:
    plan = found.plan
    if plan is None:
        return ""
    scale = max(plan.memory.total, plan.free) or 1
    there = [(number, label, part) for number, (label, part) in enumerate(plan.memory.parts.items()) if part]
    bars = "".join(
        f'<i class="tb-part-{number}" style="width:{part / scale:.2%}" title="{escape(label)}: {size(part)}"></i>'
        for number, label, part in there
    )
    keys = "".join(
        f'<span><i class="tb-part-{number}"></i>{escape(label)} {size(part)}</span>' for number, label, part in there
    )
    basis = "" if plan.basis == "estimate" else '<span class="tb-muted">by arithmetic:</span>'
    return (
        f'<div class="tb-memory{"" if plan.fits else " tb-tight"}"><p>{_needs(plan)}</p>'
        f'<div class="tb-parts">{bars}</div><div class="tb-keys">{basis}{keys}</div></div>'
    )


def _needs(plan: Plan) -> str:
    """`Memory: about 2.1 GB of 20 GB free (an estimate)`."""
    if plan.measured and plan.measured.out_of_memory:
        return f"Memory: <b>more than there is</b>: two steps were tried, and {size(plan.free)} free were not enough."
    told = {
        "measured": "measured in two steps on the longest rows",
        "earlier": "as your last run like this",
        "estimate": {
            "files": "an estimate", "config": "an estimate from the model's config",
            "size": "a rough estimate, from the model's size alone",
        }[plan.subject.known],
    }[plan.basis]  # fmt: skip
    about = "about " if plan.basis == "estimate" else ""
    each = " in each process" if plan.args.launch.here > 1 else ""
    host = f", and {size(plan.memory.host)} of main memory" if plan.memory.host else ""
    return (
        f"Memory: {about}<b>{size(plan.needed)}</b>{each} of {size(plan.free)} free{host} "
        f'<span class="tb-muted">({told}{"" if plan.fits else "; more than is free"})</span>'
    )


def _checks(found: Forecast, linked: Callable[[str], str]) -> str:
    """What is as it should be, in one line; a line for each of the machine's notes."""
    good, rows, task = [], found.rows, found.args.task
    plain = task.takes == ("text",)  # whose rows have no turns to render, nor answers
    wrong = {finding.kind for finding in rows.findings} if rows else set()
    if not plain and found.args.model.template == "auto" and found.card and found.card.template == "own":
        good.append("The chat template is the model's own.")
    if rows and rows.used:
        if task.generates:
            good.append("The rows ask, and the model writes the answers.")
        elif not (plain or task.head == "score" or wrong & {"open", "open_earlier", "stop"}):
            good.append("The end of each answer is trained.")
        if not rows.cut:
            good.append(f"No row is cut; the longest has {rows.longest:,} tokens.")
    items = f'<li class="tb-ok">{escape(" ".join(good))}</li>' if good else ""
    items += "".join(f'<li class="tb-mind">{linked(line)}</li>' for line in found.notes)
    return f'<ul class="tb-checks">{items}</ul>'


def _findings(found: Forecast, counted: str, linked: Callable[[str], str]) -> str:
    """What was found in the rows, the worst first; each leads to its rows."""
    rows = found.rows
    if rows is None:
        return ""
    items = "".join(
        f'<li class="tb-{finding.level}"><span>{linked(finding.text)}</span>'
        + (f' <button type="button" class="tb-link" data-show="{finding.kind}">show</button>' if finding.rows else "")
        + (f"<small>{linked(finding.hint)}</small>" if finding.hint else "")
        + "</li>"
        for finding in rows.findings
    )
    return f'<p class="tb-counted tb-muted">{escape(_looked(found, counted))}</p><ul class="tb-findings">{items}</ul>'


def _looked(found: Forecast, counted: str) -> str:
    """`400 of 120,000 rows looked at: 2 warnings. The rest is being counted.`"""
    rows = found.rows
    assert rows is not None
    counts = {level: len(rows.of(level)) for level in LEVELS}
    said = ", ".join(f"{many} {level}{'s' if many > 1 else ''}" for level, many in counts.items() if many)
    looked = f"All {rows.total:,} rows" if rows.exact else f"{rows.rows:,} of {rows.total:,} rows"
    more = "" if not found.question else f" {counted} are counted so far." if counted else " The rest is being counted."
    unseen = ", their pictures not yet counted" if rows.unseen else ""
    return f"{looked} looked at{unseen}: {said or 'nothing is wrong'}.{more}"


def count(number: float) -> str:
    """A number of things as people say it: `812`, `9.1 k`, `135 M`, `1.7 B`, `3.6 T`, `2,400 P`."""
    for unit, step in (("P", 1e15), ("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        # 999.6 k would be said as 1000 k
        if number >= step * 0.9995:
            scaled = number / step
            return f"{scaled:,.0f} {unit}" if scaled >= 99.95 else f"{scaled:.1f} {unit}"
    return f"{number:.0f}"


def size(octets: float) -> str:
    """Bytes as people say it: `2.1 GB`, `269 MB`."""
    for unit, step in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if octets >= step * 0.9995:
            scaled = octets / step
            return f"{scaled:.0f} {unit}" if scaled >= 99.95 else f"{scaled:.1f} {unit}"
    return f"{octets:.0f} B"
