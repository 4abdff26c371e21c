"""The declarations as Markdown: `python -m engine docs` writes ARGUMENTS.md, and a test fails when it is stale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.contract.args import KINDS
from engine.contract.fields import Spec, walk
from engine.contract.text import flow

FILE = Path(__file__).resolve().parents[1] / "ARGUMENTS.md"


def markdown() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Arguments"
    yield ""
    yield "Written by `python -m engine docs` from the declarations in `engine/contract/`; do not edit."
    yield "Each is set in an args file, or on the command line as `path=value`."
    for kind, root in KINDS.items():
        yield f"\n## {kind}\n\n{(root.__doc__ or '').splitlines()[0]}\n"
        yield "| argument | default | what it does | when to change it | usual |"
        yield "|---|---|---|---|---|"
        for spec in walk(root):
            yield "| " + " | ".join(_cell(text) for text in _row(spec)) + " |"


def _row(spec: Spec) -> tuple[str, ...]:
    name = f"`{spec.path}`" + (f" (with {spec.variant})" if spec.variant else "")
    limits = f" One of: {', '.join(spec.choices)}." if spec.choices else ""
    unit = f" [{spec.unit}]" if spec.unit else ""
    default = "" if spec.default in ("", None, [], {}) else f"`{flow(spec.default)}`"
    return name, default, spec.help + unit + limits, spec.when, spec.usual


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
