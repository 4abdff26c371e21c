"""What the page says names fields by their labels; nothing here opens a page."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import gradio as gr
import pytest

from app import naming
from app.form import Form
from engine.contract import needs, rules, text
from engine.contract.args import KINDS, TrainArgs
from engine.contract.errors import Problem
from engine.contract.fields import Spec, walk
from tests.unit.app.test_form import OFFERED, built, held

SECTIONS = sorted({spec.path.partition(".")[0] for spec in walk(TrainArgs) if "." in spec.path})
PATH = re.compile(rf"\b(?:{'|'.join(SECTIONS)})\.[a-z_]")
SFT = {"task": "sft", "method": "lora"}


def test_a_path_becomes_the_label_that_stands_on_the_page():
    said = naming.plain(TrainArgs, "Set steps.batch_size to 1, or optim.learning_rate lower.", SFT)
    assert said == "Set “Batch size” to 1, or “Learning rate” lower."


def test_a_name_without_sections_is_told_from_a_word_by_its_underscore():
    said = naming.plain(KINDS["evaluate"], "Raise max_tokens, or choose other data.", {})
    assert said == "Raise “Max tokens”, or choose other data."


def test_two_fields_of_one_label_are_told_apart_by_their_sections():
    assert naming.plain(TrainArgs, "liger (compute.loss) pads.", SFT) == "liger (“Loss” under Memory and device) pads."
    assert naming.plain(TrainArgs, "(task.loss)", {"task": "dpo"}) == "(“Loss” under DPO)"
    assert naming.plain(TrainArgs, "(compute.loss)", {"task": "ppo"}) == "(“Loss”)"


def test_the_chosen_variant_gives_the_label_and_another_one_says_whose_field_it_is():
    assert naming.plain(TrainArgs, "method.layers", {"method": "freeze"}) == "“Layers”"
    assert naming.plain(TrainArgs, "method.layers", {"method": "expand"}) == "“New layers”"
    assert naming.plain(TrainArgs, "method.start_from", {"method": "full"}) == "“Start from” under LoRA"


def test_an_entry_of_a_field_that_holds_many_is_named_with_it():
    said = naming.plain(TrainArgs, "method.own.r is 0.", {"method": "tuner"})
    assert said == "“Own settings”: r is 0."


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Choose lora.", "Choose LoRA."),
        ("Choose lora or full, or freeze with care.", "Choose LoRA or Full, or Freeze with care."),
        ("See, or choose sft (task.kind).", "See, or choose SFT (“Task”)."),
        ("Only for sft and pretrain (task.kind).", "Only for SFT and Pretrain (“Task”)."),
        ("As expand (method.kind) would.", "As New layers (“Method”) would."),
        ("Set launch.strategy to ddp, or method.kind to ia3.", "Set “Strategy” to ddp, or “Method” to (IA)³."),
    ],
)
def test_a_choice_is_called_by_what_stands_on_its_button(said, shown):
    assert naming.plain(TrainArgs, said, SFT) == shown


@pytest.mark.parametrize(
    "said",
    [
        "It works at the full learning rate.", "Choose full-precision weights.", "Choose lora-base/model.",
        "Choose another prompt.", "A reward model writes no answers, says lora.", "Choose fuller rows.",
        "Choose lora.yaml.",
    ],
)  # fmt: skip
def test_a_word_that_is_not_chosen_is_left_alone(said):
    assert naming.plain(TrainArgs, said, SFT) == said


@pytest.mark.parametrize("said", ["model.safetensors", "my-data.train.jsonl", "a/data.train", "v1.2.3", "data.", ""])
def test_what_is_no_argument_stays(said):
    assert naming.plain(TrainArgs, said, SFT) == said


@pytest.mark.parametrize("kind", KINDS)
def test_every_path_of_every_kind_of_run_has_a_label(kind):
    for spec in walk(KINDS[kind]):
        if "." in spec.path:
            said = naming.plain(KINDS[kind], f"Set {spec.path} to 1.", {spec.union: spec.variant})
            assert said.startswith(f"Set “{spec.label}”")


def test_a_field_in_a_sentence_leads_to_its_place():
    with gr.Blocks():
        form = Form(TrainArgs, "x", OFFERED)
        form.more()
    said = form.linked("<b> (compute.loss)", held(form))
    assert said.startswith("&lt;b&gt; (<button ")
    assert 'data-field="x-compute-loss" data-in="x-more-compute">Loss</button> under Memory and device)' in said


def test_a_problem_of_an_entry_is_marked_at_the_field_that_holds_it():
    form = built(TrainArgs)
    values = held(form, method__kind="tuner")
    problem = Problem("method.own.r", "It is out of range.")
    assert form.label(problem, values) == "Own settings: r"
    assert 'data-field="x-method-tuner-own"' in form.headed(problem, values)[0]
    assert '"x-method-tuner-own": "It is out of range."' in form.news(values, [problem])


# Every sentence


@cache
def trees() -> list[Any]:
    """Arguments of every task by every method, each with a handful of fields set to something else."""
    chance, drawn = random.Random(7), []
    kinds = {path: next(spec.choices for spec in walk(TrainArgs) if spec.path == path)
             for path in ("task.kind", "method.kind")}  # fmt: skip
    for task, method in product(*kinds.values()):
        mine = [spec for spec in walk(TrainArgs) if spec.variant in ("", task, method) and others(spec)]
        for _ in range(8):
            content: dict[str, Any] = {"task": {"kind": task}, "method": {"kind": method}}
            for spec in chance.sample(mine, 14):
                place = content
                for part in spec.path.split(".")[:-1]:
                    place = place.setdefault(part, {})
                place[spec.name] = chance.choice(others(spec))
            drawn.append(content)
    return drawn


def others(spec: Spec) -> list[Any]:
    """Values away from the default, some of them impossible."""
    if spec.path.endswith(".kind"):
        return []
    if spec.type == "bool":
        return [True, False]
    if spec.choices:
        return list(spec.choices)
    numbers = [spec.low, spec.high, 1, 2, 3, 7, -1, "nonsense"]
    if spec.type in ("int", "float"):
        return [number for number in numbers if number is not None]
    return {"list": [["a"]], "map": [{"a": 1}]}.get(spec.type, ["a"])


def sentences() -> Iterator[tuple[str, dict[str, str]]]:
    """Every sentence that those arguments bring, and every one of the tables', with what is chosen."""
    for content in trees():
        kinds = {union: content[union]["kind"] for union in ("task", "method")}
        for problem in text.checked(TrainArgs, content)[1]:
            yield problem.text, kinds
    for rule in (*rules.RULES, *needs.NEEDS):
        yield rule.text, SFT
        yield getattr(rule, "short", ""), SFT


def test_no_sentence_on_the_page_shows_a_path():
    said = {(sentence, *kinds.values()) for sentence, kinds in sentences()}
    assert sum(bool(PATH.search(sentence)) for sentence, *_ in said) > 200  # they do name fields by path before
    shown = (naming.plain(TrainArgs, re.sub(r"\{[^}]*\}", "X", one), dict(zip(SFT, kinds, strict=True)))
             for one, *kinds in said)  # fmt: skip
    assert [sentence for sentence in shown if PATH.search(sentence)] == []


def test_no_sentence_on_the_page_calls_a_task_or_method_by_its_value():
    short = [value for (_, value), title in naming.titles(TrainArgs).items() if value.upper() == title.upper()
             and title != value.capitalize()]  # fmt: skip
    assert {"lora", "sft"} <= set(short)  # those that are no words of their own
    value = re.compile(rf"\b(?:{'|'.join(short)})\b")
    said = {sentence for sentence, _ in sentences()}
    assert sum(bool(value.search(sentence)) for sentence in said) > 20
    assert [one for one in said if value.search(naming.plain(TrainArgs, one, SFT))] == []


def test_no_help_on_the_page_shows_a_path():
    for kind, root in KINDS.items():
        for place, one in Form.help_of(root, "x").items():
            assert not PATH.search(f"{one.what} {one.when} {one.usual}"), (kind, place)
