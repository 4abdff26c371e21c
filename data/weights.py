"""What a word such as `20261121-143205-sft/step-40` stands for: a base model, and an adapter on it or none.

Runs, their checkpoints, exports, models and plain folders are all named here and nowhere else, so Evaluate, Chat and
Export mean the same thing by the same word. Nothing is loaded.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import models
from engine.contract import text
from engine.contract.errors import ArgsError, ModelError
from engine.contract.rundir import Run, runs

SCORES = "SEQ_CLS"  # PEFT's word for an adapter that comes with a head for scores


@dataclass(frozen=True)
class Weights:
    """A model to load: `base` (a name, folder or hub id), and the folder of an adapter on it, or None.

    run is the training run that it came from, if any; template is what that run trained with. quantisation is how that
    run held its base. mends: whether the adapter also holds what quantising lost (LoftQ), and so belongs to the base as
    it was held, and to no other.
    """

    ref: str
    base: str
    adapter: Path | None = None
    run: Run | None = None
    template: str = "auto"
    revision: str = ""
    quantisation: str = "none"
    double_quantisation: bool = True
    mends: bool = False

    @property
    def before_prompt(self) -> bool:
        """Whether the adapter is learnt tokens or keys before the prompt, which no weights can take in."""
        if self.adapter is None:
            return False
        return "num_virtual_tokens" in json.loads((self.adapter / "adapter_config.json").read_text(encoding="utf-8"))


def adapter(ref: str, base: str, workspace: Path) -> Path:
    """The folder of the adapter that `ref` names, which must have been trained from `base`. Raises ModelError."""
    found = find(ref, workspace)
    if found.adapter is None:
        raise ModelError(f"{ref} is no adapter: its weights were trained themselves.", "Take it as model.path instead.")
    if found.base != base and _folder(found.base, workspace) != _folder(base, workspace):
        raise ModelError(f"{ref} was trained from {found.base}, not from {base} (model.path).", "Choose that model.")
    return found.adapter


def _folder(base: str, workspace: Path) -> Path | None:
    place = models.find(base, workspace)
    return place.folder.resolve() if place.folder else None


def listed(workspace: Path) -> list[str]:
    """Words to offer, newest first: each finished run, its checkpoints, the exports, then the models."""
    found = []
    for run in runs(workspace):
        if run.model_path.is_dir():
            found.append(run.id)
        found += [f"{run.id}/{folder.name}" for _, folder in reversed(run.checkpoints())]
    exports = workspace / "exports"
    if exports.is_dir():
        found += sorted(
            f"exports/{entry.name}" for entry in exports.iterdir() if entry.is_dir() and entry.name[0] != "."
        )
    return found + models.listed(workspace)


def find(ref: str, workspace: Path) -> Weights:
    """What `ref` names. Raises ModelError with the way out."""
    ref = ref.strip()
    if match := re.fullmatch(r"([\w.-]+)(?:/(step-\d+))?", ref):
        run = Run(workspace / "runs" / match[1])
        if run.args_path.is_file():
            return _of_run(ref, run, match[2])
        if re.match(r"\d{8}-\d{6}-", run.id):  # no model is called so
            raise ModelError(
                f"There is no run {run.id} in this workspace.", "It may have been deleted: choose another."
            )
    if match := re.fullmatch(r"exports/([A-Za-z0-9][\w.-]*)", ref):
        folder = workspace / "exports" / match[1]
    else:
        folder = Path(ref).expanduser()
    if (folder / "adapter_config.json").is_file():
        return _of_adapter(ref, folder.resolve(), workspace)
    place = models.find(str(folder) if ref.startswith("exports/") else ref, workspace)
    return Weights(ref, str(place.folder) if place.folder else place.hub_id)


def check_scores(ref: str, folder: Path) -> None:
    """Raise ModelError where the weights in `folder` write: they would load all the same, with a head of chance."""
    hint = "Choose a run of the task reward, or a text classifier."
    if (file := folder / "adapter_config.json").is_file():
        if json.loads(file.read_text(encoding="utf-8")).get("task_type") != SCORES:
            raise ModelError(f"{ref} writes text and scores none.", hint)
        return
    said = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    if not any(name.endswith("ForSequenceClassification") for name in said):
        raise ModelError(f"{ref} is {' '.join(said) or 'a model'}, which scores no texts.", hint)


def scores_texts(ref: str, workspace: Path) -> bool:
    """Whether `ref` names weights that score texts instead of writing them. Raises ModelError."""
    folder = _here(find(ref, workspace))
    if folder is None:
        return False
    try:
        check_scores(ref, folder)
    except ModelError:
        return False
    return True


def check_writes(ref: str, workspace: Path) -> None:
    """Raise ModelError where `ref` names nothing, or weights that answer no one: they score texts."""
    if scores_texts(ref, workspace):
        raise ModelError(
            f"{ref} scores answers and writes none.", "Take it for the rewards of PPO or GRPO, or evaluate it."
        )


def check_use(ref: str, workspace: Path, *, scores: bool) -> None:
    """Raise ModelError where `ref` names nothing, or weights for the other use: to score texts, or to write them."""
    folder = _here(find(ref, workspace))
    if folder is None:
        return  # not on this machine yet
    if scores:
        check_scores(ref, folder)
    elif scores_texts(ref, workspace):
        raise ModelError(f"{ref} scores answers and does not say how likely they are.", "Choose a model that writes.")


def _here(found: Weights) -> Path | None:
    folder = found.adapter or Path(found.base)
    return folder if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file() else None


def _of_run(ref: str, run: Run, checkpoint: str | None) -> Weights:
    try:
        args = text.load(run.args_path, kind="train")
    except ArgsError as problem:
        raise ModelError(f"{run.id} is not a training run that can be used.", problem.text) from None
    folder = run.checkpoints_path / checkpoint if checkpoint else run.model_path
    if not folder.is_dir() and not checkpoint and (saved := run.checkpoints()):
        folder = saved[-1][1]
    if not folder.is_dir():
        raise ModelError(
            f"{ref} has no saved weights.",
            "Choose one of its checkpoints."
            if run.checkpoints()
            else "Wait for its first checkpoint, or choose another run.",
        )
    template, revision = args.model.template, args.model.revision  # type: ignore[union-attr]
    if (folder / "adapter_config.json").is_file():
        model = args.model  # type: ignore[union-attr]
        held = model.quantisation, model.double_quantisation, _mends(args.method, run.workspace)  # type: ignore[union-attr]
        base = str(run.start_path) if run.start_path.is_dir() else model.path
        return Weights(ref, base, folder, run, template, revision, *held)
    return Weights(ref, str(folder), None, run, template)


def _mends(method: Any, workspace: Path) -> bool:
    """Whether an adapter begins as what quantising lost, or goes on from one that did and is still here."""
    if getattr(method, "init", "") == "loftq":
        return True
    try:
        start = getattr(method, "start_from", "")
        return bool(start) and find(start, workspace).mends
    except ModelError:
        return False


def _of_adapter(ref: str, folder: Path, workspace: Path) -> Weights:
    said = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = said.get("base_model_name_or_path") or ""
    if not base:
        raise ModelError(
            f"{ref} does not say which model it was trained from.", "Name the base in its adapter_config.json."
        )
    parent = folder.parent if folder.name == "model" else folder.parent.parent
    run = Run(parent) if (parent / "args.yaml").is_file() else None
    if run is not None and run.path.parent == (workspace / "runs").resolve():
        return _of_run(ref, run, folder.name if folder.name.startswith("step-") else None)
    return Weights(ref, base, folder, revision=said.get("revision") or "")
