"""`python -m engine demo`: the main job without a browser, through the same commands that a person would type.

Fine-tunes the embedded model on the demo rows, shows one answer before and after, merges, verifies, and says where the
result lies. Nothing here trains or merges by itself.
"""

from __future__ import annotations

import json
from pathlib import Path

from engine import fetch, follow
from engine.contract import text
from engine.contract.errors import BoardError
from engine.contract.rundir import Run, records

MODEL = "SmolLM2-135M-Instruct"
QUESTIONS = [
    "What is your name?",
    "CREATE TABLE loans (id INT, member TEXT, book TEXT, returned INT);\nWhich books have not been returned?",
]


def main(words: list[str], workspace: Path) -> int:
    """`demo [name=value ...]`: the words go to the training run, such as `data.fill={name: Ada}`."""
    fetch.fetch(MODEL, workspace)
    samples = f"record.samples={json.dumps(QUESTIONS)}"
    trained = _run(text.parse({}, [f"model={MODEL}", "name=demo", samples, *words], kind="train"), workspace)
    exported = _run(text.parse({}, [f"tuned={trained.id}", f"to={trained.id}"], kind="export"), workspace)

    print("\n" + "-" * 72)
    answers = [record for record in records(trained.events_path) if record["kind"] == "sample"]
    for question in QUESTIONS:
        before, *_, after = [record["answer"] for record in answers if record["prompt"] == question]
        print(f"Asked    {_line(question)}\n  before {_line(before)}\n  after  {_line(after)}")
    print(follow.result_of(trained)["sentence"])
    print(follow.result_of(exported)["sentence"])
    print(f"Run      {trained.path}\nResult   {workspace / 'exports' / trained.id}")
    return 0


def _run(args: text.AnyArgs, workspace: Path) -> Run:
    """Start a run and follow it to its end. Raises BoardError unless it is done."""
    run = follow.begin(args, workspace)
    print(f"\n$ {text.command(args)}", flush=True)
    if follow.follow(run) != 0:
        raise BoardError(f"{run.id} is {run.state()}, so the demo ends here.", f"Its log: {run.log_path}")
    return run


def _line(said: str) -> str:
    return said.replace("\n", " ")[:160]
