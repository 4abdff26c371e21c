"""Bytes: of a number in each precision, of a quantised weight, and of a process that has loaded nothing yet."""

from __future__ import annotations

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "auto": 2}
# Bytes a weight: 4 bits, and an fp32 scale for each block of 64; double quantisation holds the scales in 8 bits, with
# an fp32 one for each 256 of them: 0.127 bits a weight (Dettmers et al., 2023, "QLoRA", section 3). 8 bits, and a scale
# a row, which is next to nothing.
NF4, NF4_DOUBLE, INT8 = 0.5 + 4 / 64, 0.5 + 0.127 / 8, 1.002
# What a process holds before any weight: 690 MB after importing torch, transformers, TRL and PEFT and preparing rows,
# measured on Linux; on a GPU the driver's context is of that size.
PROGRAM = 690_000_000
