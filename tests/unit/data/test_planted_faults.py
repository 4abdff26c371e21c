"""Each fault that makes a run a waste is planted and found, at its rows; and nothing is found where all is well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.checking import fitness, survey
from data.checking.fitness import Found
from data.checking.inspection import Inspection
from data.rows.conversation import Row
from engine.contract import text
from engine.contract.errors import BoardError, ModelError
from tests.wording import CHATML, MARKED, byte_fallback, byte_level, model_folder

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "workspace" / "models" / "SmolLM2-135M-Instruct"
CLOSES_LAST = MARKED.replace(
    "message['content'] + '<|im_end|>\\n' }}{% endgeneration %}",
    "message['content'] }}{% if loop.last %}{{ '<|im_end|>' }}{% endif %}{% endgeneration %}",
)


def talk(*said: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(said)
    return {"messages": [{"role": role, "content": words} for role, words in zip(roles, said, strict=False)]}


GOOD = [talk(f"What is {number} and {number}?", f"It is {2 * number}.") for number in range(30)]


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., Inspection]:
    """`look(rows, *words, template=..., held=...)`: the survey of these rows, some of them broken."""

    def looked(
        rows: list[dict[str, Any]], *words: str, held: list[dict[str, Any]] | None = None,
        config: dict[str, Any] | None = None, **model: Any,
    ) -> Inspection:  # fmt: skip
        workspace = tmp_path / "workspace"
        (workspace / "datasets").mkdir(parents=True, exist_ok=True)
        write(workspace / "datasets" / "rows.jsonl", rows)
        given = ["data=rows.jsonl", "data.split=100/0/0", *words]
        if held is not None:
            write(workspace / "datasets" / "held.jsonl", held)
            given.append("data.validation=held.jsonl")
        stated = {"template": CHATML, "bos_token": "<s>", "eos_token": "<|im_end|>", **model}
        folder = model_folder(tmp_path / "model", **stated)
        (folder / "config.json").write_text(json.dumps(config or {}))
        return survey.sampled(text.parse({}, given, kind="train"), folder, workspace)

    return looked


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def only(found: Inspection, kind: str) -> Found:
    (finding,) = found.findings
    assert finding.kind == kind, finding
    return finding


def test_nothing_is_found_in_good_rows(look):
    found = look(GOOD)
    assert found.findings == () and found.cut == 0
    assert (found.rows, found.used, found.total, found.exact) == (30, 30, 30, True)
    assert 0 < found.trained < found.tokens == sum(length * rows for length, rows in found.lengths.items())


def test_nothing_is_found_in_what_is_shipped(tmp_path, tiny_model):
    args = text.parse({}, [], kind="train")
    for folder in [tiny_model, *([DEMO] if (DEMO / "tokenizer.json").is_file() else [])]:
        found = survey.sampled(args, folder, tmp_path)
        assert found.findings == () and found.exact and found.held_out and found.used == found.rows > 100


def test_a_template_that_is_not_the_models_own_is_found(look):
    finding = only(look(GOOD, "model.template=alpaca"), "foreign")
    assert (finding.level, finding.rows[:3]) == ("warning", (1, 2, 3))
    assert "the template alpaca writes another text than the model's own" in finding.text


def test_a_chosen_template_that_writes_the_same_is_the_models_own(look):
    ours = (ROOT / "templates" / "chatml.jinja").read_text(encoding="utf-8")
    assert look(GOOD, "model.template=chatml", template=ours).findings == ()


def test_a_base_model_with_a_chat_template_is_found_and_so_are_tokens_that_it_does_not_have(look):
    found = look(GOOD, "model.template=llama3", template=None, tokenizer=byte_level(["<s>", "</s>"]), eos_token="</s>")
    kinds = {finding.kind: finding for finding in found.findings}
    assert set(kinds) == {"base", "open", "pieces"} or set(kinds) == {"base", "pieces"}
    assert kinds["base"].level == "warning" and "brings no chat template" in kinds["base"].text
    assert "<|start_header_id|>" in kinds["pieces"].text and kinds["pieces"].level == "warning"


@pytest.mark.parametrize(
    ("place", "kinds"),
    [
        ("Qwen2.5-0.5B", ["base"]),
        ("cache/models--Qwen--Qwen2.5-0.5B/snapshots/1a2b3c", ["base"]),
        ("Qwen2.5-0.5B-Instruct", []),
        ("cache/models--somebody--Qwen2.5-0.5B/snapshots/1a2b3c", []),
    ],
)
def test_a_base_model_that_brings_a_chat_template_is_known_by_its_name_wherever_it_lies(tmp_path, place, kinds):
    folder = model_folder(tmp_path / place)
    (folder / "config.json").write_text("{}")
    subject = fitness.subject(folder)
    rows = [Row(GOOD[0]["messages"], None, "rows.jsonl", 1)]
    found = list(fitness.of_model(rows, subject, differs=False))
    assert [finding.kind for finding in found] == kinds
    if found:
        assert found[0].level == "note" and found[0].text.startswith("Qwen2.5-0.5B is a base model")
    assert not list(fitness.of_model([Row([], None, "rows.txt", 1, "text", text="Plain.")], subject, differs=False))


def test_a_model_whose_own_template_is_broken_is_refused_with_the_one_that_fits_it(tmp_path):
    folder = model_folder(tmp_path / "Qwen2.5-0.5B-Instruct", "{% for message in %}")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="broken at line 1") as refused:
        fitness.subject(folder)
    assert refused.value.hint == "Set Template to qwen2_5, which is for models of this name."
    assert fitness.subject(folder, "qwen2_5").template.name == "qwen2_5"


def test_answers_without_an_end_are_found(look):
    finding = only(look(GOOD, template=CHATML.replace("+ '<|im_end|>\\n'", "+ '\\n'")), "open")
    assert (finding.level, finding.count) == ("warning", 30) and "does not learn where to stop" in finding.text


def test_earlier_answers_without_an_end_are_found_only_where_they_are_trained(look):
    rows = [talk("Hello?", "It is four."), talk("Hello?", "It is.", "And?", "four.")]
    finding = only(look(rows, template=CLOSES_LAST), "open_earlier")
    assert (finding.level, finding.rows, finding.hint) == ("warning", (2,), "Set Train on to last.")
    assert look(rows, "data.train_on=last", template=CLOSES_LAST).findings == ()


def test_an_end_at_which_the_model_does_not_stop_is_found(look):
    finding = only(look(GOOD, eos_token="</s>"), "stop")
    assert finding.level == "warning" and "ends with <|im_end|>" in finding.text and "at </s>" in finding.text


def test_rows_with_nothing_to_learn_are_found_and_all_of_them_are_an_error(look):
    long = [talk("Hello? " * 60, "It is four."), *GOOD]
    found = look(long, "data.max_length=60", "data.cut=answer")
    kinds = {finding.kind: finding for finding in found.findings}
    assert (kinds["untrained"].level, kinds["untrained"].rows) == ("warning", (1,)) and found.used == 30
    assert (kinds["cut"].level, kinds["cut"].rows, found.lost) == ("warning", (1,), {"answer": 1})
    silent = [{"messages": [{**turn, "weight": 0} for turn in row["messages"]]} for row in GOOD]
    finding = only(look(silent), "untrained")
    assert (finding.level, finding.count) == ("error", 30) and finding.text.startswith("In all rows")


@pytest.mark.parametrize(
    ("cut", "part"), [("oldest", "turns"), ("prompt", "prompt"), ("answer", "answer"), ("drop", "row")]
)
def test_rows_that_are_too_long_are_found_with_the_part_that_they_lose(look, cut, part):
    rows = [talk("Hello? " * 20, "It is four.", "What is the answer? " * 4, "It is four. " * 4), *GOOD]
    found = look(rows, "data.max_length=80", f"data.cut={cut}")
    assert (found.cut, found.lost) == (1, {part: 1})
    finding = only(found, "cut")
    assert finding.rows == (1,) and ("with its end-of-turn" in finding.text) is (part == "answer")


def test_rows_that_are_all_too_long_and_left_out_are_an_error(look):
    finding = only(look(GOOD, "data.max_length=10", "data.cut=drop"), "cut")
    assert finding.level == "error" and "they are left out" in finding.text


def test_special_tokens_in_the_text_of_rows_are_found(look):
    rows = [*GOOD, talk("What does <|im_end|> mean?", "It is four.")]
    finding = only(look(rows), "special")
    assert (finding.level, finding.rows) == ("warning", (31,)) and "<|im_end|>" in finding.text


def test_a_doubled_beginning_is_found(look):
    finding = only(look(GOOD, template="{{ bos_token }}{{ bos_token }}" + MARKED), "double_bos")
    assert (finding.level, finding.count) == ("warning", 30) and "<s> twice" in finding.text
    texts = [{"text": "Hello world, what is the answer?"}, {"text": "<s>Hello world, it is four."}]
    finding = only(look(texts), "double_bos")
    assert finding.rows == (2,)


def test_questions_on_both_sides_are_found(look):
    finding = only(look(GOOD, held=[GOOD[4], talk("And you?", "It is four.")]), "leakage")
    assert (finding.level, finding.rows) == ("warning", (5,))


def test_rows_of_a_kind_that_the_task_cannot_learn_from_are_an_error_with_the_way_out(look):
    pairs = [{"prompt": f"{row}?", "chosen": f"It is {row}.", "rejected": "Hello."} for row in range(6)]
    finding = only(look(pairs), "kind")
    assert finding.level == "error" and finding.text.startswith("In all rows") and "Choose DPO" in finding.text
    assert look(pairs, "task=dpo").of("error") == []
    assert "Choose SFT" in only(look(GOOD, "task=dpo"), "kind").text


def test_pairs_whose_answers_are_the_same_are_found(look):
    answers = ["It is four.", "I see.", "Hello world.", "What?", "It is what it is.", "the answer"]
    pairs = [
        {"prompt": f"What is {n}?", "chosen": answer, "rejected": answers[n - 1]} for n, answer in enumerate(answers)
    ]
    pairs[3]["rejected"] = pairs[3]["chosen"]
    kinds = {finding.kind: finding for finding in look(pairs, "task=dpo").findings}
    assert (kinds["equal_answers"].level, kinds["equal_answers"].rows) == ("warning", (4,))


def test_what_the_tokenizer_does_not_know_is_found(look):
    unknowing = byte_fallback()
    plain = (
        "{% for message in messages %}{{ message['content'] }}"
        "{% if message['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    )
    model: dict[str, Any] = {"template": plain, "tokenizer": unknowing, "eos_token": "</s>", "unk_token": "<unk>"}
    assert look([talk("Hi: ", "Hi")], **model).findings == ()
    rows = [talk("Hi: ", "Hi <unk>"), talk("Hi: ", "Hi")]
    kinds = {finding.kind: finding.rows for finding in look(rows, **model).findings}
    assert kinds["unknown"] == (1,)


def test_a_conversation_that_the_template_refuses_is_an_error_unless_bad_rows_are_skipped(look):
    picky = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    rows = [*GOOD, {"messages": [{"role": "system", "content": "Be brief."}, *GOOD[0]["messages"]]}]
    finding = only(look(rows, template=picky), "refused")
    assert (finding.level, finding.rows) == ("error", (31,)) and "no system" in finding.text
    assert only(look(rows, "data.bad_rows=skip", template=picky), "refused").level == "warning"


def test_a_picture_is_an_error_for_a_model_that_reads_text_alone_and_left_to_the_processor_of_one_that_sees(look):
    shown = [{"type": "image", "image": "data:image/png;base64,iVBORw0KGgo="}, {"type": "text", "text": "What is it?"}]
    rows = [{"messages": [{"role": "user", "content": shown}, {"role": "assistant", "content": "It is four."}]}]
    looking = CHATML.replace("+ message['content'] +", "+ (message['content'] | string) +")
    finding = only(look(rows, template=looking), "refused")
    assert finding.level == "error" and "the model reads text alone" in finding.text
    found = look(rows, template=looking, config={"vision_config": {}})
    assert found.findings == () and (found.rows, found.unseen, found.exact) == (1, 1, False)


def test_rows_that_cannot_be_read_stop_or_are_counted(look):
    rows = [*GOOD, {"messages": "nothing"}]
    with pytest.raises(BoardError, match="row 31"):
        look(rows)
    finding = only(look(rows, "data.bad_rows=skip"), "unreadable")
    assert (finding.level, finding.count) == ("note", 1)


def test_each_finding_brings_its_rows_to_be_shown(look):
    rows = [*GOOD, talk("What does <|im_end|> mean?", "It is four.")]
    shown = look(rows).shown
    assert [row.number for row in shown["special"]] == [31] and len(shown["random"]) == 24
    lengths = [len(row.messages[0]["content"]) for row in shown["longest"]]
    assert shown["longest"][0].number == 31 and lengths == sorted(lengths, reverse=True)


def test_a_findings_record_survives_the_way_through_json(look):
    found = look([*GOOD, talk("What does <|im_end|> mean?", "It is four.")])
    assert Inspection.model_validate_json(found.model_dump_json()) == found


def test_all_rows_are_looked_at_and_progress_is_told(tmp_path, look, monkeypatch):
    monkeypatch.setattr(survey, "SAMPLE", 10)
    rows = [*GOOD, talk("What does <|im_end|> mean?", "It is four.")]
    sample = look(rows)
    assert (sample.rows, sample.total, sample.exact) == (8, 31, False)
    args = text.parse({}, ["data=rows.jsonl", "data.split=100/0/0"], kind="train")
    told = []
    found = survey.whole(args, tmp_path / "model", tmp_path / "workspace", progress=lambda *done: told.append(done))
    assert told == [(31, 31)] and found.exact
    assert only(found, "special").rows == (31,)


def test_one_reason_is_said_of_rows_that_are_refused_with_its_own_way_out(look):
    shows = [{"type": "image", "image": "cat.png"}]
    answer = {"role": "assistant", "content": "It is four."}
    asked = ("What is it?", "Which one?", "And this?")
    rows = [
        {"messages": [{"role": "user", "content": [*shows, {"type": "text", "text": text}]}, answer]} for text in asked
    ]
    rows = [*GOOD, *rows]
    finding = only(look(rows), "refused")
    assert finding.text == (
        "In 3 of 33 rows the conversation cannot be rendered: the row shows a picture, and the model reads text alone."
    )
    assert finding.hint.startswith("Choose a model that sees") and finding.hint.endswith("to skip.")
    assert "skip" not in only(look(rows, "data.bad_rows=skip"), "refused").hint


def test_what_is_wrong_with_the_rows_themselves_is_said_in_words(look):
    finding = only(look([*GOOD, talk("What\u0007 is it?", "It is four.")]), "rows")
    assert finding.text == "The rows themselves are worth a look. 1 row holds control characters."


def test_scores_that_are_all_the_same_are_an_error_where_they_are_learnt_from(look):
    rows = [{"prompt": f"Say {n}", "completion": f"It is {n}", "score": 0.5} for n in range(9)]
    found = only(look(rows, "task=ilql"), "constant_score")
    assert found.level == "error" and "All 9 answers have the same score (0.5)" in found.text
    assert "data.train" in found.hint
    assert not look([*rows, {**rows[0], "score": 0.6}], "task=ilql").of("error")


def test_a_warm_up_longer_than_the_epochs_is_found_with_the_steps_that_there_are(look):
    sizes = ["steps.batch_size=2", "steps.accumulation=1", "steps.epochs=2"]
    found = only(look(GOOD, *sizes, "optim.warmup=30"), "warmup")  # 30 rows, 2 a step, twice
    assert found.level == "warning" and "30 steps (optim.warmup)" in found.text and "has 30:" in found.text
    assert look(GOOD, *sizes, "optim.warmup=29").findings == ()
    assert look(GOOD, *sizes, "optim.warmup=0.9").findings == ()
