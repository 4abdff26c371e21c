"""One model on rows: how likely it finds the given answers, and what it answers itself.

Knows nothing of comparisons, adapters or files. Batches are padded so that a row gets the same numbers in company as
alone: on the right for the loss, on the left for generating, with the padding masked.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig

from data.encoding.batches import batches
from data.encoding.mask import words
from data.encoding.outcome import Report
from data.encoding.prepare import UNTRAINED, prepare, reported
from data.encoding.render import ChatTemplate
from data.encoding.tokens import TextTokenizer
from data.rows import pictures
from data.rows.conversation import Row
from engine.feedback.rollout import bare
from engine.models.seen import SeenExamples
from engine.models.vision import Shown, Sight, expand
from engine.report import Stop
from engine.serving.turn import ends

GIVEN = 64  # tokens of a text that it is asked by, and as many that are compared with how the model goes on
TOKENS_AT_ONCE = 4096  # of one forward for the loss: bounds the logits, which are the vocabulary wide


@dataclass(frozen=True)
class Item:
    """A row in one model's tokens: the whole of it with labels, the prompt of its last answer, and that answer."""

    number: int
    file: str
    prompt: str
    reference: str
    ids: list[int]
    labels: list[int]
    prompt_ids: list[int]
    shown: Shown = ((), ())  # pictures and films of the whole, and of the prompt
    prompt_shown: Shown = ((), ())


@dataclass(frozen=True)
class Measured:
    """nll: summed negative log-likelihood, in nats, of `tokens` assistant tokens; cut: the answer had no end."""

    nll: float
    tokens: int
    answer: str
    cut: bool

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def items_of(
    rows: Sequence[Row], folder: Path, template: str | None, max_length: int, sight: Sight | None = None
) -> list[Item | None]:
    """The rows for the model in `folder`, in their order; None for one whose answers all lie behind `max_length`.

    Of a text the first `max_length` tokens are judged. sight: what that model sees with, if it does. Raises DataError
    for rows without an answer to judge.
    """
    tokenizer = TextTokenizer.of(folder)
    items = iter(_conversations([row for row in rows if row.kind != "text"], folder, template, max_length, sight))
    return [_text(row, tokenizer, max_length) if row.kind == "text" else next(items) for row in rows]


def _text(row: Row, tokenizer: TextTokenizer, max_length: int) -> Item | None:
    """A text to go on with: it is asked from its beginning, and the answer is how it goes on."""
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    ids = [*tokenizer.begins, *tokenizer.encode(row.text or "").ids, *end][:max_length]
    if len(ids) < 2:
        return None
    half = min(len(ids) // 2, GIVEN)
    given, rest = (tokenizer.decode(part, skip_special=True) for part in (ids[:half], ids[half : half + GIVEN]))
    return Item(row.number, row.file, given, rest.strip(), ids, [UNTRAINED, *ids[1:]], ids[:half])


def _conversations(
    rows: Sequence[Row], folder: Path, template: str | None, max_length: int, sight: Sight | None
) -> list[Item | None]:
    if not rows:
        return []
    chat, tokenizer = ChatTemplate.of(folder, template), TextTokenizer.of(folder)
    options: dict[str, Any] = {"max_length": max_length}
    maker = SeenExamples(chat, tokenizer, sight=sight, **options) if sight else None
    examples = (
        [fields for batch in reported(batches(rows, maker), Report(chat.name)) for fields in batch.columns.to_pylist()]
        if maker
        else [vars(example) for example in prepare(rows, chat, tokenizer, sees=False, **options).rows]
    )
    left = iter(examples)
    example, found = next(left, None), []
    for row in rows:
        # prepare keeps the order and only leaves rows out
        if example is not None and (example["file"], example["number"]) == (row.file, row.number):
            found.append(_item(row, example, chat, tokenizer, sight))
            example = next(left, None)
        else:
            found.append(None)
    return found


def _item(row: Row, example: dict[str, Any], chat: ChatTemplate, tokenizer: TextTokenizer, sight: Sight | None) -> Item:
    last = max(index for index, message in enumerate(row.messages) if message["role"] == "assistant")
    before, answer = row.messages[:last], row.messages[last]
    asked = chat.render(before, row.tools, add_generation_prompt=True)
    said = chat.render([*before, answer], row.tools)
    reference = answer["content"]
    if said.startswith(asked):
        # As the model would have to say it, so that thoughts and tool calls count too.
        reference = tokenizer.decode(tokenizer.encode(said[len(asked) :]).ids, skip_special=True)
    shown = [m for m in before if m["role"] != "system"] or before
    prompt = words(shown[0]) if len(shown) == 1 else "\n".join(f"{m['role']}: {words(m)}" for m in shown)
    seen = pictures.of(before), pictures.of(before, "video")
    if sight:
        asked = expand(asked, sight.signs, sight.expanded(*seen))[0]
    films = [json.loads(film) for film in example.get("films", ())]
    return Item(
        row.number,
        row.file,
        prompt,
        reference.strip(),
        example["input_ids"],
        example["labels"],
        tokenizer.encode(asked).ids,
        (example.get("pictures", ()), films),
        seen,
    )


class Judge:
    """Measures items with `model`, whichever adapter is active in it. Greedy, and explicit about everything else."""

    def __init__(
        self,
        model: Any,
        folder: Path,
        template: str | None,
        max_tokens: int,
        stop: Stop,
        sight: Sight | None = None,
    ) -> None:
        self.model, self.sight = model, sight
        self.tokenizer = TextTokenizer.of(folder)
        self.stop = stop
        inner = model.get_base_model() if hasattr(model, "peft_config") else model
        self.sparse = "logits_to_keep" in inspect.signature(inner.forward).parameters
        self.ends = ends(inner, ChatTemplate.if_any(folder, template), self.tokenizer)
        named = (self.tokenizer.pad_id, self.tokenizer.eos_id, 0)
        self.pad = next(id for id in named if id is not None)
        self.context = getattr(inner.config.get_text_config(), "max_position_embeddings", None)
        self.settings = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=max_tokens, eos_token_id=self.ends or None,
            pad_token_id=self.pad, repetition_penalty=1.0, use_cache=True,
        )  # fmt: skip

    @torch.inference_mode()
    def measure(self, items: Sequence[Item]) -> list[Measured]:
        losses = [pair for part in _parts(items) for pair in self._losses(part)]
        answers = self._answers(items)
        return [Measured(*loss, *answer) for loss, answer in zip(losses, answers, strict=True)]

    def _losses(self, items: Sequence[Item]) -> Iterator[tuple[float, int]]:
        """Per item, its summed negative log-likelihood and how many tokens that is."""
        longest = max(len(item.ids) for item in items)
        ids = self._tensor([item.ids + [self.pad] * (longest - len(item.ids)) for item in items])
        labels = self._tensor([item.labels + [UNTRAINED] * (longest - len(item.ids)) for item in items])
        mask = self._tensor([[1] * len(item.ids) + [0] * (longest - len(item.ids)) for item in items])
        targets = labels[:, 1:]
        keep = (targets != UNTRAINED).any(dim=0).nonzero().flatten()
        options = {"logits_to_keep": keep} if self.sparse else {}
        options |= self._seen(ids, [item.shown for item in items])
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
        if not self.sparse:
            logits = logits[:, keep]
        for row, wanted in zip(logits, targets[:, keep], strict=True):
            trained = wanted != UNTRAINED
            nll = functional.cross_entropy(row[trained].float(), wanted[trained], reduction="none")
            yield float(nll.double().sum()), int(trained.sum())

    def _answers(self, items: Sequence[Item]) -> Iterator[tuple[str, bool]]:
        """Per item, what the model says to its prompt, and whether that was cut short."""
        room = max(1, self.context - self.settings.max_new_tokens) if self.context else None
        if self.sight:
            room = None  # a picture is not cut
        prompts = [item.prompt_ids[-room:] if room else item.prompt_ids for item in items]
        longest = max(map(len, prompts))
        ids = self._tensor([[self.pad] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = self._tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with bare(self.model):  # the model's own wishes, which the other model may not share, are for its ends alone
            said = self.model.generate(
                input_ids=ids, attention_mask=mask, generation_config=self.settings,
                stopping_criteria=[self._asked_to_stop], **self._seen(ids, [item.prompt_shown for item in items]),
            )  # fmt: skip
        for row in said[:, longest:].tolist():
            end = next((place for place, id in enumerate(row) if id in self.ends), None)
            yield self.tokenizer.decode(row[:end], skip_special=True).strip(), end is None

    def _seen(self, ids: torch.Tensor, shown: Sequence[Shown]) -> dict[str, torch.Tensor]:
        """What the model is shown beside the tokens."""
        if self.sight is None:
            return {}
        return {name: value.to(ids.device) for name, value in self.sight.beside(ids, shown).items()}

    def _asked_to_stop(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(ids),), self.stop.asked, device=ids.device)

    def _tensor(self, rows: list[list[int]]) -> torch.Tensor:
        return torch.tensor(rows, device=self.model.device)


def _parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """`items` in pieces of at most TOKENS_AT_ONCE padded tokens, and at least one item."""
    start = 0
    for stop in range(1, len(items) + 1):
        longest = max(len(item.ids) for item in items[start : stop + 1])
        if stop == len(items) or longest * (stop + 1 - start) > TOKENS_AT_ONCE:
            yield items[start:stop]
            start = stop
