"""How the weights change: the optimiser and its schedule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from engine.contract import own
from engine.contract.errors import Problem
from engine.contract.fields import AUTO, MANY, Auto, Section, arg
from engine.contract.solvers import BY_MEASURE, SCHEDULES, SOLVERS, WITH_LEAST


class Optim(Section):
    """How the weights change."""

    title: ClassVar[str] = "Optimiser"

    learning_rate: float | Auto = arg(
        AUTO,
        "Peak learning rate: how far each step moves the weights.",
        when="Lower it when the loss jumps or answers turn to noise; raise it when the loss hardly falls.",
        usual="1e-4 to 1e-3 for LoRA, 1e-5 to 1e-4 for freeze and full (method.kind)",
        to="trainer.learning_rate",
        basic=True,
        gt=0,
        lt=1,
    )
    schedule: Literal[
        "linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "cosine_with_restarts", "polynomial",
        "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy",
    ] = arg(
        "cosine",
        "How the learning rate falls from its peak to the end; reduce_lr_on_plateau and greedy go by the held-out "
        "loss.",
        when="constant or warmup_stable_decay when you mean to continue the run later.",
        usual="cosine or linear",
        to="trainer.lr_scheduler_type",
    )  # fmt: skip
    schedule_own: dict[str, Any] = arg(
        {},
        "The schedule's own settings, by its names. "
        + " ".join(f"{name}: {', '.join(known)}." for name, known in SCHEDULES.items() if known),
        when="Rarely.",
        usual="empty",
        label="The schedule's own settings",
        known=SCHEDULES,
        by="schedule",
    )
    min_learning_rate: float = arg(
        0.0,
        "The learning rate that the schedule ends at.",
        when="For long runs: a tenth of the peak keeps the end from standing still.",
        usual="0 to a tenth of the peak",
        label="Minimum learning rate",
        ge=0,
        lt=1,
    )
    warmup: float = arg(
        0.05,
        "The start, in which the learning rate climbs: a share of all steps when below 1, else steps.",
        when="Raise it when the first steps are unstable.",
        usual="0 to 0.1",
        to="trainer.warmup_steps",
        ge=0,
        le=MANY,
    )
    weight_decay: float = arg(
        0.0,
        "Pulls weights towards zero.",
        when="For full training on many rows.",
        usual="0 to 0.1",
        to="trainer.weight_decay",
        ge=0,
        le=1,
    )
    max_grad_norm: float = arg(
        1.0,
        "Gradients longer than this are shortened to it.",
        when="Lower it when the loss spikes.",
        usual="0.3 to 1",
        to="trainer.max_grad_norm",
        gt=0,
        le=MANY,
        label="Gradient clipping",
    )
    optimiser: Literal[
        "adamw_torch", "adamw_torch_fused", "adamw_torch_8bit", "adamw_torch_4bit", "adamw_torch_xla",
        "adamw_torch_npu_fused", "adamw_anyprecision", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit",
        "paged_adamw_32bit", "stable_adamw", "grokadamw", "ademamix", "ademamix_8bit", "paged_ademamix_32bit",
        "paged_ademamix_8bit", "adafactor", "muon", "adam_mini", "badam", "galore_adamw", "galore_adamw_8bit",
        "galore_adafactor", "galore_adamw_layerwise", "galore_adamw_8bit_layerwise",
        "apollo_adamw", "apollo_adamw_layerwise", "lomo", "adalomo", "schedule_free_adamw", "schedule_free_radam",
        "schedule_free_sgd", "lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit", "sgd", "adagrad",
        "rmsprop", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit",
    ] = arg(
        "adamw_torch",
        "The rule that turns gradients into steps. 8bit and adafactor keep little state; galore and apollo keep that "
        "of a projection; muon makes each matrix's step orthogonal; badam trains one block of layers at a time; lomo "
        "and the layerwise ones keep no gradients.",
        when="adamw_8bit or adafactor when memory is short; badam, galore or lomo for all weights of a large model.",
        usual="adamw_torch",
    )  # fmt: skip
    own: dict[str, Any] = arg(
        {},
        "The optimiser's own settings, by its names, such as beta1, beta2 and eps of those that go back to Adam.",
        when="When its paper gives other values for your case.",
        usual="empty",
        label="The optimiser's own settings",
        known={name: solver.own for name, solver in SOLVERS.items()},
        by="optimiser",
    )
    embedding_rate: float = arg(
        1.0,
        "The learning rate of trained embeddings, as a multiple of the others'.",
        when="0.1 when embeddings are trained on little text: they overfit first.",
        usual="0.1 to 1",
        label="Rate of embeddings",
        gt=0,
        le=100,
    )
    layer_decay: float = arg(
        1.0,
        "Each layer further from the output learns by this factor less.",
        when="0.9 keeps early layers near to what they know.",
        usual="0.8 to 1",
        label="Decay by layer",
        gt=0,
        le=1,
    )

    def never_peaks(self, steps: int) -> bool:
        """Whether a run of so many steps ends before the learning rate has reached its peak."""
        return self.warmup >= max(1, steps) and self.schedule not in ("constant", *BY_MEASURE)

    def problems(self) -> Iterator[Problem]:
        """Rules between these fields."""
        found = list(own.problems("optim.own", self.own, SOLVERS[self.optimiser].own, self.optimiser))
        yield from found or self._own_problems()
        yield from own.problems("optim.schedule_own", self.schedule_own, SCHEDULES[self.schedule], self.schedule)
        if self.min_learning_rate and self.schedule not in WITH_LEAST:
            said = f"{self.schedule} (optim.schedule) has no lowest rate. Set it to 0, or choose cosine or linear."
            yield Problem("optim.min_learning_rate", said)
        if isinstance(self.learning_rate, float) and self.min_learning_rate >= self.learning_rate:
            said = f"{self.min_learning_rate:g} is not below the peak of {self.learning_rate:g} (optim.learning_rate)."
            yield Problem("optim.min_learning_rate", said)

        if self.optimiser in ("lomo", "adalomo"):
            for name, least in (("weight_decay", 0.0), ("embedding_rate", 1.0), ("layer_decay", 1.0)):
                if getattr(self, name) != least:
                    said = (
                        f"{self.optimiser} (optim.optimiser) moves all weights alike. Set it to {least:g}, or choose "
                    )
                    yield Problem(f"optim.{name}", f"{said}another optimiser.")

    def _own_problems(self) -> Iterator[Problem]:
        """Rules between the optimiser's own settings, each of which is fine by itself."""
        given = own.values(self.own, SOLVERS[self.optimiser].own)
        if self.optimiser == "sgd" and given["nesterov"] and not given["momentum"]:
            yield Problem("optim.own.nesterov", "It looks ahead by momentum, which is 0. Set momentum too, as to 0.9.")
        if given.get("scale_type") == "channel" and given["proj_type"] != "std":
            said = f"{given['proj_type']} shares a scale among tensors alone. Set scale_type to tensor, or this to std."
            yield Problem("optim.own.proj_type", said)
