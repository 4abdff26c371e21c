"""Generate answers, token by token, from a model that is already loaded.

Every setting is said explicitly, so nothing that a model's own generation_config.json recommends slips in. Knows
neither chat templates nor HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from engine.serving.spoken import Detokeniser, StopStrings

Emit = Callable[[int, str], None]
Beside = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy; top_k 0 and top_p 1 are off; beams 1 is no beam search.

    count answers are made of one prompt; they end at a stop string, an end token, or after max_tokens.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    beams: int = 1
    count: int = 1
    seed: int | None = None
    stop: Sequence[str] = ()

    def config(self, ends: Sequence[int], pad: int | None) -> GenerationConfig:
        sampled: dict[str, Any] = (
            {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
            if self.temperature > 0
            else {"do_sample": False}
        )
        return GenerationConfig(
            max_new_tokens=self.max_tokens,
            repetition_penalty=self.repetition_penalty,
            num_beams=self.beams,
            num_return_sequences=self.count if self.beams > 1 else 1,
            eos_token_id=list(ends) or None,
            pad_token_id=pad,
            **sampled,
        )


@dataclass
class Answer:
    """One answer as it grows. `tokens` counts what was generated, the end token included; `ids` leaves it out."""

    index: int
    ends: Sequence[int]
    detokeniser: Detokeniser
    stops: StopStrings
    emit: Emit
    tokens: int = 0
    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish: Literal["", "stop", "length"] = field(default="")

    def take(self, token: int) -> None:
        if self.finish:
            return
        self.tokens += 1
        if token in self.ends:
            self.end("stop")
        else:
            self.ids.append(token)
            self._say(self.stops.push(self.detokeniser.push(token)))
            if self.stops.met:
                self.finish = "stop"

    def end(self, why: Literal["stop", "length"]) -> None:
        if not self.finish:
            self._say(self.stops.push(self.detokeniser.end()))
            self.finish = "stop" if self.stops.met else why
            self._say(self.stops.end())

    def _say(self, text: str) -> None:
        if text:
            self.text += text
            self.emit(self.index, text)


class _Listener(StoppingCriteria):
    """Hears every new token, and ends the answers that are finished, or all of them when nobody waits any more."""

    def __init__(self, answers: list[Answer], cancelled: Callable[[], bool], beams: bool) -> None:
        self.answers, self.cancelled, self.beams = answers, cancelled, beams

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if self.cancelled():
            return torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
        if self.beams:  # a beam's tokens may still be replaced
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for answer, token in zip(self.answers, input_ids[:, -1].tolist(), strict=True):
            answer.take(token)
        return torch.tensor([bool(answer.finish) for answer in self.answers], device=input_ids.device)


def generate(
    model: Any,
    tokenizer: Any,
    prompt: Sequence[int],
    sampling: Sampling,
    *,
    ends: Sequence[int],
    emit: Emit = lambda index, text: None,
    cancelled: Callable[[], bool] = lambda: False,
    beside: Beside = lambda ids: {},
) -> list[Answer]:
    """`sampling.count` answers to the token ids in `prompt`; `emit(index, text)` is called as each grows.

    ends: ids of the tokens that end an answer. With beams the whole text comes at the end. Once `cancelled()` is true
    it returns after the current token, and unfinished answers have an empty `finish`. `beside(ids)` is what the model
    takes with these token ids, such as pictures.
    """

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)  # type: ignore[no-any-return]

    answers = [
        Answer(index, ends, Detokeniser(decode), StopStrings(sampling.stop), emit) for index in range(sampling.count)
    ]
    beams = sampling.beams > 1
    if sampling.seed is None:
        torch.seed()
    else:
        torch.manual_seed(sampling.seed)
    rows = 1 if beams else sampling.count
    input_ids = torch.tensor([list(prompt)] * rows, device=model.device)
    sequences = model.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        generation_config=sampling.config(ends, tokenizer.pad_token_id),
        stopping_criteria=StoppingCriteriaList([_Listener(answers, cancelled, beams)]),
        **beside(input_ids),
    )
    if cancelled():
        return answers
    if beams:
        for answer, sequence in zip(answers, sequences[:, len(prompt) :].tolist(), strict=True):
            for token in sequence:
                answer.take(token)
    for answer in answers:
        answer.end("length")
    return answers
