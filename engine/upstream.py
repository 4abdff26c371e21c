"""Our names to theirs: `to=` of each declaration becomes a keyword of SFTConfig, LoraConfig and the like.

A test asserts that every name exists in the installed libraries. What goes elsewhere than one to one is written out in
the recipes, not here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError, Problem
from engine.contract.fields import walk
from engine.contract.root import Args
from engine.contract.text import at

# What has a field of its own.
FIELDS = {spec.to.partition(".")[2] for spec in walk(TrainArgs) if spec.to.startswith("trainer.")}
# What the board manages itself: the run folder, what is reported and where, whose code runs, precision and device.
MANAGED = {
    "output_dir", "report_to", "push_to_hub", "hub_model_id", "hub_token", "logging_strategy", "save_strategy",
    "eval_strategy", "eval_on_start", "resume_from_checkpoint", "load_best_model_at_end", "save_only_model", "bf16",
    "fp16", "use_cpu", "trust_remote_code", "remove_unused_columns", "dataset_kwargs", "packing", "padding_free",
    "max_length", "max_steps", "gradient_checkpointing", "disable_tqdm", "save_total_limit", "run_name", "data_seed",
    "optim", "optim_args", "optim_target_modules", "lr_scheduler_kwargs", "use_liger_kernel", "logging_nan_inf_filter",
}  # fmt: skip


def settings(args: Args, config: str) -> dict[str, Any]:
    """Keywords for the upstream configuration called `config` (`trainer`, `peft`), from the arguments that apply."""
    content = args.model_dump()
    found = {}
    for spec in walk(type(args)):
        owner, _, name = spec.to.partition(".")
        tag = at(content, f"{spec.union}.kind")
        if owner == config and (not spec.variant or spec.variant == tag):
            found[name] = at(content, spec.path)
    return found


def extra(given: dict[str, Any], config: type) -> dict[str, Any]:
    """`given`, once every name in it is one of `config`'s own fields and none is managed by the board or a field's."""
    known = {field.name for field in dataclasses.fields(config)}
    problems = [
        Problem(f"extra.{name}", f"{config.__name__} has no such setting.") for name in given if name not in known
    ]
    problems += [
        Problem(f"extra.{name}", "The board manages this itself; use the form's own field.")
        for name in given
        if name in known & (MANAGED | FIELDS)
    ]
    if problems:
        raise ArgsError(problems)
    return given
