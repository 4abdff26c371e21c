"""A training run from top to bottom: load, prepare, train, save, report."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, set_seed

from data import models
from data.render import ChatTemplate
from engine import methods
from engine.contract.args import TrainArgs
from engine.contract.auto import Facts, resolved, total_steps
from engine.contract.errors import ArgsError, ModelError, Problem, ResourceError
from engine.contract.machine import machine
from engine.contract.rundir import Run, write_json
from engine.model import DTYPES, device_of, dtype_of, folder_of, model_of, tokenizer_of
from engine.picture import draw
from engine.report import Report, Stop, Stopped
from engine.rows import Rows, rows_of
from engine.seen import Show
from engine.trainer import PARTIAL, flush
from engine.upstream import extra, settings
from engine.vision import Sight

# One module per task, with `Config`, `settings`, `Task`, `beside`, `Collate` and `SIDES`.
RECIPES = {"sft": "engine.recipes.sft", "dpo": "engine.recipes.dpo"}


def run(args: TrainArgs, run: Run, report: Report, stop: Stop) -> None:
    recipe = importlib.import_module(RECIPES[args.task.kind])
    set_seed(args.steps.seed)
    device = device_of(args.compute.device)
    dtype = _dtype(args, device)
    checkpoint = _checkpoint_to_resume(args, run)
    consent = args.model.trust_remote_code
    folder = folder_of(args.model.path, run.workspace, args.model.revision, code=consent, say=report.note)
    tokenizer = tokenizer_of(folder, args.model.template, trust_remote_code=args.model.trust_remote_code)

    sight = Sight.of(folder, args.vision, run.workspace / "cache" / "pictures")
    if sight and args.data.packing:
        raise ArgsError([Problem("data.packing", "Rows of a model that sees are not packed. Turn packing off.")])

    report.phase("preparing")
    rows = rows_of(args, folder, run, report, sight)
    facts = Facts(machine(), models.card(folder).parameters, rows=len(rows.train))
    args = resolved(args, facts)
    if checkpoint:
        _check_steps_left(checkpoint, total_steps(args, facts))

    report.phase("loading")
    model = model_of(
        folder,
        dtype=dtype,
        device=device,
        attention=args.model.attention,
        trust_remote_code=args.model.trust_remote_code,
    )
    own_dtype = model.config.dtype
    _check_length(args, model)
    if args.data.packing:
        _check_packing(model)
    set_seed(args.steps.seed)  # the adapter's first weights depend on the seed alone
    model = methods.prepared(model, args)
    moved, total = methods.trained(model)
    report.note(
        f"Training {moved:,} of {total:,} parameters in {_name(dtype)} on {device.type}.",
        trained=moved,
        parameters=total,
    )
    _write_env(run, args, folder, model, device)

    collate = recipe.Collate(tokenizer.pad_token_id)
    trainer = recipe.Task(
        model=model,
        args=_config(recipe, args, run, rows, dtype, device),
        train_dataset=rows.train,
        eval_dataset=rows.validation,
        data_collator=Show(sight, collate, recipe.SIDES) if sight else collate,
        processing_class=tokenizer,
        **recipe.beside(model),
    )
    _quieten(trainer)
    beside = sight.files if sight and args.method.kind != "lora" else []
    trainer.record(run, report, stop, keep=args.record.keep, samples=_asked(args, folder), beside=beside)

    report.phase("training")
    started = time.monotonic()
    with stop.deferred():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        draw(run)
        if stop.asked:
            raise Stopped
        trainer.check_numbers()
        report.phase("saving")
        _save(trainer, tokenizer, args, run, own_dtype if args.model.dtype != "fp32" else torch.float32, beside)
        draw(run)
    _report(trainer, report, time.monotonic() - started)


def _dtype(args: TrainArgs, device: torch.device) -> torch.dtype:
    dtype = dtype_of(args.model.dtype, device)
    if dtype is torch.float16 and device.type == "cpu":
        raise ResourceError("fp16 training needs a GPU.", "Set model.dtype to auto, bf16 or fp32.")
    return dtype


def _checkpoint_to_resume(args: TrainArgs, run: Run) -> Path | None:
    """The folder of the checkpoint that `resume` names; ModelError when it is not there."""
    if not args.resume.run:
        return None
    parent = Run(run.workspace / "runs" / args.resume.run)
    saved = {folder.name: folder for _, folder in parent.checkpoints()}
    wanted = args.resume.checkpoint or (list(saved)[-1] if saved else "")
    if wanted not in saved:
        raise ModelError(
            f"{args.resume.run} has no checkpoint {wanted or 'at all'}.",
            f"It has {', '.join(saved)}." if saved else "Start a new run instead.",
        )
    return saved[wanted]


def _check_steps_left(checkpoint: Path, steps: int) -> None:
    """The library would take a step too many."""
    if int(checkpoint.name.removeprefix("step-")) >= steps:
        said = f"{checkpoint.name} is the end of a run of {steps} steps."
        hint = "Raise steps.epochs (or steps.max_steps) to train on, or take the checkpoint as it is."
        raise ArgsError([Problem("resume.checkpoint", f"{said} {hint}")])


def _check_length(args: TrainArgs, model: Any) -> None:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context and args.data.max_length > context:
        raise ArgsError(
            [Problem("data.max_length", f"{args.data.max_length} is more than the model's context of {context}.")]
        )


def _check_packing(model: Any) -> None:
    """Refuse to pack where rows in one sequence see each other. The model is asked, so it holds for any kernel."""
    ids = torch.arange(2, 14, device=model.device) % (model.config.get_text_config().vocab_size - 1)
    first, second = ids[:5], ids[5:]
    positions = torch.cat([torch.arange(5), torch.arange(7)]).to(model.device)
    with torch.no_grad():
        alone = model(input_ids=second[None], use_cache=False).logits[0].float()
        packed = model(
            input_ids=torch.cat([first, second])[None], position_ids=positions[None], use_cache=False
        ).logits[0, 5:]
    # Contamination moves logits by far more than the rounding of the arithmetic does.
    if (alone - packed.float()).abs().max() > 0.05 * alone.abs().max():
        kernel = model.config._attn_implementation
        raise ArgsError(
            [
                Problem(
                    "data.packing",
                    f"This model's {kernel} attention does not keep packed rows apart. Turn packing off.",
                )
            ]
        )


def _config(recipe: Any, args: TrainArgs, run: Run, rows: Rows, dtype: torch.dtype, device: torch.device) -> Any:
    evaluates = rows.validation is not None
    keywords = {
        **settings(args, "trainer"),
        **recipe.settings(args),
        "output_dir": str(run.checkpoints_path / PARTIAL),
        "max_steps": args.steps.max_steps or -1,
        "per_device_eval_batch_size": args.steps.batch_size,
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
        "use_cpu": device.type == "cpu",
        "eval_strategy": "steps" if evaluates else "no",
        "eval_on_start": evaluates and not args.resume.run,  # where the curve and the answers begin
        "save_strategy": "steps",
        "logging_strategy": "steps",
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
        "dataloader_pin_memory": device.type != "cpu",
        "data_seed": args.steps.seed,
        "disable_tqdm": True,
        "report_to": [],
    }
    # The deprecated name defaults to True in TRL; both must say the same.
    keywords["gradient_checkpointing"] = keywords["activation_checkpointing"]
    return recipe.Config(**{**keywords, **extra(args.extra, recipe.Config)})


def _quieten(trainer: Any) -> None:
    """The worker prints its own lines: callbacks that print the same numbers again are taken out."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    assert all(isinstance(callback, TrainerCallback) for callback in trainer.callback_handler.callbacks)


def _asked(args: TrainArgs, folder: Path) -> list[tuple[str, str]]:
    """The user's sample questions, each with what the model reads when it is asked."""
    if not args.record.samples:
        return []
    template = ChatTemplate.of(folder, None if args.model.template == "auto" else args.model.template)
    asked = [[{"role": "user", "content": prompt}] for prompt in args.record.samples]
    texts = [template.render(messages, add_generation_prompt=True) for messages in asked]
    return list(zip(args.record.samples, texts, strict=True))


def _save(trainer: Any, tokenizer: Any, args: TrainArgs, run: Run, dtype: torch.dtype, beside: Sequence[Path]) -> None:
    """The final weights under a name of their own, renamed last: `model/` present means success."""
    partial = run.path / f".model-{os.getpid()}"
    model = trainer.accelerator.unwrap_model(trainer.model)
    try:
        if hasattr(model, "peft_config"):
            # The base by the user's name for it, not by the folder that it happened to be loaded from.
            model.peft_config["default"].base_model_name_or_path = args.model.path
            model.peft_config["default"].revision = args.model.revision or None
            model.save_pretrained(partial, save_embedding_layers=False)
        else:
            model = model.to(dtype)
            model.config.dtype = dtype
            model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        for file in beside:
            shutil.copyfile(file, partial / file.name)
        flush(partial)
        partial.rename(run.model_path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _report(trainer: Any, report: Report, seconds: float) -> None:
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    held = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    # Single steps are noisy: the ends of the run are its first and last tenth.
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    sentence = f"Training loss went from {first:.3f} to {last:.3f} in {trainer.state.global_step} steps"
    sentence += f"; held-out loss from {held[0]:.3f} to {held[-1]:.3f}." if len(held) > 1 else "."
    facts = {
        "first_loss": first, "last_loss": last,
        "eval_losses": held, "best_eval_loss": min(held, default=None),
        "steps": trainer.state.global_step, "seconds": seconds, "tokens": trainer.tokens_seen,
    }  # fmt: skip
    report.result(sentence, **facts)


def _write_env(run: Run, args: TrainArgs, folder: Path, model: Any, device: torch.device) -> None:
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    write_json(run.env_path, {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "system": platform.platform(), "device": device.type, "device_name": machine().device_name,
        "model_folder": str(folder), "attention": model.config._attn_implementation,
        "args": args.model_dump(mode="json"),
    })  # fmt: skip


def _name(dtype: torch.dtype) -> str:
    return next(name for name, known in DTYPES.items() if known is dtype)
