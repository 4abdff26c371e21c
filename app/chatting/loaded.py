"""The chat's server as the page sees it: none, queued, loading, ready, or ended with a sentence. Knows no widget.

The server is a run like any other, shared by every browser; what is said to it belongs to each browser alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice
from pathlib import Path
from typing import Literal

from app.running import runs
from app.theme import sentence_error
from data import weights
from data.paths import inside
from engine.contract.args import ServeArgs
from engine.contract.client import Server, ServerError, address_of
from engine.contract.errors import ArgsError, BoardError
from engine.contract.rundir import Run, records
from engine.contract.text import parse

State = Literal["none", "queued", "loading", "ready", "ended"]
SERVES = "serve"


@dataclass(frozen=True)
class Loaded:
    """What is loaded now. `names` may be asked, `bases` are those that are no adapter; `run` is the server's id.

    text and hint are for people: what was loaded and how large it is, what it waits for, or why it ended.
    """

    state: State = "none"
    run: str = ""
    address: str = ""
    names: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    sees: bool = False  # whether one of them takes pictures
    text: str = ""
    hint: str = ""

    @property
    def moving(self) -> bool:
        return self.state in ("queued", "loading")


def now(workspace: Path, before: Loaded) -> Loaded:
    """The newest server that has not ended; `before` is what was seen last, so that an end can be told."""
    found = next((each for each in runs.listed(workspace) if each.kind == SERVES and each.moving), None)
    if found is None:
        return _ended(workspace, before)
    try:
        address = address_of(found.run)
        if address is None and found.state == "queued":
            return Loaded("queued", found.id, text=_holder(workspace))
        if address is None:
            return Loaded("loading", found.id)
        if before.state == "ready" and before.run == found.id:
            return before
        models = Server(address).models()
    except ServerError as problem:
        return Loaded("ended", found.id, text=problem.text, hint=problem.hint)
    said = [record["text"] for record in records(found.run.events_path) if record["kind"] == "note"]
    names = tuple(str(model["id"]) for model in models)
    bases = tuple(str(model["id"]) for model in models if model.get("kind") != "adapter")
    sees = any(model.get("sees") for model in models)
    return Loaded("ready", found.id, address, names, bases, sees, " ".join(said))


def line(now: Loaded) -> str:
    """What is loaded, as HTML."""
    if now.state == "ended":
        return sentence_error(now.text, now.hint)
    colour, words = {
        "none": ("still", "nothing is loaded"),
        "queued": ("queued", now.text),
        "loading": ("running", "A large model takes a while."),
        "ready": ("done", now.text or ", ".join(now.names)),
    }[now.state]
    pill = "" if now.state == "none" else f'<span class="tb-pill tb-{colour}">{now.state}</span> '
    return f'<div class="tb-line" title="{escape(words)}">{pill}<span class="tb-muted">{escape(words)}</span></div>'


def _ended(workspace: Path, before: Loaded) -> Loaded:
    run = runs.opened(workspace, before.run)
    if before.state == "ended" or run is None or run.state() not in ("failed", "lost"):
        return before if before.state == "ended" else Loaded()
    try:
        address_of(run)
    except ServerError as problem:
        return Loaded("ended", before.run, text=problem.text, hint=problem.hint)
    return Loaded()


def _holder(workspace: Path) -> str:
    working = [each for each in runs.listed(workspace) if each.state == "running" and each.kind != SERVES]
    who = f"{working[-1].title} holds the device" if working else "Another run holds the device"
    return f"{who}; the chat loads when it ends."


def load(workspace: Path, words: Sequence[str], allowed: Sequence[Path] = ()) -> Run:
    """Start a server with `words` in place of whatever is loaded. Raises BoardError when one of them is no model."""
    words = list(dict.fromkeys(words))
    if not words:
        raise BoardError("Nothing is chosen.", "Choose a model or a run to load.")
    for word in words:
        if word.startswith(("/", "~", ".")):
            inside(word, [workspace, *allowed])
        weights.check_writes(word, workspace)
    try:
        args = parse({"models": words}, kind=SERVES)
    except ArgsError as problem:
        raise BoardError(problem.text) from None
    assert isinstance(args, ServeArgs)
    unload(workspace)
    return runs.start(workspace, args, "chat")


def unload(workspace: Path) -> None:
    """End every server of the workspace; their processes end, so their memory is free again."""
    for found in runs.listed(workspace):
        if found.kind == SERVES and found.moving:
            runs.stop(found.run)


def questions(workspace: Path, names: Sequence[str], count: int = 3) -> list[str]:
    """Questions to begin with: one for anybody, then of rows that the loaded runs held out, short ones first."""
    asked: list[str] = []
    for run in {run.id: run for name in names if (run := _run_of(workspace, name))}.values():
        for record in islice(records(run.heldout_path), 100):
            said = record.get("messages") or record.get("prompt") or []
            first = next((turn["content"] for turn in said if turn["role"] == "user"), None)
            asked += [first] if isinstance(first, str) else []
    return list(dict.fromkeys(["What is your name?", *sorted(asked, key=len)]))[:count]


def _run_of(workspace: Path, name: str) -> Run | None:
    try:
        return weights.find(name, workspace).run
    except BoardError:
        return None  # it was loaded from a place that is gone since


def pair(workspace: Path, ref: str) -> list[str]:
    """What to load to compare `ref` with what it was trained from; `ref` alone when it is no adapter."""
    found = weights.find(ref, workspace)
    if found.adapter is None:
        return [ref]
    offered = weights.listed(workspace)
    base = found.base if found.base in offered else next((o for o in offered if Path(found.base).name == o), found.base)
    return [base, ref]
