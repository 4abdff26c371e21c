"""An export run: a tuned model, whole or as an adapter, written to the workspace's exports and proven equal.

    load the base in fp32 - attach and merge - write - load what was written - compare - name it

Everything is written to a hidden folder that gets its name by one rename, so an export is there whole or not at all.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from data import models
from data.encoding.render import ChatTemplate, NoTemplate, in_parts
from data.encoding.tokens import TextTokenizer
from data.weights import HELD, scores_texts
from engine.contract.args import ExportArgs
from engine.contract.errors import BoardError, ModelError, ResourceError
from engine.contract.rundir import Run, slug, write_json
from engine.exporting import card, companions, lineage, verify
from engine.exporting.lineage import Lineage
from engine.exporting.verify import Difference, Logits, VerificationError
from engine.models.loading import classifier_of
from engine.models.merging import merged
from engine.models.model import DTYPES, device_of, folder_of, model_of, tokenizer_of, with_adapter
from engine.models.vision import Sight
from engine.report import Report, Stop

STAGES = 5
MARGIN = 64e6  # bytes that are left free on the disk
OWN = {"bf16": "bf16", "f16": "fp16", "f32": "fp32"}  # dtypes as safetensors calls them
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Plan:
    """What is written where; `folder` holds the base, or the trained weights themselves where nothing is merged."""

    args: ExportArgs
    lineage: Lineage
    folder: Path
    target: Path
    dtype: str
    device: torch.device
    scores: bool = False  # whether the model scores texts, and writes none

    @property
    def adapter(self) -> Path | None:
        return self.lineage.weights.adapter


@dataclass(frozen=True)
class Probes:
    """The probe prompts in tokens, each with the tuned model's own answer, and its logits there, in fp32."""

    prompts: list[list[int]]
    answered: list[list[int]]
    logits: Logits


def run(args: ExportArgs, run: Run, report: Report, stop: Stop) -> None:
    plan = _plan(args, run, report)
    needed = _needed(plan)
    _check_disk(plan.target.parent, needed)
    with _partial(plan.target) as partial:
        export = _merged if args.form == "merged" else _adapter
        checks = export(plan, partial, report)
        if companions.copy_guidance(plan.adapter or plan.folder, partial):
            report.warn(
                "The heads that guide what this model writes go along for this board; other programs write "
                "without them."
            )
        _write_texts(plan, partial, checks, run, report)
        receipt = companions.receipt(partial, _facts(plan), checks)
        write_json(partial / "receipt.json", receipt)
        _flush(partial)
        _name(partial, plan.target)
    write_json(run.receipt_path, {**receipt, "path": str(plan.target)})
    _say(plan, receipt, checks, report)


def _plan(args: ExportArgs, run: Run, report: Report) -> Plan:
    found = lineage.of(args.tuned, run.workspace)
    adapter = found.weights.adapter
    name = args.to or _default_name(found, args)
    target = run.workspace / "exports" / name
    if target.exists():
        raise BoardError(
            f"There is an export called {name} already, and it is not overwritten.",
            "Give another folder name (to), or remove that folder first.",
        )
    revision = found.revision if adapter else ""
    folder = folder_of(found.weights.base, run.workspace, revision, code=found.trust_remote_code, say=report.note)
    if args.form == "adapter" and adapter is None:
        raise ModelError(
            f"{args.tuned} has no adapter: its weights were trained themselves.", "Set form to merged: the whole model."
        )
    if args.form == "merged":
        _check_mergeable(folder, adapter)
    stored = models.card(folder).dtype
    dtype = OWN.get(stored, "bf16") if args.dtype == "auto" else args.dtype
    scores = scores_texts(args.tuned, run.workspace)
    return Plan(args, found, folder, target, dtype, device_of(args.device), scores)


def _default_name(found: Lineage, args: ExportArgs) -> str:
    ref = found.weights.ref
    name = ref.replace("/", "-") if found.run else slug(Path(ref).name)
    return name if args.form == "merged" else f"{name}-adapter"


def _check_mergeable(folder: Path, adapter: Path | None) -> None:
    kind = models.quantised(folder)
    if kind and kind not in models.WIDENED:
        raise ModelError(
            f"{folder.name} is quantised ({kind}): merging into it would lose most of what was learnt.",
            "Set form to adapter, or train on the model in full precision.",
        )
    if adapter is None:
        return
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(adapter))
    if config.is_prompt_learning:
        raise ModelError(
            f"{config.peft_type.value} adds to the prompt, not to the weights, so there is nothing to merge.",
            "Set form to adapter.",
        )


def _needed(plan: Plan) -> int:
    """Bytes that the export will take."""
    if plan.args.form == "adapter":
        assert plan.adapter is not None
        weights = sum((plan.adapter / name).stat().st_size for name in ADAPTER_FILES)
    else:
        weights = models.card(plan.folder).parameters * DTYPES[plan.dtype].itemsize
    texts = (file for file in plan.folder.iterdir() if file.suffix in (".json", ".model", ".jinja", ".py", ".txt"))
    return weights + sum(file.stat().st_size for file in texts)


def _check_disk(exports: Path, needed: int) -> None:
    exports.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(exports).free
    if free < needed + MARGIN:
        raise ResourceError(
            f"The export needs {card.size(needed)}, and {card.size(free)} are free on the disk of {exports}.",
            "Free some space, remove old exports, or export the adapter alone.",
        )


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` that is gone afterwards; those that dead processes left are removed first."""
    for left in target.parent.glob(".partial-*"):
        if not psutil.pid_exists(int(left.name.rpartition("-")[2])):
            shutil.rmtree(left)
    partial = target.parent / f".partial-{target.name}-{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _merged(plan: Plan, partial: Path, report: Report) -> dict[str, Difference]:
    report.phase("loading")
    model = _tuned(plan, plan.adapter)
    report.progress(1, STAGES)
    probes = _probes(plan, model) if plan.args.verify else None

    report.phase("merging")
    checks: dict[str, Difference] = {}
    if plan.adapter is not None:
        model = merged(model)
        if probes:
            found = verify.difference(probes.logits, verify.logits_of(model, probes.answered))
            verify.check_equal("merging changed the logits", found, verify.MERGED)
            checks["merge"] = found
    report.progress(2, STAGES)

    report.phase("saving")
    _cast(model, DTYPES[plan.dtype])
    _save(model, plan, partial)
    report.progress(3, STAGES)
    cast = verify.logits_of(_cast(model, torch.float32), probes.answered) if probes else []
    del model
    _free()

    if probes:
        report.phase("verifying")
        read = verify.logits_of(_load(partial, plan), probes.answered)
        _free()
        _check_tokenizer(plan, partial, probes)
        found = verify.difference(cast, read)
        verify.check_equal("the written weights differ from those in memory", found, verify.READ_BACK)
        checks["file"] = found
        found = verify.difference(probes.logits, read)
        verify.check_rounded(f"writing {plan.dtype} changed the logits", found, DTYPES[plan.dtype])
        checks["whole"] = found
    report.progress(4, STAGES)
    return checks


def _adapter(plan: Plan, partial: Path, report: Report) -> dict[str, Difference]:
    assert plan.adapter is not None
    checks: dict[str, Difference] = {}
    if plan.lineage.args and plan.lineage.args.model.changed:
        has = "new tokens" if plan.lineage.args.model.new_tokens else "longer context"
        report.warn(
            f"This adapter fits the base with the {has} alone, {plan.folder}: take that folder along, or set form to "
            "merged."
        )
    if plan.lineage.weights.mends:
        report.warn(
            f"This adapter mends what {plan.lineage.weights.quantisation} lost: this board loads its base so, and "
            "other programs must, as the card shows. Or set form to merged."
        )
    report.phase("saving")
    for name in ADAPTER_FILES:
        shutil.copyfile(plan.adapter / name, partial / name)
    _tokenizer(plan).save_pretrained(partial)
    if plan.args.verify:
        report.phase("loading")
        probes = _probes(plan, _tuned(plan, plan.adapter))
        _free()
        report.phase("verifying")
        found = verify.difference(probes.logits, verify.logits_of(_tuned(plan, partial), probes.answered))
        verify.check_equal("the copied adapter differs", found, verify.READ_BACK)
        _check_tokenizer(plan, partial, probes)
        checks["whole"] = found
    _free()
    report.progress(4, STAGES)
    return checks


def _load(folder: Path, plan: Plan, **held: Any) -> Any:
    # fp32 whatever was written: what differs is then the weights, not the arithmetic.
    wanted = {"dtype": torch.float32, "device": plan.device, "trust_remote_code": plan.lineage.trust_remote_code} | held
    if plan.scores:
        labels = {"num_labels": 1} if plan.adapter else {}
        return classifier_of(folder, pad_id=_tokenizer(plan).pad_token_id, **wanted, **labels)
    return model_of(folder, **wanted)


def _tuned(plan: Plan, adapter: Path | None) -> Any:
    found = plan.lineage.weights
    if adapter and found.mends:  # it belongs to the weights that were quantised
        held = {"quantisation": found.quantisation, "double_quantisation": found.double_quantisation}
        model = _load(plan.folder, plan, **held).dequantize()
    else:
        model = _load(plan.folder, plan)
    return model if adapter is None else with_adapter(model, adapter).eval()


def _tokenizer(plan: Plan) -> Any:
    return tokenizer_of(plan.folder, plan.lineage.weights.template, trust_remote_code=plan.lineage.trust_remote_code)


def _free() -> None:
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.memory.empty_cache()


def _probes(plan: Plan, model: Any) -> Probes:
    chat, tokenizer = ChatTemplate.if_any(plan.folder, plan.lineage.template), TextTokenizer.of(plan.folder)
    prompts = [tokenizer.encode(chat.question(probe)).ids for probe in plan.args.probes]
    pad = tokenizer.pad_id or tokenizer.eos_id or 0
    answered = prompts if plan.scores else verify.answered(model, prompts, pad)
    return Probes(prompts, answered, verify.logits_of(model, answered))


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """Parameters alone, in place: buffers such as rotary frequencies are computed anew at loading, in fp32."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtype)
        if not torch.isfinite(parameter.data).all():
            raise ModelError(f"{name} holds numbers that {dtype} cannot hold.", "Set dtype to bf16 or fp32.")
    return model


def _save(model: Any, plan: Plan, partial: Path) -> None:
    from transformers import GenerationConfig

    if not plan.scores:  # the base's own is written below, even where transformers dislikes it
        model.generation_config = GenerationConfig()
    model.config.dtype = DTYPES[plan.dtype]
    model.save_pretrained(partial, max_shard_size=int(plan.args.shard_gb * 1e9))
    _tokenizer(plan).save_pretrained(partial)
    for file in Sight(plan.folder).files:
        shutil.copyfile(file, partial / file.name)
    if not plan.scores:
        companions.write_generation(plan.folder, plan.lineage.template, partial)
    companions.copy_code(plan.folder, partial)


def _check_tokenizer(plan: Plan, partial: Path, probes: Probes) -> None:
    """What a user's own program will do with the folder must give the very tokens that were trained."""
    tokenizer = tokenizer_of(partial, trust_remote_code=plan.lineage.trust_remote_code)
    parts = ChatTemplate.if_any(plan.folder, plan.lineage.template).wants_parts
    for probe, ids in zip(plan.args.probes, probes.prompts, strict=True):
        message = {"role": "user", "content": probe}
        messages = [in_parts(message) if parts else message]
        text = probe
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if tokenizer.encode(text, add_special_tokens=False) != ids:
            raise VerificationError(
                f"The export was not kept: its tokenizer reads the probe {probe!r} differently.",
                "Choose another template for the training, or report it.",
            )


def _write_texts(plan: Plan, partial: Path, checks: dict[str, Difference], run: Run, report: Report) -> None:
    merged = plan.args.form == "merged"
    facts = card.Facts(
        name=plan.target.name,
        form=plan.args.form,
        base=plan.lineage.origin if merged else plan.lineage.base,
        dtype=plan.dtype if merged else "",
        parameters=companions.parameters(partial),
        licence=models.card(plan.folder).licence,
        checks=companions.sentences(checks, merged=plan.adapter is not None),
        chats=not isinstance(ChatTemplate.if_any(plan.folder, plan.lineage.template), NoTemplate),
        scores=plan.scores,
        held=plan.lineage.weights if plan.lineage.weights.mends and not merged else None,
    )
    companions.write_card(partial, facts, plan.lineage, run.workspace)
    if plan.scores:
        return
    if merged and not companions.write_modelfile(plan.folder, plan.lineage.template, partial):
        report.warn("The chat template has no plain form for Ollama, so the Modelfile has no TEMPLATE.")


def _facts(plan: Plan) -> dict[str, Any]:
    held = {name: getattr(plan.lineage.weights, name) for name in HELD}
    return {
        **({"held": held} if plan.args.form == "adapter" else {}),
        "name": plan.target.name,
        "form": plan.args.form,
        "tuned": plan.lineage.weights.ref,
        "base": plan.lineage.base,
        "run": plan.lineage.run.id if plan.lineage.run else "",
        "dtype": plan.dtype if plan.args.form == "merged" else "",
        "template": plan.lineage.weights.template,
        "probes": list(plan.args.probes),
    }


def _flush(partial: Path) -> None:
    """To the disk before the rename, so that not even a power cut leaves a named folder with empty files."""
    for place in (*partial.rglob("*"), partial):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _name(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError as problem:
        if not target.exists():
            raise
        raise BoardError(
            f"Meanwhile another export took the name {target.name}.", "Give another name (to)."
        ) from problem


def _say(plan: Plan, receipt: dict[str, Any], checks: dict[str, Difference], report: Report) -> None:
    report.progress(STAGES, STAGES)
    facts = {key: receipt[key] for key in ("name", "form", "bytes", "verified", "dtype", "checks")}
    sentence = f"Exported to {plan.target} ({card.size(receipt['bytes'])}). {_proof(checks)}"
    report.result(sentence, path=str(plan.target), **facts)


def _proof(checks: dict[str, Difference]) -> str:
    if not checks:
        return "Not verified."
    whole, merge = checks["whole"], checks.get("merge")
    exact = f"the merge itself is exact to {merge.max_difference:.1g}; " if merge else ""
    return (
        f"Verified: {exact}loaded afresh, logits differ by at most {whole.max_difference:.2g}, and the most likely "
        f"token is the same at {whole.top1_equal} of {whole.positions} positions."
    )
