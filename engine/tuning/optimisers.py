"""From the arguments to the optimiser and the schedule of a run: which weights, at which rate, with which decay.

What transformers has is made as it makes it; Muon, Adam-mini and BAdam are `solvers.py`'s. Knows no task.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, get_scheduler

from engine.contract import own
from engine.contract.args import TrainArgs
from engine.contract.auto import accumulation_of
from engine.contract.solvers import SCHEDULES, SOLVERS
from engine.tuning.solvers import LAYER, AdamMini, BlockAdamW, Layerwise, Pair

LOW_RANK = ("galore", "apollo")
TINY = 4096  # weights fewer than this keep their state in full precision, as bitsandbytes has it
UNDECAYED = re.compile(r"(^|[._])(bias|norm\d*|lay(er|r)norm|rmsnorm|ln_\w+|layer_norm\d*)([._]|$)", re.IGNORECASE)


def made(model: nn.Module, args: TrainArgs, config: Any) -> Optimizer:
    """The optimiser of all weights of `model` that are trained. config: transformers' TrainingArguments.

    Its parameter groups carry their own learning rates: LoRA+ (Hayou et al., 2024), embeddings, layers by depth.
    """
    optim, name = args.optim, args.optim.optimiser
    given = own.values(optim.own, SOLVERS[name].own)
    parts = list(groups(model, args, config.learning_rate))
    betas = (float(given.pop("beta1", config.adam_beta1)), float(given.pop("beta2", config.adam_beta2)))
    if name == "muon":
        return _muon(model, parts, betas, given, config)
    if name in ("adam_mini", "badam"):
        return _ours(name, model, parts, betas, given, args, config)
    config.optim = name
    if name.startswith(LOW_RANK):
        config.optim_target_modules = "all-linear"
        config.optim_args = ",".join(f"{key}={value}" for key, value in given.items())
        given = {}
    kind, keywords = Trainer.get_optimizer_cls_and_kwargs(config, model)
    if "betas" in keywords:
        keywords["betas"] = (*betas, *([given.pop("beta3", 0.9999)] if len(keywords["betas"]) == 3 else []))
    if name in ("lomo", "adalomo"):
        return kind(keywords.pop("model"), **keywords, **{key: value or None for key, value in given.items()})
    keywords.pop("warmup_steps", None)  # the schedule warms up; taken for steps, a share would be a rate far too high
    if "optimizer_dict" in keywords:
        return _by_weight(keywords["optimizer_dict"], parts, config)
    if name.startswith(LOW_RANK):
        parts = _projected(parts, keywords.pop("params")[1])
        _trust_projectors(name)
    if name == "stable_adamw" and next(model.parameters()).device.type == "cpu":
        keywords["triton"] = False
    optimiser = kind(parts, **{**keywords, **given})
    if keywords.get("optim_bits") == 8:
        _wide_embeddings(model)
    return optimiser


def groups(model: nn.Module, args: TrainArgs, rate: float) -> Iterator[dict[str, Any]]:
    """The trained weights by their rate and decay, each group with `params`, `names`, `lr` and `weight_decay`.

    Biases, norms and embeddings are not decayed.
    """
    optim, ratio = args.optim, getattr(args.method, "lr_ratio", None) or 1.0
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    depths = [int(found[1]) for name, _ in model.named_parameters() if (found := LAYER.search(name))]
    deepest = max(depths, default=0)
    found: dict[tuple[float, float], dict[str, Any]] = {}
    for name, weights in model.named_parameters():
        if not weights.requires_grad:
            continue
        factor = ratio if ".lora_B." in name or ".lora_embedding_B." in name else 1.0
        lies = LAYER.search(name)
        if id(weights) in embeddings:
            factor *= optim.embedding_rate * optim.layer_decay ** (deepest + 1)
        elif lies:
            factor *= optim.layer_decay ** (deepest - int(lies[1]))
        decay = 0.0 if id(weights) in embeddings or UNDECAYED.search(name) else optim.weight_decay
        group = found.setdefault((factor, decay), {"params": [], "names": [], "lr": rate * factor})
        group["params"].append(weights)
        group["names"].append(name)
        group["weight_decay"] = decay
    for group in found.values():
        yield {key: value for key, value in group.items() if key != "names"} | {"names": tuple(group["names"])}


def schedule(optimiser: Optimizer, args: TrainArgs, config: Any, steps: int) -> Any:
    """The learning rate over `steps` steps."""
    optim, name = args.optim, str(args.optim.schedule)
    given = own.values(optim.schedule_own, SCHEDULES[name])
    least, peak = optim.min_learning_rate, config.learning_rate
    warm = min(config.get_warmup_steps(steps), steps - 1)  # a run of one step learns in it
    if name == "warmup_stable_decay":
        given["num_decay_steps"] = max(1, round(float(given.pop("decay")) * steps))
        warm = min(warm, steps - int(given["num_decay_steps"]))
        given["min_lr_ratio"] = least / peak
    elif name == "polynomial":
        given["lr_end"] = least
    elif name in ("reduce_lr_on_plateau", "greedy"):
        given |= {"min_lr": least} | ({"max_lr": peak} if name == "greedy" else {})
    elif name == "cosine_with_min_lr" or (name == "cosine" and least):
        name, given["min_lr_rate"] = "cosine_with_min_lr", least / peak
    elif name == "cosine_warmup_with_min_lr":
        given["min_lr_rate"] = least / peak
    elif name == "linear" and least:
        name, given = "polynomial", {"power": 1.0, "lr_end": least}
    return get_scheduler(name, optimiser, warm, steps, scheduler_specific_kwargs=given)


def retimed(plan: LambdaLR, peaks: list[float]) -> None:
    """Put `plan`, which went on from a checkpoint, at these peaks, one for each group, at the step where it is."""
    plan.base_lrs = peaks
    now = [peak * share(plan.last_epoch) for peak, share in zip(peaks, plan.lr_lambdas, strict=True)]
    for group, peak, rate in zip(plan.optimizer.param_groups, peaks, now, strict=True):
        group["initial_lr"] = peak
        if isinstance(group["lr"], torch.Tensor):  # which the optimiser holds on to
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    plan._last_lr = now


def _projected(parts: list[dict[str, Any]], wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """`parts`, each taken apart into what is projected and what is not. wanted: the library's group of the former."""
    matrices = {id(weights) for weights in wanted["params"]}
    settings = {key: value for key, value in wanted.items() if key not in ("params", "betas", "eps")}
    split = []
    for part in parts:
        for inside, more in ((False, {}), (True, settings)):
            chosen = [weights for weights in part["params"] if (id(weights) in matrices) is inside]
            if chosen:
                split.append({key: value for key, value in part.items() if key != "names"} | {"params": chosen} | more)
    return split


def _by_weight(each: dict[Any, Optimizer], parts: list[dict[str, Any]], config: Any) -> Optimizer:
    """The library's optimisers of one weight `each`, at the rates and decays of `parts`."""
    for part in parts:
        for weights in part["params"]:
            each[weights].param_groups[0] |= {key: part[key] for key in ("lr", "weight_decay")}
    return Layerwise(each, config.learning_rate)


def _trust_projectors(name: str) -> None:
    """Their state holds objects, which torch reads back from a checkpoint only when it is told that it may."""
    if name.startswith("galore"):
        from galore_torch.galore_projector import GaLoreProjector as Projector
    else:
        from apollo_torch.random_projector import GradientProjector as Projector
    torch.serialization.add_safe_globals([Projector])


def _muon(model: nn.Module, parts: list[dict[str, Any]], betas: Any, given: dict[str, Any], config: Any) -> Optimizer:
    """Muon for matrices, AdamW for the rest; their steps are of the same size (Liu et al., 2025)."""
    ends = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    ends |= {id(head.weight)} if head is not None else set()
    square, rest = list[dict[str, Any]](), list[dict[str, Any]]()
    for part in parts:
        for is_matrix, into in ((True, square), (False, rest)):
            chosen = [one for one in part["params"] if (one.ndim == 2 and id(one) not in ends) is is_matrix]
            if chosen:
                into.append({"params": chosen, "lr": part["lr"], "weight_decay": part["weight_decay"]})
    eps = given.pop("eps", config.adam_epsilon)
    made = (
        [torch.optim.Muon(square, lr=config.learning_rate, adjust_lr_fn="match_rms_adamw", **given)] if square else []
    )
    made += [torch.optim.AdamW(rest, lr=config.learning_rate, betas=betas, eps=eps)] if rest else []
    return Pair(made)


def _ours(name: str, model: nn.Module, parts: list[dict[str, Any]], betas: Any, given: dict[str, Any],
          args: TrainArgs, config: Any) -> Optimizer:  # fmt: skip
    keywords: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": betas,
        "eps": given.pop("eps", config.adam_epsilon),
    }
    if name == "adam_mini":
        text: Any = model.config.get_text_config()  # type: ignore[union-attr,operator]
        return AdamMini(
            parts, heads=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads, **keywords
        )
    settings = own.values(args.optim.own, SOLVERS[name].own)
    return BlockAdamW(parts, every=int(settings["switch_every"]), order=str(settings["order"]), seed=args.steps.seed,
                      **keywords)  # fmt: skip


def _wide_embeddings(model: nn.Module) -> None:
    """Embeddings keep their state in 32 bits: in 8 they are not stable (Dettmers et al., 2022)."""
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, nn.Embedding):
            bitsandbytes.optim.GlobalOptimManager.get_instance().register_module_override(
                module, "weight", {"optim_bits": 32}
            )


def forgets(args: TrainArgs) -> bool:
    """Whether the optimiser's state is not in a checkpoint."""
    return SOLVERS[args.optim.optimiser].at_once and accumulation_of(args) == 1
