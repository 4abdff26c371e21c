"""`check`: every problem of an args file on this machine, and with `--data` what becomes of its rows.

Loads no model. The contract has validated the arguments before; here is what only the machine can say.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from data import models, preflight, sets
from data.mask import Tokens, tokenise
from data.prepare import Report, prepare
from data.render import ChatTemplate
from data.tokens import TextTokenizer
from engine.contract.args import AnyArgs, TrainArgs
from engine.contract.errors import ArgsError, BoardError, Problem

TRAINED, READ = "»", "«"
"""The marks around what is trained."""


def check(args: AnyArgs, workspace: Path, *, rows: bool = False) -> int:
    """Print every problem and return 2, or say that there is none and return 0."""
    problems = [*preflight.problems(args, workspace), *_extra(args)]
    for note in preflight.notes(args, workspace):
        print(f"Note: {note}")
    if rows and isinstance(args, TrainArgs) and not problems:
        try:
            _look(args, workspace)
        except BoardError as problem:
            problems.append(Problem("data", f"{problem.text} {problem.hint}".strip()))
    print("\n".join(map(str, problems)) if problems else "No problem found.")
    return 2 if problems else 0


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


def _look(args: TrainArgs, workspace: Path) -> None:
    """What the worker would make of the rows, and the first of them as the model reads it."""
    folder = models.find(args.model.path, workspace, args.model.revision).folder
    if folder is None:
        return print("The rows can be counted once the model is on this machine.")
    template = ChatTemplate.of(folder, None if args.model.template == "auto" else args.model.template)
    tokenizer = TextTokenizer.of(folder)
    read = sets.read(args, workspace)
    train = read.train
    for which, found in (("train", train), ("held out", read.validation)):
        if found:
            done = prepare(found, template, tokenizer, train_on=args.data.train_on, max_length=args.data.max_length)
            _print_report(which, done.report)
    print(f"\nThe first row; what stands between {TRAINED} and {READ} is trained:\n")
    print(marked(tokenise(train[0], template, tokenizer, args.data.train_on), args.data.max_length))


def _print_report(which: str, report: Report) -> None:
    print(
        f"Rows {which}: {report.rows_used:,} of {report.rows:,}. Tokens: {report.tokens:,}, "
        f"{report.trained_tokens:,} of them trained. The longest row: {report.longest:,}. "
        f"Cut: {report.cut_rows:,}. Dropped: {len(report.dropped_rows):,}."
    )
    for sentence in report.warnings:
        print(f"Warning: {sentence}")


def marked(tokens: Tokens, longest: int) -> str:
    """The text of a row up to `longest` tokens, with a mark where training begins and where it ends."""
    said, place, inside = "", 0, False
    for (start, end), trained in list(zip(tokens.offsets, tokens.trained, strict=True))[:longest]:
        if trained != inside:
            said += tokens.text[place:start] + (TRAINED if trained else READ)
            place, inside = start, trained
        said, place = said + tokens.text[place:end], max(place, end)
    return said + (READ if inside else "")
