"""What a preference is measured against: the model as it was before training, or another model.

Asked in every step, or once for all rows, after which a second model need not stay in memory. How the model as it was
is kept, `reference.py` knows. Knows no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from data import weights
from data.encoding.tokens import TextTokenizer
from engine.contract.errors import ArgsError, Problem
from engine.feedback.logps import logps
from engine.feedback.reference import Start
from engine.models.model import folder_of, model_of, with_adapter
from engine.recipes.setting import Setting

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Anchor:
    """ask: (rows, length - 1) log-probabilities of the answers in a batch, as `engine.feedback.logps.logps` gives them.

    once: whether it is asked for every row before training, and let go.
    """

    ask: Callable[[Batch], torch.Tensor]
    once: bool = False


def anchor(setting: Setting, model: Any) -> Anchor:
    """What `model`, which has made no step yet, is held to. Raises ArgsError or ModelError."""
    task = setting.args.task
    wanted, once = getattr(task, "reference_model", ""), getattr(task, "precompute_reference", False)
    if wanted:
        other = _other(setting, wanted)
        return Anchor(lambda batch: logps(other, batch), once)
    if once:
        return Anchor(lambda batch: logps(model, batch), once)  # no step is made before it is asked
    return Anchor(as_it_is(model))


def as_it_is(model: Any) -> Callable[[Batch], torch.Tensor]:
    """`ask` of a model as it is now, however it is trained from here on. Without gradients."""
    start = Start(model)

    def ask(batch: Batch) -> torch.Tensor:
        with torch.no_grad(), start.of(model):
            return logps(model, batch)

    return ask


def _other(setting: Setting, wanted: str) -> Any:
    """The second model, frozen, on the run's device. Its tokens must be those of the trained one."""
    found = weights.find(wanted, setting.run.workspace)
    code = setting.args.model.trust_remote_code
    folder = folder_of(found.base, setting.run.workspace, found.revision, code=code, say=setting.report.note)
    weights.check_use(wanted, setting.run.workspace, scores=False)  # it may have come just now
    ours, theirs = (TextTokenizer.of(one) for one in (setting.folder, folder))
    probe = "".join(map(chr, range(32, 127))) + " The quick brown fox; 12,345 \u00e9\u4e2d\n"
    if ours.encode(probe).ids != theirs.encode(probe).ids or ours.vocabulary_size != theirs.vocabulary_size:
        said = f"{wanted} reads text as other tokens than {setting.args.model.path}."
        raise ArgsError([Problem("task.reference_model", f"{said} Choose a model of the same family.")])
    model = model_of(
        folder, dtype=setting.dtype, device=setting.device, attention=setting.args.model.attention,
        trust_remote_code=code, quantisation=found.quantisation, double_quantisation=found.double_quantisation,
    )  # fmt: skip
    if found.adapter:
        model = with_adapter(model, found.adapter)
    return model.requires_grad_(False).eval()
