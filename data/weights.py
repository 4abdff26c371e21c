"""What a word such as `20261121-143205-sft/step-40` stands for: a base model, and an adapter on it or none.

Runs, their checkpoints, exports, models and plain folders are all named here and nowhere else, so Evaluate, Chat and
Export mean the same thing by the same word. Nothing is loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from data import models
from engine.contract import text
from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError, ModelError
from engine.contract.rundir import Run, runs
from engine.contract.sections import Model

CLASSIFIER = "ForSequenceClassification"
SILENT = (CLASSIFIER, "ForTokenClassification", "ForMaskedLM", "ForQuestionAnswering", "ForMultipleChoice")
"""How transformers names what writes nothing, and would be loaded to write all the same, with a head of chance."""
MENDABLE = ("nf4", "fp4")  # what LoftQ can make up for
BOTH = (True, False)
HELD = ("quantisation", "double_quantisation", "mends")
"""What the receipt of an exported adapter says of its base."""
QUANTISED = get_args(Model.model_fields["quantisation"].annotation)
SCORES = "SEQ_CLS"  # PEFT's word for an adapter that comes with a head for scores


@dataclass(frozen=True)
class Weights:
    """A model to load: `base` (a name, folder or hub id), and the folder of an adapter on it, or None.

    run is the training run that it came from, if any; template is what that run trained with. quantisation is how its
    base was held in training. mends: whether the adapter also holds what quantising lost (LoftQ), and so belongs to the
    base as it was held, and to no other.
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
    """What `ref` names. Raises ModelError with the way out, also where the base of an adapter is gone."""
    found = _found(ref.strip(), workspace)
    if found.adapter and Path(found.base).is_absolute() and not Path(found.base).is_dir():
        raise ModelError(
            f"{found.ref} stands on the model in {found.base}, which is gone.",
            "Put that folder back: an adapter fits the weights that it was trained on, and no others.",
        )
    if found.adapter:
        try:
            models.find(found.base, workspace, found.revision)
        except ModelError as problem:
            raise ModelError(
                f"{found.ref} stands on a model that cannot be had. {problem.text}",
                "Put it back under its name: an adapter fits the weights that it was trained on, and no others.",
            ) from None
    return found


def mends(run: Run, args: TrainArgs) -> bool:
    """Whether the adapter of `run` begins as what quantising lost (LoftQ), or goes on from one that did.

    A run writes it down when it starts. Raises ModelError where it did not and what it went on from is gone.
    """
    held, start = args.model.quantisation, getattr(args.method, "start_from", "")
    if held not in MENDABLE:
        return False
    if not start:
        return bool(getattr(args.method, "init", "") == "loftq")
    if run.env_path.is_file() and (known := json.loads(run.env_path.read_text(encoding="utf-8")).get("mends")) in BOTH:
        return bool(known)
    try:
        return _found(start, run.workspace).mends
    except ModelError:
        raise ModelError(
            f"{run.id} went on from {start} (method.start_from), which is gone, and nothing else tells whether it "
            f"also holds what {held} lost (loftq).",
            f'Put {start} back; or write "mends": true if that was loftq, else false, into {run.env_path}.',
        ) from None


def receipt(folder: Path) -> dict[str, Any]:
    """What an export wrote about itself; empty for any other folder. Raises ModelError."""
    path = folder / "receipt.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as problem:
        raise ModelError(f"{path} is damaged: {problem}.", "Remove the file, or export again.") from None


def _found(ref: str, workspace: Path) -> Weights:
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
    if not any(name.endswith(CLASSIFIER) for name in said):
        raise ModelError(f"{ref} is {' '.join(said) or 'a model'}, which scores no texts.", hint)


def label_of(ref: str, names: Sequence[str], label: str) -> int | None:
    """The place among a classifier's classes, called `names`, of the one whose log-odds are its score, by its name or
    number; None where it gives one number. Raises ModelError."""
    if len(names) == 1:
        if label:
            raise ModelError(f"{ref} gives one number and has no label {label!r}.", "Leave the label empty.")
        return None
    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < len(names):
        return int(label)
    said = f"{ref} has no label {label!r}" if label else f"{ref} has several labels"
    raise ModelError(f"{said}.", f"Choose one of {', '.join(names)}.")


def _labels(folder: Path) -> list[str]:
    """The names of the classes of the classifier in `folder`, by their numbers; one where it gives one number."""
    if (folder / "adapter_config.json").is_file():
        return ["score"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = config.get("id2label") or {}
    default = [f"LABEL_{number}" for number in range(config.get("num_labels") or 2)]  # as transformers has it
    return [str(named[number]) for number in sorted(named, key=int)] or default


def check_task(name: str, folder: Path, *, scores: bool) -> None:
    """Raise ModelError where a run cannot start from the model in `folder`: one that does not write can only become a
    reward model (`scores`), and what tells several classes apart not even that."""
    kind = models.card(folder).architecture
    if kind.endswith(SILENT) and not scores:
        raise ModelError(f"{name} is {kind}, which writes no text.", "Choose a model that writes (ForCausalLM).")
    if kind.endswith(CLASSIFIER) and len(names := _labels(folder)) > 1:
        said = f"{name} tells {len(names)} labels apart, and a reward model gives one number."
        raise ModelError(said, "Choose a model that writes, or take it for the rewards of PPO or GRPO as it is.")


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


def check_use(ref: str, workspace: Path, *, scores: bool, label: str = "") -> None:
    """Raise ModelError where `ref` names nothing, or weights for the other use: to score texts, or to write them; or
    where what scores has no class `label`."""
    folder = _here(find(ref, workspace))
    if folder is None:
        return  # not on this machine yet
    if scores:
        check_scores(ref, folder)
        label_of(ref, _labels(folder), label)
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
        held = model.quantisation, model.double_quantisation, mends(run, args)  # type: ignore[arg-type]
        base = str(run.start_path) if run.start_path.is_dir() else model.path
        return Weights(ref, base, folder, run, template, revision, *held)
    return Weights(ref, str(folder), None, run, template)


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
    held = receipt(folder).get("held") or {}
    known = {name: held[name] for name in HELD if name in held} if held.get("quantisation") in QUANTISED else {}
    return Weights(ref, base, folder, revision=said.get("revision") or "", **known)
