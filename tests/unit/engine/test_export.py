"""The texts of an export: what the card tells, and when a Modelfile may claim to know the template."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from data.encoding.render import ChatTemplate
from data.rows.conversation import Message
from engine.contract import rundir, text
from engine.contract.args import EvaluateArgs, TrainArgs
from engine.contract.rundir import Run, write_json
from engine.exporting import card
from engine.exporting.lineage import Lineage, of
from engine.serving import turn
from tests.wording import CHATML

DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
BY_ROLE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}[S]{{ m['content'] }}[/S]{% elif m['role'] == 'user' %}"
    "[INST]{{ m['content'] }}[/INST]{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)
LAST_ONLY = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last or m['role'] != 'assistant' %}{{ m['content'] }}{% else %}...{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMS = CHATML.replace("message['content']", "message['content'] | trim")


def template(source: str) -> ChatTemplate:
    return ChatTemplate("test", source)


def talk() -> list[Message]:
    return [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ]


def go(template: str, messages: list[Message]) -> str:
    """What Go's text/template makes of the few constructs that we write."""
    loop, _, end = template.removeprefix("{{ range .Messages }}").rpartition("{{ end }}")
    said = ""
    for message in messages:
        body = loop
        if body.startswith("{{ if"):
            branches = body.removesuffix("{{ end }}").replace("{{ else if", "{{ if").split("{{ if eq .Role ")[1:]
            body = next(b.split(" }}", 1)[1] for b in branches if b.startswith(f'"{message["role"]}"'))
        said += body.replace("{{ .Role }}", message["role"]).replace("{{ .Content }}", message["content"])
    return said + end


@pytest.mark.parametrize("source", [CHATML, BY_ROLE, DEFAULT_SYSTEM])
def test_the_modelfile_says_what_the_template_says(source: str) -> None:
    frame = turn.frame_of(template(source))
    assert frame is not None
    written = card.modelfile(frame, ["<|im_end|>"])
    body = written.split('TEMPLATE """')[1].split('"""')[0]
    messages = talk()
    wanted = template(source).render(messages, add_generation_prompt=True)
    if frame.system:
        assert f'SYSTEM """{frame.system}"""' in written
        messages = [{"role": "system", "content": frame.system}, *messages]
    assert go(body, messages) == wanted


def test_the_default_system_message_is_found() -> None:
    frame = turn.frame_of(template(DEFAULT_SYSTEM))
    assert frame and frame.system == "Be kind."
    plain = turn.frame_of(template(CHATML))
    assert plain and plain.system == ""


@pytest.mark.parametrize("source", [LAST_ONLY, TRIMS, "<s>" + CHATML, "{{ raise_exception('no') }}", "fixed"])
def test_a_template_without_a_plain_frame_is_left_out(source: str) -> None:
    assert turn.frame_of(template(source)) is None
    written = card.modelfile(None, ["</s>"])
    assert "\nTEMPLATE" not in written and "TEMPLATE is left out" in written
    assert 'PARAMETER stop "</s>"' in written


def test_text_that_go_would_run_is_left_out() -> None:
    frame = turn.frame_of(template(CHATML.replace("'<|im_start|>'", "'{' + '{x}' + '}'")))
    assert frame is not None
    assert "\nTEMPLATE" not in card.modelfile(frame, [])


def run_of(workspace: Path, **args: object) -> Run:
    return rundir.make(workspace, "sft", text.dump(TrainArgs.model_validate(args)))


def facts(**changed: object) -> card.Facts:
    given = {"name": "mine", "form": "merged", "base": "SmolLM2-135M-Instruct", "dtype": "bf16", "parameters": 1234}
    return card.Facts(**{**given, **changed})


def stand_in(folder: Path) -> Path:
    """Files by their names alone, which make a folder a model."""
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    stand_in(tmp_path / "models" / "SmolLM2-135M-Instruct")
    run = run_of(tmp_path, model="SmolLM2-135M-Instruct", data="identity", description="To see.")
    run.model_path.mkdir()
    (run.model_path / "adapter_config.json").write_text("{}")
    return of(run.id, tmp_path)


def test_the_card_names_base_data_and_method(lineage: Lineage, tmp_path: Path) -> None:
    written = card.model_card(facts(licence="apache-2.0", checks=["It is equal."]), lineage, tmp_path)
    front = yaml.safe_load(written.split("---")[1])
    assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert front["license"] == "apache-2.0" and front["library_name"] == "transformers"
    for wanted in ("identity", "lora", "1,234 parameters", "To see.", "- It is equal."):
        assert wanted in written


def test_folders_of_this_machine_stay_out_of_the_card(tmp_path: Path) -> None:
    home = stand_in(tmp_path / "secret" / "model")
    rows = str(home / "rows.jsonl")
    run = run_of(tmp_path, model=str(home), data={"train": [rows], "repeat": {rows: 2}})
    run.model_path.mkdir()
    (run.model_path / "adapter_config.json").write_text("{}")
    written = card.model_card(facts(base=str(home)), of(run.id, tmp_path), tmp_path)
    assert "secret" not in written
    assert "**model**" in written and "rows.jsonl" in written


def test_the_newest_evaluation_of_the_same_weights_is_told(lineage: Lineage, tmp_path: Path) -> None:
    def judged(ref: str, sentence: str) -> None:
        run = rundir.make(tmp_path, "evaluate", text.dump(EvaluateArgs(tuned=ref)))
        run.results_path.mkdir()
        numbers = {"base": 2.0, "tuned": 1.0, "difference": -1.0, "low": -1.2, "high": None}
        write_json(run.results_path / "summary.json", {
            "sentence": sentence, "rows_from": "rows", "base": "it", "metrics": {"loss": numbers},
        })  # fmt: skip

    assert card.evaluation_of(lineage, tmp_path) is None
    for ref, sentence in ((lineage.weights.ref, "Old."), (lineage.weights.ref, "New."), ("other", "Foreign.")):
        judged(ref, sentence)
    written = card.model_card(facts(), lineage, tmp_path)
    assert "New." in written and "Old." not in written and "Foreign." not in written
    assert "| Loss | 2.00 | 1.00 | -1.00 | -1.20 to – |" in written


@pytest.mark.parametrize(
    ("count", "said"),
    [(12, "12 bytes"), (1500, "1.5 kB"), (269_060_552, "269 MB"), (2.1e9, "2.1 GB"), (28e9, "28 GB")],
)
def test_sizes_are_for_people(count: float, said: str) -> None:
    assert card.size(count) == said
