"""The model as it was at its start, to which training is held.

Where an adapter begins by changing nothing it is the model with the adapter off, for nothing. Else (weights that move
themselves, an adapter that goes on from another run) it is the model with copies of the weights that move in their
places, beside which all others are shared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

PROBED = 8  # tokens that tell whether an adapter changes anything


class Start:
    """Remembers `model`, which has made no step yet."""

    def __init__(self, model: Any) -> None:
        moved = {name: one for name, one in model.named_parameters() if one.requires_grad}
        self.kept = None if idle(model) else {name: one.detach().clone() for name, one in moved.items()}

    @contextlib.contextmanager
    def of(self, model: Any) -> Iterator[Any]:
        """Within it `model` is as it was. For looking only: nothing that needs a gradient may reach out of it."""
        if self.kept is None:
            with model.disable_adapter():
                yield model
            return
        self._swap(model)
        try:
            yield model
        finally:
            self._swap(model)

    def _swap(self, model: Any) -> None:
        places = dict(model.named_parameters())
        for name, kept in (self.kept or {}).items():
            places[name].data, self.kept[name] = kept, places[name].data  # type: ignore[index]
        torch.clear_autocast_cache()  # it knows weights by their place, and would go on with those of before


@torch.no_grad()
def idle(model: Any) -> bool:
    """Whether `model` has an adapter that changes nothing yet."""
    if not hasattr(model, "disable_adapter"):
        return False
    ids = torch.arange(1, 1 + PROBED, device=model.device)[None]
    training = model.training
    model.eval()
    with torch.compiler.set_stance("force_eager"):  # one look is not worth compiling, which takes minutes
        tuned = model(input_ids=ids, use_cache=False).logits
        with model.disable_adapter():
            same = torch.equal(tuned, model(input_ids=ids, use_cache=False).logits)
    model.train(training)
    return same
