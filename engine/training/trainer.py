"""What every trainer of ours does beyond TRL's: complete checkpoints, exact evaluation, records, and a clean stop.

`Recording` is mixed into a TRL trainer by a recipe. It knows no task: what a batch weighs, and which of the trainer's
numbers are kept, a recipe says.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from operator import mul
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback

from engine.contract.args import TrainArgs
from engine.contract.errors import BoardError
from engine.contract.rundir import Run
from engine.contract.solvers import BY_MEASURE
from engine.devices import ranks, sharing
from engine.feedback import rollout
from engine.report import Report, Stop
from engine.serving.generate import Sampling
from engine.training import offload
from engine.training.best import Best
from engine.training.picture import draw
from engine.tuning import optimisers

PARTIAL = ".partial"
SAMPLE_TOKENS = 64


class Recording:
    """Mixin before a TRL trainer class: `class Sft(Recording, SFTTrainer)`; call `record` before `train`."""

    # The trainer's names for numbers to ours.
    NAMES = {
        "loss": "loss",
        "learning_rate": "learning_rate",
        "grad_norm": "grad_norm",
        "mean_token_accuracy": "accuracy",
    }
    # The number of an evaluation that says which weights are the best, and whether it is to fall or to rise.
    BEST = ("eval/loss", "min")
    TOLD = "loss"  # the number that the run's last sentence tells
    arguments: TrainArgs | None = None

    def weight(self, batch: dict[str, Any]) -> float:
        """What a batch counts in an average over batches: here, its trained tokens."""
        return int((batch["labels"][:, 1:] != -100).sum())

    def record(
        self,
        run: Run,
        report: Report,
        stop: Stop,
        *,
        keep: int,
        arguments: TrainArgs | None = None,
        patience: int | None = None,
        keep_best: bool = False,
        parent: Path | None = None,
        samples: Sequence[tuple[str, Sequence[int]]] = (),
        ends: Sequence[int] = (),
        beside: Sequence[Path] = (),
        lasting: Sequence[Any] = (),
    ) -> None:
        """keep: checkpoints.   patience, keep_best, parent: as `best.Best` has them.

        arguments: of the run, for its optimiser and schedule; without them these are the library's own.
        samples: questions, each with the tokens that ask it.   ends: tokens that end an answer to them.
        beside: files for checkpoints.   lasting: what has a state of its own to `save(folder)` in checkpoints.
        """
        self.run, self.report, self.stop, self.keep, self.arguments = run, report, stop, keep, arguments
        self.samples, self.samples_end, self.beside, self.lasting = samples, ends, beside, lasting
        self.tokens_seen, self.tokens_logged, self.logged_at = 0, 0.0, time.monotonic()
        self.broken_steps, self.broken_since = 0, 0
        self.best = Best(self, patience, keep_best, parent)
        self.add_callback(Watch(self))
        self.add_callback(self.best)

    def create_optimizer(self, model: Any = None) -> Any:
        """The optimiser that the arguments name, over weights in groups of their own rates."""
        if self.optimizer is None and self.arguments is not None:
            self.optimizer = optimisers.made(self.model if model is None else model, self.arguments, self.args)
            if optimisers.forgets(self.arguments):
                name = self.arguments.optim.optimiser
                self.report.note(f"{name} keeps no state in checkpoints: a resumed run gathers it anew.")
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule that the arguments name, with its own settings and its lowest rate."""
        if self.lr_scheduler is None and self.arguments is not None:
            optimiser = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = optimisers.schedule(optimiser, self.arguments, self.args, num_training_steps)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As the library does; but the peak of the learning rate is the arguments', not the checkpoint's."""
        plan = self.lr_scheduler
        peaks = list(plan.base_lrs) if isinstance(plan, LambdaLR) else []
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint and peaks:
            optimisers.retimed(plan, peaks)

    def compute_loss_context_manager(self) -> Any:
        """Where the loss is computed: here, what the way back needs goes to main memory if the arguments say so."""
        if self.arguments is None or not self.arguments.compute.offload or not torch.is_grad_enabled():
            return super().compute_loss_context_manager()
        stack = ExitStack()
        stack.enter_context(super().compute_loss_context_manager())
        stack.enter_context(offload.offloaded(self.model))
        return stack

    def still(self) -> None:
        """Have an optimiser that trains other weights than it keeps put in those that it keeps."""
        if callable(getattr(self.optimizer, "eval", None)):
            self.optimizer.eval()

    def moving(self) -> None:
        """The other way round: have it put in those that it trains, as the library does before each batch."""
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()

    def save_beside(self, folder: Path) -> None:
        """Writes what a task keeps beside its model's weights, in checkpoints and at the end; most keep nothing."""

    def tokens(self, inputs: dict[str, Any]) -> int:
        """How many tokens of a batch the model reads, padding left out."""
        return _real_tokens(inputs)

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> torch.Tensor:
        self.tokens_seen += self.tokens(inputs)
        return super().training_step(model, inputs, *rest, **more)

    def log(self, logs: dict[str, float], *rest: Any, **more: Any) -> None:
        """Every number that the trainer reports becomes a point of the curves."""
        if "loss" in logs or "eval_loss" in logs:
            side = "eval" if "eval_loss" in logs else "train"
            self._metrics[side].update((name, [mean]) for name, mean in self.means(side).items())
        super().log(logs, *rest, **more)  # TRL adds what it has gathered
        if "loss" in logs or "eval_loss" in logs:
            self.report.metrics(self.state.global_step, self.state.epoch or 0.0, self._named(logs))
        if "loss" in logs:
            self._watch_numbers(logs)

    def means(self, side: str) -> dict[str, float]:
        """Of the numbers that were noted since the last log on a `side`, train or eval: their means, over all
        processes, which note the same numbers of rows of their own."""
        noted = [[one for one in self._metrics[side].get(name, ()) if not math.isnan(one)] for name in self.NAMES]
        found = ranks.totals([float(number) for values in noted for number in (sum(values), len(values))])
        means = zip(self.NAMES, found[::2], found[1::2], strict=True)
        return {name: total / count for name, total, count in means if count}

    def _named(self, logs: dict[str, float]) -> dict[str, float]:
        if "eval_loss" in logs:
            kept = {f"eval_{theirs}": f"eval/{ours}" for theirs, ours in self.NAMES.items()}
            if self.BEST[0] != "eval/loss":  # what is watched instead, which the Trainer must be given as a loss
                kept.pop("eval_loss", None)
            return {kept[name]: float(value) for name, value in logs.items() if name in kept}
        now, seen = time.monotonic(), ranks.total(self.tokens_seen)
        speed = (seen - self.tokens_logged) / max(now - self.logged_at, 1e-9)
        self.tokens_logged, self.logged_at = seen, now
        found = {f"train/{ours}": float(logs[theirs]) for theirs, ours in self.NAMES.items() if theirs in logs}
        return found | {
            "train/tokens_per_second": speed, "train/tokens": seen,
            "memory/peak_gb": peak_memory(self.args.device) / 1e9,
        }  # fmt: skip

    def _watch_numbers(self, logs: dict[str, float]) -> None:
        # In fp16 the gradient's overflow is daily life: the scaler leaves the step out and takes a smaller scale.
        watched = ("loss",) if self.args.fp16 else ("loss", "grad_norm")
        broken = [name for name in watched if not math.isfinite(float(logs.get(name, 0.0)))]
        if not broken:
            self.broken_steps = 0
            return
        self.broken_steps += 1
        self._tr_loss.zero_()  # the library takes the sum off itself, which leaves no number for ever
        if self.broken_steps == 1:
            self.report.warn(f"The {' and the '.join(broken)} is not a number at step {self.state.global_step}.",
                             "One more such step ends the run.")  # fmt: skip
            self.broken_since = self.state.global_step
            return
        self.check_numbers()

    def check_numbers(self) -> None:
        """Raise BoardError when the last loss was no number: such weights are neither trained on nor saved."""
        if self.broken_steps:
            raise BoardError(
                f"The loss is no longer a number since step {self.broken_since}: the weights are ruined.",
                "Lower optim.learning_rate (try a tenth), or set model.dtype to fp32; checkpoints from before are "
                "intact.",
            )

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Means over all held-out rows: every trained token (or pair) counts the same, whatever its batch.

        (The library averages over batches, so its figure moves with the batch size.)
        """
        self.report.phase("evaluating")
        started, total, weights, stopped = time.monotonic(), 0.0, list[float](), False
        self.still()
        self.model.eval()
        for batch, counts in self._held_out(eval_dataset):
            weights.append(self.weight(batch) if counts else 0)
            loss, _, _ = self.prediction_step(self.model, batch, prediction_loss_only=True)
            total += float(loss) * weights[-1]
            if stopped := ranks.any_of(self.stop.asked):
                break
        noted = {name: values for name, values in self._metrics["eval"].items() if len(values) == len(weights)}
        sums = [sum(map(mul, values, weights)) for values in noted.values()]
        total, count, *sums = ranks.totals([total, float(sum(weights)), *sums])
        metrics = {f"{metric_key_prefix}_loss": total / count} if count and not stopped else {}
        if metrics:
            self._metrics["eval"].update((name, [found / count]) for name, found in zip(noted, sums, strict=True))
            self.log(metrics)
            self._show_samples()
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.report.phase("training")
        # Time spent here is not training time: it would dent the curve of tokens per second.
        self.logged_at += time.monotonic() - started
        return metrics

    def _evaluate(self, trial: Any, ignore_keys: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """As the library does; but a measurement that a stop has cut short moves no schedule."""
        metrics: dict[str, float] = super()._evaluate(trial, ignore_keys, skip_scheduler=True)
        if metrics and not skip_scheduler and self.args.lr_scheduler_type in BY_MEASURE:
            self.lr_scheduler.step(metrics["eval_loss"])
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        return False  # what is best, `best.Best` knows

    def _held_out(self, dataset: Any = None) -> Iterator[tuple[dict[str, Any], bool]]:
        """This process's batches of the held-out rows. As every process goes through the model as often as the others,
        one that has fewer sees its last batch again, which then does not count."""
        if not ranks.joined():
            yield from ((batch, True) for batch in self.get_eval_dataloader(dataset))
            return
        rows = self.eval_dataset if dataset is None else dataset
        own = range(ranks.rank(), len(rows), ranks.count())
        size = self.args.per_device_eval_batch_size
        for batch in range(math.ceil(math.ceil(len(rows) / ranks.count()) / size)):
            counting = own[batch * size : (batch + 1) * size]
            chosen = counting or own[-1:] or range(1)
            yield self._prepare_inputs(self.data_collator([rows[index] for index in chosen])), bool(counting)

    def _show_samples(self) -> None:
        """The model's greedy answers to the user's own questions. Leaves the state of chance as it was."""
        pad, greedy = self.processing_class.pad_token_id, Sampling(SAMPLE_TOKENS, temperature=0.0)
        for prompt, ids in self.samples:
            with self.compute_loss_context_manager():
                found = rollout.write(self.model, [ids], greedy, self.samples_end, pad)
            answer = self.processing_class.decode(found.bare()[0], skip_special_tokens=True)
            self.report.sample(self.state.global_step, prompt, answer.strip())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A checkpoint is complete or absent: written under another name, flushed, renamed last."""
        if self.broken_steps:
            return  # ruined weights are never saved
        self.report.phase("saving")
        self.still()
        step = self.state.global_step
        partial = Path(self.args.output_dir)
        with ranks.one_first():
            shutil.rmtree(partial, ignore_errors=True)
        try:
            Trainer._save_checkpoint(self, model, trial)
            whole = sharing.gathered(self) if self.is_fsdp_enabled else {}
            ranks.wait()
            if ranks.leads():
                written = partial / f"checkpoint-{step}"
                if whole:  # shares of weights resume a run, and nothing else can read them
                    self.accelerator.unwrap_model(self.model).save_pretrained(written, **whole)
                    self.processing_class.save_pretrained(written)
                self._keep(written, step)
            ranks.wait()
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self.report.checkpoint(step, f"checkpoints/step-{step}")
        if ranks.leads():
            draw(self.run)
        self.report.phase("training")

    def save_now(self) -> None:
        """A checkpoint of the last whole step, if there is one, in the middle of the next."""
        if self.state.global_step:
            self._save_checkpoint(self.model, None)

    def _keep(self, written: Path, step: int) -> None:
        for file in self.beside:
            shutil.copyfile(file, written / file.name)
        for one in self.lasting:
            one.save(written)
        flush(written)
        final = self.run.checkpoints_path / f"step-{step}"
        shutil.rmtree(final, ignore_errors=True)
        written.rename(final)
        for _, old in self.run.checkpoints()[: -self.keep]:
            if old != self.best.folder:
                shutil.rmtree(old)


class Watch(TrainerCallback):
    """Progress after each step, and the stop: a checkpoint is saved, then training ends."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.started: tuple[float, int] | None = None

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.still()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = self.started or (time.monotonic(), state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        began, first = self.started or (time.monotonic(), state.global_step)
        done = state.global_step - first
        left = (time.monotonic() - began) / done * (state.max_steps - state.global_step) if done else None
        self.trainer.report.progress(state.global_step, state.max_steps, left)
        if ranks.any_of(self.trainer.stop.asked):
            control.should_save = state.global_step > 0
            control.should_evaluate = False
            control.should_training_stop = True
        if control.should_save or control.should_evaluate:  # of what may be saved, the loss is known
            control.should_log = True
        return control


def flush(folder: Path) -> None:
    """Everything in `folder` to the disk, so that a rename never names what is not there after a power cut."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def peak_memory(device: torch.device) -> int:
    """Bytes: the peak of the tensors on an accelerator with memory of its own, else of the whole process."""
    if device.type not in ("cpu", "mps"):  # Apple's devices share the machine's memory, and count no peak
        return int(torch.accelerator.max_memory_allocated())
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _real_tokens(inputs: dict[str, Any]) -> int:
    if "cu_seq_lens_q" in inputs:
        return int(inputs["input_ids"].numel())  # without padding
    if "attention_mask" in inputs:
        return int(inputs["attention_mask"].sum())
    # Packed: a padding token is a row of its own, with position 0 and no label after it.
    positions = inputs["position_ids"]
    padding = (positions == 0) & (positions.roll(-1, -1) == 0) & (inputs["labels"] == -100)
    return int(positions.numel() - padding.sum())
