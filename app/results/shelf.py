"""What can be taken away, as the page needs it: how large an export will be, what lies in the exports, a zip of one.

Reads files and headers only; the export itself is made by a run. Draws the cards, the receipt and the commands.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from app.planning.outlook import size
from app.results import refs
from app.running.ledger import when
from app.theme import pill, sentence_done, sentence_warning
from data import models, weights
from engine.contract.errors import BoardError, ResourceError

BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "f16": 2, "f32": 4}
MARGIN = 64_000_000  # bytes that stay free on the disk
ABOUT = {
    "merged": ("Merged", "A whole model that needs nothing else."),
    "adapter": ("Adapter", "The small difference alone; whoever uses it needs the base."),
}
# Why there is no such form of a model.
MISSING = {
    "merged": "What was learnt stands before the prompt, not in the weights: there is nothing to merge.",
    "adapter": "These weights were trained themselves: there is no adapter.",
}


@dataclass(frozen=True)
class Sizes:
    """Bytes that each form takes: None when there is no such form, 0 while the base is not on this machine."""

    merged: int | None
    adapter: int | None
    free: int


def sizes(ref: str, dtype: str, workspace: Path) -> Sizes:
    """How large an export of `ref` will be. Raises ModelError when there is no such thing."""
    found = weights.find(ref, workspace)
    folder = models.find(found.base, workspace, found.revision).folder
    merged, texts = 0, 0
    if folder is not None:
        card = models.card(folder)
        texts = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".json", ".jinja", ".model"))
        merged = card.parameters * BYTES.get(card.dtype if dtype == "auto" else dtype, 2) + texts
    adapter = None
    if found.adapter is not None:
        adapter = texts + sum(file.stat().st_size for file in found.adapter.glob("adapter_*"))
    return Sizes(None if found.before_prompt else merged, adapter, shutil.disk_usage(workspace).free)


def cards(found: Sizes | None, chosen: str) -> str:
    """The forms to choose from, each with its size; one that is not there says why."""
    parts = []
    for form, (title, about) in ABOUT.items():
        octets = getattr(found, form) if found else None
        usable = found is None or octets is not None
        weight = size(octets) if octets else "size unknown until the base is here" if usable and found else "–"
        why = about if usable else MISSING[form]
        parts.append(
            f'<button type="button" class="tb-parcel" data-form="{form}" aria-pressed="{str(form == chosen).lower()}"'
            f"{'' if usable else ' disabled'}><strong>{title}</strong><b>{weight}</b><span>{why}</span></button>"
        )
    return f'<div class="tb-parcels">{"".join(parts)}</div>{_room(found, chosen)}'


def _room(found: Sizes | None, chosen: str) -> str:
    if found is None:
        return ""
    needed = getattr(found, chosen) or 0
    if needed + MARGIN > found.free:
        return sentence_warning(
            f"The export needs {size(needed)}, and {size(found.free)} are free.", "Remove old exports or runs first."
        )
    return f'<p class="tb-muted">{size(found.free)} free on the disk.</p>'


@dataclass(frozen=True)
class Export:
    """One folder in the workspace's exports; `receipt` is empty when somebody put the folder there by hand."""

    path: Path
    receipt: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def octets(self) -> int:
        return int(self.receipt.get("bytes", 0)) or sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())


def listed(workspace: Path) -> list[Export]:
    """Every finished export, newest first."""
    folder = workspace / "exports"
    found = [entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."] if folder.is_dir() else []
    return [Export(entry, _receipt(entry)) for entry in sorted(found, key=lambda entry: -entry.stat().st_mtime)]


def opened(workspace: Path, name: str) -> Export | None:
    """The export called `name`, which comes from the page and is a name, not a path."""
    return next((found for found in listed(workspace) if found.name == name), None)


def _receipt(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "receipt.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}  # put there by hand, or damaged: listed without a receipt


def listing(workspace: Path, opened: str) -> str:
    """What static/runs.js draws."""
    rows = []
    for found in listed(workspace):
        form = found.receipt.get("form", "folder")
        mark = pill("verified") if found.receipt.get("verified") else ""
        html = (
            f'<span class="tb-item-top"><strong>{escape(found.name)}</strong>'
            f"{mark.replace('tb-queued', 'tb-done')}</span>"
            f'<span class="tb-item-about"><span>{escape(form)} · {size(found.octets)}</span>'
            f"<time>{when(found.path.stat().st_mtime)}</time></span>"
        )
        rows.append({"id": found.name, "html": html, "words": f"{found.name} {form}".lower()})
    nothing = '<p class="tb-muted">Each export is kept here, with its receipt.</p>'
    return json.dumps({"rows": rows, "opened": opened, "nothing": nothing}, ensure_ascii=False)


def receipt(found: Export, workspace: Path) -> str:
    """Verified or not, how exactly, what is in it, and how to use it elsewhere."""
    said = found.receipt
    return (
        f'<h2 class="tb-title tb-big">{escape(found.name)}</h2>'
        f'<p class="tb-muted"><code>{escape(str(found.path))}</code></p>'
        f"{_proof(said)}{_facts(found, workspace)}"
        f'<h3 class="tb-title">Use it elsewhere</h3>{commands(found, workspace)}'
        f"<details><summary>Files</summary>{_files(said)}</details>"
    )


def _proof(said: dict[str, Any]) -> str:
    checks = said.get("checks") or {}
    if not said.get("verified") or "whole" not in checks:
        return sentence_warning("Not verified.", "Export again with verification on to know that it is equal.")
    whole = checks["whole"]
    same = f"the most likely token is the same at {whole['top1_equal']} of {whole['positions']} positions"
    merge = checks.get("merge")
    exact = f"Merging is exact to {merge['max_difference']:.1g}. " if merge else ""
    rounded = f"Written as {said['dtype']}, the" if said.get("dtype") else "The"
    return sentence_done(
        f"Verified: loaded afresh, it answers as the tuned model does. {exact}{rounded} largest difference in logits "
        f"is {whole['max_difference']:.2g} of {whole['largest']:.3g}; {same}."
    )


def _facts(found: Export, workspace: Path) -> str:
    said = found.receipt
    origin = refs.short(str(said.get("tuned") or ""), workspace)
    pairs = {
        "Made from": origin, "Base": said.get("base"), "Form": said.get("form"),
        "Precision": said.get("dtype"), "Parameters": f"{said['parameters']:,}" if said.get("parameters") else "",
        "Size": size(found.octets),
    }  # fmt: skip
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in pairs.items() if value
    )
    return f'<dl class="tb-parcel-facts">{shown}</dl>'


def _files(said: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(file['name'])}<br><small class='tb-muted'>sha256 {escape(file['sha256'])}</small></td>"
        f"<td>{size(file['bytes'])}</td></tr>"
        for file in said.get("files", ())
    )
    return f'<table class="tb-files">{rows}</table>'


def commands(found: Export, workspace: Path) -> str:
    """What to type elsewhere, for the programs that read such a folder."""
    path, base = str(found.path), _base(str(found.receipt.get("base") or ""), workspace)
    if weights.scores_texts(f"exports/{found.name}", workspace):
        shown = {"Python": _scoring(path, base if found.receipt.get("form") == "adapter" else "")}
    elif found.receipt.get("form") == "adapter":
        shown = {
            "Python": "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("{base}")\nmodel = PeftModel.from_pretrained(base, "{path}")',
        }
        if _kind(found.path) == "LORA":  # vLLM knows no other adapters
            shown["vLLM"] = f"vllm serve {base} --enable-lora --lora-modules {found.name}={path}"
    else:
        shown = {
            "Python": f'from transformers import pipeline\n\nchat = pipeline("text-generation", model="{path}")\n'
            'print(chat([{"role": "user", "content": "What is your name?"}]))',
            "vLLM": f"vllm serve {path}",
            "Ollama": f"ollama create {found.name.lower()} -f {path}/Modelfile\nollama run {found.name.lower()}",
        }
    return "".join(f'<h4>{name}</h4><pre class="tb-command">{escape(text)}</pre>' for name, text in shown.items())


def _kind(folder: Path) -> str:
    """PEFT's word for the adapter in `folder`."""
    config = folder / "adapter_config.json"
    return str(json.loads(config.read_text(encoding="utf-8")).get("peft_type")) if config.is_file() else ""


def _scoring(path: str, base: str) -> str:
    """How another program asks a reward model, whole or an adapter of `base`, what a conversation is worth."""
    load = f'AutoModelForSequenceClassification.from_pretrained("{base or path}", num_labels=1)'
    more = f'\nmodel = PeftModel.from_pretrained(model, "{path}")' if base else ""
    return (
        ("from peft import PeftModel\n" if base else "")
        + "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
        + f'tokenizer = AutoTokenizer.from_pretrained("{path}")\nmodel = {load}{more}\n'
        + 'said = [{"role": "user", "content": "2 and 2?"}, {"role": "assistant", "content": "4"}]\n'
        + 'ids = tokenizer.apply_chat_template(said, return_tensors="pt", return_dict=True)\n'
        + "print(model(**ids).logits)"
    )


def _base(name: str, workspace: Path) -> str:
    """The base as other programs find it: its folder, or its hub id."""
    try:
        place = models.find(name, workspace)
    except BoardError:
        return name or "BASE"
    return str(place.folder) if place.folder and not place.hub_id else place.hub_id


def zipped(found: Export, folder: Path) -> Path:
    """The export as one zip in `folder`, made now unless it lies there already; older ones are removed.

    Stored, not squeezed: weights do not shrink. Raises ResourceError when the disk is too full.
    """
    path = folder / f"{found.name}.zip"
    newest = max((file.stat().st_mtime for file in found.path.rglob("*")), default=0.0)
    if path.is_file() and path.stat().st_mtime >= newest:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.zip"):
        old.unlink()
    if shutil.disk_usage(folder).free < found.octets + MARGIN:
        raise ResourceError(
            f"The zip needs {size(found.octets)}, which the disk does not have.", "Copy the folder itself instead."
        )
    partial = path.with_suffix(".partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(found.path.rglob("*")):
                if file.is_file():
                    archive.write(file, Path(found.name) / file.relative_to(found.path))
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def delete(workspace: Path, name: str) -> None:
    """Remove an export for good."""
    found = opened(workspace, name)
    if found is None:
        raise BoardError(f"There is no export {name} any more.", "Choose another one from the list.")
    grave = found.path.with_name(f".deleted-{found.name}")
    found.path.rename(grave)
    shutil.rmtree(grave)
