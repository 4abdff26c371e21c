"""What a training run leaves behind: its facts, its final weights, and its sentence."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from data import weights
from engine.contract.args import TrainArgs
from engine.contract.machine import machine
from engine.contract.rundir import Run, write_json
from engine.devices import ranks, sharing
from engine.report import Report
from engine.training.trainer import flush

SHARES = {"preferred": "The better answer is preferred in", "agreed": "An answer is judged as it is labelled in"}
"""What each share of the held-out rows says, by the name that it has on the page."""


def save(trainer: Any, tokenizer: Any, args: TrainArgs, run: Run, dtype: torch.dtype, beside: Sequence[Path]) -> None:
    """The final weights under a name of their own, renamed last: `model/` present means success."""
    partial = run.path / f".model-{os.getpid()}"
    model = trainer.accelerator.unwrap_model(trainer.model)
    whole = sharing.gathered(trainer)
    if not ranks.leads():
        return
    try:
        partial.mkdir()
        trainer.save_beside(partial)
        if hasattr(model, "peft_config"):
            # The base by the user's name for it, not by the folder that it happened to be loaded from.
            grown = run.start_path.is_dir()
            model.peft_config["default"].base_model_name_or_path = str(run.start_path) if grown else args.model.path
            model.peft_config["default"].revision = args.model.revision or None
            model.save_pretrained(partial, save_embedding_layers=False, **whole)
        else:
            whole = {key: {name: tensor.to(dtype) for name, tensor in state.items()} for key, state in whole.items()}
            model = model if whole else model.to(dtype)
            model.config.dtype = dtype
            model.save_pretrained(partial, **whole)
        tokenizer.save_pretrained(partial)
        for file in beside:
            shutil.copyfile(file, partial / file.name)
        flush(partial)
        partial.rename(run.model_path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def report(trainer: Any, say: Report, seconds: float) -> None:
    history, told = trainer.state.log_history, trainer.TOLD
    numbers = [entry[told] for entry in history if told in entry]
    held = [entry[f"eval_{told}"] for entry in history if f"eval_{told}" in entry]
    # Single steps are noisy: the ends of the run are its first and last tenth.
    tenth = max(1, len(numbers) // 10)
    first, last = sum(numbers[:tenth]) / tenth, sum(numbers[-tenth:]) / tenth
    sentence = f"Training {told} went from {first:.3f} to {last:.3f} in {trainer.state.global_step} steps"
    sentence += f"; held-out {told} from {held[0]:.3f} to {held[-1]:.3f}." if len(held) > 1 else "."
    for theirs, ours in trainer.NAMES.items():
        shares = [entry[f"eval_{theirs}"] for entry in history if f"eval_{theirs}" in entry]
        if ours in SHARES and len(shares) > 1:
            sentence += f" {SHARES[ours]} {shares[-1]:.0%} of the held-out rows, at the start in {shares[0]:.0%}."
    best = trainer.best.moment
    if trainer.best.ended:
        sentence += f" It ended early: nothing was better than step {best.step}."
    if trainer.best.keeps and best:
        sentence += f" The weights are those of step {best.step}, the best ({trainer.best.name} {best.value:.4g})."
    facts = {
        f"first_{told}": first, f"last_{told}": last, f"held_out_{told}": held, "best": best.value if best else None,
        "best_step": best.step if best else None, "ended_early": trainer.best.ended,
        "steps": trainer.state.global_step, "seconds": seconds, "tokens": trainer.tokens_seen,
    }  # fmt: skip
    say.result(sentence, **facts)


def write_env(run: Run, args: TrainArgs, folder: Path, model: Any, device: torch.device) -> None:
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    write_json(run.env_path, {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "system": platform.platform(), "device": device.type, "device_name": machine().device_name,
        "model_folder": str(folder), "attention": model.config._attn_implementation,
        "args": args.model_dump(mode="json"), "mends": weights.mends(run, args),
    })  # fmt: skip
