"""Makes rows with a model behind an endpoint: reads, asks, journals every answer, leaves out what is alike, publishes.

Every finished piece of work is a line of the run's `rows.jsonl` before it counts, so a stop, a crash or a full disk
loses nothing: the next run, with `resume`, takes the lines over and asks only for what is missing.
"""

from __future__ import annotations

import json
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

from data.datasets import registry
from data.datasets.patch import Patch
from data.reading import files
from data.review.alike import Likeness
from data.rows.conversation import Row
from engine import writers
from engine.ask import Ask, Spent, address
from engine.contract import text
from engine.contract.args import MakeArgs
from engine.contract.errors import BoardError, DataError, ResourceError
from engine.contract.making import Grow, Pairs
from engine.contract.rundir import Run, records
from engine.report import Report, Stop, Stopped

JOURNAL = "rows.jsonl"
ANYWHERE = [Path("/")]  # whoever may write an args file may read the file system; the page confines what it hands over
HOPELESS = 5  # pieces that fail before any succeeds end the run: the address, the key or the model is wrong
SPARE = 20  # a set that is grown may need this many times the wanted rows in tries
NOTED = 10  # reasons for failed pieces that are named
NEW_QUESTIONS = ("grow", "paraphrase")
SHOWN = 8  # answers that are shown while the run goes on


@dataclass(frozen=True)
class Piece:
    """One piece of work: `key` names it over resumes, `source` says what its rows are made of."""

    key: str
    source: dict[str, Any]
    work: Callable[[], writers.Made]


@dataclass
class Harvest:
    """What came of the pieces so far."""

    done: dict[str, int] = field(default_factory=dict)  # rows kept, by the key of the piece
    alike: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(self.done.values())


def run(args: MakeArgs, run: Run, report: Report, stop: Stop) -> None:
    stopped = threading.Event()
    spent = Spent()
    where = address(args.endpoint, run.workspace) if args.asks else ""
    ask = Ask(args.endpoint, where, stopped, spent) if where else None
    report.note(f"Asking {ask.model} at {where}." if ask else "The templates say it all; no model is asked.")

    report.phase("reading")
    likeness = Likeness(args.likeness, questions=args.what.kind in NEW_QUESTIONS)
    pieces, total = _pieces(args, run, ask, likeness)
    harvest = Harvest()
    journal = run.path / JOURNAL
    with open(journal, "a", encoding="utf-8") as lines:
        _take_over(args, run, harvest, likeness, spent, lines)
        report.phase("making")
        try:
            with stop.deferred():
                _make(pieces, total, args, harvest, likeness, spent, lines, report, stop, stopped)
        finally:
            stopped.set()
    if stop.asked:
        report.note(f"{harvest.rows:,} rows are kept in this run; go on from it to make the others.")
        raise Stopped
    report.phase("saving")
    _publish(args, run, journal, harvest, spent, report)


def _pieces(args: MakeArgs, run: Run, ask: Ask | None, likeness: Likeness) -> tuple[Iterator[Piece], int]:
    """The work to be done, and how many rows (when a set is grown) or pieces it is.

    Where new questions are made, `likeness` gets to know the old ones.
    """
    entries = [registry.find(name, run.workspace, ANYWHERE) for name in args.data]
    who = {"made": args.what.kind, "run": run.id, "model": ask.model if ask else ""}
    if isinstance(what := args.what, Pairs):
        found = [(entry, read) for entry in entries for read in islice(_records(entry), args.max_rows)]
        return (
            Piece(
                f"{entry.name}:{read.number}",
                {"dataset": entry.name, "row": read.number, **who},
                lambda entry=entry, read=read: writers.pairs(read.record, _beside(entry, read), ask, what),  # type: ignore[misc]
            )
            for entry, read in found
        ), len(found)
    rows = [(entry.name, row) for entry in entries for row in islice(registry.rows(entry), args.max_rows)]
    rows = [(name, row) for name, row in rows if writers.questions(row)]
    if isinstance(what, Grow):  # what is asked about a picture cannot be asked without it
        rows = [(name, row) for name, row in rows if not writers.has_pictures(row)]
    if not rows:
        raise DataError("no row of these datasets asks anything.", "Choose rows with questions.")
    if what.kind in NEW_QUESTIONS:
        for _, row in rows:
            likeness.is_new({"messages": row.messages})
    if isinstance(what, Grow):
        return _grown(rows, what, who, args.seed, ask), what.count
    write = writers.WRITERS[what.kind]
    return (
        Piece(
            f"{name}:{row.number}",
            {"dataset": name, "row": row.number, **who},
            lambda row=row, name=name: write(row, ask, what, random.Random(f"{args.seed}:{name}:{row.number}")),  # type: ignore[misc]
        )
        for name, row in rows
    ), len(rows)


def _records(entry: registry.Entry) -> Iterator[files.Read]:
    """The records as the file has them, without those that somebody has excluded."""
    skipped: list[DataError] | None = [] if entry.skip_bad else None
    found = islice(files.read(entry.path, skipped, entry.reading), entry.limit)
    if entry.patch is None or not entry.patch.exists():
        return found
    marked = Patch.of(entry.patch).marked(registry.original(entry))
    excluded = {row.number for row, state in marked if state == "excluded"}
    return (read for read in found if read.number not in excluded)


def _beside(entry: registry.Entry, read: files.Read) -> list[Path]:
    """Where a relative path in this record may lead to."""
    return [Path(read.file).parent, entry.path] if entry.path.is_dir() else [entry.path.parent]


def _grown(rows: list[tuple[str, Row]], what: Grow, who: dict[str, Any], seed: int, ask: Ask | None) -> Iterator[Piece]:
    """Tries without end; each draws its own examples, the same whenever it is asked for by its number."""
    for number in count():
        draw = random.Random(f"{seed}:{number}")
        chosen = draw.sample(rows, min(what.shown, len(rows)))
        source = {"rows": [f"{name}:{row.number}" for name, row in chosen], **who}
        examples = [row for _, row in chosen]
        yield Piece(f"grow:{number}", source, lambda e=examples, d=draw: writers.grow(e, ask, what, d))  # type: ignore[misc]


def _take_over(args: MakeArgs, run: Run, harvest: Harvest, likeness: Likeness, spent: Spent, lines: Any) -> None:
    """The lines of the run that this one goes on from; what they cost is counted on."""
    if not args.resume:
        return
    parent = Run(run.workspace / "runs" / args.resume)
    before = text.load(parent.args_path) if parent.args_path.is_file() else None
    if not isinstance(before, MakeArgs):
        raise DataError(f"no rows were made in a run {args.resume!r}.", "Leave resume empty to begin anew.")
    if before.what.kind != args.what.kind:
        raise DataError(
            f"the run {args.resume} makes something else: {before.what.title.lower()}.",
            f"Set what.kind to {before.what.kind}, or leave resume empty to begin anew.",
        )
    for line in records(parent.path / JOURNAL):
        harvest.done[line["key"]] = len(line["rows"])
        for row in line["rows"]:
            likeness.is_new(row)
        spent.requests, spent.tokens_in, spent.tokens_out = (line["spent"][name] for name in asdict(spent))
        lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    lines.flush()


def _make(
    pieces: Iterator[Piece], total: int, args: MakeArgs, harvest: Harvest, likeness: Likeness, spent: Spent,
    lines: Any, report: Report, stop: Stop, stopped: threading.Event,
) -> None:  # fmt: skip
    """Hand the pieces to `endpoint.at_once` threads, and write down what comes back, in the order in which it does."""
    waiting = (piece for piece in pieces if piece.key not in harvest.done)
    growing = isinstance(args.what, Grow)
    if growing:
        waiting = islice(waiting, total * SPARE)
    orders: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
    results: queue.SimpleQueue[tuple[Piece, writers.Made | BoardError]] = queue.SimpleQueue()

    def work() -> None:
        while (piece := orders.get()) is not None and not stopped.is_set():
            try:
                results.put((piece, piece.work()))
            except BoardError as problem:
                results.put((piece, problem))
            except Exception as problem:  # a bug in one piece must not leave the run waiting for it for ever
                results.put((piece, BoardError(f"{type(problem).__name__}: {problem}")))

    for _ in range(args.endpoint.at_once):
        # Daemons: an answer that takes minutes must not keep a stopped run from ending.
        threading.Thread(target=work, daemon=True).start()
    out = sum(orders.put(piece) is None for piece in islice(waiting, args.endpoint.at_once))
    began, before = time.monotonic(), harvest.rows if growing else len(harvest.done)
    while out and not stop.asked:
        try:
            piece, made = results.get(timeout=0.5)
        except queue.Empty:
            continue
        out -= 1
        if isinstance(made, BoardError):
            _failed(piece, made, harvest, report)
        else:
            _keep(piece, made, args, harvest, likeness, spent, lines, report)
        step = min(total, harvest.rows if growing else len(harvest.done) + len(harvest.failed))
        speed = (step - before) / (time.monotonic() - began)
        report.progress(step, total, (total - step) / speed if speed > 0 else None, "rows")
        cost = spent.cost(args.endpoint)
        report.metrics(
            step, step / total, {"make/rows": harvest.rows, "make/cost": cost, "make/tokens": spent.tokens_out}
        )
        if args.endpoint.budget is not None and cost >= args.endpoint.budget:
            report.warn(f"The budget of {args.endpoint.budget:g} is spent.", "What was made so far is kept.")
            return
        if not (growing and harvest.rows >= total) and (following := next(waiting, None)):
            orders.put(following)
            out += 1


def _failed(piece: Piece, problem: BoardError, harvest: Harvest, report: Report) -> None:
    harvest.failed.append(piece.key)
    if not harvest.done and len(harvest.failed) >= HOPELESS:
        raise ResourceError(
            f"The first {HOPELESS} pieces of work all failed: {problem.text}",
            problem.hint or "Check endpoint.address, endpoint.model and the key.",
        )
    if len(harvest.failed) <= NOTED:
        report.warn(f"{piece.key}: {problem.text}", problem.hint)


def _keep(
    piece: Piece, made: writers.Made, args: MakeArgs, harvest: Harvest, likeness: Likeness, spent: Spent,
    lines: Any, report: Report,
) -> None:  # fmt: skip
    new = [row for row in made if likeness.is_new(row)]
    harvest.alike += len(made) - len(new)
    if isinstance(args.what, Grow):  # several were under way when the last one came
        new = new[: max(0, args.what.count - harvest.rows)]
    new = [{**row, "source": piece.source} for row in new]
    # One write, so that a crash leaves whole lines; the cost goes with it, so that it is never counted twice.
    lines.write(json.dumps({"key": piece.key, "rows": new, "spent": asdict(spent)}, ensure_ascii=False) + "\n")
    lines.flush()
    harvest.done[piece.key] = len(new)
    if new and len(harvest.done) <= SHOWN:
        turns = new[0]["messages"]
        said = [writers.text_of(turn) for turn in turns if turn["role"] in ("user", "assistant")]
        report.sample(len(harvest.done), said[0] if said else "", said[-1] if said else "")


def _publish(args: MakeArgs, run: Run, journal: Path, harvest: Harvest, spent: Spent, report: Report) -> None:
    """The rows as a dataset of the workspace, whole or not at all."""
    rows = [row for line in records(journal) for row in line["rows"]]
    if not rows:
        raise DataError(
            "no row came of it.",
            "Look at the warnings: a smaller likeness, another rubric or another model may help.",
        )
    folder = run.workspace / "datasets"
    folder.mkdir(exist_ok=True)
    names = (args.to if number == 1 else f"{args.to}-{number}" for number in count(1))
    partial = folder / f".partial-{args.to}-{os.getpid()}"
    try:
        with open(partial, "w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for name in names:
            path = folder / f"{name}.jsonl"
            try:
                os.link(partial, path)  # fails where there is one already: nobody's rows are written over
                break
            except FileExistsError:
                continue
    finally:
        partial.unlink(missing_ok=True)
    cost = spent.cost(args.endpoint)
    sentence = f"Made {len(rows):,} rows: {path.name} in the workspace's datasets."
    if harvest.alike:
        sentence += f" {harvest.alike:,} were left out as too much alike."
    if harvest.failed:
        sentence += f" {len(harvest.failed):,} pieces failed."
    sentence += f" {spent.requests:,} requests, {spent.tokens_in:,} tokens read and {spent.tokens_out:,} written"
    sentence += f", at a cost of {f'{cost:,.2f}' if cost >= 0.01 else 'less than 0.01'}." if cost else "."
    facts = {"rows": len(rows), "dataset": path.name, "alike": harvest.alike, "failed": len(harvest.failed)}
    report.result(sentence, **facts, cost=cost, **asdict(spent))
