"""Arguments as text: what people write is read as they mean it, and everything wrong is said at once."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings

from engine.contract import text
from engine.contract.args import KINDS, EvaluateArgs, ServeArgs, TrainArgs
from engine.contract.errors import ArgsError
from engine.contract.fields import Spec, walk
from tests.arguments import arguments

NEL = "one\x85two\u2028three\ufeff"


def parsed(*overrides: str, file: str = "", kind: str = "train") -> Any:
    return text.parse(text.read(file), overrides, kind=kind)


def refused(*overrides: str, file: str = "", kind: str = "train") -> list[str]:
    with pytest.raises(ArgsError) as caught:
        parsed(*overrides, file=file, kind=kind)
    return [str(problem) for problem in caught.value.problems]


def test_five_mistakes_are_reported_at_once_each_with_a_way_out() -> None:
    file = """
        modle: tiny
        method: {kind: lora, rnak: 8}
        model: {dtype: float32}
        steps: {batch_size: 0, seed: 1.5}
    """
    assert refused(file=file) == [
        "model.dtype: 'float32' is not one of auto, bf16, fp32, fp16. Did you mean fp32?",
        "method.rnak: There is no such argument. Did you mean method.rank?",
        "steps.batch_size: 0 is out of range: it must be at least 1 and at most 4,096.",
        "steps.seed: 1.5 is not a whole number.",
        "modle: There is no such argument. Did you mean model?",
    ]


def test_rules_between_fields_are_told_beside_mistakes_in_fields() -> None:
    assert refused("steps.global_batch=6", "optim.learning_rate=5", "resume.checkpoint=step-3") == [
        "optim.learning_rate: 5 is out of range: it must be above 0 and below 1 or auto.",
        "steps.global_batch: 6 cannot be made of batches of 4 (steps.batch_size). Make it a multiple.",
        "resume.run: resume.checkpoint is set, but no run that it belongs to. Set resume.run too.",
    ]


def test_a_warm_up_that_outlasts_the_run_is_refused_with_both_arguments() -> None:
    (said,) = refused("optim.warmup=100", "steps.max_steps=20")
    assert said.startswith("optim.warmup: 100 steps of warm-up") and "20 (steps.max_steps)" in said
    assert refused("optim.warmup=20", "steps.max_steps=20")  # the last step would still be below the peak


@pytest.mark.parametrize("fitting", ["optim.warmup=19", "optim.warmup=0.5", "optim.schedule=constant"])
def test_a_warm_up_that_leaves_a_step_or_is_not_taken_is_fine(fitting: str) -> None:
    text.parse({}, ["optim.warmup=100", "steps.max_steps=20", fitting], kind="train")


def test_words_that_are_no_assignment_are_told_beside_the_rest() -> None:
    assert refused("quickly", "=3", "steps.epochs=0") == [
        "`quickly` is not of the form name=value, such as optim.learning_rate=1e-4.",
        "`=3` is not of the form name=value, such as optim.learning_rate=1e-4.",
        "steps.epochs: 0 is out of range: it must be above 0 and at most 1,000.",
    ]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("optim.learning_rat=1", "optim.learning_rate"), ("rank=4", "method.rank"), ("epochs=2", "steps.epochs"),
     ("step=2", "steps"), ("steps.epoch=2", "steps.epochs"), ("optim.rank=2", "method.rank")],
)  # fmt: skip
def test_unknown_argument_suggests_the_nearest(wrong: str, meant: str) -> None:
    [said] = refused(wrong)
    assert said.startswith(wrong.partition("=")[0]) and said.endswith(f"Did you mean {meant}?")


def test_an_argument_of_another_method_says_whose_it_is() -> None:
    [said] = refused("method=full", "method.rank=4")
    assert said == "method.rank: There is no such argument with method: full; it belongs to method: lora."


def test_an_argument_of_several_tasks_is_named_with_all_of_them() -> None:
    assert refused("task=sft", "task.group=4") == [
        "task.group: There is no such argument with task: sft; it belongs to task: grpo, rloo."
    ]
    assert refused("task=dpo", "task.rewards.tolerance=2") == [
        "task.rewards: There is no such argument with task: dpo; it belongs to task: ppo, grpo, rloo."
    ]
    assert refused("task=grpo", "task.rewards.tolerance=2") == [
        "task.rewards.tolerance: 2 is out of range: it must be at least 0 and below 1."
    ]
    assert refused("task=grpo", "task.rewards.colum=x") == [
        "task.rewards.colum: There is no such argument. Did you mean task.rewards.column?"
    ]
    assert refused("task=grpo", "task.rewards=exact") == [
        "task.rewards: 'exact' is not a group of arguments such as task.rewards.functions."
    ]


def test_the_command_repeats_what_stands_in_a_section_of_a_variant() -> None:
    args: Any = text.parse({}, ["task=grpo", "task.rewards.functions=exact=1, format=0.5"], kind="train")
    said = text.command(args)
    assert "'task.rewards.functions={exact: 1.0, format: 0.5}'" in said
    assert text.parse({}, shlex.split(said)[4:], kind="train") == args


def test_an_unknown_method_suggests_the_nearest_and_nothing_else() -> None:
    assert refused("method=ful", "method.rank=4") == [
        "method.kind: `ful` is not one of lora, full, freeze, oft, ia3, prompt, prefix, expand, tuner. "
        "Did you mean full?"
    ]


def test_large_limits_are_written_out() -> None:
    [said] = refused("steps.seed=99999999999")
    assert said.endswith("it must be at least 0 and at most 4,294,967,295.")


@pytest.mark.parametrize(
    ("said", "path", "value"),
    [
        ("optim.learning_rate=2e-4", "optim.learning_rate", 0.0002),
        ("optim.learning_rate=2E-4", "optim.learning_rate", 0.0002),
        ("optim.learning_rate=.5", "optim.learning_rate", 0.5),
        ("steps.epochs=3", "steps.epochs", 3.0),
        ("data.max_length=1_000", "data.max_length", 1000),
        ("name=no", "name", "no"),
        ("name=12", "name", "12"),
        ("name=true", "name", "true"),
        ("name=null", "name", "null"),
        ("name=2026-11-21", "name", "2026-11-21"),
        ("model.revision=7e12345", "model.revision", "7e12345"),
        ("model.revision=0123", "model.revision", "0123"),
        ("description=Note: try 1e-4 # later", "description", "Note: try 1e-4 # later"),
        ("description=a=b", "description", "a=b"),
        ("description='quoted'", "description", "quoted"),
        ("data=my.jsonl", "data.train", ["my.jsonl"]),
        ("data=[a.jsonl, b.jsonl]", "data.train", ["a.jsonl", "b.jsonl"]),
        ("data.train=2024", "data.train", ["2024"]),
        ("record.samples=What is 1: 2?", "record.samples", ["What is 1: 2?"]),
        ("record.samples=['Who, and why?', Hello]", "record.samples", ["Who, and why?", "Hello"]),
        ("model=Qwen/Qwen3-0.6B", "model.path", "Qwen/Qwen3-0.6B"),
        ("method=full", "method.kind", "full"),
        ("steps.max_steps=", "steps.max_steps", None),
        ("steps.max_steps=null", "steps.max_steps", None),
        ("data.fill.name=Tuney", "data.fill", {"name": "Tuney"}),
        ("data.fill={name: Tuney}", "data.fill", {"name": "Tuney"}),
        ("data.fill=name=Tuney", "data.fill", {"name": "Tuney"}),
        ("data.limits=a.jsonl=3, b.csv=4", "data.limits", {"a.jsonl": 3, "b.csv": 4}),
        ("extra.neftune_noise_alpha=5", "extra", {"neftune_noise_alpha": 5}),
        ("data.packing=true", "data.packing", True),
        ("compute.checkpointing=false", "compute.checkpointing", False),
    ],
)
def test_a_value_on_the_command_line_is_read_as_it_is_meant(said: str, path: str, value: Any) -> None:
    found = text.at(parsed(said).model_dump(mode="json"), path)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("optim: {learning_rate: 2e-4}", "optim.learning_rate", 0.0002),
        ("optim: {learning_rate: 1E-5}", "optim.learning_rate", 0.00001),
        ("name: no", "name", "no"),
        ("name: on", "name", "on"),
        ("description: 2026-11-21", "description", "2026-11-21"),
        ("data: my.jsonl", "data.train", ["my.jsonl"]),
        ("data: [a.jsonl, b.jsonl]", "data.train", ["a.jsonl", "b.jsonl"]),
        ("data:\nmodel: tiny", "data.train", ["identity", "sql"]),
        ("method:", "method.kind", "lora"),
        ("method: {rank: 4}", "method.kind", "lora"),
        ("method: freeze", "method.kind", "freeze"),
        ("", "method.kind", "lora"),
    ],
)
def test_a_value_in_a_file_is_read_as_it_is_meant(file: str, path: str, value: Any) -> None:
    assert text.at(parsed(file=file).model_dump(mode="json"), path) == value


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("name: 12", "name: 12 is not text: put it into quotes."),
        ("data: [a, 3]", "data.train: 3 is not text: put it into quotes."),
        ("steps: {batch_size: true}", "steps.batch_size: 'true' is not a whole number."),
        ("steps: {batch_size: yes}", "steps.batch_size: 'yes' is not a whole number."),
        ("data: {packing: maybe}", "data.packing: 'maybe' is not true or false."),
        ("optim: {learning_rate: fast}", "optim.learning_rate: 'fast' is not a number or auto."),
        ("optim: {learning_rate: .nan}", "optim.learning_rate: nan is out of range"),
        ("steps: {epochs: .inf}", "steps.epochs: inf is out of range"),
        ("optim: {warmup: .inf}", "optim.warmup: inf is out of range"),
        ("method: {alpha: .inf}", "method.alpha: inf is out of range"),
        ("data: {weights: true}", "data.weights: 'true' is not a list of name=value pairs."),
        ("data: {max_rows: 99999999999999999999}", "data.max_rows: 99999999999999999999 is out of range"),
        ("data: {limits: {sql: 99999999999999999999}}", "data.limits: The number for sql must be from 1 to 1,000,000,"),
        (f"model: {'x' * 256}", "model.path: It is too long for a name or a path."),
        (f"data: [sql, /a/{'ü' * 128}/b]", "data.train: It is too long for a name or a path."),
        (f"resume: {{run: {'x' * 300}}}", "resume.run: It is too long"),
        ("optim: 3", "optim: 3 is not a group of arguments such as optim.learning_rate."),
        ("optim: {3: 4}", "optim.3: There is no such argument."),
        ("5: 6", "5: There is no such argument."),
        ("model: {path: ''}", "model.path: It must not be empty."),
        ("data: []", "data.train: It must not be empty."),
        (f"name: {'x' * 81}", "name: It is too long: at most 80 characters."),
        ("- a\n- b", "The arguments must be a list of `name: value` lines."),
        ("a: [", "This is not YAML: line 1, column 5: "),
        ("[" * 5000, "This is nested too deep to be arguments."),
        ("kind: serve", "kind: `serve` is not what is expected here: `kind: train`."),
    ],
)
def test_a_wrong_value_is_named_in_a_sentence(file: str, said: str) -> None:
    [found] = refused(file=file)
    assert found.startswith(said)


def test_a_list_that_cannot_be_read_is_refused_and_not_taken_for_a_word() -> None:
    [said] = refused("record.samples=[What is 1?]")
    assert said.startswith("record.samples: `[What is 1?]` begins as a list and cannot be read as one.")


def test_an_export_name_may_not_leave_its_folder() -> None:
    [said] = refused("tuned=a", "to=../x", kind="export")
    assert said == "to: '../x' has characters that are not allowed here: use letters, digits, dashes."


@pytest.mark.parametrize("spec", [spec for spec in walk(TrainArgs) if spec.auto], ids=lambda spec: spec.path)
def test_auto_is_allowed_wherever_it_is_declared_and_limits_hold_beside_it(spec: Spec) -> None:
    chosen = [f"{spec.union}.kind={spec.variant}"] if spec.variant else []
    assert text.at(parsed(*chosen, f"{spec.path}=auto").model_dump(), spec.path) == "auto"
    if spec.low is not None:
        [said] = refused(*chosen, f"{spec.path}={spec.low - 1}")
        assert said.startswith(f"{spec.path}: ") and "out of range" in said


def test_an_override_goes_into_what_a_bare_value_stands_for() -> None:
    args = parsed("data.max_rows=3", "method.layers=5", file="data: my.jsonl\nmethod: freeze\n")
    assert (args.data.train, args.data.max_rows, args.method.kind, args.method.layers) == (["my.jsonl"], 3, "freeze", 5)


def test_a_later_override_wins() -> None:
    assert parsed("steps.seed=1", "steps.seed=2", file="steps: {seed: 3}").steps.seed == 2


def test_json_files_are_read_and_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "args.json"
    content = {"kind": "train", "model": "tiny", "optim": {"learning_rate": 2e-4}, "name": "Zoë"}
    file.write_text("\ufeff" + json.dumps(content, indent=2), encoding="utf-8")
    args: Any = text.load(file)
    assert (args.model.path, args.optim.learning_rate, args.name) == ("tiny", 2e-4, "Zoë")


def test_the_kind_is_read_from_the_file_and_defaults_to_train(tmp_path: Path) -> None:
    file = tmp_path / "args.yaml"
    file.write_text("kind: serve\nport: 8000\n")
    assert isinstance(text.load(file), ServeArgs)
    assert isinstance(text.parse({}), TrainArgs)
    [problem] = pytest.raises(ArgsError, text.parse, {"kind": "bake"}).value.problems
    assert (
        str(problem)
        == "kind: `bake` is not what is expected here: one of train, evaluate, serve, export, make, download."
    )


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xfe\x00")
    for name, said in (("no.yaml", "There is no file"), ("picture.yaml", "is not a text file"), ("", "is not a text")):
        with pytest.raises(ArgsError, match=said):
            text.load(tmp_path / name)


def test_a_dump_holds_every_default_and_its_kind_first() -> None:
    content = text.read(text.dump(parsed()))
    assert list(content)[0] == "kind"
    for spec in walk(TrainArgs):
        if spec.variant in ("", "lora", "sft"):
            assert text.at(content, spec.path) == spec.default, spec.path


@settings(max_examples=150, deadline=None)
@given(arguments())
@example(EvaluateArgs(tuned=NEL, name="7e12345", description="- a: 'b'\n#\t\"c\"\r\n\n"))
@example(TrainArgs(name="0x1F", model={"path": "~"}, data={"train": ["null", "1:30", " "]}))  # type: ignore[arg-type]
def test_a_dump_reads_back_as_the_same_arguments(args: Any) -> None:
    assert text.parse(text.read(text.dump(args))) == args


@settings(max_examples=150, deadline=None)
@given(arguments())
@example(EvaluateArgs(tuned=NEL, name="'", description="$(rm -rf /) `x` \\ \"\n'y'\n"))
@example(TrainArgs(data={"train": ["[a", "{b}", "c: d", "- e", "'f'"], "fill": {"a b": "=", "": "\n"}}))  # type: ignore[arg-type]
def test_a_command_reads_back_as_the_same_arguments(args: Any) -> None:
    python, dash, module, verb, *words = shlex.split(text.command(args))
    assert (python, dash, module, verb) == ("python", "-m", "engine", args.kind)
    assert text.parse({}, words, kind=verb) == args


def test_a_command_is_safe_to_paste_into_a_shell() -> None:
    nasty = "two\nlines, 'single' and \"double\" $HOME `id` $(id) !! \\ * ; & | # ~ é \u2028"
    args = parsed(file=json.dumps({"name": "it's", "description": nasty, "record": {"samples": [nasty, "b"]}}))
    words = text.command(args).split(" ", 3)[3].removeprefix("train ")
    shell = subprocess.run(["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True)
    said = shell.stdout.decode().removesuffix("\0").split("\0")
    assert text.parse({}, said, kind="train") == args
    assert args.description == nasty


def test_a_command_says_only_what_is_not_at_its_default() -> None:
    assert text.command(parsed()) == "python -m engine train"
    assert text.command(parsed("method=full", "steps.epochs=3", "steps.seed=7")) == (
        "python -m engine train method.kind=full steps.seed=7"
    )


def test_changes_come_in_the_order_of_declaration_and_leave_other_variants_out() -> None:
    args = parsed("method.layers=4", "steps.seed=1", "model=tiny", "method=freeze", "method.layers=3")
    assert text.changes(args) == [
        ("model.path", "tiny"),
        ("method.kind", "freeze"),
        ("method.layers", 3),
        ("steps.seed", 1),
    ]


def test_every_kind_of_run_has_a_command_of_its_own() -> None:
    assert {kind: root.model_fields["kind"].default for kind, root in KINDS.items()} == {kind: kind for kind in KINDS}


def test_the_order_of_overrides_does_not_matter_to_a_section_and_its_short_form() -> None:
    one = parsed(
        "data.max_length=99", "data=my.jsonl", "model.dtype=fp32", "model=tiny", "method.rank=4", "method=lora"
    )
    two = parsed(
        "data=my.jsonl", "data.max_length=99", "model=tiny", "model.dtype=fp32", "method=lora", "method.rank=4"
    )
    assert one == two and (one.data.max_length, one.model.dtype, one.method.rank) == (99, "fp32", 4)
    assert parsed("method.rank=4", "method=full").method.kind == "full"
    assert "optim" in str(refused("optim.warmup=0.1", "optim=5"))


def test_a_kind_that_a_rule_refuses_is_the_only_problem_whatever_its_fields_say():
    content = {"task": {"kind": "reward"}, "method": {"kind": "prompt", "tokens": 20, "text": "Score this."}}
    _, problems = text.checked(TrainArgs, content)
    assert [problem.path for problem in problems] == ["method.kind"]
