"""`check`: every problem of an args file on this machine, and with `--data` what becomes of its rows.

Loads no model. The contract has validated the arguments before; here is what only the machine and the rows can say.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from data import models
from data.checking import fitness, preflight, survey
from data.checking.fitness import Found
from data.checking.inspection import Inspection
from data.encoding.cut import View
from data.encoding.mask import Rendered
from data.rows.conversation import Row
from engine.contract.args import AnyArgs, TrainArgs
from engine.contract.errors import ArgsError, BoardError, Problem

TRAINED, READ = "»", "«"
"""The marks around what is trained."""
FIRST = 2  # rows that are printed with marks
NAMED = 8  # rows that a finding names
BAR = 40  # characters of the longest bar of the histogram
SAY_SECONDS = 0.5
UNSEEN = "The rows were not looked at one by one: add --data for that."
NOT_YET = "The rows were not looked at: that takes the model, which is not on this machine yet."


def check(args: AnyArgs, workspace: Path, *, rows: bool = False, as_json: bool = False) -> int:
    """Print every problem and return 2, or say that there is none and return 0. `rows`: those of a training too."""
    problems = [*preflight.problems(args, workspace), *_extra(args)]
    found = None
    if rows and isinstance(args, TrainArgs) and not problems:
        try:
            found = inspected(args, workspace)
        except BoardError as problem:
            problems.append(Problem("data", f"{problem.text} {problem.hint}".strip()))
    if as_json:
        print(json.dumps({
            "problems": [{"path": problem.path, "text": problem.text} for problem in problems],
            "inspection": found.model_dump(mode="json") if found else None,
        }, ensure_ascii=False))  # fmt: skip
    else:
        for note in preflight.notes(args, workspace):
            print(f"Note: {note}")
        if found and isinstance(args, TrainArgs):
            print("\n".join(_said(found, args, workspace)))
        print("\n".join(map(str, problems)) if problems else _verdict(found))
        if isinstance(args, TrainArgs) and not (found or problems):
            print(NOT_YET if rows else UNSEEN)
    return 2 if problems or (found and found.of("error")) else 0


def _verdict(found: Inspection | None) -> str:
    errors, warnings = (len(found.of(level)) if found else 0 for level in ("error", "warning"))
    if errors:
        return f"{errors} error{'s' * (errors > 1)} must be mended first."
    return f"Nothing stops the run; {warnings} warning{'s' * (warnings > 1)}." if warnings else "No problem found."


def inspected(args: TrainArgs, workspace: Path) -> Inspection | None:
    """Every row of a run, looked at; None while its model is not on this machine. Raises BoardError."""
    folder = models.find(args.model.path, workspace, args.model.revision).folder
    if folder is None:
        return None
    said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            print(f"{done:,} of {total:,} rows", file=sys.stderr, flush=True)

    return survey.whole(args, folder, workspace, progress=progress, write=_writer(args, folder, workspace))


def _writer(args: TrainArgs, folder: Path, workspace: Path) -> Callable[[Row], list[Rendered]] | None:
    """Renders rows with as many tokens as their pictures come to. Only a model that sees is worth the import."""
    if not models.sees(folder):
        return None
    from engine.models.vision import Sight
    from engine.training.rows import maker_of

    subject = fitness.subject(folder, args.model.template, args.model.new_tokens)
    sight = Sight.of(folder, args.vision, workspace / "cache" / "pictures")
    maker = maker_of(args, subject.template, subject.tokenizer, sight)

    def write(row: Row) -> list[Rendered]:
        said = maker.located(row)
        return [said] if isinstance(said, Rendered) else said

    return write


def _extra(args: AnyArgs) -> list[Problem]:
    """Settings for the trainer, by the trainer's own names: only there is its library worth the seconds it takes."""
    if not isinstance(args, TrainArgs) or not args.extra:
        return []
    from engine.recipes.run import RECIPES
    from engine.upstream import extra

    try:
        extra(args.extra, importlib.import_module(RECIPES[args.task.kind]).Config)
    except ArgsError as found:
        return found.problems
    return []


def _said(found: Inspection, args: TrainArgs, workspace: Path) -> Iterator[str]:
    """What was found, as lines for a terminal."""
    yield (
        f"Rows: {found.used:,} of {found.total:,} trained, {found.held_out:,} held out. "
        f"Tokens: {found.tokens:,}, "
        + ("and the model writes the answers." if args.task.generates else f"{found.trained:,} of them trained.")
    )
    yield ""
    yield from _histogram(found)
    yield ""
    for finding in found.findings:
        yield f"{finding.level.capitalize()}: {finding.text} {finding.hint}".rstrip()
        if finding.rows:
            yield f"    {_places(finding)}"
    shown = "" if args.task.generates else f"; what stands between {TRAINED} and {READ} is trained"
    yield f"\nThe first rows{shown}:"
    folder = models.find(args.model.path, workspace, args.model.revision).folder or Path()
    subject = fitness.subject(folder, args.model.template, args.model.new_tokens)
    args = fitness.meant(args)
    for row in found.shown.get("first", [])[:FIRST]:
        for view in fitness.viewed(row, subject, args.data):
            yield f"\n{Path(row.file).name}, row {row.number}, {len(view.encoded):,} tokens\n"
            yield marked(view)
    yield ""


def _histogram(found: Inspection) -> Iterator[str]:
    yield "Tokens in a row, and how many rows:"
    bins = found.histogram(16)
    most = max((bin.rows for bin in bins), default=0)
    width = len(f"{found.longest:,}") + 1
    cut = False
    for bin in bins:
        if bin.low >= found.max_length and not cut:
            cut = True
            yield f"  {'-' * (2 * width + 3)} cut at {found.max_length:,} tokens"
        bar = "#" * -(-bin.rows * BAR // most) if most else ""
        yield f"  {bin.low:>{width},} to {bin.high:>{width},} {bar:<{BAR}} {bin.rows:,}".rstrip()
    yield (
        f"Half of the rows have at most {found.quantile(0.5):,} tokens, 95 % at most {found.quantile(0.95):,}; "
        f"the longest has {found.longest:,}."
    )


def _places(finding: Found) -> str:
    files: dict[str, list[int]] = {}
    for place in finding.places[:NAMED]:
        files.setdefault(Path(place.file).name, []).append(place.number)
    more = f", and {finding.count - NAMED:,} more" if finding.count > NAMED else ""
    return "; ".join(f"{file} {', '.join(map(str, numbers))}" for file, numbers in files.items()) + more


def marked(view: View) -> str:
    """The text of a conversation, with a mark where training begins and where it ends."""
    said, place = "", 0
    for first, last in view.stretches:
        begin, end = view.encoded.span(first)[0], view.encoded.span(last - 1)[1]
        said += f"{view.rendered.text[place:begin]}{TRAINED}{view.rendered.text[begin:end]}{READ}"
        place = end
    return said + view.rendered.text[place:]
