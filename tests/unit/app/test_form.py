"""The form reads the argument tree and gives it back; nothing here opens a page."""

from __future__ import annotations

import json
import re
from typing import Any

import gradio as gr
import pytest

from app.form import Form
from engine.contract import auto, needs, text
from engine.contract.args import KINDS, TrainArgs
from engine.contract.fields import walk
from engine.contract.machine import Machine

CPU = Machine("cpu", "CPU, 4 cores", 4, False)
OFFERED = {"models": ["SmolLM2-135M-Instruct"], "datasets": ["identity", "sql"], "templates": ["auto"]}


@pytest.fixture
def form() -> Form:
    return built(TrainArgs)


def built(root: Any, decided: Any = None) -> Form:
    with gr.Blocks():
        form = Form(root, "x", OFFERED, decided)
        for spec in walk(root):
            form.field(spec.path, spec.variant)
    return form


def held(form: Form, **said: Any) -> list[Any]:
    """The values of an untouched form, but for the fields named by id (`method_lora_rank`)."""
    values = form.shown(form.root.model_validate(DEFAULTS.get(form.root, {})))
    places = [component.elem_id for component in form.inputs]
    for name, value in said.items():
        values[places.index(f"x-{name.replace('__', '-')}")] = value
    return values


DEFAULTS = {KINDS["evaluate"]: {"tuned": "run"}, KINDS["export"]: {"tuned": "run"}}


@pytest.mark.parametrize("kind", KINDS)
def test_an_untouched_form_gives_the_defaults_of_every_kind_of_run(kind):
    form = built(KINDS[kind])
    args, problems = form.checked(held(form))
    assert problems == []
    assert args == KINDS[kind].model_validate(DEFAULTS.get(KINDS[kind], {}))


def test_arguments_survive_the_way_through_the_form(form):
    given = text.parse(
        {
            "name": "first",
            "model": {"path": "x/y", "dtype": "fp32", "template": "chatml"},
            "data": {"train": ["a.jsonl", "b"], "fill": {"name": "7", "maker": "a=b"}, "max_rows": 12, "packing": True},
            "method": {"kind": "lora", "rank": 3, "alpha": 1e-7, "targets": ["q_proj", "v_proj"], "dora": True},
            "optim": {"learning_rate": 2.5e-5},
            "steps": {"max_steps": 9},
            "compute": {"checkpointing": True},
            "extra": {"adam_beta2": 0.98, "label": "true", "deep": {"a": [1, None]}},
        },
        kind="train",
    )
    args, problems = form.checked(form.shown(given))
    assert problems == []
    assert args == given


def test_fields_of_the_variant_that_is_not_chosen_are_left_out(form):
    content = form.content(held(form, method__kind="freeze", method__lora__rank="nonsense", method__freeze__layers="4"))
    assert content["method"].items() >= {"kind": "freeze", "layers": "4", "head": False}.items()
    assert "rank" not in content["method"]


def test_an_empty_field_means_auto_or_nothing_or_is_a_mistake(form):
    content = form.content(held(form, optim__learning_rate=" ", steps__max_steps="", steps__epochs=""))
    assert content["optim"]["learning_rate"] == "auto"
    assert content["steps"]["max_steps"] is None
    _, problems = text.checked(TrainArgs, content)
    assert [problem.path for problem in problems] == ["steps.epochs"]


def test_every_mistake_marks_its_own_field(form):
    values = held(
        form, optim__learning_rate="fast", method__lora__rank="0", data__fill="no equals sign", steps__epochs="-1"
    )
    _, problems = form.checked(values)
    said = read(form.news(values, problems))
    assert set(said["wrong"]) == {"x-optim-learning_rate", "x-method-lora-rank", "x-data-fill", "x-steps-epochs"}
    assert said["wrong"]["x-optim-learning_rate"] == "'fast' is not a number or auto."


def test_a_problem_of_a_field_that_is_not_on_the_form_marks_nothing(form):
    _, problems = text.checked(TrainArgs, {"optim": {"learning_rat": 1}})
    assert read(form.news(held(form), problems))["wrong"] == {}
    assert form.label(problems[0], held(form)) == "optim.learning_rat"


def test_auto_shows_what_it_comes_to(form):
    args = auto.resolved(TrainArgs(), auto.Facts(CPU, parameters=135_000_000, rows=100))
    said = read(form.news(held(form), [], args))["auto"]
    assert said["x-optim-learning_rate"] == "auto: 0.0005"
    assert said["x-method-lora-alpha"] == "auto: 32"
    assert read(form.news(held(form), []))["auto"]["x-optim-learning_rate"] == "auto"


def test_a_dropdown_says_what_auto_comes_to():
    decided = auto.resolved(TrainArgs(), auto.Facts(CPU, parameters=1))
    form = built(TrainArgs, decided)
    dtype = next(component for component in form.inputs if component.elem_id == "x-model-dtype")
    assert dtype.choices[0] == ("auto (fp32)", "auto")
    assert dtype in form.dropdowns
    assert len(form.relabelled(decided)) == len(form.dropdowns)


def test_a_choice_that_cannot_be_made_here_says_why_before_it_is_made():
    with gr.Blocks():
        form = Form(TrainArgs, "x", OFFERED, lacking=lambda path, choice: "needs a GPU" if choice == "fp16" else "")
        dtype = form.field("model.dtype")
    assert ("fp16 (needs a GPU)", "fp16") in dtype.choices
    assert ("bf16", "bf16") in dtype.choices


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_choices_are_labelled_by_what_this_machine_lacks(device, monkeypatch):
    monkeypatch.setattr(needs, "_installed", lambda package: False)
    here, default, labelled = needs.Here(device), TrainArgs(), {}
    for spec in walk(TrainArgs):
        for choice in spec.choices:
            if said := needs.lacking(default, spec.path, choice, here):
                labelled[spec.path, choice] = said
                assert len(said) < 50
    assert labelled["optim.optimiser", "galore_adamw"] == "needs pip install galore-torch"
    assert labelled["model.quantisation", "nf4"] == "needs pip install bitsandbytes"
    assert ("optim.optimiser", "adamw_torch") not in labelled
    on_cpu = {path for path, _ in labelled}
    assert ({"compute.loss", "model.dtype"} <= on_cpu) == (device == "cpu")
    attention = labelled["model.attention", "flash_attention_2"]
    assert attention == ("needs a GPU" if device == "cpu" else "needs pip install flash-attn")


def test_an_accordion_counts_the_fields_in_it_that_were_changed():
    with gr.Blocks():
        form = Form(TrainArgs, "x", OFFERED)
        form.more()
    before = read(form.news(held(form), []))["changed"]
    assert set(before.values()) == {""}
    after = read(form.news(held(form, optim__schedule="linear", optim__warmup="0.2", compute__device="cpu"), []))
    assert {key: value for key, value in after["changed"].items() if value} == {
        "x-more-optim": "2 changed", "x-more-compute": "1 changed",
    }  # fmt: skip


def test_a_closed_accordion_says_that_something_in_it_is_wrong():
    with gr.Blocks():
        form = Form(TrainArgs, "x", OFFERED)
        form.more()
    values = held(form, optim__warmup="soon", optim__schedule="linear")
    _, problems = form.checked(values)
    assert read(form.news(values, problems))["changed"]["x-more-optim"] == "1 to mend"


def test_more_makes_every_field_that_is_not_there_yet_and_no_other():
    with gr.Blocks():
        form = Form(TrainArgs, "x", OFFERED)
        form.fields("method", "optim.learning_rate")
        form.more(leave_out=("name",))
    ids = [component.elem_id for component in form.inputs]
    assert len(ids) == len(set(ids)) == len(walk(TrainArgs)) - 1
    assert "x-name" not in ids
    assert list(form.accordions)[-1] == "x-more-other"


def test_every_field_has_help(form):
    texts = Form.help_of(TrainArgs, "x")
    assert set(texts) == {component.elem_id for component in form.inputs}
    assert all(help.what for help in texts.values())


def test_the_variants_are_called_by_their_titles(form):
    kind = next(component for component in form.inputs if component.elem_id == "x-method-kind")
    assert ("LoRA", "lora") in kind.choices


@pytest.mark.parametrize(
    ("value", "shown"), [(5e-4, "0.0005"), (1e-5, "1e-5"), (3.0, "3"), (1e20, "1e20"), (0.1, "0.1")]
)
def test_numbers_are_shown_as_people_type_them(form, value, shown):
    spec = next(spec for spec in walk(TrainArgs) if spec.path == "optim.learning_rate")
    assert form.raw(spec, value) == shown
    assert float(shown) == value


def read(news: str) -> dict[str, Any]:
    import json

    return json.loads(news)


def test_a_label_says_its_unit_once():
    labels = {component.elem_id: component.label for component in built(KINDS["evaluate"]).inputs}
    assert labels["x-max_rows"] == "Max rows" and labels["x-batch_size"] == "Batch size (rows)"


def test_a_field_and_a_whole_section_can_be_put_out_of_sight():
    with gr.Blocks():
        form = Form(TrainArgs, "x", OFFERED)
        form.field("data.fill")
        form.more()
    said = json.loads(form.news(form.shown(TrainArgs()), (), away={"data.fill": False, "vision": True}))
    assert said["away"] == {"x-data-fill": False, "x-more-vision": True}
    assert "x-more-vision" in form.accordions


def test_what_nobody_has_touched_is_not_in_the_text_and_has_its_default(form):
    places = [component.elem_id for component in form.inputs]
    place = places.index("x-method-lora-rank")
    assert form.values("") == held(form)
    assert form.values(json.dumps({str(place): "7"})) == held(form, method__lora__rank="7")


def test_every_field_is_gathered_once_and_by_its_own_place():
    with gr.Blocks() as page:
        form = Form(TrainArgs, "x", OFFERED)
        form.more()
        form.gathered()
    events = [one for one in page.config["dependencies"] if one["outputs"] == [form.held._id]]
    told = {}
    for event in events:
        places = json.loads(re.search(r"\[.*\]", event["js"])[0])
        assert not event["backend_fn"] and {target[0] for target in event["targets"]} == set(event["inputs"])
        told |= dict(zip(places, event["inputs"], strict=True))
    assert told == {place: component._id for place, component in enumerate(form.inputs)}
    assert sum(len(event["inputs"]) for event in events) == len(form.inputs)
