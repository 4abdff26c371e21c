"""Writing by what was learnt of worth: each token's logit is raised by how much better it is than what is expected.

log pi(a | s) = log pi_beta(a | s) + strength (Q(s, a) - V(s)) + a constant (Snell et al., 2022), where Q is the lower
of two heads. It is a property of the model while it is on, so whatever generates or measures is guided.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from engine.feedback import heads

FACT = "guidance"  # in the file of the heads: how strongly they guide


@dataclass(frozen=True)
class Guidance:
    """heads: `slow_first` and `slow_second` (width -> vocabulary), `value` (width -> 1)."""

    heads: nn.ModuleDict
    strength: float

    @classmethod
    def of(cls, folder: Path, device: torch.device) -> Guidance | None:
        """What lies beside the weights in `folder`; None where nothing there guides."""
        facts = heads.facts_of(folder)
        if FACT not in facts:
            return None
        state = load_file(folder / heads.FILE)
        width = state["value.0.weight"].shape[1]
        found = nn.ModuleDict({
            name: heads.deep(width, len(state[f"{name}.2.bias"])) for name in ("slow_first", "slow_second", "value")
        })  # fmt: skip
        found.load_state_dict({name: value for name, value in state.items() if name.split(".")[0] in found})
        return cls(found.to(device).requires_grad_(False).eval(), float(facts[FACT]))

    def gains(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., vocabulary) float32 out of (..., width): how much better each token is than what is expected."""
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            worth = torch.minimum(self.heads["slow_first"](hidden), self.heads["slow_second"](hidden))
            return worth - self.heads["value"](hidden)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def on(self, model: Any) -> Iterator[None]:
        """Within it `model` says and generates what it does by their guidance."""
        seen: list[torch.Tensor] = []

        def remember(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            seen[:] = given[:1]

        def guide(module: nn.Module, given: Any, output: Any) -> Any:
            gains = self.strength * self.gains(seen.pop())
            output.logits = output.logits + gains.to(output.logits.dtype)
            return output

        inner = model.get_base_model() if hasattr(model, "peft_config") else model
        hooks = [
            inner.get_output_embeddings().register_forward_pre_hook(remember),
            inner.register_forward_hook(guide),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
