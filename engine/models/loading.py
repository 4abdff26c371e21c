"""The model that a run starts from, as its arguments want it: precision, attention, and what stands on top.

A recipe takes `language_model` or another function of this module as its `load`. Knows no task and no method.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from data import models
from engine.contract.errors import ModelError
from engine.models.model import model_of

if TYPE_CHECKING:
    from engine.recipes.setting import Setting


def language_model(setting: Setting) -> Any:
    """A model that says the next token, on the run's device."""
    wanted = setting.args.model
    return model_of(
        setting.folder,
        dtype=setting.dtype,
        device=setting.home,
        attention=wanted.attention,
        trust_remote_code=wanted.trust_remote_code,
        quantisation=wanted.quantisation,
        double_quantisation=wanted.double_quantisation,
    )


def classifier(setting: Setting) -> Any:
    """A model that gives a text one number: its last token's state through a new head, which begins by chance."""
    wanted = setting.args.model
    torch.manual_seed(setting.args.steps.seed)
    return classifier_of(
        setting.folder,
        dtype=setting.dtype,
        device=setting.home,
        pad_id=setting.tokenizer.pad_token_id,
        attention=wanted.attention,
        trust_remote_code=wanted.trust_remote_code,
        quantisation=wanted.quantisation,
        double_quantisation=wanted.double_quantisation,
        num_labels=1,
    )


def classifier_of(folder: Path, *, pad_id: int, **wanted: Any) -> Any:
    """The model in `folder` as one that scores texts; `wanted` as for `engine.models.model.model_of`.

    pad_id: of its tokenizer; the score is read at the last token that is another. Raises ModelError.
    """
    from transformers import AutoModelForSequenceClassification

    if models.sees(folder):
        raise ModelError(f"{folder.name} sees, and a model that scores texts reads text alone.", "Choose another.")
    model = model_of(folder, kind=AutoModelForSequenceClassification, **wanted)
    model.config.get_text_config().pad_token_id = pad_id
    return model
