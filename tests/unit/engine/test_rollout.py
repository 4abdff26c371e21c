"""Answers written in batches: where they end, and that company and padding change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.feedback import rollout
from engine.models.model import model_of
from engine.serving.generate import Sampling

PAD, END, OTHER = 2, 2, 7  # the token that pads ends answers too
PROMPTS = [[3, 4, 5, 6, 8, 9], [10], [11, 12, 13]]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return model_of(tiny_model, dtype=torch.float32, device=torch.device("cpu"))


def test_an_answer_goes_up_to_its_first_end_and_includes_it() -> None:
    written = torch.tensor([[PAD, 3, 8, END, PAD, PAD], [4, 5, 8, 9, 8, 9], [4, 5, OTHER, 8, END, PAD]])
    read = torch.tensor([[False, True], [True, True], [True, True]])
    found = rollout.marked(written, read, [END, OTHER])
    assert found.said.tolist() == [[True, True, False, False], [True] * 4, [True, False, False, False]]
    assert found.ended.tolist() == [True, False, True]
    assert found.lengths.tolist() == [2, 4, 1]
    assert found.bare() == [[8], [8, 9, 8, 9], []]
    assert found.read.tolist()[0] == [False, True, True, True, False, False]


def test_some_rows_lose_the_padding_that_only_others_needed() -> None:
    written = torch.tensor([[PAD, PAD, 3, 8, END, PAD], [4, 5, 6, 8, 9, 8]])
    read = torch.tensor([[False, False, True], [True, True, True]])
    both = rollout.marked(written, read, [END])
    one = both[torch.tensor([0])]
    assert one.ids.tolist() == [[3, 8, END]] and one.said.tolist() == [[True, True]]
    assert both[torch.tensor([1, 0])].ids.tolist() == [written[1].tolist(), written[0].tolist()]


def test_joined_answers_stand_as_if_written_together() -> None:
    first = rollout.marked(torch.tensor([[3, 4, 8, END]]), torch.ones(1, 2, dtype=torch.bool), [END])
    second = rollout.marked(torch.tensor([[5, 8, 9, 8]]), torch.ones(1, 1, dtype=torch.bool), [END])
    both = rollout.joined([first, second], PAD)
    assert both.ids.tolist() == [[3, 4, 8, END, PAD], [PAD, 5, 8, 9, 8]]
    assert both.read.tolist() == [[True] * 4 + [False], [False] + [True] * 4]
    assert both.said.tolist() == [[True, True, False], [True, True, True]]
    assert both.ended.tolist() == [True, False]


def test_answers_in_company_are_those_written_alone(model: Any) -> None:
    greedy = Sampling(8, temperature=0)
    together = rollout.write(model, PROMPTS, greedy, [END], PAD).bare()
    assert together == [rollout.write(model, [prompt], greedy, [END], PAD).bare()[0] for prompt in PROMPTS]


def test_answers_are_those_of_a_model_that_keeps_its_activations(tiny_model: Path) -> None:
    """Layers that compute them again drop the cache in training mode, in which `steady` leaves them."""
    model = model_of(tiny_model, dtype=torch.float32, device=torch.device("cpu"))
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.2 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(weights.numel()))
    greedy = Sampling(8, temperature=0)
    kept = rollout.write(model.eval(), PROMPTS, greedy, [END], PAD)
    model.gradient_checkpointing_enable()
    rollout.steady(model.train())
    again = rollout.write(model, PROMPTS, greedy, [END], PAD)
    assert again.ids.tolist() == kept.ids.tolist()
    assert [layer.training for layer in model.model.layers] == [True, True] and not model.training


def test_a_batch_is_read_as_each_row_alone(model: Any) -> None:
    torch.manual_seed(3)
    answers = rollout.write(model, PROMPTS, Sampling(6), [END], PAD)
    found = rollout.thoughts(model, answers, temperature=0.7)
    logps, entropy = found.logps(answers.tokens), found.entropy()
    for row, prompt in enumerate(PROMPTS):
        said = answers.tokens[row, : answers.lengths[row]]
        logits = model(torch.tensor([[*prompt, *said.tolist()]])).logits[0, len(prompt) - 1 : -1] / 0.7
        wanted = logits.log_softmax(-1)
        assert torch.allclose(logps[row, : len(said)], wanted[torch.arange(len(said)), said], atol=1e-5)
        assert torch.allclose(entropy[row, : len(said)], -(wanted.exp() * wanted).sum(-1), atol=1e-5)


def test_drawn_answers_have_the_probability_that_they_are_said_to_have(model: Any) -> None:
    """The log-probabilities that are learnt from are those that the tokens were drawn with."""
    torch.manual_seed(0)
    answers = rollout.write(model, [PROMPTS[0]] * 4000, Sampling(1, temperature=0.05), [END], PAD)
    said, counts = answers.tokens[:, 0].unique(return_counts=True)
    thoughts = rollout.thoughts(model, answers[torch.tensor([0])], temperature=0.05)
    probabilities = (thoughts.logits[0, 0] / 0.05).softmax(-1)[said]
    assert len(said) > 1
    assert torch.allclose(counts / 4000, probabilities, atol=0.03)


def test_what_a_model_recommends_for_itself_does_not_slip_in(model: Any) -> None:
    greedy = Sampling(8, temperature=0)
    plain = rollout.write(model, PROMPTS, greedy, [END], PAD).bare()
    own = model.generation_config
    try:
        model.generation_config = type(own)(no_repeat_ngram_size=1, min_new_tokens=8)
        assert rollout.write(model, PROMPTS, greedy, [END], PAD).bare() == plain
        assert model.generation_config.no_repeat_ngram_size == 1
    finally:
        model.generation_config = own
