"""What each process holds of a model that several train: our words for it to the trainer's.

DDP, FSDP2, DeepSpeed and the parallel axes are accelerate's and the Trainer's; here they are asked for. Starts nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from engine.contract.args import TrainArgs
from engine.devices import ranks


def settings(args: TrainArgs) -> dict[str, Any]:
    """Keywords of the trainer's configuration; none for a run of one process."""
    launch = args.launch
    if not ranks.joined():
        return {}
    found: dict[str, Any] = {"ddp_find_unused_parameters": False}
    if launch.strategy in ("ddp", "fsdp"):  # DeepSpeed wants to meet by itself
        found["accelerator_config"] = {"use_configured_state": True}
    if launch.strategy == "fsdp":
        found |= {"fsdp": True, "fsdp_config": _fsdp(args)}
    elif launch.strategy != "ddp":
        found["deepspeed"] = deepspeed(args)
    if launch.together > 1:
        found["parallelism_config"] = _axes(args)
    return found


def join(args: TrainArgs, device: torch.device) -> None:
    """Meet the other processes. accelerate shards weights only where it sees several accelerators: on a CPU, where
    PyTorch shards over gloo as well, it is told so."""
    if not ranks.joined():
        return
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    state = PartialState(cpu=device.type == "cpu")
    if args.launch.strategy == "fsdp" and device.type == "cpu":
        state._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        state.distributed_type = DistributedType.MULTI_GPU


def share_out(trainer: Any, dtype: torch.dtype) -> None:
    """With ZeRO-3, have each process keep its share of the weights, one tensor after the other, in `dtype`, in which
    they are computed with: DeepSpeed holds those that are trained in fp32 besides.

    Left to itself DeepSpeed puts the whole model on every device before it shares it out, unless it comes shared out;
    and what `from_pretrained` shares out by itself cannot be asked anything before the training.
    """
    config = getattr(trainer.args, "hf_deepspeed_config", None)
    if config is None or config.config["zero_optimization"]["stage"] != 3:
        return
    import deepspeed

    for parameter in trainer.model.parameters():
        parameter.data = parameter.data.to(dtype)
    deepspeed.zero.Init(module=trainer.model, config_dict_or_path=config.config)


def gathered(trainer: Any) -> dict[str, Any]:
    """`{"state_dict": ...}` with all weights in main memory, when no process holds them all; asked by every process."""
    parts = trainer.accelerator.deepspeed_config if trainer.is_deepspeed_enabled else {}
    if not (trainer.is_fsdp_enabled or parts.get("zero_optimization", {}).get("stage") == 3):
        return {}
    return {"state_dict": trainer.accelerator.get_state_dict(trainer.model_wrapped)}


def _fsdp(args: TrainArgs) -> dict[str, Any]:
    return {
        "version": 2, "reshard_after_forward": True, "cpu_offload": args.launch.offload,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "SHARDED_STATE_DICT",
        "activation_checkpointing": False,
    }  # fmt: skip


def deepspeed(args: TrainArgs) -> dict[str, Any]:
    """DeepSpeed's configuration for ZeRO-2 or ZeRO-3 (Rajbhandari et al., 2020); `auto` is filled in by the trainer."""
    stage = int(args.launch.strategy[-1])
    away = {"device": "cpu", "pin_memory": True} if args.launch.offload else {"device": "none"}
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True,
                            "offload_optimizer": away}  # fmt: skip
    if stage == 3:
        zero |= {"offload_param": away, "stage3_gather_16bit_weights_on_model_save": True}
    plain = {"train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"}
    return {
        "zero_optimization": zero, "bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"},
        "zero_allow_untested_optimizer": True, **dict.fromkeys(sorted(plain), "auto"),
    }  # fmt: skip


def _axes(args: TrainArgs) -> Any:
    """accelerate's parallel axes; what is left of the processes shares out rows and weights."""
    from accelerate.parallelism_config import ParallelismConfig

    launch = args.launch
    rest = {"dp_shard_size" if launch.strategy == "fsdp" else "dp_replicate_size": launch.replicas}
    ways: dict[str, Any] = {"cp_size": launch.context_parallel, "sp_size": launch.sequence_parallel}
    if launch.sequence_parallel > 1:
        ways["sp_backend"] = "deepspeed"
    return ParallelismConfig(**rest, **{name: size for name, size in ways.items() if size > 1})
