"""What lies beside the weights of an export: generation settings, a remote model's code, the texts, the receipt.

Everything here is small and made from files; nothing is loaded, nothing is compared.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data import models
from data.encoding.render import ChatTemplate
from data.encoding.special import settings
from data.encoding.tokens import TextTokenizer
from engine.exporting import card
from engine.exporting.lineage import Lineage
from engine.exporting.verify import Difference
from engine.feedback import guidance, heads
from engine.serving.turn import end_of_turn, frame_of


def write_generation(folder: Path, template: str | None, partial: Path) -> None:
    """generation_config.json as the base has it, ending answers where the template does."""
    own = settings(folder / "generation_config.json")
    ends = endings(folder, template, own)
    _write(partial / "generation_config.json", own | {"eos_token_id": ends[0] if len(ends) == 1 else ends})


def endings(folder: Path, template: str | None, own: Mapping[str, Any]) -> list[int]:
    """The tokens that end an answer: those that `own` names, and the one that the template closes turns with."""
    tokenizer = TextTokenizer.of(folder)
    stated = own.get("eos_token_id", tokenizer.eos_id)
    found = [
        *(stated if isinstance(stated, list) else [stated]),
        end_of_turn(ChatTemplate.if_any(folder, template), tokenizer),
    ]
    return list(dict.fromkeys(id for id in found if id is not None))


def copy_guidance(folder: Path, partial: Path) -> bool:
    """The heads that guide what the model in `folder` writes; False where there are none."""
    guides = guidance.FACT in heads.facts_of(folder)
    if guides:
        shutil.copytree((folder / heads.FILE).parent, (partial / heads.FILE).parent)
    return guides


def copy_code(folder: Path, partial: Path) -> None:
    """A remote-code model's own files, and the names by which its config finds them."""
    for file in folder.glob("*.py"):
        shutil.copyfile(file, partial / file.name)
    for name in ("config.json", "tokenizer_config.json"):
        if (named := settings(folder / name).get("auto_map")) and (partial / name).is_file():
            _write(partial / name, {**settings(partial / name), "auto_map": named})


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_card(partial: Path, facts: card.Facts, lineage: Lineage, workspace: Path) -> None:
    (partial / "README.md").write_text(card.model_card(facts, lineage, workspace), encoding="utf-8")


def write_modelfile(folder: Path, template: str | None, partial: Path) -> bool:
    """Ollama's Modelfile; False when it has to do without a TEMPLATE."""
    tokenizer, chat = TextTokenizer.of(folder), ChatTemplate.if_any(folder, template)
    ends = endings(folder, template, settings(partial / "generation_config.json"))
    stops = [token for id in ends if (token := tokenizer.token(id))]
    text = card.modelfile(frame_of(chat), stops)
    (partial / "Modelfile").write_text(text, encoding="utf-8")
    return "\nTEMPLATE " in text


def parameters(folder: Path) -> int:
    """Numbers in the safetensors files of `folder`, from their headers."""
    from safetensors import safe_open

    total = 0
    for file in folder.glob(models.WEIGHTS):
        with safe_open(file, "pt") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())
    return total


def sentences(checks: Mapping[str, Difference], *, merged: bool) -> list[str]:
    """What the verification found, for the model card."""
    if not checks:
        return ["Not verified: the verification was switched off."]
    said = []
    if found := checks.get("merge"):
        said.append(
            f"Merging, in fp32, changed no logit by more than {found.max_difference:.2g} (largest {found.largest:.3g})."
        )
    if found := checks.get("file"):
        said.append(
            f"The files, loaded afresh, give the logits of the weights in memory to {found.max_difference:.2g}."
        )
    found = checks["whole"]
    whose = "base plus adapter" if merged else "the trained weights"
    tokens = f"the most likely token is the same at {found.top1_equal} of {found.positions} positions"
    lead = "" if found.top1_equal == found.positions else f"; elsewhere it led by at most {found.lead:.2g}"
    said.append(
        f"Against {whose} in fp32: the largest difference is {found.max_difference:.2g}, the mean divergence "
        f"{found.kl:.2g} nats; {tokens}{lead}."
    )
    return said


def receipt(partial: Path, facts: Mapping[str, Any], checks: Mapping[str, Difference]) -> dict[str, Any]:
    """What was written, to the byte, and how it was verified. `facts` say what it is and where it comes from."""
    files = []
    for file in sorted(path for path in partial.rglob("*") if path.is_file()):
        with open(file, "rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        files.append({"name": str(file.relative_to(partial)), "bytes": file.stat().st_size, "sha256": digest})
    return {
        **facts,
        "parameters": parameters(partial),
        "bytes": sum(file["bytes"] for file in files),
        "verified": bool(checks),
        "checks": {name: found.facts() for name, found in checks.items()},
        "files": files,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "safetensors")},
    }
