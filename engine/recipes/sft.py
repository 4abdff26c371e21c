"""Supervised fine-tuning: the mean negative log-likelihood of the trained tokens, and variants of it.

TRL's SFTTrainer does the arithmetic of the usual loss. Rows come with their labels already set by our own mask, which
holds for any chat template, so nothing here renders or masks. What the held-out rows are measured by is the likelihood
itself, whatever the loss in training, so that runs with different losses can be compared.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from trl import SFTConfig, SFTTrainer

from engine.contract.args import TrainArgs
from engine.contract.imitation import Sft
from engine.models.loading import language_model as load  # noqa: F401 (what a recipe offers)
from engine.recipes.setting import Setting
from engine.training import likelihood
from engine.training.rows import Collate as Collate  # what a recipe offers
from engine.training.trainer import Recording

Config = SFTConfig
SIDES = 1  # of each example in a batch


def settings(args: TrainArgs) -> dict[str, Any]:
    """Keywords of `Config` that do not go one to one."""
    return {"packing": False, "padding_free": False, "max_length": None, "loss_type": "nll"}


def beside(setting: Setting, model: Any) -> dict[str, Any]:
    """Further keywords of `Task`."""
    task = setting.args.task
    assert isinstance(task, Sft)
    return {"loss": task.loss, "smoothing": task.label_smoothing, "weighed": setting.rows.weighed}


class Task(Recording, SFTTrainer):
    """SFT that records, evaluates exactly, and saves checkpoints whole."""

    def __init__(
        self,
        *given: Any,
        loss: str = "nll",
        smoothing: float = 0.0,
        weighed: bool = False,
        chunked: bool = False,
        **more: Any,
    ) -> None:
        """weighed: whether turns of some row weigh otherwise than 1.   chunked: as `lean.Lean` has it."""
        super().__init__(*given, **more)
        self.loss, self.smoothing, self.weighed, self.chunked = loss, smoothing, weighed, chunked
        # The loss is TRL's own and counts tokens over all batches of a step, whatever the model says of its loss.
        self.model_accepts_loss_kwargs = True
        prefix = getattr(getattr(self.model, "active_peft_config", None), "peft_type", "") == "PREFIX_TUNING"
        if self.aux_loss_enabled and (prefix or not _balances(self.model)):
            self._balance(
                False
            )  # a prefix makes the mask longer than what experts see, which the library takes for one

    def _balance(self, wanted: bool) -> None:
        """Whether the loss counts that keeps a mixture's experts equally busy."""
        self.aux_loss_enabled = wanted
        self.model.config.get_text_config().output_router_logits = wanted

    def evaluate(self, *given: Any, **more: Any) -> dict[str, float]:
        """Without that loss, which says nothing of how well the rows are known."""
        if not self.aux_loss_enabled:
            return super().evaluate(*given, **more)
        self._balance(False)
        try:
            return super().evaluate(*given, **more)
        finally:
            self._balance(True)

    def weight(self, batch: dict[str, Any]) -> float:
        if "weights" not in batch:
            return super().weight(batch)
        return float(batch["weights"][:, 1:][batch["labels"][:, 1:] != -100].sum())

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        varied = model.training and (self.loss != "nll" or self.smoothing)
        if not varied and not self.chunked and "weights" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = dict(inputs)
        weights, labels = inputs.pop("weights", None), inputs.pop("labels")[:, 1:]
        trained = labels != -100
        given = (torch.ones(trained.shape) if weights is None else weights[:, 1:]).to(labels.device)[trained]
        if self.chunked and not varied:
            head = self.accelerator.unwrap_model(model).get_output_embeddings()
            with likelihood.headless(head):
                states, more = self._logits(model, inputs, trained)
            with self.accelerator.autocast():  # what leaves the model is widened, and the output layer belongs to it
                loss, right = likelihood.summed(states, head, labels[trained], given)
        else:
            logits, more = self._logits(model, inputs, trained)
            logits = logits.float()
            variant, smoothing = (self.loss, self.smoothing) if varied else ("nll", 0.0)
            loss = (token_losses(logits, labels[trained], variant, smoothing) * given).sum()
            right = (logits.argmax(-1) == labels[trained]).sum()
        total = given.sum() if num_items_in_batch is None else num_items_in_batch
        loss = loss / torch.as_tensor(total).clamp(min=torch.finfo(loss.dtype).tiny)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the total is that of all, and their gradients are averaged
        if self.aux_loss_enabled:  # of a mixture of experts: a mean over a batch
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            loss = loss + self.router_aux_loss_coef * more.aux_loss / steps
        share = right.item() / max(1, len(given))
        self._metrics["train" if model.training else "eval"]["mean_token_accuracy"].append(share)
        return (loss, more) if return_outputs else loss

    def _logits(self, model: Any, inputs: dict[str, Any], trained: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """(trained tokens, vocabulary), in the order of `trained`, (rows, length - 1); and the model's output.

        Only the columns are computed in which some row is trained. They are counted from the end, since some adapters
        put tokens of their own before the row.
        """
        columns = trained.any(0).nonzero().flatten()
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        places = columns - trained.shape[1] - 1
        output = model(**inputs, use_cache=False, logits_to_keep=places)
        return output.logits[trained[:, columns]], output

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Any:
        """What all batches of a step count together: trained tokens, each as its turn weighs, on all devices."""
        counted = super()._get_num_items_in_batch(batch_samples, device)
        if not self.weighed or counted is None:
            return counted
        sums = [(self.weight(batch), Recording.weight(self, batch)) for batch in batch_samples]
        own = torch.tensor(sums, dtype=torch.float32, device=device).sum(0)
        weight, tokens = self.accelerator.reduce(own)
        return counted * (weight / tokens.clamp(min=1)).to(torch.float32)


def _balances(model: Any) -> bool:
    """Whether the model says how equally its experts are busy; Llama 4 has the setting alone."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return hasattr(sys.modules[type(inner).__module__], "load_balancing_loss_func")


def token_losses(logits: torch.Tensor, labels: torch.Tensor, loss: str, smoothing: float = 0.0) -> torch.Tensor:
    """(tokens,) float32: the loss of each token.

    logits: (tokens, vocabulary) float32.   labels: (tokens,) ids.
    nll: -log p(label); with smoothing s, (1 - s) of it and s of the mean over the vocabulary (Szegedy et al., 2016).
    dft: -p(label) log p(label), with the gradient of the second factor alone (Wu et al., 2025, equation 9).
    """
    log_probs = logits.log_softmax(-1)
    losses = -log_probs.gather(-1, labels[:, None])[:, 0]
    if loss == "dft":
        return losses * (-losses.detach()).exp()
    return (1 - smoothing) * losses - smoothing * log_probs.mean(-1) if smoothing else losses
