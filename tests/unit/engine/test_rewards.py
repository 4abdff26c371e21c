"""What makes an answer good: each function on good answers, on bad ones, and on what is meant to break it."""

from __future__ import annotations

import sqlite3
import threading
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.contract import judging, text
from engine.contract.errors import ArgsError
from engine.contract.rundir import Run
from engine.feedback import correct, queries

TABLES = "CREATE TABLE users (id INT, name TEXT, city TEXT);\nCREATE TABLE orders (id INT, user_id INT, total REAL)"
BY_CITY = "SELECT name FROM users WHERE city = 'Paris' ORDER BY name"


@pytest.mark.parametrize(
    ("answer", "same"),
    [("Paris", 1), (" paris. ", 1), ("**Paris**", 1), ("“Ｐaris”", 1), ("Paris, France", 0), ("", 0), ("London", 0)],
)
def test_the_same_answer_is_exact_however_it_is_written(answer: str, same: float) -> None:
    assert correct.exact(answer, "Paris") == same


def test_exact_to_the_letter_forgives_nothing_but_space_around() -> None:
    assert correct.exact(" Paris\n", "Paris", strict=True) == 1
    assert correct.exact("paris", "Paris", strict=True) == 0
    assert correct.exact("...", "...") == 1  # of nothing but punctuation, all is kept
    assert correct.exact("!!!", "...") == 0


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("48 + 24 is #### 72", 72), ("so $1,234.50 in all.", "1234.50"), ("it is -5", -5), ("minus −7", -7),
        (r"then \boxed{42} holds, not 43", 42), (r"\boxed{\frac{3}{4}}", "0.75"), ("3/4", "0.75"), ("1e5", 100_000),
        ("about 5%", 5), (".5", "0.5"), ("12abc", 12), ("12 of 2024-01-05", 5), ("no number", None), ("x2", None),
        ("9" * 500, None), ("1e9999", None), ("3/0", None), (r"\boxed{", None), ("²", None),
        (r"\boxed{-\frac{1}{2}}", "-0.5"), (r"so $x = \dfrac{3}{4}$.", "0.75"), (r"\frac{0}{3}", 0),
        (r"-\frac{-1}{4}", "0.25"), (r"\frac{3}{0}", None), ("−3/4", "-0.75"),
    ],
)  # fmt: skip
def test_the_number_of_an_answer_is_its_last_or_the_one_that_it_marks(said: str, number: Any) -> None:
    assert correct.number(said) == (None if number is None else Decimal(number))


def test_numbers_are_equal_within_the_tolerance_and_large_ones_to_the_last_digit() -> None:
    assert correct.numeric("it is 99.5", "100", tolerance=0.01) == 1
    assert correct.numeric("it is 98.5", "100", tolerance=0.01) == 0
    assert correct.numeric("123456789012345678901", "123456789012345678902") == 0
    assert correct.numeric("0.1 + 0.2 = 0.3", "#### 0.3") == 1
    assert correct.numeric("nothing", "nothing") == 0


@pytest.mark.parametrize("said", ["1" * 100_000, "," * 100_000, "1,000," * 20_000, "-" * 100_000, "\\boxed{" * 9_000])
def test_a_hostile_text_is_looked_through_quickly(said: str) -> None:
    begun = time.process_time()
    correct.number(said)
    assert time.process_time() - begun < 5


def test_a_pattern_is_found_and_its_group_compared_with_the_right_answer() -> None:
    assert correct.found("the city is Paris", "[Pp]aris", None) == 1
    assert correct.found("the city is Rome", "[Pp]aris", "Paris") == 0
    assert correct.found("<answer>Rome</answer> no, <answer>PARIS</answer>", "<answer>(.*?)</answer>", "Paris") == 1
    assert correct.found("Paris", "<answer>(.*?)</answer>", "Paris") == 0


def test_the_form_is_of_the_whole_answer_and_a_dot_is_a_line_break_too() -> None:
    form = r"\s*<think>.+?</think>\s*<answer>.+?</answer>\s*"
    assert correct.formed("<think>so\nand so</think>\n<answer>4</answer>\n", form) == 1
    assert correct.formed("<think>so</think><answer>4</answer> and more", form) == 0
    assert correct.formed("<answer>4</answer>", form) == 0


@pytest.mark.parametrize("judge", [correct.formed, lambda *a, **k: correct.found(a[0], a[1], None, **k)])
def test_a_pattern_that_would_never_end_is_worth_nothing_when_its_time_is_over(judge: Any) -> None:
    begun = time.process_time()
    assert judge("a" * 5_000 + "b", "(a|aa)+c", seconds=0.1) == 0
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("count", "limit", "target"), [(0, 1, 0), (50, 1, 0.5), (100, 1, 1), (150, 0.5, 0.5), (200, 0, 0), (900, 0, 0)]
)
def test_a_length_is_a_limit_or_a_target(count: int, limit: float, target: float) -> None:
    assert correct.long(count, 100, limit=True) == limit
    assert correct.long(count, 100, limit=False) == target


def test_json_is_parsed_in_a_fence_too_and_must_have_its_keys() -> None:
    assert correct.structured('{"a": 1}') == 1
    assert correct.structured('Here it is:\n```json\n{"a": 1, "b": []}\n```', ["a", "b"]) == 1
    assert correct.structured('{"a": 1}', ["a", "b"]) == 0
    assert correct.structured("[1]", ["a"]) == 0
    assert correct.structured("{'a': 1}") == 0


@pytest.mark.parametrize("said", ["[" * 100_000, '{"a":' * 50_000, "1" * 100_000, "NaN", "Infinity", "", '"\\ud800'])
def test_json_that_is_none_or_meant_to_break_is_worth_nothing(said: str) -> None:
    assert correct.structured(said) == 0


def test_a_schema_holds_for_types_values_and_what_lies_within() -> None:
    schema = {
        "type": "object", "required": ["name"], "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "minLength": 2}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        },
    }  # fmt: skip
    good = [{"name": "Al"}, {"name": "Al", "age": 3.0}, {"name": "Al", "tags": ["a", "b"]}]
    bad = [[], {}, {"name": "A"}, {"name": "Al", "age": True}, {"name": "Al", "age": 200}, {"name": "Al", "x": 1},
           {"name": "Al", "tags": ["c"]}, {"name": "Al", "tags": ["a", "a", "a"]}]  # fmt: skip
    assert all(correct.fits(one, schema) for one in good)
    assert not any(correct.fits(one, schema) for one in bad)


@pytest.mark.parametrize(
    ("query", "same"),
    [
        (BY_CITY, 1), ("select u.name from users u where u.city like 'Paris' order by u.name;", 1),
        ("SELECT name FROM users WHERE city = 'Paris'", 0), ("SELECT name FROM users ORDER BY name", 0),
        ("SELECT city FROM users WHERE city = 'Paris' ORDER BY name", 0), ("SELECT", 0), ("Paris", 0),
    ],
)  # fmt: skip
def test_queries_are_the_same_when_they_find_the_same(query: str, same: float) -> None:
    assert queries.same(query, BY_CITY, TABLES, 5.0) == same


def test_the_order_counts_only_where_the_right_query_has_one() -> None:
    right = "SELECT name, city FROM users"
    assert queries.same(f"{right} ORDER BY name", right, TABLES, 5.0) == 1
    assert queries.same("SELECT city, name FROM users", right, TABLES, 5.0) == 0


def test_rows_that_come_with_the_tables_are_what_is_asked() -> None:
    tables = "CREATE TABLE t (a INT); INSERT INTO t VALUES (1), (2); INSERT INTO t VALUES (3)"
    assert queries.same("SELECT 6", "SELECT SUM(a) FROM t", tables, 5.0) == 1


def test_a_right_query_that_cannot_be_run_is_compared_as_text() -> None:
    right = "SELECT x FROM nowhere WHERE y = 2"
    assert queries.same("select x from nowhere\n where y = 2;", right, "no tables", 5.0) == 1
    assert queries.same("SELECT x FROM nowhere", right, "no tables", 5.0) == 0


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE users", "ATTACH '{file}' AS x", "VACUUM INTO '{file}'", "SELECT load_extension('x')",
        "PRAGMA table_info(users)", "INSERT INTO users VALUES (1, 'a', 'b')", "SELECT 1; DROP TABLE users",
        "CREATE TABLE x (y)", "SELECT readfile('/etc/passwd')", "SELECT randomblob(1000000000)", "x" * 200_000,
        "SELECT printf('%1000000000d', 1)", "SELECT * FROM users a, users b, users c, users d", "", "\0", "\ud800",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT COUNT(*) FROM c",
    ],
)  # fmt: skip
def test_a_query_that_would_do_more_than_read_is_worth_nothing(query: str, tmp_path: Path) -> None:
    file = tmp_path / "taken.db"
    begun = time.process_time()
    assert queries.same(query.replace("{file}", str(file)), BY_CITY, TABLES, 0.5) == 0
    assert time.process_time() - begun < 10
    assert not file.exists()


def test_tables_that_would_reach_out_are_refused_too(tmp_path: Path) -> None:
    file = tmp_path / "taken.db"
    tables = f"ATTACH '{file}' AS x; CREATE TABLE x.t (a INT); INSERT INTO x.t VALUES (1)"
    assert queries.same("SELECT a FROM t", "SELECT b FROM t", tables, 1.0) == 0
    assert not file.exists()


def test_tables_are_found_in_the_middle_of_a_question() -> None:
    said = "Tables:\nCREATE TABLE a (\n x INT DEFAULT (1),\n y TEXT DEFAULT ')'\n)\n\nCREATE TABLE b (z)\n-- which?"
    database = sqlite3.connect(":memory:")
    for statement in queries.statements(said):
        database.execute(statement)
    assert database.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall() == [("a",), ("b",)]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (["functions=regx=1"], "Did you mean regex?"), (["functions=exact=often"], "'often' is not a number"),
        (["functions={}"], "Nothing judges the answers"), (["functions=regex"], "needs a pattern"),
        (["functions=json=1e30"], "from -1,000 to 1,000"), (["functions=format", "form="], "the whole answer fits"),
        (["functions=regex", "pattern=("], "not a regular expression"), (["within=<a>.*</a>"], "No group"),
        (["json_schema={"], "not JSON"), (["json_schema=[]"], "is an object"),
        (['json_schema={"$ref": "x"}'], "'$ref' of JSON schema is not understood"), (["label=GOOD"], "of a classifier"),
        (['json_schema={"items": {"type": "text"}}'], "type 'text'"), (["functons=exact"], "Did you mean"),
    ],
)  # fmt: skip
def test_what_cannot_reward_is_refused_with_the_way_out(said: list[str], sentence: str) -> None:
    with pytest.raises(ArgsError) as caught:
        text.parse({}, ["data=x", "task=grpo", *(f"task.rewards.{one}" for one in said)], kind="train")
    assert all(problem.path.startswith("task.rewards") for problem in caught.value.problems)
    assert sentence in str(caught.value)


def test_a_name_alone_has_the_weight_one() -> None:
    for said in ("exact, format=0.5", "exact=1, format=0.5", "{exact: 1, format: 0.5}"):
        args: Any = text.parse({}, ["data=x", "task=rloo", f"task.rewards.functions={said}"], kind="train")
        assert args.task.rewards.functions == {"exact": 1.0, "format": 0.5}


def test_rewards_belong_to_the_tasks_that_have_them() -> None:
    with pytest.raises(
        ArgsError, match="There is no such argument with task: sft; it belongs to task: ppo, grpo, rloo."
    ):
        text.parse({}, ["data=x", "task=sft", "task.rewards.functions=exact"], kind="train")


def scored(tmp_path: Path, *said: str, answers: list[str], rows: list[dict[str, Any]]) -> Any:
    from engine.feedback import rewards
    from engine.report import Report, Stop

    args = text.parse({}, ["data=x", "task=grpo", *(f"task.rewards.{one}" for one in said)], kind="train")
    run = Run(tmp_path)

    def words(answer: str, **_: Any) -> dict[str, list[str]]:
        return {"input_ids": answer.split()}

    setting: Any = SimpleNamespace(args=args, tokenizer=words, run=run, report=Report(run), stop=Stop())
    found = rewards.scorers(setting)
    scores = found([[{"role": "user", "content": "?"}]] * len(answers), answers, rows)
    return found, scores


def test_scores_are_weighed_and_summed(tmp_path: Path) -> None:
    answers, rows = ["<a>4</a>", "<a>5</a> is my answer", "4"], [{"answer": "4"}] * 3
    said = ["functions=exact=2, format=0.5, length=1", "within=<a>(.*?)</a>", "form=<a>.</a>", "length=2"]
    found, scores = scored(tmp_path, *said, answers=answers, rows=rows)
    assert found.names == ("exact", "format", "length")
    assert scores.tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 1]]
    assert found.total(scores).tolist() == [3.5, 0, 1]


def test_a_query_is_judged_by_the_tables_of_its_row_or_of_its_question(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": f"{TABLES}\nWho lives in Paris?"}]
    rows = [{"answer": BY_CITY, "context": TABLES}, {"answer": BY_CITY, "prompt": asked}]
    fenced = f"It is\n```sql\n{BY_CITY.lower().replace('paris', 'Paris')};\n```"
    _, scores = scored(tmp_path, "functions=sql", "seconds=5", answers=[fenced, fenced], rows=rows)
    assert scores.tolist() == [[1], [1]]


def test_a_person_is_waited_for_and_may_think_again(tmp_path: Path) -> None:
    run = Run(tmp_path)

    def person() -> None:
        while len(asked := judging.waiting(run)) < 2:
            pass
        judging.judge(run, asked[0].number, 0.0)
        judging.judge(run, asked[0].number, 0.75)
        judging.judge(run, asked[1].number, 1.0)

    thread = threading.Thread(target=person)
    thread.start()
    found, scores = scored(tmp_path, "functions={}", "person=true", answers=["a", "b"], rows=[{}, {}])
    thread.join()
    assert scores.tolist() == [[0.75], [1.0]]
    assert judging.waiting(run) == []
    assert found.unasked.names == ()
    assert found.unasked.total(found.unasked([[], []], ["a", "b"], [{}, {}])).tolist() == [0, 0]


def test_only_the_last_answers_are_waited_for(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert judging.ask(run, [("q", "old")]) == range(1, 2)
    assert judging.ask(run, [("q", "a"), ("q", "b")]) == range(2, 4)
    assert [one.answer for one in judging.waiting(run)] == ["a", "b"]
    with pytest.raises(ValueError, match="from 0 to 1"):
        judging.judge(run, 2, 1.5)


def test_a_stop_ends_the_waiting(tmp_path: Path) -> None:
    from engine.report import Stop, Stopped

    asked = Stop()
    asked.asked = True
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("engine.report.Stop", lambda: asked)
        scored(tmp_path, "functions={}", "person=true", answers=["a"], rows=[{}])
