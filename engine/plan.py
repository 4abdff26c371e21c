"""`plan`: what a run will take of memory and time, against what is there; with `--fit`, what to change if it is short.

Arithmetic on files; loads no model. Whoever has an accelerator or the time for it asks `measure`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data import models
from data.checking import preflight, survey
from data.planning.fit import Change, Fit, fitted
from data.planning.plan import Plan, planned
from data.planning.shape import begun
from engine.contract import auto, text
from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError, BoardError
from engine.contract.machine import machine

BAR = 40  # characters of the whole bar
SHORT = 1  # the exit code where it does not fit
BASIS = {"measured": "measured in two steps", "earlier": "as an earlier run like this", "estimate": "an estimate"}
TIME = {
    "measured": "at the measured speed", "earlier": "at the speed of an earlier run like this",
    "rate": "a guess from how fast this processor multiplies",
}  # fmt: skip


def plan(args: text.AnyArgs, workspace: Path, *, as_json: bool = False, fit: bool = False) -> int:
    """Print the plan for a training; 0 when it fits, 1 when not. Raises BoardError with what keeps it from running."""
    found = made(args, workspace)
    changes = fitted(found) if fit else None
    if as_json:
        print(json.dumps(record(found, changes), ensure_ascii=False))
    else:
        print("\n".join(said(found)))
        if changes is not None:
            print("\n".join(["", *proposed(changes, found)]))
    return 0 if (changes.fits if changes else found.fits) else SHORT


def made(args: text.AnyArgs, workspace: Path) -> Plan:
    """The plan for `args`, with a look at some of its rows where the model is here."""
    if not isinstance(args, TrainArgs):
        raise BoardError(f"Only a training is planned, and this is {args.kind}.", "Give the arguments of a training.")
    if problems := preflight.problems(args, workspace, rows=False):
        raise ArgsError(problems)
    args = preflight.grounded(args, workspace)
    folder = models.find(args.model.path, workspace, args.model.revision).folder
    known = begun(args, models.card(folder) if folder else None)
    if known is None:
        raise BoardError(f"Nothing is known of {args.model.path} yet.", "Get its files first: `download`.")
    rows = survey.sampled(args, folder, workspace) if folder else None
    sequences = round(rows.sequences * rows.scale) if rows else 0
    args = auto.resolved(args, auto.Facts(machine(), known.parameters, sequences))
    return planned(args, known, workspace, rows=rows)


def said(found: Plan) -> Iterator[str]:
    """The plan as lines for a terminal."""
    args = found.args
    device = machine().device_name if args.compute.device == "auto" else args.compute.device
    yield (
        f"{args.model.path}: {found.trained:,} of {found.subject.parameters:,} parameters trained "
        f"({args.method.kind}), {args.steps.batch_size} rows at once, the longest with {found.longest:,} tokens"
    )
    if found.subject.known != "files":
        yield f"The model is not here yet: what follows comes from its {found.subject.known} alone."
    yield f"\nMemory{' of each process' if args.launch.here > 1 else ''} on {device}:"
    parts = {label: octets for label, octets in found.memory.parts.items() if octets}
    most = max(parts.values(), default=1)
    for label, octets in parts.items():
        yield f"  {label:<16} {size(octets):>8}  {'#' * max(1, round(BAR * octets / most))}"
    yield f"  {'in all':<16} {size(found.memory.total):>8}"
    if found.memory.host:
        yield f"  {'main memory':<16} {size(found.memory.host):>8}"
    if found.batch:
        yield f"\nThe plan takes {found.batch}"
    verdict = "it fits" if found.fits else "it does not fit"
    short = bool(found.measured and found.measured.out_of_memory)
    needed = "Two steps ran out of memory" if short else f"{size(found.needed)} needed ({BASIS[found.basis]})"
    yield f"\n{needed}, {size(found.free)} of {size(found.total)} free: {verdict}."
    if found.work is None:
        return
    work = found.work
    written = f" (up to {work.written:,.0f} of them written by the model)" if work.written else ""
    yield f"{work.steps:,} steps, {work.tokens:,.0f} tokens{written}, {work.operations:.3g} floating-point operations."
    if work.seconds is None or work.basis is None:
        yield "How long it takes is known once it is measured: `measure` with the same arguments."
    else:
        yield f"About {_duration(work.seconds)}, {TIME[work.basis]}."


def proposed(fit: Fit, found: Plan) -> Iterator[str]:
    """The changes as a diff, and the command that has them."""
    if not fit.changes:
        yield "Nothing has to change." if fit.fits else "Nothing that may be changed helps: choose a smaller model."
        return
    yield "To make it fit:"
    for number, change in enumerate(fit.changes, start=1):
        yield f"{number}. {change.said} Saves {size(change.saves)}."
        yield from (f"   {line}" for line in lines(change))
    end = "it fits" if fit.fits else "it still does not fit: choose a smaller model"
    yield f"Then {size(fit.needed)} are needed, of {size(found.free)} free: {end}."
    yield f"\n{' '.join(shlex.quote(f'{path}={_word(value)}') for path, value in fit.put.items())}"


def lines(change: Change) -> list[str]:
    """`- steps.batch_size: 4` and `+ steps.batch_size: 2`."""
    pairs = [(path, change.before.get(path), value) for path, value in change.put.items()]
    return [line for path, was, now in pairs for line in (f"- {path}: {_word(was)}", f"+ {path}: {_word(now)}")]


def record(found: Plan, fit: Fit | None) -> dict[str, Any]:
    """The plan for programs."""
    content: dict[str, Any] = {
        "parameters": found.subject.parameters, "trained": found.trained, "known_by": found.subject.known,
        "longest": found.longest, "rows_at_once": found.args.steps.batch_size,
        "memory": dict(found.memory.parts), "main_memory": found.memory.host,
        "estimate": found.memory.total, "needed": found.needed, "basis": found.basis,
        "free": found.free, "total": found.total, "fits": found.fits,
        "work": asdict(found.work) if found.work else None,
    }  # fmt: skip
    if fit:
        content["fit"] = {
            "changes": [asdict(change) for change in fit.changes], "put": fit.put, "needed": fit.needed,
            "fits": fit.fits,
        }  # fmt: skip
    return content


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | None) else str(value)


def size(octets: float) -> str:
    for unit, step in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if octets >= step * 0.9995:
            return f"{octets / step:.3g} {unit}" if octets < 999.5 * step else f"{octets / step:.0f} {unit}"
    return f"{octets / 1e3:.0f} kB"


def _duration(seconds: float) -> str:
    hours, minutes = seconds / 3600, seconds / 60
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"
