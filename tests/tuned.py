"""Finished training runs made in a moment: the tiny model with weights moved by chance, and rows held out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from engine.contract import rundir, text
from engine.contract.args import TrainArgs
from engine.contract.rundir import Run


def _run(workspace: Path, **method: Any) -> Run:
    args = TrainArgs.model_validate({"model": "tiny", "data": "sums.jsonl", "method": method})
    run = rundir.make(workspace, "sft-tiny", text.dump(args))
    rows = (workspace / "datasets" / "sums.jsonl").read_text().splitlines()
    held = [{**json.loads(row), "tools": None, "file": "sums.jsonl", "number": n} for n, row in enumerate(rows, 1)]
    run.heldout_path.write_text("".join(json.dumps(row) + "\n" for row in held))
    return run


def _base(workspace: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(workspace / "models" / "tiny")


def _tokenizer(workspace: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(workspace / "models" / "tiny")


def adapter_run(workspace: Path, *, scale: float = 0.05, seed: int = 1, **variant: Any) -> Run:
    """A LoRA run; `scale` is how far its weights moved, `variant` goes to LoraConfig."""
    from peft import LoraConfig, get_peft_model

    run = _run(workspace, kind="lora")
    torch.manual_seed(seed)
    model = get_peft_model(
        _base(workspace), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **variant)
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            parameter.data = torch.randn_like(parameter) * scale * 4
    model.peft_config["default"].base_model_name_or_path = "tiny"
    model.save_pretrained(run.model_path)
    return run


def full_run(workspace: Path, *, seed: int = 1) -> Run:
    run = _run(workspace, kind="full")
    model = _base(workspace)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.02
    model.save_pretrained(run.model_path)
    _tokenizer(workspace).save_pretrained(run.model_path)
    return run


def prompt_run(workspace: Path) -> Run:
    """A prompt-tuned model: its adapter adds tokens, not weights."""
    from peft import PromptTuningConfig, get_peft_model

    run = _run(workspace, kind="lora")
    model = get_peft_model(_base(workspace), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    model.peft_config["default"].base_model_name_or_path = "tiny"
    model.save_pretrained(run.model_path)
    return run
