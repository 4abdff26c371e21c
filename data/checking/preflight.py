"""What this machine has to say to well-formed arguments: is the model here, are the rows readable, does it fit?

Every problem at once, each at its argument, before a run folder is made. Files alone are looked at: what only a loaded
model or a driver can tell, the worker finds out.
"""

from __future__ import annotations

import glob
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from data import models, weights
from data.checking import against, vocabulary
from data.datasets import registry, sets
from data.encoding.render import ChatTemplate, names
from data.hubs import hub
from data.models import Card
from data.planning.sizes import resized
from data.reading import files
from data.rows.mapping import Mapping
from engine.contract import client, text
from engine.contract.args import AnyArgs, DownloadArgs, EvaluateArgs, ExportArgs, MakeArgs, ServeArgs, TrainArgs
from engine.contract.auto import Facts, resolved
from engine.contract.errors import ArgsError, BoardError, Problem
from engine.contract.fields import AUTO
from engine.contract.imitation import Pretrain
from engine.contract.machine import machine
from engine.contract.making import Pairs
from engine.contract.needs import Here, unmet
from engine.contract.rundir import ENDED, Run
from engine.contract.solvers import BY_MEASURE, SOLVERS

EVERYWHERE = (Path("/"),)
# A file up to this size is read to its last row; of a larger one only the head: the worker reads the rest.
READ_WHOLE = 64 * 2**20
# A device that has none of its files cannot be used. That one is there proves nothing; torch has the last word.
DEVICE_FILES = {
    "cuda": ("/dev/nvidia*", "/dev/nvhost*", "/dev/dxg", "/dev/kfd"),
    "npu": ("/dev/davinci*",),
    "xpu": ("/dev/dri", "/dev/dxg"),
}
# The arguments that may name a file or a folder.
NAMES_FILES = {
    "path", "train", "validation", "data", "tuned", "base", "models", "general", "model", "reference_model",
    "start_from",
}  # fmt: skip
# What a run that goes on from a checkpoint shares with its parent: the weights that move and what moves them, as the
# optimiser's state in the checkpoint fits no other; and the rows held out, as it would else measure on rows that the
# parent was trained on. The learning rate and its schedule may change.
INHERITED = (
    "task.kind", "model.path", "model.revision", "model.quantisation", "model.double_quantisation", "model.new_tokens",
    "model.rope", "model.rope_factor", "method", "optim.optimiser", "optim.own", "optim.weight_decay",
    "optim.embedding_rate", "optim.layer_decay", "data.train", "data.validation", "data.split", "data.max_rows",
    "data.limits", "data.bad_rows", "data.fill", "steps.seed",
)  # fmt: skip


def problems(
    args: AnyArgs, workspace: Path, allowed: Sequence[Path] = EVERYWHERE, *, rows: bool = True
) -> list[Problem]:
    """Everything that keeps `args` from running here; datasets are read in the workspace and the `allowed` folders.

    Without `rows` only the heads of datasets are read, as is quick enough to do while somebody types; and a model out
    of reach is none, as it may be planned for.
    """
    if isinstance(args, TrainArgs):
        away = out_of_reach(args, workspace) if rows else []
        return [*away, *_train(args, workspace, allowed, rows)]
    if isinstance(args, DownloadArgs):
        return []  # the hub has the word
    if isinstance(args, MakeArgs):
        return list(_make(args, workspace, allowed, rows))
    found = [*_device("device", args.device), *_template("template", getattr(args, "template", "auto"), None)]
    for path, ref in _refs(args):
        try:
            weights.find(ref, workspace)
        except BoardError as problem:
            found.append(_problem(path, problem))
    if isinstance(args, EvaluateArgs):
        found += [] if found or args.base == "auto" else _comparable(args, workspace)
        found += _datasets("data", args.data, workspace, allowed, rows)
    return found


def notes(args: AnyArgs, workspace: Path) -> list[str]:
    """What is no problem, and yet worth knowing before the start."""
    if not isinstance(args, TrainArgs):
        return []
    said = [str(wrong)] if (wrong := registry.mistakes(workspace)) else []
    if isinstance(args.task, Pretrain) and args.task.vocabulary:
        said.append(
            "Tokens are counted by the model's own tokenizer; the one that the run makes first is not there yet."
        )
    if SOLVERS[args.optim.optimiser].at_once:
        early = "steps before the whole gradient is known"
        said.append(f"{args.optim.optimiser} {early}, so nothing is clipped (optim.max_grad_norm).")
    try:
        place = models.find(args.model.path, workspace, args.model.revision)
    except BoardError:
        return said
    if place.folder is None and not hub.offline():
        said.append(f"{place.hub_id} is not on this machine yet; the run downloads it first.")
    return [*said, *(against.experts(models.card(place.folder), args) if place.folder else ())]


def out_of_reach(args: TrainArgs, workspace: Path) -> list[Problem]:
    """The model, where it is still on a hub and no hub may be asked: it can be planned for, but no run can begin."""
    set_by = hub.offline()
    try:
        place = models.find(args.model.path, workspace, args.model.revision)
    except BoardError:
        return []
    if place.folder is not None or not set_by:
        return []
    said = f"{place.hub_id} is not on this machine, and the board is offline, because {set_by} is set."
    return [Problem("model.path", f"{said} Choose a model that is here, or start without that variable.")]


def grounded(args: Any, workspace: Path) -> Any:
    """`args` with every file and folder that is named from the working directory by its whole path, so that the args
    file means the same wherever it is read. Names of datasets, models, runs and exports stay."""
    datasets = {entry.name for entry in registry.entries(workspace)}

    def whole(said: str) -> str:
        path = Path(said).expanduser()
        named = said in datasets or said.startswith("exports/")
        named |= "/" not in said and (workspace / "models" / said).is_dir()
        named |= Run(workspace / "runs" / said.partition("/")[0]).args_path.is_file()
        return said if named or not said or not path.exists() else os.path.abspath(path)

    content = args.model_dump()
    for place in (content, *map(content.get, ("model", "data", "task", "method")), text.at(content, "task.rewards")):
        if not isinstance(place, dict):
            continue  # of another kind of run, where the word stands for something else
        for name in NAMES_FILES & set(place):
            if isinstance(value := place[name], (str, list)):
                place[name] = whole(value) if isinstance(value, str) else [whole(word) for word in value]
    return type(args).model_validate(content)


def _refs(args: EvaluateArgs | ServeArgs | ExportArgs) -> list[tuple[str, str]]:
    """The words that name weights, each with its argument."""
    if isinstance(args, ServeArgs):
        return [("models", ref) for ref in args.models]
    base = [("base", args.base)] if isinstance(args, EvaluateArgs) and args.base != "auto" else []
    return [("tuned", args.tuned), *base]


def _comparable(args: EvaluateArgs, workspace: Path) -> list[Problem]:
    """What scores answers and what writes them are not better or worse than one another."""
    scores = [weights.scores_texts(ref, workspace) for ref in (args.tuned, args.base)]
    match scores:
        case [True, False]:
            said = f"{args.base} writes answers, and {args.tuned} scores them. Choose another reward run, or auto."
        case [False, True]:
            said = f"{args.base} scores answers, and {args.tuned} writes them. Choose a model that writes, or auto."
        case _:
            return []
    return [Problem("base", said)]


def _make(args: MakeArgs, workspace: Path, allowed: Sequence[Path], rows: bool) -> Iterator[Problem]:
    look = _legible if isinstance(args.what, Pairs) else _datasets
    yield from look("data", args.data, workspace, allowed, rows)
    if args.asks and args.endpoint.address == AUTO and not client.loaded(workspace):
        yield Problem("endpoint.address", " ".join(client.NOT_LOADED))
    if args.resume:
        parent = Run(workspace / "runs" / args.resume)
        if parent.id != args.resume or not parent.args_path.is_file():
            yield Problem("resume", f"There is no run {args.resume!r} in {workspace}.")
        elif parent.state() not in ENDED:
            yield Problem("resume", f"{args.resume} is still at work. Stop it first.")


def _train(args: TrainArgs, workspace: Path, allowed: Sequence[Path], rows: bool) -> Iterator[Problem]:
    folder, card = None, None
    try:
        folder = models.find(args.model.path, workspace, args.model.revision).folder
        card = models.card(folder) if folder else None
    except BoardError as problem:
        yield _problem("model.path", problem)
    try:
        yield from vocabulary.problems(folder, args.model.new_tokens) if folder else ()
    except BoardError as problem:
        yield _problem("model.path", problem)
    needed = folder if _renders(args, workspace, allowed) else None
    yield from _template("model.template", args.model.template, needed)
    if card:
        yield from _against(card, args)
    skip = args.data.bad_rows == "skip"
    yield from _datasets("data.train", args.data.train, workspace, allowed, rows, skip=skip)
    yield from _datasets("data.validation", args.data.validation, workspace, allowed, rows, skip=skip)
    yield from _datasets("task.general", sets.general(args), workspace, allowed, rows, skip=skip)
    yield from sets.problems(args)
    data = grounded(args, workspace).data
    trained, measured = (_found(names, workspace, allowed) for names in (data.train, data.validation))
    for first, second in combinations(trained, 2):
        if _same(trained[first], trained[second]):
            said = f"{first} and {second} are the same file, which would be trained on twice. Name it once."
            yield Problem("data.train", f"{said} To take its rows twice, set data.repeat to {first}=2.")
    if both := sorted(name for name, one in measured.items() if any(_same(one, other) for other in trained.values())):
        said = f"{', '.join(both)} is trained on too (data.train), so it cannot show what was learnt."
        yield Problem("data.validation", f"{said} Leave it empty to hold out a share of the rows.")
    yield from _uses(args, workspace, folder)
    if start := getattr(args.method, "start_from", ""):
        try:
            folder = weights.adapter(start, args.model.path, workspace)
            yield from against.continued(folder, args.method)  # type: ignore[arg-type]
            yield from _mending(weights.find(start, workspace), args)
        except BoardError as problem:
            yield _problem("method.start_from", problem)
    yield from _resume(args, workspace)
    yield from _device("compute.device", args.compute.device)
    yield from unmet(args, Here.of(args.compute.device))


def _uses(args: TrainArgs, workspace: Path, folder: Path | None) -> Iterator[Problem]:
    """Whether each model can do what it is named for; `folder` holds the one to start from, if it is here."""
    if folder:
        try:
            weights.check_task(args.model.path, folder, scores=args.task.head == "score")
        except BoardError as problem:
            yield _problem("model.path", problem)
    content = args.model_dump()
    for path in ("task.reference_model", "task.rewards.model"):
        if ref := text.at(content, path):
            label = text.at(content, "task.rewards.label") or ""
            try:
                weights.check_use(ref, workspace, scores=path == "task.rewards.model", label=label)
            except BoardError as problem:
                yield _problem(path, problem)


def _mending(found: weights.Weights, args: TrainArgs) -> Iterator[Problem]:
    """What mends quantised weights goes on only where they are held so."""
    for name in ("quantisation", "double_quantisation") if found.mends else ():
        was, now = getattr(found, name), getattr(args.model, name)
        if was != now:
            said = f"{found.ref} (method.start_from) begins as what {found.quantisation} lost (loftq)."
            yield Problem(f"model.{name}", f"{said} Set it to {text.flow(was)}.")


def _renders(args: TrainArgs, workspace: Path, allowed: Sequence[Path]) -> bool:
    """Whether rows are conversations, as far as their beginnings tell: plain text needs no template."""
    found = set()
    for name in sets.named(args):
        with suppress(BoardError):  # said where the dataset is looked at
            found.add(registry.count(registry.find(name, workspace, allowed)).kind)
    return not found or bool(found & set(args.task.takes) - {"text"})


def _against(card: Card, args: TrainArgs) -> Iterator[Problem]:
    """What the model's own shapes do not allow."""
    context = card.context
    if isinstance(args.task, Pretrain) and args.task.start == "scratch":
        context = args.task.size.get("context", context)
        try:
            resized(card.config, args.task.size)
        except ArgsError as problem:
            yield from problem.problems
    if args.model.rope != "none":
        yield from against.positions(card)
        context = int(context * args.model.rope_factor)
    yield from against.length(context, args)
    yield from _held(card, args)
    yield from against.loss(card, args)
    yield from against.problems(card, args.method)


def _held(card: Card, args: TrainArgs) -> Iterator[Problem]:
    """What a checkpoint that is quantised as it lies does not allow, or needs."""
    kind = models.quantised(card.folder)
    if not kind or kind in models.WIDENED:
        return
    if missing := [name for name in models.READERS.get(kind, ()) if find_spec(name.replace("-", "_")) is None]:
        said = f"{card.name} is quantised ({kind}), and what reads that is not installed: "
        yield Problem("model.path", f"{said}pip install {' '.join(missing)}")
    if not args.method.adapter:
        said = f"{card.name} is quantised ({kind}), so its weights cannot be trained themselves."
        yield Problem("method.kind", f"{said} Choose lora, or another model.")
    if args.model.quantisation != "none":
        yield Problem("model.quantisation", f"{card.name} is quantised already ({kind}). Set it to none.")


def _template(path: str, name: str, model: Path | None) -> Iterator[Problem]:
    """Whether the template called `name` exists; `auto` asks whether the model brings one."""
    if name != "auto" and name not in names():
        near = ", ".join(get_close_matches(name, names()) or ["chatml", "llama3", "qwen2_5", "..."])
        yield Problem(
            path, f"There is no template {name!r}. Choose one of {near}; all are listed in templates/templates.yaml."
        )
    elif model is not None:
        try:
            ChatTemplate.of(model, None if name == "auto" else name)
        except BoardError as problem:
            yield _problem(path, problem)


def _datasets(
    path: str, names: Sequence[str], workspace: Path, allowed: Sequence[Path], rows: bool, *, skip: bool = False
) -> Iterator[Problem]:
    for name in names:
        try:
            entry = registry.find(name, workspace, allowed)
            registry.count(entry)
            if rows and files.stamp(entry.path)[1] <= READ_WHOLE:
                deque(registry.rows(entry.model_copy(update={"skip_bad": skip or entry.skip_bad})), maxlen=0)
        except BoardError as problem:
            yield _problem(path, problem)


def _legible(
    path: str, names: Sequence[str], workspace: Path, allowed: Sequence[Path], rows: bool
) -> Iterator[Problem]:
    """Whether records can be read at all: templates name columns, which need fit no format."""
    for name in names:
        try:
            entry = registry.find(name, workspace, allowed)
            found = files.read(entry.path, [] if entry.skip_bad else None, entry.reading)
            whole = rows and files.stamp(entry.path)[1] <= READ_WHOLE
            deque(found if whole else islice(found, 1), maxlen=0)
        except BoardError as problem:
            yield _problem(path, problem)


def _found(names: Sequence[str], workspace: Path, allowed: Sequence[Path]) -> dict[str, registry.Entry]:
    found = {}
    for name in names:
        with suppress(BoardError):  # said by `_datasets`
            found[name] = registry.find(name, workspace, allowed)
    return found


def _same(one: registry.Entry, other: registry.Entry) -> bool:
    """Whether two datasets read the same rows of the same file; by columns that were chosen apart, they do not."""
    alike = one.mapping == other.mapping or Mapping() in (one.mapping, other.mapping)
    return alike and one.path.resolve() == other.path.resolve() and one.reading == other.reading


def _resume(args: TrainArgs, workspace: Path) -> Iterator[Problem]:
    if not args.resume.run:
        return
    parent = Run(workspace / "runs" / args.resume.run)
    saved = [folder.name for _, folder in parent.checkpoints()]
    if parent.id != args.resume.run or not parent.args_path.is_file():
        yield Problem("resume.run", f"There is no run {args.resume.run!r} in {workspace}.")
    elif not saved:
        yield Problem("resume.run", f"{args.resume.run} has no checkpoint to go on from. Start a new run instead.")
    elif args.resume.checkpoint and args.resume.checkpoint not in saved:
        said = f"{args.resume.run} has no checkpoint {args.resume.checkpoint}. It has {', '.join(saved)}."
        yield Problem("resume.checkpoint", said)
    else:
        yield from _inherited(args, parent, workspace)


def _inherited(args: TrainArgs, parent: Run, workspace: Path) -> Iterator[Problem]:
    try:
        before = text.load(parent.args_path, kind="train")
    except BoardError as problem:
        yield _problem("resume.run", problem)
        return
    device = Facts(machine())
    was, now = (resolved(grounded(one, workspace), device).model_dump() for one in (before, args))
    own = [f"task.{name}" for name in args.task.lasting if args.task.kind == text.at(was, "task.kind")]
    if {text.at(one, "optim.schedule") for one in (was, now)} & set(BY_MEASURE):
        own.append("optim.schedule")  # those keep a state of another kind
    for path in (*INHERITED, *own):
        if text.at(was, path) != text.at(now, path):
            said = f"{parent.id} was trained with another value, and what goes on from it must keep that."
            yield Problem(path, f"{said} Take the parent's, or start a new run.")


def _device(path: str, device: str) -> Iterator[Problem]:
    if device not in ("auto", "cpu") and not _may_have(device):
        yield Problem(path, f"There is no {device} device on this machine. Set it to auto or cpu.")


def _may_have(device: str) -> bool:
    if device == "mps":
        return sys.platform == "darwin"
    return any(glob.glob(pattern) for pattern in DEVICE_FILES[device])


def _problem(path: str, problem: BoardError) -> Problem:
    return Problem(path, f"{problem.text} {problem.hint}".strip())
