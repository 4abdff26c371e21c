"""Rows to tokens: the whole path (render, tokenise, mask, cut, columns) against the tokenizer alone on the same texts.

By turns in one process, so that a busy machine slows both; processor time is disturbed least. Memory is that of a
process of its own that prepares rows out of a file through the cache, as a run does, for two numbers of rows: what
matters is what it grows by.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.programs import Line, Program, line

ALONE = "encode_batch alone, same texts"
BARE = "encode_batch_fast alone (no offsets), same texts"
SPEED, FEW, MANY = 30_000, 10_000, 200_000  # rows
TIMES = 5
WORDS = (
    "the of and to in is that it for was on are as with his they be at one have this from or had by hot but some what "
    "there we can out other were all your when up use word how said an each she which do their time if will way about "
    "many then them would write like so these her long make thing see him two has look more day could go come did my "
    "sound no most number who over know water than call first people may down side been now find"
).split()


def measure(folder: Path, model: Path) -> list[Line]:
    """Speeds over SPEED rows, memory over FEW and MANY; `model` is the demo model's folder."""
    from engine.contract.machine import machine

    cores = machine().cores
    held = list(_memory(folder, model))  # first: a process that is started counts what its parent held as its own
    return [
        *_speeds(model, "one answer", one_answer, goal="at least 1.0 times"),
        *_speeds(model, "three answers", three_answers),
        *_speeds(model, f"one answer, in {cores} processes", one_answer, workers=cores),
        *held,
    ]


Talk = Callable[[random.Random], list[dict[str, str]]]


def _speeds(model: Path, what: str, talk: Talk, workers: int = 0, goal: str = "") -> Iterator[Line]:
    from data.encoding.batches import batches
    from data.encoding.prepare import Examples
    from data.encoding.render import ChatTemplate
    from data.encoding.tokens import TextTokenizer
    from data.rows.conversation import Row

    draw = random.Random(1)
    rows = [Row(talk(draw), None, "rows.jsonl", number) for number in range(SPEED)]
    maker = Examples(ChatTemplate.of(model), TextTokenizer.of(model), max_length=512, cut="oldest")
    texts = [maker.template.render(row.messages) for row in rows]
    bare = maker.tokenizer._tokenizer
    gc.freeze()  # a run reads its rows as it goes: there are none here for the collector to look through
    ours, alone, least, tokens = Clock(), Clock(), Clock(), 0
    for _ in range(TIMES):
        with ours:
            tokens = sum(batch.report.tokens for batch in batches(rows, maker, workers))
        with alone:
            bare.encode_batch(texts, add_special_tokens=False)
        with least:
            bare.encode_batch_fast(texts, add_special_tokens=False)
    label = f"Tokenise: {what} ({tokens / SPEED:.0f} tokens a row), whole path"
    yield line(label, "rows/s", [SPEED / s for s in ours.seconds], [SPEED / s for s in alone.seconds], ALONE, goal=goal)
    if not workers:  # the time of other processes is not ours to read
        spent = [[second / SPEED * 1e6 for second in clock.spent] for clock in (ours, alone, least)]
        for other, against in ((spent[1], ALONE), (spent[2], BARE)):
            yield line("... processor time a row", "µs", spent[0], other, against)


class Clock:
    """What runs inside it: seconds, and seconds of processor time on all cores."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.spent: list[float] = []

    def __enter__(self) -> None:
        self.began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds.append(time.perf_counter() - self.began[0])
        self.spent.append(time.process_time() - self.began[1])


def _memory(folder: Path, model: Path) -> Iterator[Line]:
    peaks, seconds = {}, {}
    for rows in (FEW, MANY):
        workspace = folder / f"tokens-{rows}"
        (workspace / "models").mkdir(parents=True)
        (workspace / "datasets").mkdir()
        (workspace / "models" / "model").symlink_to(model.resolve())
        draw = random.Random(2)
        with open(workspace / "datasets" / "rows.jsonl", "w", encoding="utf-8") as file:
            for _ in range(rows):
                file.write(json.dumps({"messages": one_answer(draw)}) + "\n")
        for again in (False, True):
            program = Program(["-m", "tests.bench.tokens", str(workspace)], folder / "tokens.log")
            peak, _ = program.finish()
            seconds[rows, again] = float(program.log.read_text().split()[-1])
            peaks.setdefault(rows, peak / 1e6)
    grown = (peaks[MANY] - peaks[FEW]) * 1e6 / (MANY - FEW)
    yield Line(f"Prepare {MANY:,} rows out of a file, rows read and split included", "s", seconds[MANY, False])
    yield Line("... the same rows again, found in the cache", "s", seconds[MANY, True])
    yield Line(f"... peak memory of that process (with {FEW:,} rows: {peaks[FEW]:,.0f} MB)", "MB", peaks[MANY])
    yield Line("... what it grows by", "bytes/row", grown, goal="does not grow with the tokens")


def one_answer(draw: random.Random) -> list[dict[str, str]]:
    return [_turn(draw, "user", 5, 25), _turn(draw, "assistant", 10, 60)]


def three_answers(draw: random.Random) -> list[dict[str, str]]:
    return [turn for _ in range(3) for turn in one_answer(draw)]


def _turn(draw: random.Random, role: str, low: int, high: int) -> dict[str, str]:
    said = " ".join(draw.choice(WORDS) for _ in range(draw.randint(low, high)))
    return {"role": role, "content": said.capitalize() + "."}


def main(workspace: Path) -> None:
    """Prepare the rows of a workspace as a run does; print the seconds that it took."""
    from engine.contract import rundir, text
    from engine.report import Report
    from engine.training.rows import rows_of

    args = text.parse({}, ["model=model", "data=rows.jsonl", "data.split=99/1/0"], kind="train")
    run = rundir.make(workspace, "bench", text.dump(args))
    began = time.perf_counter()
    rows_of(args, workspace / "models" / "model", run, Report(run))
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
