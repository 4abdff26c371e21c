"""Load models, tokenizers and adapters, the same way for training, evaluation, chat and export.

Device-agnostic: what the accelerator is called is asked of torch, never assumed. Knows nothing of tasks or rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from data import models
from data.encoding.render import ChatTemplate
from engine.contract import kernels
from engine.contract.errors import ModelError, ResourceError
from engine.contract.needs import Here
from engine.models import quantised

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}


def device_of(wanted: str) -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda`, ...; ResourceError when it is not there."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if wanted == "auto":
        return found or torch.device("cpu")
    if wanted != "cpu" and (found is None or found.type != wanted):
        has = f"torch sees {found.type}" if found else "torch sees no accelerator here"
        raise ResourceError(f"The device {wanted!r} cannot be used: {has}.", "Set device to auto or cpu.")
    return torch.device(wanted)


def dtype_of(wanted: str, device: torch.device) -> torch.dtype:
    """The torch dtype for `auto`, `bf16`, ...: auto is bf16 where that is the device's own arithmetic, else fp32."""
    if wanted != "auto":
        return DTYPES[wanted]
    if device.type == "cpu":
        from engine.contract.machine import machine

        return torch.bfloat16 if machine().bf16 else torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def folder_of(name: str, workspace: Path, revision: str = "", *, code: bool = False, say: Any = print) -> Path:
    """The folder of the model called `name`; a hub model that is not here yet is fetched into the user's own cache.

    `code`: the user consented to the model's own Python files, so a hub model's snapshot must have them.
    """
    place = models.find(name, workspace, revision)
    if place.folder is not None and not (code and place.hub_id and not any(place.folder.glob("*.py"))):
        return place.folder
    from engine import fetch

    return fetch.fetch(place.hub_id, workspace, revision=place.revision or None, code=code, say=say)


def tokenizer_of(folder: Path, template: str = "auto", *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The model's tokenizer with its chat template, or with the one named; a pad token is made sure of."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as problem:
        raise ModelError(
            f"The tokenizer in {folder} cannot be loaded: {_short(problem)}", "Get the model again."
        ) from problem
    if template != "auto":
        tokenizer.chat_template = ChatTemplate.of(folder, template).source
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def model_of(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    attention: str = "auto",
    trust_remote_code: bool = False,
    quantisation: str = "none",
    double_quantisation: bool = True,
    kind: Any = None,
    **own: Any,
) -> PreTrainedModel:
    """The language model in `folder`, with eyes if it has them, in evaluation mode, on `device`. Safetensors only.

    quantisation: `int8`, `nf4`, ... holds the weights so, whatever `dtype` the arithmetic has.
    kind: another of transformers' `AutoModel` classes to load it as, which takes `own`.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    packed = quantised.wanted(quantisation, double_quantisation, dtype) or quantised.as_stored(folder)
    if packed is not None or models.quantised(folder):
        # Such weights are made where they are used: on this very device, which accelerate compares by its number.
        place = torch.device(device.type, torch.accelerator.current_device_index()) if device.type != "cpu" else device
        own |= {"device_map": {"": place}}
    if packed is not None:
        own["quantization_config"] = packed
    speaks = AutoModelForImageTextToText if models.sees(folder) else AutoModelForCausalLM
    try:
        model, said = (kind or speaks).from_pretrained(
            folder,
            output_loading_info=True,
            dtype=dtype,
            attn_implementation=kernels.attention(attention, Here(device.type))[0],
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            **own,
        )
    except torch.OutOfMemoryError as problem:
        raise ResourceError(
            f"{folder.name} does not fit into memory: {_short(problem)}", "Choose a smaller model."
        ) from problem
    except (OSError, ValueError, KeyError, ImportError) as problem:
        hint = (
            "Set model.trust_remote_code only if you trust the model's author."
            if "trust_remote_code" in str(problem)
            else ""
        )
        raise ModelError(
            f"{folder.name} cannot be loaded: {_short(problem)}", hint or "Get the model again."
        ) from problem
    if kind is None:
        _check_whole(folder, model, said["missing_keys"])
    return quantised.mended(model if "device_map" in own else model.to(device)).eval()


def _check_whole(folder: Path, model: PreTrainedModel, missing: Iterable[str]) -> None:
    """Raise ModelError where weights are not in the files: transformers draws such by chance, and says so to nobody."""
    if lost := sorted({name for name, _ in model.named_parameters()} & set(missing)):
        many = f"{len(lost)} of its weights, {lost[0]} among them" if len(lost) > 1 else f"its weights {lost[0]}"
        raise ModelError(f"{folder.name} lacks {many}.", "Choose a model that writes (ForCausalLM), or get it again.")


def with_adapter(model: Any, folder: Path, name: str = "default", *, trainable: bool = False) -> Any:
    """`model` with the adapter in `folder` attached under `name`; a second one joins the first."""
    from peft import PeftModel

    try:
        if isinstance(model, PeftModel):
            model.load_adapter(folder, adapter_name=name, is_trainable=trainable)
            return model
        return hidden(PeftModel.from_pretrained(model, folder, adapter_name=name, is_trainable=trainable))
    except (RuntimeError, ValueError, OSError) as problem:
        raise ModelError(
            f"The adapter in {folder} does not fit this model: {_short(problem)}",
            "Choose the base that it was trained from.",
        ) from problem


def hidden(model: Any) -> Any:
    """`model`, a PeftModel, with the tokens that prompt tuning puts before the others left out of what it says.

    So that its logits and states stand at the tokens that it was given, as those of every other model do.
    """

    def learnt(module: Any) -> int:
        config = module.active_peft_config
        off = module.forward == module.base_model.forward  # how PEFT switches a learnt prompt off
        return config.num_virtual_tokens if config.is_prompt_learning and not off else 0

    def ask(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kept = named.get("logits_to_keep")
        if isinstance(kept, torch.Tensor) and (count := learnt(module)) and _before(module):
            named = {**named, "logits_to_keep": kept + count}
        return given, named

    def answer(module: Any, given: tuple[Any, ...], named: dict[str, Any], said: Any) -> Any:
        if not learnt(module) or not _before(module):
            return said
        tokens = next(
            value for value in (*given, named.get("input_ids"), named.get("inputs_embeds")) if value is not None
        )
        length = tokens.shape[1]
        if (logits := getattr(said, "logits", None)) is not None and logits.ndim == 3:
            said.logits = logits[:, -length:]
        if states := getattr(said, "hidden_states", None):
            said.hidden_states = tuple(state[:, -length:] for state in states)
        return said

    model.register_forward_pre_hook(ask, with_kwargs=True)
    model.register_forward_hook(answer, with_kwargs=True)
    return model


def _before(model: Any) -> bool:
    """Whether the active adapter stands before the tokens themselves, not before their keys alone."""
    return model.active_peft_config.peft_type.value == "PROMPT_TUNING"


def _short(problem: BaseException) -> str:
    """The first line of an exception's text: the rest is for the log."""
    lines = str(problem).strip().splitlines()
    return (lines[0] if lines else type(problem).__name__)[:300]
