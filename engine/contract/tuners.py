"""PEFT's further adapters, in one table: what each is, its own settings, and the quantised bases that it can stand on.

What stands here was run: it trains, is saved and loaded, shares its base with others, and merges exactly. Those of PEFT
that are not here need more than a configuration, or cannot be merged.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.contract.own import Own

ANY = ("int8", "nf4", "fp4", "torchao_int8")
ONE_FOR_ALL = ("tinylora", "unilora", "vblora")  # all layers hold the very same trained numbers
# Those that PEFT cannot put on layers whose weights lie the other way round, as GPT-2's do.
UPRIGHT = ("boft", "c3a", "delora", "glora", "hra", "loha", "lokr", "miss", "peanut", "psoft", "road", "shira")


class Kind(NamedTuple):
    """config: PEFT's class. fixed: what we set in it ourselves. norms: sits on norms, not on linear layers."""

    config: str
    help: str
    own: dict[str, Own]
    quantised: tuple[str, ...] = ()
    fixed: dict[str, object] = {}
    norms: bool = False


def _rank(default: int, help: str = "Size of the adapter.") -> Own:
    return Own(default, help, 1, 1024)


def _share(help: str) -> Own:
    return Own(0.0, help, 0, 0.99)


DROPOUT = _share("Share of the inputs dropped in training.")
LAYERS = _share("Share of the adapted layers left out in training.")

TUNERS: dict[str, Kind] = {
    "vera": Kind(
        "VeraConfig", "shared random matrices, trained scales (Kopiczko et al., 2024).",
        {"r": _rank(256), "vera_dropout": DROPOUT, "d_initial": Own(0.1, "Where the scales start.", 1e-6, 1),
         "projection_prng_key": Own(0, "Seed of the random matrices.", 0, 2**31 - 1)}, ANY),
    "adalora": Kind(
        "AdaLoraConfig", "moves rank to the layers that need it (Zhang et al., 2023).",
        {"init_r": _rank(12, "Rank at the start."), "target_r": _rank(8, "Mean rank at the end."),
         "lora_alpha": Own(16, "Strength.", 1, 4096), "lora_dropout": DROPOUT,
         "beta1": Own(0.85, "Smoothing of sensitivity.", 0.01, 0.999),
         "beta2": Own(0.85, "Smoothing of uncertainty.", 0.01, 0.999),
         "orth_reg_weight": Own(0.5, "How much its directions are kept apart.", 1e-6, 100)}, ANY),
    "boft": Kind(
        "BOFTConfig", "orthogonal butterfly factors (Liu et al., 2024).",
        {"boft_block_size": Own(4, "Size of a block; it must divide the layers.", 2, 1024),
         "boft_dropout": DROPOUT}, ANY),
    "c3a": Kind(
        "C3AConfig", "circular convolution (Chen et al., 2024).",
        {"block_size": Own(16, "Size of a block; it must divide the layers.", 1, 8192)}, ANY, {"init_weights": True}),
    "deft": Kind(
        "DeftConfig", "projects weights and puts learnt content in the gap.",
        {"r": _rank(8), "deft_dropout": DROPOUT,
         "decomposition_method": Own("relu", "How the projection is made.", choices=("relu", "qr"))}),
    "delora": Kind(
        "DeloraConfig", "low rank with a learnt bound on its strength (Bini et al., 2025).",
        {"r": _rank(8), "delora_lambda": Own(15, "Where the bound starts.", 1, 1000), "module_dropout": LAYERS}),
    "fourierft": Kind(
        "FourierFTConfig", "learns few frequencies of the change (Gao et al., 2024).",
        {"n_frequency": Own(1000, "Frequencies for each layer, at most its weights.", 1, 10**7),
         "scaling": Own(150.0, "Strength.", 1e-3, 1e4),
         "random_loc_seed": Own(777, "Seed of the places.", 0, 2**31 - 1)}, ANY, {"init_weights": True}),
    "glora": Kind("GloraConfig", "scales and shifts of weights, outputs and biases (Chavan et al., 2023).",
                  {"r": _rank(8)}),
    "gralora": Kind(
        "GraloraConfig", "many small LoRAs on a grid over each weight (Jung et al., 2025).",
        {"r": _rank(32), "gralora_k": Own(2, "Blocks in each direction; it must divide rank and layers.", 1, 64),
         "alpha": Own(64, "Strength.", 1, 4096), "gralora_dropout": DROPOUT}, ANY),
    "hira": Kind("HiraConfig", "multiplies the weights by a low-rank change (Huang et al., 2025).",
                 {"r": _rank(32), "hira_dropout": DROPOUT}, ANY[:3]),
    "hra": Kind("HRAConfig", "a chain of reflections (Yuan et al., 2024).",
                {"r": _rank(8, "Number of reflections; an even one."),
                 "apply_GS": Own(False, "Keeps them orthogonal.")}),
    "ln_tuning": Kind("LNTuningConfig", "trains the norms alone (Zhao et al., 2024).", {}, ANY, norms=True),
    "loha": Kind("LoHaConfig", "product of two low ranks, entry by entry (Hyeon-Woo et al., 2022).",
                 {"r": _rank(8), "alpha": Own(8, "Strength.", 1, 4096),
                  "rank_dropout": _share("Share of the ranks dropped."), "module_dropout": LAYERS},
                 ("int8", "torchao_int8")),
    "lokr": Kind("LoKrConfig", "Kronecker products (Yeh et al., 2024).",
                 {"r": _rank(8), "alpha": Own(8, "Strength.", 1, 4096),
                  "decompose_factor": Own(-1, "How a layer is split; -1 evenly.", -1, 4096),
                  "decompose_both": Own(False, "Splits both factors."),
                  "rank_dropout": _share("Share of the ranks dropped."), "module_dropout": LAYERS},
                 ("int8", "torchao_int8")),
    "miss": Kind("MissConfig", "one matrix shared by shards of the input (Kang and Yin, 2024; also known as Bone).",
                 {"r": _rank(64), "miss_dropout": DROPOUT}, ANY),
    "peanut": Kind("PeanutConfig", "a small network that looks at the weights.",
                   {"r": _rank(32), "depth": Own(0, "Hidden layers.", 0, 8),
                    "scaling": Own(1.0, "Strength.", 1e-3, 1e3)}),
    "psoft": Kind("PsoftConfig", "rotations within the strongest directions.",
                  {"r": _rank(32), "psoft_alpha": Own(32, "Strength.", 1, 4096), "psoft_dropout": DROPOUT}),
    "randlora": Kind("RandLoraConfig", "full rank out of random low ranks (Albert et al., 2025).",
                     {"r": _rank(32), "randlora_alpha": Own(640, "Strength.", 1, 65536), "randlora_dropout": DROPOUT,
                      "projection_prng_key": Own(0, "Seed of the random matrices.", 0, 2**31 - 1)}, ANY),
    "road": Kind("RoadConfig", "turns and scales pairs of outputs (Liao and Monz, 2024).",
                 {"variant": Own("road_1", "How many angles.", choices=("road_1", "road_2", "road_4")),
                  "group_size": Own(8, "Outputs paired together; it must divide the layers.", 2, 4096)}, ANY),
    "shira": Kind("ShiraConfig", "trains a few weights at random places (Bhardwaj et al., 2024).",
                  {"r": _rank(32, "As many weights as a LoRA of this rank."),
                   "random_seed": Own(0, "Seed of the places.", 0, 2**31 - 1)}, ANY),
    "tinylora": Kind("TinyLoraConfig", "a handful of numbers in the strongest directions.",
                     {"r": _rank(2), "u": Own(64, "Numbers for each layer.", 1, 65536),
                      "projection_seed": Own(42, "Seed of the projections.", 0, 2**31 - 1)}),
    "unilora": Kind("UniLoraConfig", "one vector from which all LoRA weights are drawn (Li et al., 2025).",
                    {"r": _rank(4), "theta_d_length": Own(256, "Length of the vector.", 1, 10**7),
                     "proj_seed": Own(42, "Seed of the drawing.", 0, 2**31 - 1)}, ("torchao_int8",)),
    "vblora": Kind("VBLoRAConfig", "mixes vectors of one bank (Li et al., 2024).",
                   {"r": _rank(4), "num_vectors": Own(256, "Vectors in the bank.", 2, 65536),
                    "vector_length": Own(32, "Their length; it must divide the layers.", 1, 8192),
                    "topk": Own(2, "Vectors mixed at each place.", 1, 16), "vblora_dropout": DROPOUT}, ANY),
    "waveft": Kind("WaveFTConfig", "learns few wavelet coefficients of the change.",
                   {"n_frequency": Own(2592, "Coefficients for each layer, at most its weights.", 1, 10**7),
                    "scaling": Own(25.0, "Strength.", 1e-3, 1e4),
                    "random_loc_seed": Own(777, "Seed of the places.", 0, 2**31 - 1)}, ANY),
}  # fmt: skip
