"""The model that a run starts from, as its arguments want it: precision, attention, and what stands on top.

A recipe takes `language_model` or another function of this module as its `load`. Knows no task and no method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.model import model_of

if TYPE_CHECKING:
    from engine.recipes.setting import Setting


def language_model(setting: Setting) -> Any:
    """A model that says the next token, on the run's device."""
    wanted = setting.args.model
    return model_of(
        setting.folder,
        dtype=setting.dtype,
        device=setting.device,
        attention=wanted.attention,
        trust_remote_code=wanted.trust_remote_code,
    )
