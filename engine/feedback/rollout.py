"""Answers that a model writes in training: generated in batches, and read again for what it finds of each token.

Prompts are padded on the left, so that all answers begin at one place and a row gets the same numbers in company as
alone. Knows nothing of rewards or losses.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from engine.serving.generate import Sampling


@dataclass(frozen=True)
class Answers:
    """What was written to some prompts.

    ids: (rows, prompt + answer) int64: the prompt, padding before it; the answer, padding behind it.
    read: (rows, prompt + answer) bool: True at what is no padding.
    said: (rows, answer) bool: True at the answer's tokens, the first token that ends it included.
    ended: (rows,) bool: whether there is such a token.
    """

    ids: torch.Tensor
    read: torch.Tensor
    said: torch.Tensor
    ended: torch.Tensor

    @property
    def tokens(self) -> torch.Tensor:
        """(rows, answer) int64: the answers alone."""
        return self.ids[:, -self.said.shape[1] :]

    @property
    def lengths(self) -> torch.Tensor:
        """(rows,) int64: tokens of each answer, its end included."""
        return self.said.sum(1)

    def bare(self) -> list[list[int]]:
        """The token ids of each answer without its end."""
        counts = (self.lengths - self.ended.long()).tolist()
        return [row[:count] for row, count in zip(self.tokens.tolist(), counts, strict=True)]

    def __getitem__(self, rows: torch.Tensor) -> Answers:
        """Some of the rows, without the padding that all of them have."""
        read, said = self.read[rows], self.said[rows]
        before = self.ids.shape[1] - self.said.shape[1]
        first = int(read[:, :before].long().argmax(1).min())
        last = int(said.sum(1).max())
        kept = slice(first, before + last)
        return Answers(self.ids[rows, kept], read[:, kept], said[:, :last], self.ended[rows])


def joined(parts: Sequence[Answers], pad: int) -> Answers:
    """All rows of `parts`, in their order, padded alike."""
    after = max(part.said.shape[1] for part in parts)
    before = max(part.ids.shape[1] - part.said.shape[1] for part in parts)

    def wide(values: torch.Tensor, part: Answers, fill: Any) -> torch.Tensor:
        behind = after - part.said.shape[1]
        return functional.pad(values, (before + after - values.shape[1] - behind, behind), value=fill)

    return Answers(
        torch.cat([wide(part.ids, part, pad) for part in parts]),
        torch.cat([wide(part.read, part, False) for part in parts]),
        torch.cat([functional.pad(part.said, (0, after - part.said.shape[1])) for part in parts]),
        torch.cat([part.ended for part in parts]),
    )


@torch.no_grad()
def write(model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling, ends: Sequence[int], pad: int) -> Answers:
    """An answer of `model` to each prompt. ends: ids of the tokens that end an answer."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    gaps = torch.tensor([longest - len(prompt) for prompt in prompts], device=model.device)
    read = torch.arange(longest, device=model.device) >= gaps[:, None]
    config = sampling.config(ends, pad)
    config.use_cache = True
    with bare(model), remembering(model):
        written = model.generate(input_ids=ids, attention_mask=read.long(), generation_config=config)
    return marked(written, read, ends)


def marked(ids: torch.Tensor, read: torch.Tensor, ends: Sequence[int]) -> Answers:
    """Tells answers from what stands behind their end. ids: (rows, prompt + answer); read: (rows, prompt) bool.

    The token that pads may be one that ends, so the first end is looked for, not the first padding.
    """
    end = torch.isin(ids[:, read.shape[1] :], torch.tensor(list(ends), device=ids.device))
    said = end.cumsum(1) - end.long() == 0
    return Answers(ids, torch.cat([read, said], 1), said, end.any(1))


@dataclass(frozen=True)
class Thoughts:
    """What a model finds of each token of some answers, before it is said.

    logits: (rows, answer, vocabulary), as the model gives them.   temperature: what they are divided by.
    hidden: (rows, answer, width) float32: what stands below the output layer.
    """

    logits: torch.Tensor
    hidden: torch.Tensor
    temperature: float = 1.0

    def logps(self, tokens: torch.Tensor) -> torch.Tensor:
        """(rows, answer) float32: the log-probability of each of `tokens`, (rows, answer)."""
        pairs = zip(self._rows(), tokens, strict=True)
        return torch.stack([-functional.cross_entropy(row, said, reduction="none") for row, said in pairs])

    def entropy(self) -> torch.Tensor:
        """(rows, answer) float32, in nats."""
        logps = (row.log_softmax(-1) for row in self._rows())
        return torch.stack([-(row.exp() * row).sum(-1) for row in logps])

    def _rows(self) -> Iterator[torch.Tensor]:
        """(answer, vocabulary) float32, one row at a time: all at once would take twice the logits' memory."""
        return (row.float() / self.temperature for row in self.logits)


def thoughts(model: Any, answers: Answers, temperature: float = 1.0) -> Thoughts:
    """One forward pass over prompts and answers, at the temperature at which they were written."""
    count = answers.said.shape[1]
    found = model(
        input_ids=answers.ids,
        attention_mask=answers.read.long(),
        position_ids=(answers.read.cumsum(1) - 1).clamp(min=0),
        output_hidden_states=True,
        use_cache=False,
        **({"logits_to_keep": count + 1} if _sparse(model) else {}),
    )
    # The token before says what it expects next.
    logits, hidden = found.logits[:, -count - 1 : -1], found.hidden_states[-1][:, -count - 1 : -1]
    return Thoughts(logits, hidden.float(), temperature)


def steady(model: torch.nn.Module) -> None:
    """Turns dropout off, so that what was written has the probability that it was written with. Layers that compute
    their activations again go on doing so: they ask for training mode, and those within them need not be in it."""
    model.eval()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


@contextlib.contextmanager
def remembering(model: torch.nn.Module) -> Iterator[None]:
    """Within it layers that compute their activations again keep a cache of what was read: in training mode they drop
    it, and each token would be written to the one before alone."""
    layers = [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer) and one.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


@contextlib.contextmanager
def bare(model: Any) -> Iterator[None]:
    """Within it nothing that the model's own generation_config.json recommends fills what a caller leaves out."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    own, inner.generation_config = inner.generation_config, GenerationConfig()
    try:
        yield
    finally:
        inner.generation_config = own


def _sparse(model: Any) -> bool:
    inner = getattr(model, "module", model)  # below what shares gradients between processes
    inner = inner.get_base_model() if hasattr(inner, "peft_config") else inner
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
