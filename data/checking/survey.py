"""Looks at the rows of a run before it starts, through the very rendering, mask and cut that training uses.

`sampled` looks at a few hundred rows at once, `whole` at all of them, in memory that grows by a number a row. Knows
nothing of pages, processes or torch.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from data.checking import fitness
from data.checking.fitness import COMPARED, Found, Place, Subject
from data.checking.inspection import Inspection
from data.datasets import registry, sets
from data.datasets.splitting import overlap
from data.encoding import documents
from data.encoding.cut import View
from data.encoding.mask import Rendered
from data.encoding.pack import best_fit
from data.review import findings
from data.review.finding import NAMED, Finding
from data.rows import formats
from data.rows.conversation import Row
from engine.contract import auto, machine
from engine.contract.args import TrainArgs
from engine.contract.dataset import Split
from engine.contract.errors import DataError
from engine.contract.preference import Kto

EVERYWHERE = (Path("/"),)
CHUNK = 200  # rows that are tokenised at once
SAMPLE = 400  # rows that are looked at while somebody waits
READ_AT_ONCE = 4_000  # rows; of more, only the heads of the files are read while somebody waits
SHOWN = 24  # rows that are kept to be shown, for each thing that one may want to see
# Findings about rows that say whether a preference can be learnt at all; all others belong to the Data tab.
JUDGED = ("equal_answers", "no_question", "contradiction", "constant_score", "balance", "length_bias", "empty_question")
QUOTED = 3  # findings about the rows themselves that are quoted
SHOWN_TEXT = 100_000  # characters; a longer row is not kept


def sampled(args: TrainArgs, folder: Path, workspace: Path, allowed: Sequence[Path] = EVERYWHERE) -> Inspection:
    """A look at some hundred rows of a run on the model in `folder`: all, when there are no more. Raises BoardError."""
    survey = Survey(args, fitness.subject(folder, args.model.template, args.model.new_tokens))
    chosen = (args.data.train, args.data.validation, sets.general(args))
    entries = [sets.entries(args, names, workspace, allowed) for names in chosen]
    train, held, general = ([_most(args, registry.count(entry).rows) for entry in one] for one in entries)
    if sum([*train, *held, *general]) <= READ_AT_ONCE:
        found = sets.read(args, workspace, allowed)
        step = -(-len(found.train) // SAMPLE) or 1
        survey.look(found.train[::step])
        beside = _beside(args, chain(*entries), found.train, found.validation)
        return survey.result(len(found.train), len(found.validation), beside)
    heads = [[row for entry in one for row in _head(entry, SAMPLE // len(one))] for one in entries]
    times = 1 / (1 - getattr(args.task, "general_share", 0)) if general else 1
    survey.look([*heads[0], *heads[2][: round(len(heads[0]) * (times - 1))]])
    total, held_out = _guessed(args, sum(train), sum(held))
    return survey.result(round(total * times), held_out, _beside(args, (), *heads[:2]))


def whole(
    args: TrainArgs,
    folder: Path,
    workspace: Path,
    allowed: Sequence[Path] = EVERYWHERE,
    progress: Callable[[int, int], None] = lambda done, total: None,
    write: Callable[[Row], list[Rendered]] | None = None,
) -> Inspection:
    """A look at every row; `progress(done, total)` is called now and then, `write` as in `fitness.Subject`.

    Raises BoardError.
    """
    found = sets.read(args, workspace, allowed)
    survey = Survey(args, replace(fitness.subject(folder, args.model.template, args.model.new_tokens), write=write))
    survey.look(found.train, lambda done: progress(done, len(found.train)))
    survey.look(found.validation, held=True)
    entries = sets.entries(args, sets.named(args), workspace, allowed)
    beside = _beside(args, entries, found.train, found.validation)
    return survey.result(len(found.train), len(found.validation), beside)


def ordered(args: TrainArgs, place: slice, workspace: Path, allowed: Sequence[Path] = EVERYWHERE) -> list[Row]:
    """The rows to train on from `place.start` up to `place.stop`, in their order. Of large datasets those are shown
    that stand there in the files, before any is held out or mixed. Raises BoardError."""
    chosen = sets.entries(args, sets.named(args), workspace, allowed)
    if sum(_most(args, registry.count(entry).rows) for entry in chosen) <= READ_AT_ONCE:
        return list(sets.read(args, workspace, allowed).train[place])
    rows = chain.from_iterable(_head(entry, args.data.max_rows) for entry in chosen[: len(args.data.train)])
    return list(islice(rows, place.start, place.stop))


def numbered(args: TrainArgs, number: int, workspace: Path, allowed: Sequence[Path] = EVERYWHERE) -> list[Row]:
    """The row of that number of each dataset that has one. Raises BoardError."""
    chosen = sets.entries(args, [*args.data.train, *sets.general(args)], workspace, allowed)
    found = (next((row for row in registry.rows(entry) if row.number >= number), None) for entry in chosen)
    return [row for row in found if row and row.number == number]


def _beside(
    args: TrainArgs, entries: Iterable[registry.Entry], train: Iterable[Row], held: Iterable[Row]
) -> list[Finding]:
    """What there is to say of rows before they meet a model."""
    found = overlap(train, held) if args.data.validation else []  # what the split holds out is apart already
    rest = []
    for finding in findings.look(train):
        if finding.kind in JUDGED:
            found.append(replace(finding, fix=""))
        elif finding.level != "note":
            rest.append(finding)
    if rest:
        count = max(finding.count for finding in rest)
        listed = " ".join(finding.text for finding in rest[:QUOTED])
        said = f"The rows themselves are worth a look. {listed}{' And more.' * (len(rest) > QUOTED)}"
        found.append(Finding("rows", "note", said, count, hint="The Data tab shows these rows, and how to mend them."))
    return [*found, *unreadable(entries)]


def unreadable(entries: Iterable[registry.Entry]) -> list[Finding]:
    """How many rows are left out because they cannot be read, and the first of them; reads the files to their end."""
    skipped = formats.Problems()
    for entry in entries:
        if entry.skip_bad:
            deque(registry.original(entry, skipped), maxlen=0)
    if not skipped:
        return []
    many = "1 row cannot be read and is" if skipped.total == 1 else f"{skipped.total:,} rows cannot be read and are"
    return [Finding("unreadable", "note", f"{many} left out: {skipped[0]}", skipped.total)]


def _most(args: TrainArgs, rows: int) -> int:
    return rows if args.data.max_rows is None else min(rows, args.data.max_rows)


def _head(entry: registry.Entry, rows: int | None) -> Iterator[Row]:
    return islice(registry.rows(entry), rows)


def _guessed(args: TrainArgs, train: int, validation: int) -> tuple[int, int]:
    """Rows to train on and held out, where the rows themselves were not all read."""
    split = Split.of(args.data.split)
    shares = [share if split.counted else share * train for share in (split.validation, split.test)]
    if args.data.validation:
        return round(train - shares[1]), validation
    return round(train - sum(shares)), round(shares[0])


@dataclass
class _Tally:
    """The rows in which one kind of fault was found, and what they show."""

    count: int = 0
    places: list[Place] = field(default_factory=list)
    shown: list[Row] = field(default_factory=list)
    what: Counter[str] = field(default_factory=Counter)
    hint: str = ""  # the way out of the first row's fault, where each row may have another

    def add(self, row: Row, what: str, hint: str = "") -> None:
        place = Place(row.file, row.number)
        if not self.places or self.places[-1] != place:  # one row may show several things
            self.count += 1
            self.hint = self.hint or hint
            if len(self.places) < NAMED:
                self.places.append(place)
            if len(self.shown) < SHOWN and _showable(row):
                self.shown.append(row)
        if what and (what in self.what or len(self.what) < NAMED):
            self.what[what] += 1


class Survey:
    """Gathers what is found, row by row."""

    def __init__(self, args: TrainArgs, subject: Subject) -> None:
        self.args, self.subject = fitness.meant(args), subject
        self.found: dict[str, _Tally] = defaultdict(_Tally)
        self.lengths: Counter[int] = Counter()
        self.kept = array("L")  # tokens of each sequence that is used, after the cut
        self.rows = self.unseen = self.used = self.trained = self.showable = 0
        self.labels: Counter[bool] = Counter()
        self.scores: set[float] = set()  # two of them at most
        self.first: list[Row] = []
        self.chance, self.drawn = random.Random(args.steps.seed), []
        self.longest: list[tuple[int, int, Row]] = []

    def look(
        self, rows: Iterable[Row], progress: Callable[[int], None] = lambda done: None, *, held: bool = False
    ) -> None:
        """Look at more rows. Of rows that are `held` out only what would keep the run from working is of interest."""
        rest, task = iter(rows), self.args.task
        while chunk := list(islice(rest, CHUNK)):
            suited = []
            for row in chunk:
                if row.kind not in task.takes:
                    self.found["kind"].add(row, fitness.unsuited(row.kind, task.takes, task.title))
                    continue
                try:
                    suited.append(fitness.read(row, self.args))
                except DataError as problem:
                    self.found["refused"].add(row, problem.reason.rstrip("."), problem.hint)
            for row, views in zip(suited, self._viewed(suited), strict=True):
                if isinstance(views, DataError):
                    self.found["refused"].add(row, views.reason.rstrip("."), views.hint)
                elif not held:
                    self._take(row, views)
            if not held:
                self.rows += len(chunk)
                progress(self.rows)

    def _viewed(self, rows: Sequence[Row]) -> list[list[View] | DataError]:
        """For each row the conversations that it holds as tokens, or why there are none."""
        rendered: list[list[Rendered] | DataError] = []
        for row in rows:
            try:
                rendered.append(fitness.rendered(row, self.subject, self.args.data))
            except DataError as problem:
                rendered.append(problem)
        texts = [talk.text for said in rendered if not isinstance(said, DataError) for talk in said]
        encoded = iter(self.subject.tokenizer.encode_batch(texts))
        return [
            said if isinstance(said, DataError) else fitness.views(said, [next(encoded) for _ in said], self.subject)
            for said in rendered
        ]

    def _take(self, row: Row, views: list[View]) -> None:
        self._show(row, max(len(view.encoded) for view in views))
        self.unseen += self.subject.write is None and fitness.shows(row)
        for view in views:
            for kind, what in fitness.of_tokens(row, view, self.subject):
                self.found[kind].add(row, what)
        for kind, what in fitness.of_text(row, self.subject):
            self.found[kind].add(row, what)
        if len(self.first) < COMPARED:
            self.first.append(row)
            if fitness.foreign(row, self.subject):
                self.found["foreign"].add(row, "")
        self._count(row, views)

    def _count(self, row: Row, views: list[View]) -> None:
        """What is left of a row, and what is lost."""
        limit = self.args.data.max_length
        self.labels.update([row.label] if row.label is not None else [])
        if len(self.scores) < 2:  # the two answers of a pair are a good and a bad one
            self.scores |= {1.0, -1.0} if row.kind == "preference" else {row.score} - {None}
        kept = fitness.cut(row, views, self.subject, self.args.data)
        for part in kept.lost:
            self.found["crowded" if row.kind == "prompt" else "cut"].add(row, part)
        sides = [sum(last - max(first, 1) for first, last in found if last > 1) for _, found in kept.sides]
        trained = sum(sides) if all(sides) else 0  # a pair of which one side has nothing left is left out
        if kept.sides and not trained and row.kind != "prompt":
            self.found["untrained"].add(row, "")
        if row.kind == "text" and self.args.task.packs:
            pieces = [len(views[0].encoded)]
            self.lengths.update(pieces)
        elif row.kind == "text":
            length = len(views[0].encoded)
            pieces = [min(limit, length - begin) for begin in range(0, max(1, length - 1), limit - 1)]
            if len(pieces) > 1:
                self.found["divided"].add(row, "")
            self.lengths.update(pieces)
        else:
            pieces = [len(ids) for ids, _ in kept.sides]
            self.lengths[max(len(view.encoded) for view in views)] += 1
        if trained or (row.kind == "prompt" and kept.sides):
            self.used += 1
            apart = row.kind == "text" or "scored" in self.args.task.takes  # to which a pair is two scored answers
            self.kept.extend(pieces if apart else [sum(pieces)])
            self.trained += trained

    def _show(self, row: Row, length: int) -> None:
        """Keep some rows by chance, and the longest."""
        if not _showable(row):
            return
        self.showable += 1
        if len(self.drawn) < SHOWN:
            self.drawn.append(row)
        elif (place := self.chance.randrange(self.showable)) < SHOWN:
            self.drawn[place] = row
        entry = (length, -self.showable, row)
        if len(self.longest) < SHOWN:
            heapq.heappush(self.longest, entry)
        elif entry > self.longest[0]:
            heapq.heapreplace(self.longest, entry)

    def result(self, total: int, held_out: int, more: Iterable[Finding] = ()) -> Inspection:
        """What was found in the rows looked at so far, of `total` to train on; `more` was found elsewhere."""
        found = [self._said(kind, tally) for kind, tally in self.found.items()]
        found += fitness.of_model(self.first, self.subject, "foreign" in self.found)
        alike = self._alike(total)
        found += [Found(**vars(one)) for one in more if not (alike and one.kind == alike[0].kind)] + alike
        task = self.args.task
        if isinstance(task, Kto) and (lopsided := task.lopsided(self.labels[True], self.labels[False])):
            found.append(Found("weights", "warning", lopsided))
        found += self._unready(total)
        found.sort(key=lambda finding: fitness.GRAVITY.index(finding.level))
        shown = {
            "first": self.first,
            "random": self.drawn,
            "longest": [row for *_, row in sorted(self.longest, reverse=True)],
        }
        shown |= {kind: tally.shown for kind, tally in self.found.items()}
        cut = self.found.get("cut", _Tally())
        return Inspection(
            template=self.subject.template.name, max_length=self.args.data.max_length,
            total=total, held_out=held_out, rows=self.rows,
            unseen=self.unseen, used=self.used, tokens=sum(self.kept), trained=self.trained,
            sequences=self._sequences(),
            lengths=dict(sorted(self.lengths.items())), cut=cut.count, lost=dict(cut.what), findings=tuple(found),
            shown={kind: [replace(row, extra={}) for row in rows] for kind, rows in shown.items() if rows},
        )  # fmt: skip

    def _alike(self, total: int) -> list[Found]:
        """Scores that say nothing: an error where all rows were seen, and else what the rows themselves show."""
        if "scored" not in self.args.task.takes or len(self.scores) != 1 or self.rows < total:
            return []
        said, way_out = fitness.ALIKE
        said = said.format(count=self.used, score=next(iter(self.scores)))
        return [Found("constant_score", "error", said, self.used, hint=way_out)]

    def _unready(self, total: int) -> Iterator[Found]:
        """The run may be worth its while without the peak, as one to be gone on with: so no error."""
        sequences = self._sequences() * total / self.rows if self.rows else 0
        steps = auto.total_steps(self.args, auto.Facts(machine.machine(), rows=round(sequences)))
        if steps and self.args.optim.never_peaks(steps):
            said = f"The warm-up of {self.args.optim.warmup:,.0f} steps (optim.warmup) is longer than the run"
            said += f", which has {steps:,}: the learning rate never reaches its peak."
            yield Found("warmup", "warning", said, hint="Make it a share such as 0.05, or raise steps.epochs.")

    def _sequences(self) -> int:
        if self.args.task.packs:
            return documents.count(self.kept, self.args.data.max_length, joined=not self.args.task.borders)
        packed = self.args.data.packing
        return len(best_fit(self.kept, self.args.data.max_length)) if packed else len(self.kept)

    def _said(self, kind: str, tally: _Tally) -> Found:
        looked = len(self.first) if kind == "foreign" else self.rows
        found = fitness.said(kind, tally.count, looked, tally.what, tally.places, self.subject, self.args.data)
        return replace(found, hint=f"{tally.hint} {found.hint}".strip()) if tally.hint else found


def _showable(row: Row) -> bool:
    return sum(map(len, fitness.texts(row))) <= SHOWN_TEXT
