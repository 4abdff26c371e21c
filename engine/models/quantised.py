"""Weights in 8 or 4 bits: how they are asked for, what must be mended in them after loading, and how to undo them.

Knows no adapter and no task. Which checkpoints are quantised as they lie on the disk, `data.models` reads.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from data import models
from engine.contract.errors import ModelError


def wanted(quantisation: str, double: bool, dtype: torch.dtype) -> Any:
    """The configuration with which transformers quantises while it loads; None for `none`. dtype: of the arithmetic."""
    if quantisation == "none":
        return None
    if quantisation == "torchao_int8":
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    from transformers import BitsAndBytesConfig

    if quantisation == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantisation,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=dtype,
    )


def as_stored(folder: Path) -> Any:
    """How a checkpoint that is quantised already is to be loaded: None as it is, or a configuration that widens it.

    FP8 and MXFP4 are formats to compute in, on few devices, and not to train beside: they are widened. Raises
    ModelError where the package that reads the format is missing.
    """
    kind = models.quantised(folder)
    missing = [package for package in models.READERS.get(kind, ()) if find_spec(package.replace("-", "_")) is None]
    if missing:
        raise ModelError(
            f"{folder.name} is quantised ({kind}), and what reads that is not installed.",
            f"pip install {' '.join(missing)}",
        )
    if kind == "fp8":
        from transformers import FineGrainedFP8Config

        return FineGrainedFP8Config(dequantize=True)
    if kind == "mxfp4":
        from transformers import Mxfp4Config

        return Mxfp4Config(dequantize=True)
    return None


def mended(model: Any) -> Any:
    """`model` with what its quantised layers do wrong undone.

    bitsandbytes repacks 4-bit weights in place at the first forward outside of training, on CPUs with AVX512-BF16;
    gradients through what it has repacked are silently wrong.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def shared(model: Any) -> dict[int, torch.Tensor]:
    """Tensors that quantised layers hold beside their parameters, by id: what a twin of the model shares with it."""
    found = {}
    for module in model.modules():
        if hasattr(module, "init_8bit_state") and module.weight.CB is not None:
            module.init_8bit_state()  # moves them from the weight into the layer, which the first forward would do
        state = getattr(module, "state", None)
        held = vars(state).values() if hasattr(state, "__dict__") else ()
        found |= {id(value): value for value in held if isinstance(value, torch.Tensor)}
    return found


def widened(weight: Any, state: Any = None) -> torch.Tensor:
    """A quantised weight as fp32 numbers, (out, in)."""
    from peft.utils.integrations import dequantize_bnb_weight

    if type(weight).__name__ in ("Params4bit", "Int8Params"):
        return dequantize_bnb_weight(weight, state).float()
    return weight.dequantize().float() if hasattr(weight, "dequantize") else weight.float()
