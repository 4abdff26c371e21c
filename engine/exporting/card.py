"""The texts that travel with an export: its model card, and a Modelfile for Ollama.

Makes text out of facts; reads no weights and needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data import models
from data.weights import Weights
from engine.contract import text
from engine.contract.args import EvaluateArgs
from engine.contract.errors import ArgsError
from engine.contract.rundir import Run, records, runs
from engine.exporting.lineage import Lineage
from engine.serving.turn import Frame

METRICS = {
    "loss": "Loss",
    "perplexity": "Perplexity",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
    "bleu": "BLEU",
    "exact_match": "Exact match (%)",
    "preferred": "Better answer preferred (%)",
}


@dataclass(frozen=True)
class Facts:
    """What the card tells. `base` is the word for the base model, `checks` are sentences about the verification."""

    name: str
    form: str
    base: str
    dtype: str
    parameters: int
    licence: str = ""
    checks: Sequence[str] = field(default_factory=tuple)
    chats: bool = True  # whether it brings a chat template
    scores: bool = False  # whether it scores texts, and writes none
    held: Weights | None = None  # of an adapter that belongs to its base in few bits


def size(count: float) -> str:
    """Bytes for people: `269 MB`, `2.1 GB`."""
    for unit, worth in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= worth:
            return f"{count / worth:.1f} {unit}" if count < 10 * worth else f"{count / worth:,.0f} {unit}"
    return f"{count:.0f} bytes"


def model_card(facts: Facts, lineage: Lineage, workspace: Path) -> str:
    """README.md: front matter that a hub understands, and what a stranger needs to know before using the weights."""
    parts = [
        _front(facts, lineage),
        f"# {facts.name}\n\n{_what(facts)}",
        _training(lineage),
        _results(lineage, workspace),
        "## Verification\n\n" + "\n".join(f"- {sentence}" for sentence in facts.checks) if facts.checks else "",
        "## Use\n\n" + _use(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def hub_id(base: str) -> str:
    """The hub's name for a base model, or empty when it has none that we know."""
    for entry in models.known():
        if base == entry["name"]:
            return str(entry["hub"][0]) if entry.get("hub") else ""
    return base if models.HUB_ID.match(base) and not Path(base).exists() else ""


def _front(facts: Facts, lineage: Lineage) -> str:
    task = lineage.args.task.kind if lineage.args else ""
    method = lineage.args.method.kind if lineage.args else ""
    content = {
        "base_model": hub_id(facts.base),
        "library_name": "peft" if facts.form == "adapter" else "transformers",
        "pipeline_tag": "text-classification" if facts.scores else "text-generation",
        "license": facts.licence,
        "tags": [tag for tag in ("tuneboard", task, method) if tag],
    }
    stated = {key: value for key, value in content.items() if value}
    return "---\n" + yaml.safe_dump(stated, sort_keys=False, allow_unicode=True) + "---"


def _what(facts: Facts) -> str:
    base = _public(facts.base)
    origin = f", made from **{base}**" if base else ""
    if facts.form == "adapter":
        return f"An adapter with {facts.parameters:,} parameters{origin}; it needs that model to run."
    what = "A reward model" if facts.scores else "A language model"
    return f"{what} with {facts.parameters:,} parameters in {facts.dtype}{origin}. It needs nothing else."


def _training(lineage: Lineage) -> str:
    args = lineage.args
    if args is None:
        return ""
    method = getattr(args.method, "tuner", args.method.kind)
    held = args.model.quantisation
    beside = f", beside weights in {held}" if held != "none" else ""
    facts = [
        f"- Task: {args.task.kind}; method: {method}{beside}",
        f"- Datasets: {', '.join(_public(args.data.train))}",
        f"- Weights: {_public(lineage.weights.ref)}",
    ]
    hidden = ("name", "description", "model.path", "resume.run")
    told = {path: _public(value) for path, value in text.changes(args) if path not in hidden}
    changed = yaml.safe_dump(told, sort_keys=False, allow_unicode=True) if told else "(all at their defaults)\n"
    described = f"{args.description}\n\n" if args.description else ""
    return f"## Training\n\n{described}" + "\n".join(facts) + f"\n\n```yaml\n{changed}```"


def _public(value: Any) -> Any:
    """`value` with every absolute path cut to its last name: folders of this machine are nobody else's business."""
    if isinstance(value, list):
        return [_public(item) for item in value]
    if isinstance(value, dict):
        return {_public(name): _public(item) for name, item in value.items()}
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _results(lineage: Lineage, workspace: Path) -> str:
    said = []
    if lineage.run is not None:
        said += [record["sentence"] for record in records(lineage.run.events_path) if record.get("kind") == "result"]
    if summary := evaluation_of(lineage, workspace):
        said.append(f"{summary['sentence']} (rows: {summary['rows_from']}; compared with {_public(summary['base'])})")
        said.append(_table(summary))
    return "## Results\n\n" + "\n\n".join(said) if said else ""


def evaluation_of(lineage: Lineage, workspace: Path) -> dict[str, Any] | None:
    """The newest summary of an evaluation of the very same weights."""
    for run in runs(workspace):
        summary = run.results_path / "summary.json"
        if summary.is_file() and _judged(run) == lineage.weights.ref:
            return dict(json.loads(summary.read_text(encoding="utf-8")))
    return None


def _judged(run: Run) -> str:
    try:
        args = text.load(run.args_path)
    except ArgsError:
        return ""  # of another version
    return args.tuned if isinstance(args, EvaluateArgs) else ""


def _table(summary: dict[str, Any]) -> str:
    lines = ["| | base | this model | difference | interval |", "|---|---|---|---|---|"]
    for key, label in METRICS.items():
        if found := summary["metrics"].get(key):
            base, tuned, moved, low, high = (
                "–" if found[name] is None else f"{found[name]:.2f}"
                for name in ("base", "tuned", "difference", "low", "high")
            )
            lines.append(f"| {label} | {base} | {tuned} | {moved} | {low} to {high} |")
    return "\n".join(lines)


def _use(facts: Facts) -> str:
    if facts.form == "adapter":
        base = hub_id(facts.base) or "FOLDER_OF_THE_BASE_MODEL"
        kind, labels = ("SequenceClassification", ", num_labels=1") if facts.scores else ("CausalLM", "")
        packed, packs = "", ""
        if facts.held:
            packed, packs = (
                ", quantization_config=packed",
                f"""
packed = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="{facts.held.quantisation}",
    bnb_4bit_use_double_quant={facts.held.double_quantisation},
)""",
            )
        return f"""```python
from peft import PeftModel
from transformers import AutoModelFor{kind}{", BitsAndBytesConfig" if facts.held else ""}
{packs}
base = AutoModelFor{kind}.from_pretrained("{base}"{labels}{packed})
model = PeftModel.from_pretrained(base, "FOLDER")
```"""
    if facts.scores:
        return """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model, tokenizer = (kind.from_pretrained("FOLDER") for kind in (AutoModelForSequenceClassification, AutoTokenizer))
said = [{"role": "user", "content": "What is your name?"}, {"role": "assistant", "content": "Ada."}]
text = tokenizer.apply_chat_template(said, tokenize=False).rstrip()
print(model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits[0, 0])
```"""
    if facts.chats:
        asked = """chat = pipeline("text-generation", model="FOLDER")
print(chat([{"role": "user", "content": "What is your name?"}])[0]["generated_text"][-1]["content"])"""
    else:
        asked = """write = pipeline("text-generation", model="FOLDER")
print(write("Once upon a time")[0]["generated_text"])"""
    return f"""```python
from transformers import pipeline

{asked}
```

or `vllm serve FOLDER`, or `ollama create NAME -f FOLDER/Modelfile`."""


def modelfile(frame: Frame | None, stops: Sequence[str]) -> str:
    """A Modelfile for Ollama. Without a frame its TEMPLATE is left out, and the file says so."""
    lines = ["FROM ."]
    if frame is not None and (template := _go(frame)):
        lines.append(f'TEMPLATE """{template}"""')
        if frame.system:
            lines.append(f'SYSTEM """{frame.system}"""')
    else:
        lines.append("# TEMPLATE is left out: this model's chat template has no plain form in Ollama's language.")
        lines.append("# Ollama then looks for one that it knows; compare its answers before you rely on it.")
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    return "\n".join(lines) + "\n"


def _go(frame: Frame) -> str:
    """The frame in Go's template language; empty when its text cannot be written there."""
    texts = [*frame.opens.values(), *frame.closes.values(), frame.asked, frame.system]
    if any(mark in piece for piece in texts for mark in ("{{", "}}", '"""')):
        return ""
    named = {opened.replace(role, "{{ .Role }}", 1) for role, opened in frame.opens.items()}
    if len(named) == 1 and len(set(frame.closes.values())) == 1:
        (opened,), closed = named, frame.closes["user"]
        return "{{ range .Messages }}" + opened + "{{ .Content }}" + closed + "{{ end }}" + frame.asked
    branches = [
        ("{{ if" if place == 0 else "{{ else if")
        + f' eq .Role "{role}" }}}}{opened}{{{{ .Content }}}}{frame.closes[role]}'
        for place, (role, opened) in enumerate(frame.opens.items())
    ]
    return "{{ range .Messages }}" + "".join(branches) + "{{ end }}{{ end }}" + frame.asked
