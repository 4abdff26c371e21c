"""Turns the records of many dataset formats into one kind of row.

`FORMATS` is the one list of formats; `data.rows.chats`, `data.rows.questions` and `data.rows.answers` say what is in
each. A record is read through a `Mapping`, which is recognised from the first rows and may be edited. Knows nothing of
templates, tokens or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Mapping as Names
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from data.reading.files import Options, Record, read
from data.rows import answers, chats, conversation, questions
from data.rows.chats import objects
from data.rows.conversation import OWN, ROLES, Kind, Row, check
from data.rows.mapping import AUTO, Field, Format, Mapping, Values
from data.rows.media import Placed
from engine.contract.errors import DataError

__all__ = ["AUTO", "FORMATS", "Field", "Format", "Mapping", "load", "recognise", "restored", "row", "rows", "settled"]

LOOKED_AT = 20  # rows that decide on the format
NAMED = 10  # bad rows that an error names, before it only counts
AUDIO = ("audio", "audios")  # columns that would be lost without a word

FORMATS: dict[str, Format] = {
    form.name: form for form in (*answers.FORMATS, *chats.FORMATS, *questions.FORMATS)
}  # of two that fit the same rows the first wins, so what asks for more comes earlier


class Problems(list[DataError]):
    """The first problems of many, and how many there are: a list that does not grow with a broken file."""

    total = 0

    def append(self, problem: DataError) -> None:
        self.total += 1
        if len(self) < NAMED:
            super().append(problem)


def load(
    path: str | Path,
    mapping: Mapping | str = AUTO,
    fill: Names[str, str] | None = None,
    skipped: list[DataError] | None = None,
    options: Options | None = None,
) -> list[Row]:
    """Every row that `rows` yields, in memory."""
    return list(rows(path, mapping, fill, skipped, options))


def rows(
    path: str | Path,
    mapping: Mapping | str = AUTO,
    fill: Names[str, str] | None = None,
    skipped: list[DataError] | None = None,
    options: Options | None = None,
) -> Iterator[Row]:
    """The rows of a file or folder, one by one; `fill` replaces `{{name}}` in what is said by its value.

    mapping: how the records are read, or the name of a format alone. What it leaves open is found from the first rows.
    options: how the file is read (its encoding, the sheet of a workbook, a part of a folder).
    With a list for `skipped`, what cannot be used goes there and the reading goes on. Without, nothing is yielded after
    the first bad row, and at the end one DataError names up to ten of them and counts the rest. Raises it too when no
    row at all can be used.
    """
    path = Path(path)
    problems: list[DataError] = Problems() if skipped is None else skipped
    found = read(path, problems, options)
    head = list(islice(found, LOOKED_AT))
    mapping = settled(mapping, [item.record for item in head], path)
    folder = path if path.is_dir() else path.parent
    good = 0
    for item in chain(head, found):
        try:
            made = row(item.record, mapping, item.file, item.number, fill, folder)
        except DataError as problem:
            problems.append(DataError(problem.text, problem.hint, file=item.file, row=item.number))
            continue
        good += 1
        if skipped is not None or not problems:
            yield made
    if problems and (skipped is None or not good):
        raise _unusable(problems, good, f"used as {mapping.format} ({known(mapping.format).columns})", path)


def row(
    record: Record,
    mapping: Mapping,
    file: str = "",
    number: int = 0,
    fill: Names[str, str] | None = None,
    folder: Path | None = None,
) -> Row:
    """One record as a row; `mapping` names a format. A relative picture lies beside the file, else in `folder`.

    Raises DataError without a place, which whoever knows the row adds.
    """
    form = known(mapping.format)
    values = Values(record, mapping, form.fields)
    if name := next((name for name in AUDIO if record.get(name)), None):
        raise DataError(f"the column {name} holds sound; only text and pictures can be trained.")
    built = form.build(values)
    _show(values, built, file, folder)
    tools = conversation.tools(given) if (given := values("tools")) else None
    extra = {**values.rest(OWN[form.kind]), **built.pop("extra", {})}
    made = Row(tools=tools, file=file, number=number, kind=form.kind, extra=extra, **built)
    check(made)
    return made.filled(fill) if fill else made


def _show(values: Values, built: dict[str, Any], file: str, folder: Path | None) -> None:
    """Puts the pictures of a row into its messages; most rows have none, and are left as they are."""
    images, videos = values("images"), values("videos")
    sides = [name for name in ("messages", "chosen", "rejected") if built.get(name)]
    plain = all(isinstance(turn["content"], str) and "<img>" not in turn["content"] for n in sides for turn in built[n])
    if plain and not images and not videos:
        return
    here = Path(file).parent
    placed = Placed(images, videos, [folder / here, folder] if folder else [here])
    built["messages"] = placed.put(built["messages"])
    for name in sides:
        if name != "messages":
            built[name] = placed.inside(built[name])


def recognise(records: Iterable[Record], file: Path | str | None = None) -> Mapping:
    """The format that most of the first records fit, with the columns that hold its fields.

    Raises DataError when less than half of them fit any.
    """
    sample = list(islice(records, LOOKED_AT))
    votes = {
        name: sum(form.fits(Values(record, Mapping(format=name), form.fields)) for record in sample)
        for name, form in FORMATS.items()
    }
    best = max(votes, key=lambda name: votes[name])  # the first of equals: the table is ordered
    if sample and votes[best] * 2 >= len(sample):
        return mapped(Mapping(format=best), sample)
    columns = list(dict.fromkeys(str(column) for record in sample for column in record))
    lines = "\n".join(f"  {form.name}: {form.columns}" for form in FORMATS.values())
    raise DataError(
        f"the columns {', '.join(columns) or '(none)'} fit no format that is known:\n{lines}",
        "Say which column holds what, or rename the columns to fit one of them.",
        file=file,
    )


def settled(mapping: Mapping | str, records: Iterable[Record], file: Path | str | None = None) -> Mapping:
    """The mapping with a format and, where the records agree, with the column of every field.

    What is stated stays as it is. Raises DataError for an unknown format, and for fields that the format has not.
    """
    mapping = Mapping(format=mapping) if isinstance(mapping, str) else mapping
    sample = list(islice(records, LOOKED_AT))
    if mapping.format == AUTO:
        found = recognise(sample, file)
        mapping = mapping.model_copy(update={"format": found.format})
    return mapped(mapping, sample)


def mapped(mapping: Mapping, sample: Iterable[Record]) -> Mapping:
    """The mapping with what the sample shows: columns where all its records agree, and the names of speakers."""
    form = known(mapping.format)
    names = [field.name for field in form.fields]
    if wrong := [name for name in mapping.columns if name not in names]:
        raise DataError(
            f"the format {form.name} has no field {', '.join(map(repr, wrong))}.", f"Its fields are {', '.join(names)}."
        )
    seen: dict[str, set[str]] = {name: set() for name in names}
    roles: dict[str, Any] = {}
    for record in sample:
        values = Values(record, mapping, form.fields)
        for field in form.fields:
            if not field.inside:
                seen[field.name].add(values.column(field.name))
                continue
            for turn in objects(values(field.inside)) or []:
                seen[field.name].add(key := values.key(field.name, turn))
                if field.name == "role" and (role := ROLES.get(str(turn.get(key)).lower())) and role != turn.get(key):
                    roles[str(turn.get(key))] = role
    agreed = {name: columns - {""} for name, columns in seen.items()}
    columns = {name: next(iter(found)) for name, found in agreed.items() if len(found) == 1}
    return mapping.model_copy(update={"columns": columns | mapping.columns, "roles": roles | mapping.roles})


def known(name: str) -> Format:
    """The format of that name; raises DataError that lists all when there is none."""
    if name in FORMATS:
        return FORMATS[name]
    raise DataError(f"the format {name!r} is not known.", f"Use auto or one of {', '.join(FORMATS)}.")


CANONICAL: dict[Kind, Mapping] = {
    form.kind: Mapping(
        format=form.name,
        columns={field.name: field.name if field.name in OWN[form.kind] else "" for field in form.fields
                 if not field.inside},
    )
    for form in map(FORMATS.__getitem__, ("messages", "text", "preference", "feedback", "scored", "prompt"))
}  # fmt: skip


def restored(record: Record, kind: Kind, file: str = "", number: int = 0) -> Row:
    """The row whose `record()` this is."""
    return row(record, CANONICAL[kind], file, number)


def _unusable(problems: list[DataError], good: int, how: str, path: Path) -> DataError:
    total = problems.total if isinstance(problems, Problems) else len(problems)
    if total == 1 and not good:
        return problems[0]
    lines = _gathered([problem.text.removeprefix(f"{path.name}, ") for problem in problems[:NAMED]])
    if total > NAMED:
        lines.append(f"  and {total - NAMED} more")
    return DataError(
        f"{total} of {good + total} rows cannot be {how}:\n" + "\n".join(lines),
        "Mend or remove these rows, skip them, or choose another format.",
        file=path,
    )


def _gathered(said: Iterable[str]) -> list[str]:
    """A line for each, but one for rows that follow one another and have the same fault: `rows 3, 4: ...`."""
    lines = []
    for (file, row, wrong), found in groupby(map(_taken_apart, said), key=lambda parts: parts[:3]):
        rows = [number for *_, number in found]
        lines.append(f"  {file}{row}{'s' if len(rows) > 1 else ''} {', '.join(rows)}: {wrong}" if row else f"  {wrong}")
    return lines


def _taken_apart(said: str) -> tuple[str, str, str, str]:
    """`a.jsonl, row 3: it is so` as file, `row`, fault and number."""
    place, _, wrong = said.partition(": ")
    file, row, number = place.rpartition("row ")
    return (file, "row", wrong, number) if row else ("", "", said, "")
