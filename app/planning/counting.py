"""The exact look at a run's rows, asked of an engine process by the page, which shows a sample meanwhile.

Knows nothing of rows or tokens, nor of how processes are kept: that is `app.errands`.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from app.errands import Errands
from data.checking.inspection import Inspection
from engine.contract import text
from engine.contract.args import TrainArgs
from engine.contract.errors import Problem


class Answer(BaseModel):
    """What `python -m engine check ARGS --data --json` says."""

    model_config = ConfigDict(frozen=True)

    problems: tuple[Problem, ...] = ()
    inspection: Inspection | None = None


_errands = Errands("rows", Answer)
known, failed = _errands.known, _errands.failed


def ask(key: str, args: TrainArgs, workspace: Path) -> str:
    """See to it that the question is being worked on, and say how far that is: `12,000 of 120,000 rows`, or nothing."""
    return _errands.ask(key, workspace, text.dump(args), lambda file: ["check", str(file), "--data", "--json"])
