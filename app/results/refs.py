"""The words by which Evaluate, Chat and Export name weights: as a person chooses them, newest first, in bounds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from app.running import runs
from data import models, weights
from data.paths import inside
from engine.contract.errors import BoardError, Problem
from engine.contract.rundir import Run


def offered(workspace: Path) -> list[tuple[str, str]]:
    """(what is shown, the word) of everything that can be chosen; a run that has a name is shown by it."""
    return [(title(ref, workspace), ref) for ref in weights.listed(workspace)]


def title(ref: str, workspace: Path) -> str:
    """`first try, step 40 (20261121-143205-sft)`, or the word itself where no run of that name has a title."""
    run = of_run(ref, workspace)
    said = short(ref, workspace)
    return f"{said} ({run.id})" if run and said != ref else ref


def short(ref: str, workspace: Path) -> str:
    """`first try, step 40`, or the word itself; of a folder its name."""
    run = of_run(ref, workspace)
    found = runs.summary(run) if run else None
    if found is None or not found.name:
        return Path(ref).name if ref.startswith(("/", "~")) else ref
    step = ref.partition("/step-")[2]
    return f"{found.name}, step {step}" if step else found.name


def spoken(sentence: str, workspace: Path) -> str:
    """`sentence` with the name of each run that has one in place of its id."""
    return re.sub(r"\d{8}-\d{6}-[\w.-]*\w(/step-\d+)?", lambda found: short(found[0], workspace), sentence)


def of_run(ref: str, workspace: Path) -> Run | None:
    """The run that the word names, itself or a checkpoint of it."""
    return runs.opened(workspace, ref.partition("/")[0]) if re.fullmatch(r"[\w.-]+(/step-\d+)?", ref) else None


def newest(workspace: Path) -> str:
    """The newest tuned weights, or empty when nothing has been trained here yet."""
    return next((ref for ref in weights.listed(workspace) if of_run(ref, workspace)), "")


def confined(path: str, ref: str, workspace: Path, allowed: Sequence[Path]) -> list[Problem]:
    """The problem, at argument `path`, of a folder that the page may not read; names and hub ids have none."""
    known = of_run(ref, workspace) or re.fullmatch(r"exports/[A-Za-z0-9][\w.-]*", ref) or models.HUB_ID.match(ref)
    if not ref or known and not Path(ref).exists() or "/" not in ref and not ref.startswith(("~", ".")):
        return []
    try:
        inside(ref, [workspace, *allowed])
    except BoardError as problem:
        return [Problem(path, f"{problem.text} {problem.hint}")]
    return []
