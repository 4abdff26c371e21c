"""Names that a field of lines can hold: what the page is told of them, and what the lines mean."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import gradio as gr
import pytest

from app import chips, typed
from app.form import Form
from engine.contract.args import KINDS, TrainArgs
from engine.contract.fields import Spec, walk
from engine.contract.own import Own
from engine.contract.rewards import FUNCTIONS
from engine.contract.solvers import SOLVERS
from tests.unit.app.test_form import OFFERED, built, held

JUDGED = "x-task-rewards-grpo-functions"
PATTERN = "x-task-rewards-grpo-pattern"
KNOWN = [spec for root in KINDS.values() for spec in walk(root) if spec.known]


@cache
def form() -> Form:
    return built(TrainArgs)


def told(**said: Any) -> dict[str, Any]:
    """What the page is told of a form that is untouched but for these fields."""
    values = held(form(), **said)
    return json.loads(form().news(values, form().checked(values)[1]))  # type: ignore[no-any-return]


def names(html: str) -> list[str]:
    return re.findall(r'data-name="([^"]+)"', html)


def test_a_chip_says_what_its_name_does_and_carries_the_line_that_it_adds():
    html = chips.row({"order": Own("random", 'The "order".', choices=("random", "ascending"))})
    assert html.startswith('<button type="button" class="tb-chip" aria-pressed="false"') and html.endswith(
        ">order</button>"
    )
    assert 'data-line="order=random" data-tip="The &quot;order&quot;." data-usual="order=random; or ascending"' in html
    assert 'aria-label="order: The &quot;order&quot;."' in html


@pytest.mark.parametrize(
    ("own", "line", "usual"),
    [
        (Own(1e-8, "It."), "n=1e-8", "n=1e-8"),
        (Own(5.0, "It.", 0, 100), "n=5", "n=5, from 0 to 100"),
        (Own(0.0, "It.", 0), "n=0", "n=0, at least 0"),
        (Own(False, "It."), "n=true", "n=false; or true"),
        (Own(True, "It."), "n=true", "n=true; or false"),
    ],
)
def test_a_chip_writes_numbers_as_people_do_and_turns_switches_on(own, line, usual):
    assert f'data-line="{line}"' in chips.row({"n": own}) and f'data-usual="{usual}"' in chips.row({"n": own})


def test_every_line_that_a_chip_adds_is_a_usable_setting():
    for spec in KNOWN:
        for chosen in spec.known if spec.by else [""]:
            known = spec.names(chosen)
            lines = re.findall(r'data-line="([^"]+)"', chips.row(known))
            read = typed.pairs("\n".join(lines), plain=False)
            assert list(read) == list(known)
            for name, own in known.items():
                assert read[name] == (True if isinstance(own.default, bool) else pytest.approx(own.default))


def test_every_name_that_a_field_may_hold_is_explained_in_a_sentence():
    sentence = re.compile(r"[A-Z1].*\.")
    for spec in KNOWN:
        for table in spec.known.values() if spec.by else [spec.known]:
            assert all(sentence.fullmatch(own.help) for own in table.values()), spec.path


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("", []),
        ("exact=1\n\n length = 0.2", ["exact", "length"]),
        ("exact, format", ["exact", "format"]),
        ("exact\nformat=0.5", ["exact", "format"]),
        ("order=random\nproj=svd=x", ["order", "proj"]),
    ],
)
def test_names_are_read_from_lines_as_the_arguments_read_them(said, found):
    assert typed.names(said) == found


def test_a_map_without_a_table_keeps_what_is_a_float_and_one_with_a_table_writes_it_short():
    spec = {spec.path: spec for spec in walk(TrainArgs)}
    assert form().raw(spec["extra"], {"a": 1.0, "b": 2e-5}) == "a=1.0\nb=2e-5"
    assert form().raw(spec["optim.own"], {"eps": 1e-8, "scale": 2.0}) == "eps=1e-8\nscale=2"


def test_the_names_of_what_is_chosen_are_offered_and_of_nothing_else():
    assert names(told(task__kind="grpo")["chips"][JUDGED]) == list(FUNCTIONS)
    assert JUDGED not in told()["chips"]


def test_names_follow_the_choice_that_they_belong_to():
    said = told(optim__optimiser="adafactor", optim__schedule="linear")
    assert names(said["chips"]["x-optim-own"]) == list(SOLVERS["adafactor"].own)
    assert said["chips"]["x-optim-schedule_own"] == ""
    assert said["auto"]["x-optim-schedule_own"] == chips.NOTHING and said["auto"]["x-optim-own"] == chips.HINT
    tuned = told(method__kind="tuner", method__tuner__tuner="ln_tuning")["chips"]
    assert tuned["x-method-tuner-own"] == ""
    scratch = told(task__kind="pretrain", task__pretrain__start="scratch")["chips"]["x-task-pretrain-size"]
    assert "layers" in names(scratch)
    assert told(task__kind="pretrain")["chips"]["x-task-pretrain-size"] == ""


def test_a_setting_of_one_name_is_in_sight_while_that_name_has_a_line():
    def away(**said: Any) -> bool:
        return bool(told(**said)["idle"][PATTERN])

    judged = {"task__kind": "grpo", "task__rewards__grpo__functions": "exact=1\nregex=1"}
    assert not away(**judged)
    assert away(task__kind="grpo")
    assert away(**judged | {"task__kind": "ppo"})


def test_a_setting_that_is_wrong_stays_in_sight_when_its_name_goes():
    said = told(task__kind="grpo", task__rewards__grpo__pattern="(")
    assert PATTERN in said["wrong"] and not said["idle"][PATTERN]


def test_settings_of_names_stand_beside_their_basic_field_and_out_of_sight_at_first():
    with gr.Blocks():
        made = Form(TrainArgs, "x", OFFERED)
        made.fields("task")
        beside = [key for key in made.components if key[1] == "grpo"]
        made.more()
    at = beside.index(("task.rewards.functions", "grpo"))
    settings = [(spec.path, "grpo") for spec in made.specs.values() if spec.variant == "grpo" and spec.only]
    assert beside[at + 1 : at + 1 + len(settings)] == settings
    assert all("tb-away" in made.components[key].elem_classes for key in settings)
    assert not any(spec.only for specs in made.accordions.values() for spec in specs)


def test_every_setting_of_a_name_names_one_that_there_is():
    def known(root: Any, spec: Spec) -> bool:
        above, _, name = spec.only.rpartition(".")
        return any(one.path == above and one.variant == spec.variant and name in one.names() for one in walk(root))

    for root in KINDS.values():
        assert all(known(root, spec) for spec in walk(root) if spec.only)
