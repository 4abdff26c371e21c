"""The model as it was at its start, to which training is held.

With an adapter it is the same model with the adapter off, for nothing; where the weights themselves move it is a copy
of those that do, beside which the others are shared.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any


def frozen(model: Any) -> Any | None:
    """A copy of `model` that does not move, before any step; None where the adapter can be turned off."""
    if hasattr(model, "peft_config"):
        return None
    shared = {id(weights): weights for weights in model.parameters() if not weights.requires_grad}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()


@contextlib.contextmanager
def at_start(model: Any, copied: Any | None) -> Any:
    """Within it, the model that answers as `model` did at its start; `copied` is what `frozen` gave."""
    if copied is not None:
        yield copied
    else:
        with model.disable_adapter():
            yield model
