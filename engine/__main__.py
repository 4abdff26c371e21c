"""The engine's command line: `python -m engine VERB ...`.

    train | evaluate | serve | export | make | download [ARGS.yaml] [name=value ...]
                                            make a run folder, start it and follow it
    check ARGS.yaml [name=value ...]        every problem of an args file; exit code 2 when there is one. With
                                            --data: its rows, counted and looked at; with --json: for programs
    plan ARGS.yaml [name=value ...]         what a training will take of memory and time, and whether it fits; with
                                            --fit: what to change so that it does; with --json: for programs
    measure ARGS.yaml [name=value ...]      two real steps on the longest rows: the true peak of memory and the speed
    chat [QUESTION] [models=...]            talk to a model in the terminal
    fetch NAME                              get a model
    cluster KIND ARGS.yaml [name=value ...] the same run for several machines, to be copied: KIND is machines, slurm,
                                            ray or kubernetes
    demo                                    the whole path on the embedded model
    docs                                    write ARGUMENTS.md
    --workspace DIR (or WORKSPACE=DIR)      where runs, models and datasets lie; default: workspace

Imports nothing heavy: `check`, `docs` and `--help` answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from engine.contract import text
from engine.contract.args import KINDS
from engine.contract.errors import BoardError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m engine", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("verb", choices=[*KINDS, *VERBS])
    parser.add_argument("words", nargs="*", help="an args file, name=value pairs, or the verb's own words")
    parser.add_argument("--workspace", type=Path, default=Path(os.environ.get("WORKSPACE") or "workspace"))
    parser.add_argument("--detach", action="store_true", help="start the run and return at once")
    parser.add_argument("--data", action="store_true", help="with check: look at the rows as well")
    parser.add_argument("--fit", action="store_true", help="with plan: what to change so that it fits")
    parser.add_argument("--json", action="store_true", help="with check and plan: the result as JSON")
    given = parser.parse_intermixed_args(argv)
    given.workspace = given.workspace.expanduser().resolve()
    try:
        return (VERBS.get(given.verb) or _start)(given)
    except BoardError as problem:
        print(problem.text, problem.hint, sep="\n" if problem.hint else "", file=sys.stderr)
        return 2


def _args(given: argparse.Namespace, kind: str = "") -> text.AnyArgs:
    """The arguments that the words say: an optional file first, then overrides."""
    file, overrides = None, list(given.words)
    if overrides and "=" not in overrides[0]:
        file, overrides = Path(overrides[0]), overrides[1:]
    return text.load(file, overrides, kind=kind) if file else text.parse({}, overrides, kind=kind)


def _start(given: argparse.Namespace) -> int:
    from engine import follow

    return follow.start_and_follow(_args(given, given.verb), given.workspace, detach=given.detach)


def _check(given: argparse.Namespace) -> int:
    from engine import check

    return check.check(_args(given), given.workspace, rows=given.data, as_json=given.json)


def _cluster(given: argparse.Namespace) -> int:
    from engine.contract.clusters import CLUSTERS

    kind = given.words.pop(0) if given.words else ""
    if kind not in CLUSTERS:
        raise BoardError(f"{kind!r} is no kind of cluster.", f"Say one of {', '.join(CLUSTERS)}, then the arguments.")
    usual = given.workspace == Path("workspace").resolve()
    print(CLUSTERS[kind](_args(given, "train"), "" if usual else str(given.workspace)), end="")
    return 0


def _plan(given: argparse.Namespace) -> int:
    from engine import plan

    return plan.plan(_args(given), given.workspace, as_json=given.json, fit=given.fit)


def _measure(given: argparse.Namespace) -> int:
    from engine import measure

    return measure.measure(_args(given), given.workspace, as_json=given.json)


def _docs(given: argparse.Namespace) -> int:
    from engine.contract import docs

    docs.FILE.write_text(docs.markdown(), encoding="utf-8")
    print(f"Wrote {docs.FILE}.")
    return 0


def _work(given: argparse.Namespace) -> int:
    from engine.work import work

    return work(Path(given.words[0]))


def _module(name: str) -> Callable[[argparse.Namespace], int]:
    """A verb whose module is imported when it is used: `main(words, workspace) -> exit code`."""
    return lambda given: importlib.import_module(f"engine.{name}").main(given.words, given.workspace)


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "check": _check,
    "plan": _plan,
    "measure": _measure,
    "cluster": _cluster,
    "docs": _docs,
    "work": _work,
    "chat": _module("chat"),
    "fetch": _module("fetch"),
    "look": _module("look"),
    "demo": _module("demo"),
}


if __name__ == "__main__":
    sys.exit(main())
