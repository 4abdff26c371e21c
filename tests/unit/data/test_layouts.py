"""The layouts that datasets come in, each recognised by itself and turned into the row that it means."""

from __future__ import annotations

import datetime
import json

import pytest

from data.rows.formats import FORMATS, Mapping, mapped, recognise, restored, row, settled
from engine.contract.errors import DataError

PAIR = {"prompt": "Who?", "completion": "Me."}
ASKED = {"role": "user", "content": "Who?"}
SAID = {"role": "assistant", "content": "Me."}
BAD = {"role": "assistant", "content": "Nobody."}
ASK, SAY, SAY_BAD = ({"from": who, "value": what} for who, what in
                     (("human", "Who?"), ("gpt", "Me."), ("gpt", "Nobody.")))  # fmt: skip
CHOICE = {"role": "user", "content": "Who?\nA. You\nB. Me"}
RIGHT = {"role": "assistant", "content": "B"}
TABLE = "CREATE TABLE t (a INT)"
SELECT = "SELECT a FROM t"
QUERY = {"role": "assistant", "content": SELECT}


def made(record, **mapping):
    stated = Mapping(**mapping)
    return row(record, settled(stated, [record]), "/data/set/a.jsonl", 1)


def prompted(*turns):
    return {"prompt": list(turns)}


@pytest.mark.parametrize(
    ("format", "record"),
    [
        ("messages", {"messages": [ASKED, SAID]}),
        ("messages", {"prompt": "Who?", "prompt_id": "1", "messages": [ASKED, SAID]}),  # UltraChat
        ("messages", {"problem": "Who?", "solution": "Me.", "messages": [ASKED, SAID]}),  # Numina
        ("messages", {"messages": [{"role": "user", "text": "Who?"}, {"role": "assistant", "text": "Me."}]}),
        ("messages", {"dialog": [{"speaker": "User", "utterance": "Who?"}, {"speaker": "bot", "utterance": "Me."}]}),
        ("messages", {"messages": {"role": ["user", "assistant"], "content": ["Who?", "Me."]}}),  # as Parquet has it
        ("messages", {"dialogue": ["Who?", "Me."]}),
        ("messages", {"id": "0", "data": ["Who?", "Me."]}),
        ("messages", {"body": {"messages": [ASKED, SAID]}, "custom_id": "1"}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "input_text", "text": "Who?"}]}, SAID]}),
        ("sharegpt", {"id": "1", "conversations": [ASK, SAY], "source": "x", "system_prompt": None}),  # OpenHermes
        ("sharegpt", {"conversations": [ASK, SAY], "label": {"ability": ["chat"]}}),  # Infinity-Instruct
        ("sharegpt", {"conversations": [{"from": "user", "text": "Who?"}, {"from": "bing", "text": "Me."}]}),
        ("firefly", {"conversation": [{"human": "Who?", "assistant": "Me."}]}),
        ("firefly", {"conversation": [{"input": "Who?", "output": "Me."}]}),
        ("self_instruct", {"instruction": "Who?", "instances": [{"input": "", "output": "Me."}]}),
        ("alpaca", {"instruction": "Who?", "input": "", "output": "Me.", "text": "### Instruction: Who?"}),
        ("alpaca", {"instruction": "Who?", "context": "", "response": "Me.", "category": "open_qa"}),  # Dolly
        ("question_answer", {"question": "Who?", "answer": "Me."}),
        ("question_answer", {"system_prompt": "", "question": "Who?", "response": "Me."}),  # OpenOrca
        ("question_answer", {"problem": "Who?", "solution": "Me.", "level": "Level 1"}),  # MATH
        ("question_answer", {"question": "Who?", "answers": {"text": ["Me.", "I."], "answer_start": [0, 0]}}),  # SQuAD
        ("question_answer", {"Question": "Who?", "Answer": "Me."}),
        ("prompt_completion", {"prompt": "Who?", "completion": "Me."}),
        ("prompt_completion", {"query": "Who?", "response": "Me.", "original_question": "?"}),  # MetaMathQA
        ("prompt_completion", {"inputs": "Who?", "targets": "Me.", "task": "flan"}),
        ("prompt_completion", {"prompt": [ASKED], "completion": [SAID]}),
    ],
)  # fmt: skip
def test_conversations_are_the_same_in_every_layout(format, record):
    assert recognise([record]).format == format
    found = made(record)
    assert (found.kind, found.messages) == ("conversation", [ASKED, SAID])


@pytest.mark.parametrize(
    "record",
    [
        {**prompted(ASKED), "chosen": [SAID], "rejected": [BAD]},
        {"prompt": "Who?", "chosen": "Me.", "rejected": "Nobody.", "margin": 2.0},
        {"question": "Who?", "chosen": "Me.", "rejected": "Nobody.", "system": ""},  # Orca's pairs
        {"chosen": [ASKED, SAID], "rejected": [ASKED, BAD]},
        {
            "prompt": "Who?",
            "chosen": [ASKED, SAID],
            "rejected": [ASKED, BAD],
            "messages": [ASKED, SAID],
        },  # UltraFeedback
        {"chosen_messages": [ASKED, SAID], "rejected_messages": [ASKED, BAD]},
        {"conversations": [ASK], "chosen": SAY, "rejected": SAY_BAD},
        {"conversations": [ASK], "chosen": "Me.", "rejected": "Nobody."},
        {"chosen": "\n\nHuman: Who?\n\nAssistant: Me.", "rejected": "\n\nHuman: Who?\n\nAssistant: Nobody."},  # HH-RLHF
        {"chosen": ["Who?", "Me."], "rejected": ["Who?", "Nobody."]},
        {"instruction": "Who?", "input": "", "chosen": "Me.", "rejected": "Nobody."},
        {"input": {"messages": [ASKED]}, "preferred_output": [SAID], "non_preferred_output": [BAD]},  # OpenAI
        {"question": "Who?", "response_j": "Me.", "response_k": "Nobody."},  # StackExchange
        {"prompt": json.dumps([ASKED]), "chosen": json.dumps([SAID]), "rejected": json.dumps([BAD])},  # as in a table
    ],
)
def test_preferences_are_the_same_in_every_layout(record):
    assert recognise([record]).format == "preference"
    found = made(record)
    assert (found.messages, found.chosen, found.rejected) == ([ASKED], [SAID], [BAD])


def test_a_preference_without_a_prompt_has_an_empty_one():
    found = made({"chosen": "Me.", "rejected": "Nobody."})
    assert (found.messages, found.chosen) == ([], [SAID])


def test_what_two_conversations_share_is_the_prompt_and_the_answers_differ():
    more = [ASKED, SAID, {"role": "user", "content": "Sure?"}]
    found = made({"chosen": [*more, SAID], "rejected": [*more, BAD], "system": "Be kind."})
    assert found.messages == [{"role": "system", "content": "Be kind."}, *more]
    same = made({"chosen": [*more, SAID], "rejected": [*more, SAID]})
    assert (same.messages, same.chosen, same.rejected) == (more, [SAID], [SAID])
    with pytest.raises(DataError, match="do not begin with the same question"):
        made({"chosen": [ASKED, SAID], "rejected": [{**ASKED, "content": "Why?"}, BAD]})


@pytest.mark.parametrize(
    ("record", "label"),
    [
        ({"messages": [ASKED, SAID], "label": True}, True),
        ({"prompt": "Who?", "completion": "Me.", "label": False}, False),
        ({"instruction": "Who?", "input": "", "output": "Me.", "kto_tag": "true"}, True),
        ({"conversations": [ASK, SAY], "kto_tag": 0}, False),
        ({**prompted(ASKED), "completion": [SAID], "label": 1}, True),
    ],
)
def test_feedback_is_an_answer_and_a_label(record, label):
    assert recognise([record]).format == "feedback"
    found = made(record)
    assert (found.messages, found.label) == ([ASKED, SAID], label)


@pytest.mark.parametrize("name", ["score", "reward", "rating"])
def test_scores_are_an_answer_and_a_number(name):
    for record in ({"prompt": "Who?", "response": "Me.", name: "4.5"}, {"messages": [ASKED, SAID], name: 4.5}):
        assert recognise([record]).format == "scored"
        found = made(record)
        assert (found.messages, found.score) == ([ASKED, SAID], 4.5)


def test_a_label_that_is_none_and_a_score_that_is_none_are_refused_in_a_sentence():
    with pytest.raises(DataError, match="label must be true or false, not 'maybe'"):
        made({"prompt": "Who?", "completion": "Me.", "label": "maybe"}, format="feedback")
    with pytest.raises(DataError, match="score must be a number, not 'nan'"):
        made({"prompt": "Who?", "completion": "Me.", "score": "nan"}, format="scored")


@pytest.mark.parametrize(
    "record",
    [
        {"question": "Who?", "choices": ["You", "Me"], "answer": 1, "subject": "x"},  # MMLU
        {"question": "Who?", "choices": {"text": ["You", "Me"], "label": ["A", "B"]}, "answerKey": "B"},  # ARC
        {"passage": None, "question": "Who?", "options": ["(A)You", "(B)Me"], "label": "B", "answer": None},  # AGIEval
        {"question": "Who?", "options": {"A": "You", "B": "Me"}, "answer": "Me", "answer_idx": "B"},  # MedQA
        {"ctx": "Who?", "endings": ["You", "Me"], "label": "1"},  # HellaSwag
        {"question": "Who?", "options": ["You", "Me"], "answer": "Me"},
    ],
)
def test_choices_are_listed_and_the_answer_is_a_letter(record):
    assert recognise([record]).format == "multiple_choice"
    assert made(record).messages == [CHOICE, RIGHT]


def test_choices_may_lie_in_columns_of_their_own():
    record = {"question": "Who?", "A": "You", "B": "Me", "C": "I", "D": "All", "answer": "B"}
    mapping = recognise([record])
    assert mapping.columns["choices"] == "A, B, C, D"
    found = row(record, mapping)
    assert found.messages[0]["content"].endswith("A. You\nB. Me\nC. I\nD. All")
    assert (found.messages[1], found.extra) == (RIGHT, {})
    with pytest.raises(DataError, match="the right choice 'F' is none of A, B, C, D"):
        row({**record, "answer": "F"}, mapping)


@pytest.mark.parametrize(
    ("record", "schema"),
    [
        ({"question": "Which a?", "context": TABLE, "answer": "SELECT a FROM t"}, TABLE),
        ({"sql_prompt": "Which a?", "sql_context": TABLE, "sql": "SELECT a FROM t", "id": 5}, TABLE),
        ({"db_id": "t", "question": "Which a?", "query": "SELECT a FROM t"}, ""),  # Spider
        ({"question": "Which a?", "table": {"header": ["a", "b"]}, "sql": {"human_readable": SELECT}}, "a, b"),
    ],
)  # fmt: skip
def test_a_question_to_sql_is_asked_below_its_schema(record, schema):
    assert recognise([record]).format == "text_to_sql"
    asked = {"role": "user", "content": f"{schema}\n\nWhich a?" if schema else "Which a?"}
    assert made(record).messages == [asked, QUERY]


@pytest.mark.parametrize(
    ("record", "extra"),
    [
        ({"messages": [ASKED], "ground_truth": "3", "dataset": "gsm8k"}, {"ground_truth": "3", "dataset": "gsm8k"}),
        ({"turns": ["Who?", "Sure?"], "category": "x"}, {"category": "x", "follow_ups": ["Sure?"]}),  # MT-bench
        ({"act": "Poet", "prompt": "Who?"}, {"act": "Poet"}),
        (prompted(ASKED), {}),
    ],
)
def test_questions_that_are_not_answered_are_prompts(record, extra):
    assert recognise([record]).format == "prompt"
    found = made(record)
    assert (found.kind, found.messages, dict(found.extra)) == ("prompt", [ASKED], extra)


@pytest.mark.parametrize(
    "record",
    [{"text": "Once."}, {"text": "Once.", "label": 1}, {"content": "Once.", "url": "x"}, {"response": "Once."}],
)
def test_text_alone_is_text(record):
    assert recognise([record]).format == "text"
    found = made(record)
    assert (found.kind, found.text, found.messages) == ("text", "Once.", [])


def test_an_answer_of_weight_0_keeps_its_weight_and_the_usual_one_says_nothing():
    for name in ("weight", "loss_weight", "loss", "train"):
        record = {"messages": [{**ASKED, name: 0}, {**SAID, name: 0}, {**ASKED, name: 0}, {**SAID, name: 1}]}
        assert [message.get("weight") for message in made(record).messages] == [None, 0, None, None]
    with pytest.raises(DataError, match="weight of a turn must be a number"):
        made({"messages": [ASKED, {**SAID, "weight": "much"}]})


def test_a_mapping_says_which_column_and_which_speaker_means_what():
    record = {"frage": {"text": "Who?"}, "antwort": "Me.", "question": "no", "note": "kept"}
    found = made(record, format="question_answer", columns={"question": "frage.text", "answer": "antwort"})
    assert found.messages == [ASKED, SAID]
    assert found.extra == {"frage": {"text": "Who?"}, "question": "no", "note": "kept"}
    talk = {"talk": [{"who": "guest", "says": "Who?"}, {"who": "host", "says": "Me."}]}
    columns = {"messages": "talk", "role": "who", "content": "says"}
    roles = {"guest": "user", "host": "assistant"}
    assert made(talk, format="messages", columns=columns, roles=roles).messages == [ASKED, SAID]
    with pytest.raises(DataError, match="the role 'host' is not known"):
        made(talk, format="messages", columns=columns, roles={"guest": "user"})


def test_a_field_without_a_column_is_not_used():
    record = {"prompt": "Who?", "completion": "Me.", "system": "Be kind."}
    assert made(record, columns={"system": ""}).messages == [ASKED, SAID]
    assert made(record, columns={"system": ""}).extra == {"system": "Be kind."}


def test_what_is_recognised_can_be_shown_and_edited():
    mapping = recognise([{"conversations": [ASK, SAY], "tools": "[]"}, {"conversations": [ASK, SAY]}])
    assert mapping.columns == {"messages": "conversations", "tools": "tools", "role": "from", "content": "value"}
    assert mapping.roles == {"human": "user", "gpt": "assistant"}
    assert Mapping.model_validate_json(mapping.model_dump_json()) == mapping
    with pytest.raises(DataError, match="the format sharegpt has no field 'mesages'"):
        mapped(Mapping(format="sharegpt", columns={"mesages": "x"}), [])


def test_records_that_differ_in_their_columns_are_read_each_by_its_own():
    records = [{"messages": [ASKED, SAID]}, {"conversations": [ASKED, SAID]}]
    mapping = recognise(records)
    assert "messages" not in mapping.columns
    assert [row(record, mapping).messages for record in records] == [[ASKED, SAID]] * 2


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_what_it_reads(name):
    form = FORMATS[name]
    assert form.title and form.columns and all(field.names and field.help for field in form.fields)
    assert len({field.name for field in form.fields}) == len(form.fields)


def test_further_columns_are_kept_as_json_can_say_them():
    record = {**PAIR, "when": datetime.date(2026, 1, 2), "raw": b"\0", "nan": float("nan"),
              "nested": {"inner": [datetime.datetime(2026, 1, 2), float("inf")]}, "messages ": 1}  # fmt: skip
    found = made(record)
    assert found.extra == {"when": "2026-01-02", "raw": "AA==", "nested": {"inner": ["2026-01-02T00:00:00", None]},
                           "messages ": 1}  # fmt: skip
    assert json.loads(json.dumps(found.record())) == found.record()


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [ASKED, {**SAID, "reasoning": "hm", "weight": 0}, ASKED, SAID], "tools": [{"name": "f"}], "n": 1},
        {"prompt": "Who?", "completion": "Me.", "messages": "a column", "image": "a.png"},
        {"chosen": "Me.", "rejected": "Nobody.", "prompt": "", "label": 5},
        {"messages": [ASKED, SAID, ASKED, SAID], "label": True},
        {"prompt": "Who?", "response": "Me.", "reward": 2, "prompt_": 3},
        {"turns": ["Who?", "Sure?"]},
        {"text": "Once.", "messages": "kept"},
        {"question": "Which a?", "context": TABLE, "answer": "SELECT a FROM t"},
    ],
)  # fmt: skip
def test_a_row_comes_back_from_its_record(record):
    found = made(record)
    written = json.loads(json.dumps(found.record()))
    assert restored(written, found.kind, found.file, found.number) == found
    assert FORMATS[recognise([written]).format].kind == found.kind
