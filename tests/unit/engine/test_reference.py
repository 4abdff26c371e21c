"""The look that tells whether an adapter changes anything yet."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch

from engine.feedback.reference import idle


class Layer(torch.nn.Module):
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return 2 * input_ids


class Tuned(torch.nn.Module):
    """A model with a compiled layer, whose adapter is idle; `graphs` are those that were compiled."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.graphs: list[Any] = []
        self.layer = Layer()
        self.layer.compile(backend=self.compiled)

    def compiled(self, graph: Any, _: Any) -> Any:
        self.graphs.append(graph)
        return graph

    def disable_adapter(self) -> Any:
        return nullcontext()

    def forward(self, input_ids: torch.Tensor, use_cache: bool = True) -> Any:
        return SimpleNamespace(logits=self.layer(input_ids))


def test_a_look_at_a_compiled_model_compiles_nothing() -> None:
    model = Tuned()
    assert idle(model)
    assert not model.graphs
    model(torch.ones(1, 2, dtype=torch.long))
    assert len(model.graphs) == 1
