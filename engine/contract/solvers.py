"""The optimisers by name: their own settings, and what each needs. The schedules by name, and their own settings.

Knows no arithmetic: `engine/tuning/optimisers.py` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.contract.own import Own


@dataclass(frozen=True)
class Solver:
    """One optimiser.

    package: what must be importable.   install: the command that brings it.
    matrices: only for methods that change the model's own weights, not for adapters.
    at_once: takes its step while gradients are made, each weight by itself: no accumulation, no second process, and its
    state is not in a checkpoint.
    alone: one process only.   device: the only kind of device that it is for.
    whole: the launch strategies whose shares of weights it cannot step on. The kernels of bitsandbytes and the factors
    of Adafactor take no DTensor, which FSDP2 makes of every weight.
    """

    own: Mapping[str, Own] = field(default_factory=dict)
    package: str = ""
    install: str = ""
    matrices: bool = False
    at_once: bool = False
    alone: bool = False
    device: str = ""
    whole: tuple[str, ...] = ()


BETA1 = Own(0.9, "How much of the last steps' direction is kept.", 0, 0.9999)
BETA2 = Own(0.999, "How slowly the size of gradients is forgotten.", 0, 0.99999)
EPS = Own(1e-8, "Keeps divisions from zero.", 0, 1)
ADAM = {"beta1": BETA1, "beta2": BETA2, "eps": EPS}
MIX = ADAM | {
    "beta3": Own(0.9999, "How much of the long memory is kept.", 0, 0.999999),
    "alpha": Own(5.0, "Weight of the long memory.", 0, 100),
}
LION = {"beta1": BETA1, "beta2": Own(0.999, "How slowly the direction is forgotten.", 0, 0.99999)}
MOMENTUM = Own(0.0, "How much of the last steps' direction is kept.", 0, 0.9999)
RMS = {"alpha": Own(0.99, "How slowly the size of gradients is forgotten.", 0, 0.99999), "eps": EPS,
       "momentum": MOMENTUM, "centered": Own(False, "Takes the mean gradient off.")}  # fmt: skip
RMS_BNB = {"alpha": Own(0.99, RMS["alpha"].help, 0.0001, 0.99999), "eps": EPS, "momentum": MOMENTUM}
LOW = {
    "rank": Own(128, "Rank of the space that gradients are projected to.", 1, 65536),
    "update_proj_gap": Own(200, "Steps between two projections.", 1, 1_000_000),
}
GALORE = LOW | {
    "scale": Own(0.25, "Strength of the projected step.", 0, 1000),
    "proj_type": Own("std", "Which side is projected.", choices=("std", "reverse_std", "right", "left", "full")),
}
APOLLO = LOW | {
    "scale": Own(1.0, "Strength of the projected step.", 0, 1000),
    "proj": Own("random", "How the projection is found.", choices=("random", "svd")),
    "scale_type": Own("channel", "What shares a scale.", choices=("channel", "tensor")),
    "proj_type": Own("std", "Which side is projected.", choices=("std", "reverse_std", "left", "right")),
}
FREE = {
    "weight_lr_power": Own(2.0, "How the average weighs steps by their rate.", 0, 10),
    "r": Own(0.0, "How the average weighs late steps.", 0, 10),
}
LOMO = {"clip_grad_norm": Own(0.0, "Shortens gradients to this length, at the price of a second pass; 0 does not.", 0)}

GALORE_AT, APOLLO_AT = ("galore_torch", "pip install galore-torch"), ("apollo_torch", "pip install apollo-torch")
FREE_AT, LOMO_AT = ("schedulefree", "pip install schedulefree"), ("lomo_optim", "pip install lomo-optim")
AO_AT = ("torchao", "pip install torchao")
FSDP = ("fsdp",)

SOLVERS: dict[str, Solver] = {
    "adamw_torch": Solver(ADAM),
    "adamw_torch_fused": Solver(ADAM),
    "adamw_torch_8bit": Solver(ADAM, *AO_AT),
    "adamw_torch_4bit": Solver(ADAM, *AO_AT),
    "adamw_torch_xla": Solver(ADAM, "torch_xla", "pip install torch-xla"),
    "adamw_torch_npu_fused": Solver(ADAM, "torch_npu", "pip install torch-npu", device="npu"),
    "adamw_anyprecision": Solver(ADAM, "torchdistx", "pip install torchdistx"),
    "adamw_8bit": Solver(ADAM, whole=FSDP),
    "adamw_bnb_8bit": Solver(ADAM, whole=FSDP),
    "paged_adamw_8bit": Solver(ADAM, whole=FSDP),
    "paged_adamw_32bit": Solver(ADAM, whole=FSDP),
    "stable_adamw": Solver(
        {"beta1": BETA1, "beta2": Own(0.99, BETA2.help, 0, 0.99999), "eps": Own(1e-6, EPS.help, 0, 1)},
        "optimi", "pip install torch-optimi",
    ),
    "grokadamw": Solver({
        "alpha_init": Own(0.98, "How much of the slow gradients is kept.", 0, 1),
        "lamb": Own(2.0, "Strength of the slow gradients.", 0, 100),
        "gamma": Own(0.1, "How much less early layers are amplified.", 0, 1),
    }, "grokadamw", "pip install grokadamw"),
    "ademamix": Solver(MIX, whole=FSDP),
    "ademamix_8bit": Solver(MIX, whole=FSDP),
    "paged_ademamix_32bit": Solver(MIX, whole=FSDP),
    "paged_ademamix_8bit": Solver(MIX, whole=FSDP),
    "adafactor": Solver({
        "clip_threshold": Own(1.0, "Steps larger than this are made smaller.", 0.01, 100),
        "decay_rate": Own(-0.8, "How the memory of gradients' sizes grows.", -1, 0),
    }, whole=FSDP),
    "muon": Solver(ADAM | {
        "momentum": Own(0.95, "How much of the last steps' direction is kept.", 0, 0.9999),
        "nesterov": Own(True, "Looks one step ahead."),
        "ns_steps": Own(5, "Rounds in which a step is made orthogonal.", 1, 20),
    }, whole=("fsdp", "zero3")),
    "adam_mini": Solver(ADAM, matrices=True),
    "badam": Solver(ADAM | {
        "switch_every": Own(50, "Steps after which the next block of layers is trained.", 1, 1_000_000),
        "order": Own("random", "The order of the blocks.", choices=("random", "ascending", "descending")),
    }, matrices=True, alone=True),
    "galore_adamw": Solver(GALORE, *GALORE_AT, matrices=True, alone=True),
    "galore_adamw_8bit": Solver(GALORE, *GALORE_AT, matrices=True, alone=True, device="cuda"),
    "galore_adafactor": Solver(GALORE, *GALORE_AT, matrices=True, alone=True),
    "galore_adamw_layerwise": Solver(GALORE, *GALORE_AT, matrices=True, at_once=True, alone=True),
    "galore_adamw_8bit_layerwise": Solver(GALORE, *GALORE_AT, matrices=True, at_once=True, alone=True, device="cuda"),
    "apollo_adamw": Solver(APOLLO, *APOLLO_AT, matrices=True, alone=True),
    "apollo_adamw_layerwise": Solver(APOLLO, *APOLLO_AT, matrices=True, at_once=True, alone=True),
    "lomo": Solver(LOMO, *LOMO_AT, matrices=True, at_once=True, alone=True),
    "adalomo": Solver(LOMO, *LOMO_AT, matrices=True, at_once=True, alone=True, device="cuda"),
    "schedule_free_adamw": Solver(ADAM | FREE, *FREE_AT),
    "schedule_free_radam": Solver(ADAM | FREE, *FREE_AT),
    "schedule_free_sgd": Solver({"momentum": Own(0.9, MOMENTUM.help, 0.0001, 0.9999)} | FREE, *FREE_AT),
    "lion_32bit": Solver(LION, whole=FSDP),
    "lion_8bit": Solver(LION, whole=FSDP),
    "paged_lion_32bit": Solver(LION, whole=FSDP),
    "paged_lion_8bit": Solver(LION, whole=FSDP),
    "sgd": Solver({"momentum": MOMENTUM, "nesterov": Own(False, "Looks one step ahead.")}),
    "adagrad": Solver({"lr_decay": Own(0.0, "How fast the rate falls by itself.", 0, 1)}),
    "rmsprop": Solver(RMS),
    "rmsprop_bnb": Solver(RMS_BNB, whole=FSDP),
    "rmsprop_bnb_8bit": Solver(RMS_BNB, whole=FSDP),
    "rmsprop_bnb_32bit": Solver(RMS_BNB, whole=FSDP),
}  # fmt: skip


CYCLES = Own(1, "How often the rate starts again from its peak.", 1, 1000)
WAVES = Own(0.5, "Waves of the cosine; a half is one fall.", 0.01, 1000)
FACTOR = Own(0.1, "What the rate is multiplied by.", 0.01, 0.99)
PATIENCE = Own(10, "Measurements without progress before the rate changes.", 0, 100_000)

SCHEDULES: dict[str, dict[str, Own]] = {
    "linear": {},
    "cosine": {"num_cycles": WAVES},
    "cosine_with_restarts": {"num_cycles": CYCLES},
    "polynomial": {"power": Own(1.0, "1 is a straight line, 2 falls fast at first.", 0.01, 100)},
    "constant": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {"timescale": Own(10_000, "Steps in which the rate falls by a third or so.", 1, 100_000_000)},
    "reduce_lr_on_plateau": {"factor": FACTOR, "patience": PATIENCE},
    "cosine_with_min_lr": {"num_cycles": WAVES},
    "cosine_warmup_with_min_lr": {
        "warmup_lr_rate": Own(0.1, "Where the warm-up starts, as a share of the peak.", 0, 1)
    },
    "warmup_stable_decay": {
        "decay": Own(0.1, "The share of all steps in which the rate falls at the end.", 0, 1),
        "decay_type": Own("cosine", "How it falls.", choices=("linear", "cosine", "1-sqrt")),
    },
    "greedy": {"factor": Own(0.95, FACTOR.help, 0.01, 0.999), "patience": PATIENCE},
}
# Those that end above zero when `min_learning_rate` says so.
WITH_LEAST = ("linear", "cosine", "polynomial", "cosine_with_min_lr", "cosine_warmup_with_min_lr",
              "warmup_stable_decay", "reduce_lr_on_plateau", "greedy")  # fmt: skip
BY_MEASURE = ("reduce_lr_on_plateau", "greedy")  # these look at the held-out loss
FREE_OF_SCHEDULES = tuple(name for name in SOLVERS if name.startswith("schedule_free"))
