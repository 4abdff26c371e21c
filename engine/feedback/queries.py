"""Whether two SQL queries say the same: both are run on small databases of the tables that they are about.

The databases live in memory. A query of a model may read and do nothing else: an authoriser refuses all but SELECT, a
clock ends it, and limits of SQLite bound what it can build. Knows nothing of rows, models or runs.
"""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from typing import Any

from engine.feedback.correct import normalised

DATABASES = 3  # with other rows each, so that two queries hardly agree by chance
FILLED = 12  # rows of a table that comes empty
FETCHED = 2_000  # rows of a result
LENGTH = 100_000  # bytes of a value, and of a query
OFTEN = 0.7  # how often a column has a value that the right query compares it with
NUMBERS = ("INT", "REAL", "NUM", "DEC", "FLOAT", "DOUBLE", "BOOL", "MONEY")  # in the types of columns
CHECKED_EVERY = 1_000  # instructions of SQLite between two looks at the clock
CREATE = re.compile(r"\bcreate\s+(?:temp\w*\s+)?table\b", re.IGNORECASE)
INSERTS = re.compile(r"\binsert\s+into\b", re.IGNORECASE)
LITERAL = r"(?:'((?:[^']|'')*)'|\"([^\"]*)\"|(?<![\w.])(-?\d+(?:\.\d+)?))"
COMPARED = re.compile(  # a column and what it is compared with
    rf"(\w+)[`\"\]]?\s*(?:[<>=!]+|\b(?:not\s+)?(?:like|between|in)\b)\s*\(?\s*{LITERAL}", re.IGNORECASE
)
ORDERED = re.compile(r"\border\s+by\b", re.IGNORECASE)
MAY_READ = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
REFUSED = frozenset({sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA})

Result = tuple[tuple[Any, ...], ...]


def same(query: str, right: str, tables: str, seconds: float) -> float:
    """1 when `query` finds what `right` finds on every database; the order counts where `right` has ORDER BY.

    Tables that come without rows are filled by chance, with the values that `right` names among them. Where `right`
    itself cannot be run on `tables`, or finds nothing on any of them, the two are compared as text.
    """
    wanted = _wanted(right, tables, seconds)
    if wanted is None:
        return float(_plain(query) == _plain(right))
    try:
        for chance, expected in enumerate(wanted):
            with _database(tables, right, chance, seconds) as database:
                if _comparable(_run(database, query), right) != expected:
                    return 0.0
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError, OverflowError):
        return 0.0
    return 1.0


@lru_cache(maxsize=1024)
def _wanted(right: str, tables: str, seconds: float) -> list[Any] | None:
    """What the right query finds on each database, None where that is nothing, or cannot be said."""
    found = []
    try:
        for chance in range(DATABASES):
            with _database(tables, right, chance, seconds) as database:
                found.append(_comparable(_run(database, right), right))
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError, OverflowError):
        return None
    return found if any(found) else None


def _plain(query: str) -> str:
    return normalised(query.strip().rstrip(";"))


def _comparable(result: Result, right: str) -> Any:
    rows = [tuple(_value(value) for value in row) for row in result]
    return rows if ORDERED.search(right) else Counter(rows)


def _value(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


@contextmanager
def _database(tables: str, right: str, chance: int, seconds: float) -> Iterator[sqlite3.Connection]:
    """The tables with rows in them, to be read for so many seconds."""
    with closing(sqlite3.connect(":memory:")) as database:
        for limit in (sqlite3.SQLITE_LIMIT_LENGTH, sqlite3.SQLITE_LIMIT_SQL_LENGTH):
            database.setlimit(limit, LENGTH)
        database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        deadline = time.monotonic() + seconds
        database.set_progress_handler(lambda: time.monotonic() > deadline, CHECKED_EVERY)
        database.set_authorizer(lambda action, *_: sqlite3.SQLITE_DENY if action in REFUSED else sqlite3.SQLITE_OK)
        for statement in statements(tables):
            database.execute(statement)
        if not INSERTS.search(tables):
            database.set_authorizer(None)
            _fill(database, right, random.Random(chance))
        database.commit()
        database.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in MAY_READ else sqlite3.SQLITE_DENY)
        deadline = time.monotonic() + seconds
        database.set_progress_handler(lambda: time.monotonic() > deadline, CHECKED_EVERY)
        yield database


def _run(database: sqlite3.Connection, query: str) -> Result:
    """All rows that one query finds; ValueError when there are too many."""
    rows = database.execute(query.strip()).fetchmany(FETCHED + 1)
    if len(rows) > FETCHED:
        raise ValueError(f"more than {FETCHED} rows")
    return tuple(rows)


def statements(tables: str) -> list[str]:
    """The statements of a schema, which may stand in the middle of a question and have no semicolons between them."""
    if INSERTS.search(tables):
        return [said for said in _split(tables) if said.strip()]
    found = []
    for match in CREATE.finditer(tables):
        begin = tables.find("(", match.end())
        end = _closing(tables, begin)
        if end:
            found.append(tables[match.start() : end])
    return found


def _split(script: str) -> Iterator[str]:
    """A script as its statements; quotes and triggers are left to SQLite to tell."""
    statement = ""
    for piece in re.split(r"(;)", script):
        statement += piece
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    yield statement


def _closing(text: str, begin: int) -> int:
    """Behind the parenthesis that closes the one at `begin`, 0 where none does; quoted ones do not count."""
    depth, quote = 0, ""
    for place in range(max(begin, 0), len(text) if begin >= 0 else 0):
        character = text[place]
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"`":
            quote = character
        else:
            depth += {"(": 1, ")": -1}.get(character, 0)
            if not depth:
                return place + 1
    return 0


def _fill(database: sqlite3.Connection, right: str, chance: random.Random) -> None:
    """Rows for every table: few different values, so that conditions hold and joins meet."""
    named: dict[str, list[Any]] = {}
    for column, single, double, number in COMPARED.findall(right):
        value = float(number) if number else (single.replace("''", "'") or double).strip("%")
        near = [value - 1, value, value + 1] if isinstance(value, float) else [value]
        named.setdefault(column.lower(), []).extend(near)
    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        columns = database.execute(f"PRAGMA table_info({_quoted(table)})").fetchall()
        for key in range(FILLED):
            row = [
                _cell(kind.upper(), bool(primary), key, named.get(name.lower(), []), chance)
                for _, name, kind, _, _, primary in columns
            ]
            marks = ", ".join("?" * len(row))
            database.execute(f"INSERT OR IGNORE INTO {_quoted(table)} VALUES ({marks})", row)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _cell(kind: str, primary: bool, key: int, named: Sequence[Any], chance: random.Random) -> Any:
    if primary and "INT" in kind:
        return key + 1
    if named and chance.random() < OFTEN:
        value = chance.choice(named)
    elif any(word in kind for word in NUMBERS):
        value = chance.choice((0, 1, 2, 3, 5, 10))
    elif any(word in kind for word in ("DATE", "TIME", "YEAR")):
        return f"20{chance.randrange(10, 30)}-0{chance.randrange(1, 10)}-01"
    else:
        value = chance.choice("abc" if kind else ("a", "b", 1, 2))
    return int(value) if isinstance(value, float) and value.is_integer() else value
