"""Whether exported weights answer as the tuned model does: logits on probe prompts, compared and judged.

Everything is compared in fp32 arithmetic, so that what differs is the weights. Knows nothing of folders or cards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from engine.contract.errors import BoardError

ANSWER_TOKENS = 16  # each probe goes on with this much of the tuned model's own answer: there the tuning shows

# Allowed differences, as shares of the largest logit. Both compare fp32 with fp32.
MERGED = 1e-4  # sums in another order; seen with a model of 30 layers: 2.4e-6
READ_BACK = 1e-5  # the same weights twice; seen: 0
# Allowed root mean square difference once rounded, in machine epsilons of the written dtype. Seen with 30 layers: 3.6
# in bf16 (the arithmetic of bf16 alone, nothing merged: 2.6), where leaving the adapter out gave 41.
ROUNDINGS = 16
UNIT = 1.0  # a reward's: its differences are log-odds, so one near nothing is not held to its own size


class VerificationError(BoardError):
    """What was written does not answer as the tuned model does."""


@dataclass(frozen=True)
class Difference:
    """Two models' logits over all probe positions.

    max_difference is absolute, in logits, as is `largest`, the largest logit; rms is the root mean square difference as
    a share of the logits' own; kl is the mean Kullback-Leibler divergence in nats. top1_equal counts the positions
    whose most likely token is the same, and lead is its largest lead over the second where it is not.
    """

    max_difference: float
    largest: float
    rms: float
    kl: float
    positions: int
    top1_equal: int
    lead: float

    @property
    def share(self) -> float:
        return self.max_difference / max(self.largest, 1e-9)

    def facts(self) -> dict[str, Any]:
        return asdict(self)


Logits = list[torch.Tensor]  # one (positions, vocabulary) fp32 tensor on the CPU for each probe


@torch.inference_mode()
def logits_of(model: Any, probes: Sequence[Sequence[int]]) -> Logits:
    """The logits at every position of every probe, one probe at a time, in the arithmetic that `model` is in."""
    found = []
    for ids in probes:
        tokens = torch.tensor([list(ids)], device=model.device)
        logits = model(input_ids=tokens, use_cache=False).logits[0].float().cpu()
        found.append(logits if logits.dim() > 1 else logits[None])  # a text's scores count as one position
    return found


@torch.inference_mode()
def answered(model: Any, prompts: Sequence[Sequence[int]], pad: int) -> list[list[int]]:
    """The prompts, each with the first tokens of the model's own greedy answer."""
    settings = GenerationConfig(max_new_tokens=ANSWER_TOKENS, do_sample=False, pad_token_id=pad)
    found = []
    for ids in prompts:
        tokens = torch.tensor([list(ids)], device=model.device)
        said = model.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
        found.append(said[0].tolist())
    return found


def difference(reference: Logits, other: Logits) -> Difference:
    wanted, got = torch.cat(reference), torch.cat(other)
    if wanted.shape != got.shape:
        raise VerificationError(
            f"The export has logits of another shape: {tuple(got.shape)} instead of {tuple(wanted.shape)}."
        )
    top = wanted.topk(min(2, wanted.shape[1]), dim=-1)
    same = got.argmax(dim=-1) == top.indices[:, 0]
    leads = (top.values[:, 0] - top.values[:, -1])[~same]
    apart = wanted - got
    unit = UNIT if wanted.shape[1] == 1 else 0.0
    likely = wanted.log_softmax(dim=-1)
    return Difference(
        max_difference=float(apart.abs().max().nan_to_num(float("inf"))),
        largest=float(wanted.abs().max().clamp(min=unit)),
        rms=float((apart.square().mean() / wanted.square().mean().clamp(min=unit**2)).sqrt().nan_to_num(float("inf"))),
        kl=float((likely.exp() * (likely - got.log_softmax(dim=-1))).sum(dim=-1).mean()),
        positions=len(wanted),
        top1_equal=int(same.sum()),
        lead=float(leads.max()) if len(leads) else 0.0,
    )


def check_equal(what: str, found: Difference, allowed: float) -> None:
    """Raise VerificationError when what should be equal differs by more than `allowed`, a share of the largest logit.

    Within it, no position changes its most likely token where that leads by more than twice the allowed difference.
    """
    if not found.share <= allowed:
        raise _refused(what, found, f"{allowed * found.largest:.2g} is allowed")


def check_rounded(what: str, found: Difference, dtype: torch.dtype) -> None:
    """Raise VerificationError when more has changed than the cast to `dtype` explains.

    A most likely token may change only where it leads by less than the numeric difference.
    """
    allowed = MERGED + ROUNDINGS * torch.finfo(dtype).eps
    if not found.rms <= allowed:
        raise _refused(what, found, f"a mean change of {allowed:.2%} is allowed and {found.rms:.2%} was found")
    if found.lead > found.max_difference:
        raise _refused(what, found, f"a token that led by {found.lead:.2g} lost its lead")


def _refused(what: str, found: Difference, why: str) -> VerificationError:
    return VerificationError(
        f"The export was not kept: {what} by {found.max_difference:.3g}; {why}. The most likely token is the same at "
        f"{found.top1_equal} of {found.positions} positions.",
        "Export again; if it happens again, export in fp32 or the adapter alone, and report it.",
    )
