"""Adapters: from a loaded model to one with something small beside it that is trained.

Every adapter is PEFT's. What PEFT leaves open is done here: which layers of which part get one, and where LoRA starts
(`starts.py`). Invariant: attached to the untouched base, what is saved gives what was trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import TrainableTokensWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from data.checking import against
from data.planning import forecast
from engine.contract import own
from engine.contract.adapters import Lora, Prompt, Tuner
from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError, Problem
from engine.contract.tuners import TUNERS
from engine.models import parts
from engine.models.model import hidden, with_adapter
from engine.models.vocabulary import ids
from engine.tuning import starts
from engine.tuning.starts import Start
from engine.upstream import settings

LINEAR = (nn.Linear, Conv1D)  # GPT-2's linear layers are the second, with weights the other way round
# The class of PEFT's configuration for each method; a `tuner` names its own.
CONFIGS = {
    "lora": "LoraConfig", "oft": "OFTConfig", "ia3": "IA3Config", "prompt": "PromptTuningConfig",
    "prefix": "PrefixTuningConfig",
}  # fmt: skip


def lora(model: Any, args: TrainArgs, start: Start) -> Any:
    chosen: Lora = args.method
    if chosen.start_from and not chosen.on_top:
        return _continued(model, chosen, start)
    keywords = _layers(model, args, settings(args, "peft"))
    before = starts.before(model, args, start)
    keywords |= starts.widened(chosen, keywords, before)
    keywords |= {"layer_replication": _ranges(model, chosen)} if chosen.replicate else {}
    keywords |= {"init_lora_weights": "eva", "eva_config": peft.EvaConfig(rho=1.0)} if chosen.init == "eva" else {}
    if chosen.extra_modules:
        _check_modules(model, chosen.extra_modules)
        named = [*(keywords.get("modules_to_save") or []), *chosen.extra_modules]
        keywords |= {"modules_to_save": named, "ensure_weight_tying": True}
    if args.model.new_tokens:
        keywords |= {"trainable_token_indices": _new_tokens(model, args.model.new_tokens, chosen.extra_modules)}
    made = _made(model, args, "LoraConfig", keywords)
    if isinstance(output := made.get_output_embeddings(), TrainableTokensWrapper):
        vars(output)["bias"] = output.original_module.bias  # TRL asks for it, and PEFT hands on the weight alone
    starts.take(made, chosen, before, start)
    made.peft_config["default"].init_lora_weights = True  # whoever loads it finds it started
    return made


def layered(model: Any, args: TrainArgs, start: Start) -> Any:
    """OFT and (IA)^3."""
    keywords = settings(args, "peft")
    if args.method.kind == "ia3":
        keywords = _factors(model, keywords)
    return _made(model, args, CONFIGS[args.method.kind], _layers(model, args, keywords))


def tuner(model: Any, args: TrainArgs, start: Start) -> Any:
    chosen: Tuner = args.method
    kind = TUNERS[chosen.tuner]
    keywords: dict[str, Any] = {**kind.fixed, **own.values(chosen.own, kind.own)}
    if kind.norms:
        keywords["target_modules"] = _norms(model, args, chosen.targets)
    else:
        keywords |= _layers(model, args, {"target_modules": chosen.targets})
    if chosen.tuner == "adalora":
        # Warm up for a tenth, settle for the last third, as its authors do.
        steps = max(3, start.steps)
        keywords |= {"total_step": steps, "tinit": steps // 10, "tfinal": steps // 3, "deltaT": max(1, steps // 100)}
    return _made(model, args, kind.config, keywords, path="method.own")


def virtual(model: Any, args: TrainArgs, start: Start) -> Any:
    """Prompt and prefix tuning."""
    if parts.sees(model):
        raise ArgsError([Problem("method.kind", "Only models that read text alone can learn a prompt. Choose lora.")])
    made = hidden(_made(model, args, CONFIGS[args.method.kind], settings(args, "peft")))
    if isinstance(args.method, Prompt):
        weight = made.get_prompt_embedding_to_save("default")
        rows = _first_tokens(model, args.method, len(weight))
        with torch.no_grad():
            learnt = made.prompt_encoder["default"].embedding.weight
            learnt.copy_(model.get_input_embeddings().weight[rows.to(learnt.device)])
    return made


ADAPTERS = {"lora": lora, "oft": layered, "ia3": layered, "prompt": virtual, "prefix": virtual, "tuner": tuner}


def task_type(args: TrainArgs) -> str:
    """PEFT's word for what stands on the model; with a score, its head is trained and saved beside the adapter."""
    return "SEQ_CLS" if args.task.head == "score" else "CAUSAL_LM"


def _made(model: Any, args: TrainArgs, config: str, keywords: dict[str, Any], path: str = "method.kind") -> Any:
    try:
        chosen = getattr(peft, config)(task_type=task_type(args), **keywords)
        return peft.get_peft_model(model, chosen)
    except (ValueError, AssertionError, NotImplementedError, TypeError, ImportError) as problem:
        lines = str(problem).strip().splitlines()
        said = f"This model cannot take the adapter: {lines[0][:300] if lines else type(problem).__name__}"
        raise ArgsError([Problem(path, said)]) from problem


def _continued(model: Any, chosen: Lora, start: Start) -> Any:
    if wrong := list(against.continued(start.folder, chosen)):
        raise ArgsError(wrong)
    return with_adapter(model, start.folder, trainable=True)


def _layers(model: Any, args: TrainArgs, keywords: dict[str, Any]) -> dict[str, Any]:
    """`keywords` with the layers that get the adapter, of the parts of the model that are to be trained."""
    targets = keywords.pop("target_modules")
    every = targets == ["all-linear"]
    wanted, part = parts.chosen(model, args), parts.Parts(model)
    head = model.get_output_embeddings() or getattr(model, "score", None)  # what says the next token, or the score
    linear = [name for name, module in model.named_modules() if isinstance(module, LINEAR) and module is not head]
    sparse = forecast.sparse(name for name, _ in model.named_parameters())
    apt = [name for name in linear if not forecast.lies_in(name, sparse)]
    given = {one: [name for name in apt if part.of(name) == one] for one in sorted(wanted)}
    bare = [one for one, names in given.items() if not names]  # a part without linear layers is trained itself
    if not every:
        _check_targets([name for names in given.values() for name in names], targets)
    for one, names in given.items():
        if names and not every and not any(_aimed(name, targets) for name in names):
            has = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            said = f"No layer of the {one} is among {', '.join(targets)} (method.targets). It has {has}."
            raise ArgsError([Problem(f"vision.{one}", said)])
    if len(bare) == len(wanted):
        said = f"The {bare[0]} of this model has no layers for an adapter. Choose full."
        raise ArgsError([Problem("method.kind", said)])
    if every and sparse:  # PEFT's `all-linear` would be experts, and not the layers beside that are called as they are
        every, targets = False, sorted({name.rpartition(".")[2] for names in given.values() for name in names})
    found = {**keywords, "target_modules": "all-linear" if every else targets}
    taken = {name for names in given.values() for name in names}
    left_out = [name for name in linear if name not in taken and (every or _aimed(name, targets))]
    if left_out and isinstance(args.method, Lora):
        found["exclude_modules"] = left_out
    elif left_out:  # not every adapter of PEFT can leave layers out
        found["target_modules"] = [name for names in given.values() for name in names if every or _aimed(name, targets)]
    if bare:
        found["modules_to_save"] = [name for one in bare for name in part.wholes(model, one)]
    return found


def _factors(model: Any, keywords: dict[str, Any]) -> dict[str, Any]:
    """(IA)^3's layers by the paper: keys, values, and the last layer of the feed-forward, as this family calls them."""
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as LAST,
    )
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as ALL,
    )

    kind, sparse = model.config.get_text_config().model_type, forecast.sparse(n for n, _ in model.named_parameters())
    has = {name.rpartition(".")[2] for name, _ in model.named_modules() if not forecast.lies_in(name, sparse)}
    among = keywords["feedforward_modules"] == ["auto"] and keywords["target_modules"] != ["all-linear"]
    for name, known in (("target_modules", ALL), ("feedforward_modules", LAST)):
        if keywords[name] == ["auto"]:
            if kind not in known:
                field = "targets" if name == "target_modules" else "feedforward"
                said = (
                    f"Which layers (IA)^3 scales in a {kind} model is not known. Name them, such as k_proj and v_proj."
                )
                raise ArgsError([Problem(f"method.{field}", said)])
            keywords[name] = [one for one in known[kind] if one in has] if sparse else list(known[kind])
    if among:
        last, targets = keywords["feedforward_modules"], keywords["target_modules"]
        keywords["feedforward_modules"] = [name for name in targets if {name, name.rpartition(".")[2]} & set(last)]
    return keywords


def _norms(model: Any, args: TrainArgs, targets: list[str]) -> list[str]:
    """The norms of the parts of the model that are to be trained."""
    wanted, part = parts.chosen(model, args), parts.Parts(model)
    found = [name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()]
    own = [name for name in found if part.of(name) in wanted]
    every, endings = targets == ["all-linear"], sorted({name.rpartition(".")[2] for name in own})
    if not every and (unknown := sorted(set(targets) - set(endings))):
        said = f"The model has no norm called {', '.join(unknown)}. It has {', '.join(endings)}."
        raise ArgsError([Problem("method.targets", said)])
    if len(own) < len(found):  # others are called the same
        return [name for name in own if every or _aimed(name, targets)]
    return endings if every else targets


def _first_tokens(model: Any, chosen: Prompt, count: int) -> torch.Tensor:
    """(count,) ids of the tokens that the learnt ones start as."""
    if not chosen.text:
        return torch.randint(0, model.get_input_embeddings().num_embeddings, (count,))
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(model.name_or_path)(chosen.text, add_special_tokens=False).input_ids
    return torch.tensor((ids * (count // len(ids) + 1))[:count])


def _ranges(model: Any, chosen: Lora) -> list[tuple[int, int]]:
    layers = model.config.get_text_config().num_hidden_layers
    if any(last > layers for _, last in chosen.ranges):
        raise ArgsError([Problem("method.replicate", f"This model has {layers} layers, so no range goes beyond it.")])
    return chosen.ranges


def _check_modules(model: Any, names: list[str]) -> None:
    has = {name.rpartition(".")[2] for name, module in model.named_modules() if name and not name[-1].isdigit()}
    if unknown := [name for name in names if not any(_aimed(found, [name]) for found, _ in model.named_modules())]:
        said = f"The model has no module called {', '.join(unknown)}. It has {', '.join(sorted(has))}."
        raise ArgsError([Problem("method.extra_modules", said)])


def _new_tokens(model: Any, words: list[str], whole: list[str]) -> dict[str, list[int]] | None:
    """The rows that `words` have in the embeddings, by the layer's name; not where the layer is trained as a whole."""
    found, output = ids(Path(model.name_or_path), words), model.get_output_embeddings()
    layers = [model.get_input_embeddings()]
    if output is not None and output.weight is not layers[0].weight:  # what is tied follows by itself
        layers.append(output)
    names = (name for name, module in model.named_modules() if any(module is layer for layer in layers))
    return {name: found for name in names if not _aimed(name, whole)} or None


def _aimed(name: str, targets: list[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _check_targets(linear: list[str], targets: list[str]) -> None:
    endings = {name.rpartition(".")[2] for name in linear}
    unknown = [target for target in targets if not any(_aimed(name, [target]) for name in linear)]
    if unknown:
        said = f"The model has no layer called {', '.join(unknown)}. It has {', '.join(sorted(endings))}."
        raise ArgsError([Problem("method.targets", said)])
