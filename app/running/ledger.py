"""Run folders in words: the list of runs, a run's arguments, its files.

Takes summaries and folders, gives escaped HTML. It starts nothing and knows no widget.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from app.planning.outlook import size
from app.results import refs
from app.running.charts import PANELS
from app.running.live import duration
from app.running.runs import Summary
from app.theme import empty, pill, sentence_error
from engine.contract import text
from engine.contract.args import AnyArgs
from engine.contract.errors import ArgsError
from engine.contract.fields import walk
from engine.contract.rundir import Run

SERVED = "/gradio_api/file="  # where gradio serves the files of allowed folders


def listing(found: Sequence[Summary], opened: str) -> str:
    """What static/runs.js draws: every run, newest first, and which one is open."""
    rows = [{"id": one.id, "html": item(one), "words": _words(one)} for one in found]
    nothing = empty("No runs yet", "Start one under Train; it is listed here and can be watched, resumed and compared.")
    return json.dumps({"rows": rows, "opened": opened, "nothing": nothing}, ensure_ascii=False)


def item(one: Summary, title: str = "", what: str = "") -> str:
    """One line of the list: the name and state, what it is, and how it went. `title` and `what` say it otherwise."""
    took = duration(one.seconds) if one.seconds is not None else ""
    key, value = (one.aim, one.best) if one.best is not None else ("loss", one.best_loss)
    best = f"{key} {_number(key, value)}" if value is not None else ""
    about = " · ".join(filter(None, (best, took, what or one.about)))  # what is cut where it is narrow comes last
    return (
        f'<span class="tb-item-top"><strong>{escape(title or called(one))}</strong>{pill(one.state)}</span>'
        f'<span class="tb-item-about"><span>{escape(about)}</span><time>{when(one.began)}</time></span>'
    )


def called(one: Summary) -> str:
    """Its title; what works on the weights of a run that has a name is called by that."""
    return refs.spoken(one.title, one.run.workspace)


def _number(key: str, value: float) -> str:
    return f"{value:.0%}" if PANELS.get(key, ("", ""))[1] == "share" else f"{value:.3g}"


def _words(one: Summary) -> str:
    """What the filter of the list looks through."""
    return " ".join((one.id, called(one), one.state, one.about)).lower()


def when(began: float, now: float | None = None) -> str:
    """`14:32` today, `21 Nov` this year, `21 Nov 2025` before."""
    at, today = time.localtime(began), time.localtime(now if now is not None else time.time())
    if at[:3] == today[:3]:
        return time.strftime("%H:%M", at)
    return f"{at.tm_mday} {time.strftime('%b' if at.tm_year == today.tm_year else '%b %Y', at)}"


def question(one: Summary) -> str:
    """What deleting a run would take away."""
    many = len(one.run.checkpoints())
    kept = f", with {many} checkpoint{'s' if many != 1 else ''}" if many else ""
    weight = size(sum(file.stat().st_size for file in one.run.path.rglob("*") if file.is_file()))
    return (
        f"<span>Delete <strong>{escape(called(one))}</strong>{kept}? {weight} are freed. This cannot be undone.</span>"
    )


def arguments(run: Run) -> str:
    """The arguments that were changed, then all of them, and the command that repeats the run."""
    try:
        args = text.load(run.args_path)
    except ArgsError as problem:
        return sentence_error("The arguments of this run are of another version of the board.", problem.text)
    changed = text.changes(args)
    said = f'<pre class="tb-command">{escape(command(args, run.path.parents[1]))}</pre>'
    first = _table(args, changed) if changed else '<p class="tb-muted">Every argument is at its default.</p>'
    return (
        f'<h3 class="tb-title">Not at their default</h3>{first}'
        f'<h3 class="tb-title">The same run from a terminal</h3>{said}'
        f"<details><summary>All arguments</summary>{_table(args, _all(args))}</details>"
    )


def command(args: AnyArgs, workspace: Path) -> str:
    """What to paste in the board's folder to repeat a run; it names the workspace where that is not the usual one."""
    said = text.command(args)
    usual = workspace.resolve() == Path("workspace").resolve()
    return said if usual else f"{said} --workspace {shlex.quote(str(workspace))}"


def _all(args: AnyArgs) -> list[tuple[str, Any]]:
    content = args.model_dump(mode="json")
    return [(path, text.at(content, path)) for path in _labels(args)]


def _labels(args: AnyArgs) -> dict[str, str]:
    """Path -> label of every argument that is in force, in the order of declaration."""
    content = args.model_dump(mode="json")
    return {
        spec.path: spec.label for spec in walk(type(args))
        if not spec.variant or text.at(content, f"{spec.union}.kind") == spec.variant
    }  # fmt: skip


def _table(args: AnyArgs, pairs: Sequence[tuple[str, Any]]) -> str:
    """By the words of the form, and beside them the names that a terminal takes."""
    labels = _labels(args)
    rows = "".join(
        f"<tr><th>{escape(labels[path])}</th><td>{escape(_said(value))}</td>"
        f'<td class="tb-muted">{escape(path)}</td></tr>'
        for path, value in pairs
    )
    return f'<table class="tb-arguments">{rows}</table>'


def _said(value: Any) -> str:
    if isinstance(value, str):
        return value or "empty"
    if value is None:
        return "empty"
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=2**31).strip().removesuffix("\n...")


def files(run: Run) -> str:
    """The loss picture and every file, each to be downloaded."""
    picture = ""
    if run.picture_path.is_file():
        picture = f'<img class="tb-picture" alt="Loss by step" src="{_address(run.picture_path)}">'
    found = sorted(_files(run.path), key=lambda file: (len(file.relative_to(run.path).parts), str(file)))
    rows = "".join(
        f'<tr><td><a href="{_address(file)}" download>{escape(str(file.relative_to(run.path)))}</a></td>'
        f"<td>{size(file.stat().st_size)}</td></tr>"
        for file in found
    )
    return f'{picture}<table class="tb-files">{rows}</table>'


def _files(folder: Path) -> list[Path]:
    """Every file that has its name; what is still being written begins with a dot."""
    parts = [file.relative_to(folder).parts for file in folder.rglob("*") if file.is_file()]
    return [folder.joinpath(*part) for part in parts if part != ("lock",) and not any(name[0] == "." for name in part)]


def _address(file: Path) -> str:
    return f"{SERVED}{quote(str(file))}"
