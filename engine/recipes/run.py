"""A training run from top to bottom: load, prepare, train, save, report."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, set_seed

from data import models, weights
from data.checking import preflight
from data.encoding.render import ChatTemplate, NoTemplate
from data.encoding.tokens import TextTokenizer
from engine.contract import kernels
from engine.contract.args import TrainArgs
from engine.contract.auto import Facts, resolved
from engine.contract.errors import ArgsError, ModelError
from engine.contract.fields import kind, sections
from engine.contract.machine import machine
from engine.contract.needs import Here
from engine.contract.rundir import Run
from engine.contract.tasks import Task
from engine.devices import ranks, sharing
from engine.models import beginning
from engine.models.model import DTYPES, device_of, dtype_of, folder_of, tokenizer_of
from engine.models.seen import Show
from engine.models.vision import Sight
from engine.recipes import checks, ending
from engine.recipes.setting import Setting
from engine.report import Report, Stop, Stopped
from engine.serving.turn import ends
from engine.training import apart, batching, lean
from engine.training.picture import draw
from engine.training.rows import Rows, rows_of
from engine.training.trainer import PARTIAL
from engine.tuning import methods
from engine.tuning.starts import Start
from engine.upstream import extra, settings

# One module per task, with `Config`, `settings`, `load`, `Task`, `beside`, `Collate` and `SIDES` (README.md).
RECIPES = {kind(task): f"engine.recipes.{kind(task)}" for task in sections(Task)}


def run(
    args: TrainArgs, run: Run, report: Report, stop: Stop, *, choose: Callable[[Rows, TrainArgs], Rows] | None = None
) -> None:
    """choose: of the rows, those that are trained on; all without it."""
    recipe = importlib.import_module(RECIPES[args.task.kind])
    set_seed(args.steps.seed)
    if refused := preflight.problems(args, run.workspace, rows=False):
        raise ArgsError(refused)
    device = device_of(args.compute.device)
    sharing.join(args, device)
    checkpoint = _checkpoint_to_resume(args, run)
    setting, sight = _prepared(recipe, args, run, report, stop, device, choose)
    if checkpoint:
        checks.steps_left(checkpoint, setting.steps)

    report.phase("loading")
    args = batching.settled(setting)
    setting = replace(setting, args=args)
    model = recipe.load(setting)
    own_dtype = model.config.dtype
    trainer = _trainer(recipe, setting, sight, model, checkpoint)
    sharing.share_out(trainer, setting.dtype)

    report.phase("training")
    started = time.monotonic()
    with stop.deferred():
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except Stopped:  # in the middle of a step, where it waits for a person
            trainer.save_now()
            raise
        if ranks.leads():
            draw(run)
        if ranks.any_of(stop.asked):
            raise Stopped
        trainer.check_numbers()
        report.phase("saving")
        trainer.best.restore()
        kept = own_dtype if args.model.dtype != "fp32" else torch.float32
        ending.save(trainer, setting.tokenizer, args, run, kept, trainer.beside)
    ending.report(trainer, report, time.monotonic() - started)


def _prepared(
    recipe: Any, args: TrainArgs, run: Run, report: Report, stop: Stop, device: torch.device,
    choose: Callable[[Rows, TrainArgs], Rows] | None,
) -> tuple[Setting, Sight | None]:  # fmt: skip
    """The rows as tokens, every `auto` decided by them, and what reads pictures, for a model that sees."""
    dtype = dtype_of(args.model.dtype, device)
    with ranks.one_first():
        consent = args.model.trust_remote_code
        folder = folder_of(args.model.path, run.workspace, args.model.revision, code=consent, say=report.note)
        if begin := getattr(recipe, "begin", None):
            folder = begin(args, folder, run, report)
        folder = beginning.changed(args, folder, run, report)
    tokenizer = tokenizer_of(folder, args.model.template, trust_remote_code=consent)

    sight = Sight.of(folder, args.vision, run.workspace / "cache" / "pictures")
    checks.sight(args, folder)

    report.phase("preparing")
    with ranks.one_first():
        rows = rows_of(args, folder, run, report, sight)
    checks.judged(rows)
    rows = choose(rows, args) if choose else rows
    args = resolved(args, Facts(machine(), models.card(folder).parameters, len(rows.train)))
    checks.measured(args, rows)
    return Setting(args, run, report, stop, folder, tokenizer, device, dtype, rows), sight


def _trainer(recipe: Any, setting: Setting, sight: Sight | None, model: Any, checkpoint: Path | None) -> Any:
    """The recipe's trainer of `model`, with the weights that the method trains, which records into the run's folder."""
    args, run, report, rows, device = setting.args, setting.run, setting.report, setting.rows, setting.device
    checks.length(args, model)
    if args.borders:
        checks.packing(args, model)
    set_seed(args.steps.seed)  # the adapter's first weights depend on the seed alone
    collate = recipe.Collate(setting.tokenizer.pad_token_id)
    model = methods.prepared(model, args, _start(setting, collate))
    moved, total = methods.trained(model)  # of all weights, wherever they lie from here on
    leaner = lean.made(model, args, rows=args.task.lean and not sight, say=report.note)
    if leaner.apart:
        collate = apart.Collate(setting.tokenizer.pad_token_id, unmasked=apart.unmasked(model))
    if device.type == "cpu":
        lean.keep_freed_memory()
    report.note(
        f"Training {moved:,} of {total:,} parameters in {_name(setting.dtype)} on {device.type}.",
        trained=moved,
        parameters=total,
    )
    report.note(kernels.attention(args.model.attention, Here(device.type), apart=setting.home != device)[1])
    if ranks.leads():
        ending.write_env(run, args, setting.folder, model, device)

    films = sight and "films" in rows.train.column_names
    with methods.kept_wide(model):
        trainer = recipe.Task(
            model=model,
            args=_config(recipe, args, run, rows, setting.dtype, device),
            train_dataset=rows.train,
            eval_dataset=rows.validation,
            data_collator=Show(sight, collate, recipe.SIDES) if films else collate,
            processing_class=setting.tokenizer,
            **recipe.beside(setting, model),
            **({"chunked": True} if leaner.chunked else {}),
        )
    lasting = methods.callbacks(model, checkpoint)
    for callback in lasting:
        trainer.add_callback(callback)
    _quieten(trainer)
    trainer.record(
        run, report, setting.stop, arguments=args,
        keep=args.record.keep, patience=args.record.patience, keep_best=args.record.keep_best,
        parent=checkpoint.parent if checkpoint else None, **_asked(args, setting.folder, model),
        beside=sight.files if sight and not args.method.adapter else [], lasting=lasting,
    )  # fmt: skip
    return trainer


def _start(setting: Setting, collate: Any) -> Start:
    """What the method may ask beside the model."""
    args, rows = setting.args, setting.rows
    many = args.steps.batch_size

    def batches() -> Iterator[dict[str, Any]]:
        for first in range(0, len(rows.train), many):
            yield collate([rows.train[place] for place in range(first, min(first + many, len(rows.train)))])

    wanted = getattr(args.method, "start_from", "")
    folder = weights.adapter(wanted, args.model.path, setting.run.workspace) if wanted else None
    return Start(folder, batches, setting.steps, setting.report.note)


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


def _config(recipe: Any, args: TrainArgs, run: Run, rows: Rows, dtype: torch.dtype, device: torch.device) -> Any:
    evaluates = rows.validation is not None
    keywords = {
        **settings(args, "trainer"),
        **recipe.settings(args),
        **sharing.settings(args),
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
    if args.compute.offload and keywords["activation_checkpointing"]:
        # Only so does it keep its inputs where they can be offloaded from.
        keywords["gradient_checkpointing_kwargs"] = {"use_reentrant": True}
    if args.compute.loss == "liger":
        keywords["use_liger_kernel"] = True
    return recipe.Config(**{**keywords, **extra(args.extra, recipe.Config)})


def _quieten(trainer: Any) -> None:
    """The worker prints its own lines: callbacks that print the same numbers again are taken out."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    assert all(isinstance(callback, TrainerCallback) for callback in trainer.callback_handler.callbacks)


def _asked(args: TrainArgs, folder: Path, model: Any) -> dict[str, Any]:
    """The user's sample questions, each with the tokens that ask it, and the tokens that end an answer."""
    if not args.record.samples:
        return {}
    tokenizer = TextTokenizer.of(folder)
    template: ChatTemplate = NoTemplate(folder.name, "")
    if args.task.takes != ("text",):
        template = ChatTemplate.if_any(folder, None if args.model.template == "auto" else args.model.template)
    begins = tokenizer.begins if isinstance(template, NoTemplate) else []  # as plain text begins in training
    asked = [(prompt, [*begins, *tokenizer.encode(template.question(prompt)).ids]) for prompt in args.record.samples]
    return {"samples": asked, "ends": ends(model, template, tokenizer)}


def _name(dtype: torch.dtype) -> str:
    return next(name for name, known in DTYPES.items() if known is dtype)
