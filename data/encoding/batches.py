"""Rows through a maker, some hundred at a time, on all cores: here, or in processes of their own.

Holds a few batches at once, however many rows there are. Knows nothing of what a maker makes of rows.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from data.encoding.outcome import Report
from data.encoding.tokens import Encoded, TextTokenizer
from data.rows.conversation import Row
from engine.contract.errors import ResourceError

CHUNK = 1000  # rows that are tokenised at once; also the smallest share of work for one process
WORTH_PROCESSES = 40_000  # rows; fewer are done before further processes are up
FEEDERS = 2  # threads that wait for the tokenizer: while one waits for Python's lock, it has the other's batch
AHEAD = 3  # batches that wait for the tokenizer, so that it never waits for one
EMPTY = np.empty(0, np.int32)
ENOUGH_CORES = 4  # on fewer, one process and the tokenizer's own threads fill them


@dataclass(frozen=True)
class Batch:
    """What some rows became: columns with a line for each example, and the report on the rows."""

    columns: pa.RecordBatch
    report: Report


class Maker(Protocol):
    """Rows to examples in two steps, so that one batch is rendered while another is tokenised. Can be sent to another
    process."""

    tokenizer: TextTokenizer

    def render(self, rows: Sequence[Row]) -> tuple[Any, list[str]]:
        """Whatever `finish` needs, and the texts to tokenise."""

    def finish(self, rendered: Any, encoded: list[Encoded]) -> Batch: ...


def batches(rows: Iterable[Row], maker: Maker, workers: int = 0) -> Iterator[Batch]:
    """The batches, in the order of the rows; they do not depend on `workers`, which are further processes.

    Raises ResourceError when the system ends one of them.
    """
    chunks = _chunks(rows)
    first = list(islice(chunks, 2))
    chunks = chain(first, chunks)
    return _here(chunks, maker) if workers < 2 or len(first) < 2 else _in_processes(chunks, maker, workers)


def workers_for(rows: int, cores: int) -> int:
    """The processes that are worth starting for so many rows: none where one process fills the cores."""
    return min(cores, rows // (WORTH_PROCESSES // 8)) if rows >= WORTH_PROCESSES and cores >= ENOUGH_CORES else 0


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rest = iter(rows)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def _here(chunks: Iterable[Sequence[Row]], maker: Maker) -> Iterator[Batch]:
    # The tokenizer's own threads leave Python's lock to all else, and those that feed them do little under it.
    waiting: deque[tuple[Any, list[str], Future[Any]]] = deque()
    with ThreadPoolExecutor(FEEDERS) as threads:
        for chunk in chunks:
            rendered, texts = maker.render(chunk)
            waiting.append((rendered, texts, threads.submit(maker.tokenizer.split, texts)))
            if len(waiting) > AHEAD:
                yield _finished(maker, *waiting.popleft())
        while waiting:
            yield _finished(maker, *waiting.popleft())


def _finished(maker: Maker, rendered: Any, texts: list[str], coming: Future[Any]) -> Batch:
    return maker.finish(rendered, maker.tokenizer.placed(texts, coming.result()))


def _in_processes(chunks: Iterable[Sequence[Row]], maker: Maker, workers: int) -> Iterator[Batch]:
    spawn = multiprocessing.get_context("spawn")  # a forked copy of a process with threads can hang
    pool = ProcessPoolExecutor(workers, spawn, _equip, (maker,))
    waiting: deque[Any] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_work, chunk))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise ResourceError(
            "The system ended a process that was preparing rows; most often memory ran out.",
            "Lower data.workers, or set it to 0.",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_maker: Maker  # set once in each process


def _equip(maker: Maker) -> None:
    global _maker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _maker = maker


def _work(rows: Sequence[Row]) -> Batch:
    rendered, texts = _maker.render(rows)
    return _maker.finish(rendered, _maker.tokenizer.encode_batch(texts))


def column(lists: Sequence[Collection[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of numbers as one array of int32, and where in it each begins, with the end behind the last."""
    bounds = np.zeros(len(lists) + 1, np.int32)
    np.cumsum([len(one) for one in lists], out=bounds[1:])
    arrays = (one if isinstance(one, np.ndarray) else np.fromiter(one, np.int32, len(one)) for one in lists)
    return np.concatenate([EMPTY, *arrays]), bounds


def arrow(values: np.ndarray, bounds: np.ndarray) -> pa.ListArray:
    """What `column` gives, as a column of lists."""
    return pa.ListArray.from_arrays(pa.array(bounds), pa.array(values))


def records(batch: Batch) -> Iterator[tuple[Any, ...]]:
    """The examples of a batch, each as the fields of its columns."""
    return zip(*map(_listed, batch.columns.columns), strict=True)


def _listed(column: pa.Array) -> list[Any]:
    if not isinstance(column, pa.ListArray):
        return list(column.to_pylist())
    bounds, values = column.offsets.to_pylist(), column.values.to_numpy()
    return [values[begin:end].tolist() for begin, end in zip(bounds, bounds[1:], strict=False)]
