"""Making rows: every kind against a stub endpoint; costs, refusals, stops and resumes."""

from __future__ import annotations

import base64
import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from data.datasets import registry
from data.datasets.patch import Patch
from engine import ask, make
from engine.contract import rundir, text
from engine.contract.args import MakeArgs
from engine.contract.client import Server, ServerError
from engine.contract.errors import BoardError, ResourceError
from engine.contract.making import Endpoint as Endpointed
from engine.contract.rundir import Run, records
from engine.report import Report, Stop, Stopped
from tests.endpoint import Endpoint, endpoint

QUESTIONS = ["How do tides work?", "Who wrote Faust?", "What is seven times eight?"]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "datasets").mkdir()
    rows = [{"instruction": question, "output": f"Answer {number}."} for number, question in enumerate(QUESTIONS)]
    (tmp_path / "datasets" / "seed.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def asking(stub: Endpoint | str, *words: str) -> MakeArgs:
    address = stub if isinstance(stub, str) else stub.address
    common = ["data=seed.jsonl", f"endpoint.address={address}", "endpoint.retries=2", "endpoint.at_once=1", "to=new"]
    return text.parse({}, [*common, *words], kind="make")  # type: ignore[return-value]


def begun(args: MakeArgs, workspace: Path) -> tuple[Run, Report]:
    run, lock = rundir.make_locked(workspace, "make", text.dump(args))
    import os

    os.close(lock)
    return run, Report(run)


def made(args: MakeArgs, workspace: Path) -> list[dict[str, Any]]:
    run, report = begun(args, workspace)
    make.run(args, run, report, Stop())
    name = next(found for found in records(run.events_path) if found["kind"] == "result")["facts"]["dataset"]
    return [json.loads(line) for line in (workspace / "datasets" / name).read_text(encoding="utf-8").splitlines()]


def turns(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in row["messages"]]


def last(messages: list[dict[str, Any]]) -> str:
    return str(messages[-1]["content"])


def test_a_persona_answers_and_stays_out_of_the_rows(workspace: Path) -> None:
    with endpoint(lambda messages: f"Arr, {last(messages)}") as stub:
        rows = made(asking(stub, "what.persona=You are a pirate."), workspace)
    assert turns(rows[0]) == [("user", QUESTIONS[0]), ("assistant", f"Arr, {QUESTIONS[0]}")]
    assert all(body["messages"][0] == {"role": "system", "content": "You are a pirate."} for body in stub.asked)
    assert len(rows) == 3 and stub.asked[0]["model"] == "writer"


def test_a_persona_can_be_kept(workspace: Path) -> None:
    with endpoint(lambda messages: "Yes.") as stub:
        rows = made(asking(stub, "what.persona=P", "what.keep_persona=true"), workspace)
    assert turns(rows[0])[0] == ("system", "P")


def test_every_row_says_where_it_came_from(workspace: Path) -> None:
    with endpoint(lambda messages: f"About {last(messages)}") as stub:
        rows = made(asking(stub), workspace)
    sources = [row["source"] for row in rows]
    assert [(source["dataset"], source["row"]) for source in sources] == [
        ("seed.jsonl", number) for number in (1, 2, 3)
    ]
    assert {(source["made"], source["model"]) for source in sources} == {("answer", "writer")}
    assert all(source["run"] for source in sources)


def test_a_question_becomes_a_conversation_in_which_the_model_plays_both_sides(workspace: Path) -> None:
    def reply(messages: list[dict[str, Any]]) -> str:
        guest = messages[0]["role"] == "system"
        return f"Question {len(messages)}?" if guest else f"Reply {len(messages)}."

    with endpoint(reply) as stub:
        rows = made(asking(stub, "what=converse", "what.turns=3", "max_rows=1"), workspace)
    said = turns(rows[0])
    assert [role for role, _ in said] == ["user", "assistant"] * 3
    assert said[0] == ("user", QUESTIONS[0]) and said[2][1].startswith("Question")
    assert len(stub.asked) == 5  # three answers and two further questions
    heard = next(body["messages"] for body in stub.asked if body["messages"][0]["role"] == "system")
    assert [message["role"] for message in heard] == ["system", "user", "assistant", "user"]  # the sides are swapped


def test_pairs_come_from_columns_and_need_no_model_when_the_answer_stands_there(workspace: Path) -> None:
    rows = [{"country": "France", "capital": "Paris"}, {"country": "Peru", "capital": "Lima"}]
    (workspace / "datasets" / "seed.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["what=pairs", "what.question=What is the capital of {country}?", "what.answer={capital}."]
    found = made(asking("http://127.0.0.1:9", *words), workspace)
    assert turns(found[1]) == [("user", "What is the capital of Peru?"), ("assistant", "Lima.")]


def test_pairs_without_an_answer_are_answered_by_the_model_that_sees_the_row(workspace: Path) -> None:
    (workspace / "datasets" / "seed.jsonl").write_text(json.dumps({"title": "Moss", "body": "Moss is green."}))
    with endpoint(lambda messages: "It is green.") as stub:
        rows = made(asking(stub, "what=pairs", "what.question=What colour is {title}?"), workspace)
    assert turns(rows[0]) == [("user", "What colour is Moss?"), ("assistant", "It is green.")]
    assert "body: Moss is green." in last(stub.asked[0]["messages"])


def test_pairs_about_pictures_show_the_picture(workspace: Path) -> None:
    (workspace / "datasets" / "dot.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (workspace / "datasets" / "seed.jsonl").write_text(json.dumps({"image": "dot.png"}))
    words = ["what=pairs", "what.question=What is on the picture?", "what.picture=image"]
    with endpoint(lambda messages: "A dot.") as stub:
        rows = made(asking(stub, *words), workspace)
    (seen, _) = stub.asked[0]["messages"][0]["content"]
    assert base64.b64decode(seen["image_url"]["url"].partition(",")[2]) == b"\x89PNG\r\n\x1a\n"
    assert rows[0]["messages"][0]["content"][0]["type"] == "image"


def test_a_picture_outside_of_the_folder_is_not_sent(workspace: Path) -> None:
    (workspace / "secret.png").write_bytes(b"x")
    (workspace / "datasets" / "seed.jsonl").write_text(json.dumps({"image": "../secret.png"}))
    words = ["what=pairs", "what.question=What is it?", "what.picture=image"]
    with endpoint(lambda messages: "A dot.") as stub, pytest.raises(BoardError):
        made(asking(stub, *words), workspace)
    assert not stub.asked


PIXEL = b"\x89PNG pixel"


def test_a_part_of_a_folder_gives_its_own_rows_alone_and_finds_its_pictures(workspace: Path) -> None:
    folder = workspace / "datasets" / "views"
    (folder / "seen").mkdir(parents=True)
    (folder / "seen" / "a.png").write_bytes(PIXEL)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps({"image": "seen/a.png", "about": split}) + "\n")
    words = ("what.kind=pairs", "what.question=What is it?", "what.answer={about}", "what.picture=image")
    rows = made(asking("http://127.0.0.1:1", "data=views/train", *words), workspace)
    assert [row["messages"][1]["content"] for row in rows] == ["train"]
    assert base64.b64encode(PIXEL).decode() in rows[0]["messages"][0]["content"][0]["image"]


def test_pairs_leave_out_what_somebody_excluded(workspace: Path) -> None:
    entry = registry.find("seed.jsonl", workspace)
    Patch.of(entry.patch).exclude(list(registry.original(entry))[:1])
    words = ("what.kind=pairs", "what.question={instruction}", "what.answer={output}")
    rows = made(asking("http://127.0.0.1:1", *words), workspace)
    assert [turns(row)[0][1] for row in rows] == QUESTIONS[1:]


def seen(workspace: Path) -> None:
    asked = {"role": "user", "content": "<image>What is it?"}
    row = {"messages": [asked, {"role": "assistant", "content": "A dot."}], "images": ["dot.png"]}
    (workspace / "datasets" / "seen.jsonl").write_text(json.dumps(row) + "\n")
    (workspace / "datasets" / "dot.png").write_bytes(PIXEL)


@pytest.mark.parametrize("kind", ["answer", "converse", "grow"])
def test_nobody_is_asked_about_a_picture_that_is_not_shown(workspace: Path, kind: str) -> None:
    seen(workspace)
    with endpoint(last) as stub:
        with pytest.raises(BoardError, match="no row"):
            made(asking(stub, "data=seen.jsonl", f"what.kind={kind}"), workspace)
        assert not stub.asked


def test_paraphrases_keep_the_picture(workspace: Path) -> None:
    seen(workspace)
    with endpoint(lambda messages: "Say what this is.") as stub:
        rows = made(asking(stub, "data=seen.jsonl", "what.kind=paraphrase"), workspace)
    assert [part["type"] for part in rows[0]["messages"][0]["content"]] == ["image", "text"]
    assert rows[0]["messages"][0]["content"][1]["text"] == "Say what this is."


def test_a_column_that_is_not_there_is_named(workspace: Path) -> None:
    words = ["what=pairs", "what.question=What is {capitol}?", "what.answer=x"]
    run, report = begun(args := asking("http://127.0.0.1:9", *words), workspace)
    with pytest.raises(BoardError):
        make.run(args, run, report, Stop())
    warned = [found["text"] for found in records(run.events_path) if found["kind"] == "warning"]
    assert "there is no column capitol; the row has instruction, output" in warned[0]


def test_paraphrases_keep_the_answer(workspace: Path) -> None:
    words = iter(
        ["1. What makes tides?\n2. Why is there ebb and flow?", "1) Faust is whose work?", f"- {QUESTIONS[2]}"]
    )
    with endpoint(lambda messages: next(words)) as stub:
        rows = made(asking(stub, "what=paraphrase", "what.times=2"), workspace)
    assert [turns(row) for row in rows] == [
        [("user", "What makes tides?"), ("assistant", "Answer 0.")],
        [("user", "Why is there ebb and flow?"), ("assistant", "Answer 0.")],
        [("user", "Faust is whose work?"), ("assistant", "Answer 1.")],
    ]  # the last wording was the old one


def test_only_rows_with_a_good_mark_are_kept(workspace: Path) -> None:
    marks = iter(["9", "I would say 3.", "none"])
    with endpoint(lambda messages: next(marks)) as stub:
        rows = made(asking(stub, "what=filter", "what.least=7"), workspace)
    assert [(row["mark"], turns(row)[0][1]) for row in rows] == [(9.0, QUESTIONS[0])]
    assert all(body["temperature"] == 0 for body in stub.asked)


def test_a_set_grows_to_the_wanted_size_without_doubles(workspace: Path) -> None:
    lock, number = threading.Lock(), iter(range(1000))

    def reply(messages: list[dict[str, Any]]) -> str:
        if "new question of this kind" not in last(messages):
            return f"The answer to {last(messages)}"
        with lock:
            turn = next(number)
        return QUESTIONS[0] if turn % 3 == 0 else f"Question with the words {turn} {turn * 7} and {turn * 13}?"

    with endpoint(reply) as stub:
        rows = made(asking(stub, "what=grow", "what.count=7", "what.shown=2", "endpoint.at_once=3"), workspace)
    asked = [turns(row)[0][1] for row in rows]
    assert len(rows) >= 7 and len(set(asked)) == len(asked) and not set(asked) & set(QUESTIONS)
    assert all(len(row["source"]["rows"]) == 2 for row in rows)


def test_what_is_spent_is_counted_and_bounded(workspace: Path) -> None:
    words = ["endpoint.price_in=100000", "endpoint.price_out=200000", "endpoint.budget=3"]  # 2 for each request
    with endpoint(lambda messages: f"To {last(messages)}") as stub:
        args = asking(stub, *words)
        run, report = begun(args, workspace)
        make.run(args, run, report, Stop())
    result = next(found for found in records(run.events_path) if found["kind"] == "result")
    assert result["facts"]["cost"] == pytest.approx(4.0) and result["facts"]["rows"] == 2 == len(stub.asked)
    assert [point["values"]["make/cost"] for point in records(run.metrics_path)] == [pytest.approx(2), pytest.approx(4)]


def test_the_key_comes_from_the_environment_and_is_written_nowhere(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with endpoint(lambda messages: last(messages)) as stub:
        made(asking(stub, "endpoint.key_variable=MY_KEY"), workspace)
    assert set(stub.keys) == {"Bearer sk-very-secret"}
    files = [file for file in workspace.rglob("*") if file.is_file()]
    assert files and not any(b"sk-very-secret" in file.read_bytes() for file in files)


def test_a_busy_server_is_asked_again_after_the_pause_that_it_wants(workspace: Path) -> None:
    replies: list[Any] = [(429, {"Retry-After": "7"}), (503, {}), "One.", "Two.", "Three."]
    waits: list[float] = []

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return False

    with endpoint(lambda messages: replies.pop(0)) as stub:
        args = asking(stub)
        answer = ask.Ask(args.endpoint, stub.address, Clock())([{"role": "user", "content": "?"}])
    assert answer == "One." and waits == [7.0, 2.0]


def test_a_refusal_is_not_asked_again_and_a_hopeless_run_ends_early(workspace: Path) -> None:
    rows = "\n".join(json.dumps({"instruction": f"Question {number}?", "output": "x"}) for number in range(50))
    (workspace / "datasets" / "seed.jsonl").write_text(rows)
    with endpoint(lambda messages: (401, {})) as stub:
        args = asking(stub)
        run, report = begun(args, workspace)
        with pytest.raises(ResourceError, match="Not now"):
            make.run(args, run, report, Stop())
    assert len(stub.asked) == make.HOPELESS


def test_a_stopped_run_is_gone_on_with_and_asks_only_for_the_rest(workspace: Path) -> None:
    stop = Stop()

    def reply(messages: list[dict[str, Any]]) -> str:
        stop.asked = len(stub.asked) == 2
        return f"To {last(messages)}"

    with endpoint(reply) as stub:
        args = asking(stub)
        run, report = begun(args, workspace)
        with pytest.raises(Stopped):
            make.run(args, run, report, stop)
        kept = list(records(run.path / make.JOURNAL))
        assert [line["key"] for line in kept] == ["seed.jsonl:1", "seed.jsonl:2"]
        assert not (workspace / "datasets" / "new.jsonl").exists()
        with open(run.path / make.JOURNAL, "a") as lines:
            lines.write('{"key": "seed.jsonl:3", "ro')  # the machine died in the middle of a line
        rows = made(asking(stub, f"resume={run.id}"), workspace)
    assert [turns(row)[0][1] for row in rows] == QUESTIONS
    assert len(stub.asked) == 3


@pytest.mark.parametrize("said", ["resume=gone", "what.kind=paraphrase"])
def test_a_run_goes_on_with_its_own_work_only(workspace: Path, said: str) -> None:
    with endpoint(last) as stub:
        args = asking(stub)
        run, report = begun(args, workspace)
        make.run(args, run, report, Stop())
        with pytest.raises(BoardError, match="no rows were made|makes something else"):
            made(asking(stub, f"resume={run.id}", said), workspace)
        assert len(stub.asked) == len(QUESTIONS)


def test_a_set_never_grows_beyond_what_was_wanted(workspace: Path) -> None:
    numbers = iter(range(1000))
    with endpoint(lambda messages: " ".join(f"w{next(numbers)}" for _ in range(4))) as stub:
        rows = made(asking(stub, "what.kind=grow", "what.count=3", "endpoint.at_once=8"), workspace)
    assert len(rows) == 3


@pytest.mark.parametrize("models", [b"<html>", b"null", b"{}", b'{"data": ["a"]}', b'{"data": 3}'])
def test_an_address_that_is_no_such_server_is_a_sentence(monkeypatch: pytest.MonkeyPatch, models: bytes) -> None:
    monkeypatch.setattr(Server, "_ask", lambda *_: io.BytesIO(models))
    with pytest.raises(ServerError, match="did not answer as OpenAI's protocol says"):
        Server("http://127.0.0.1:1").models()


@pytest.mark.parametrize(
    ("content", "usage", "answer"),
    [
        ([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}], {"prompt_tokens": 1}, "Hello."),
        ("Hello.", [1], "Hello."),
        ("Hello.", {"prompt_tokens": "many"}, "Hello."),
        (5, None, None),
    ],
)
def test_an_answer_is_taken_as_servers_write_it(
    monkeypatch: pytest.MonkeyPatch, content: Any, usage: Any, answer: str | None
) -> None:
    said = json.dumps({"choices": [{"message": {"content": content}}], "usage": usage}).encode()
    monkeypatch.setattr(Server, "_ask", lambda *_: io.BytesIO(said))
    writer = ask.Ask(Endpointed(model="m", retries=0), "http://127.0.0.1:1", threading.Event())
    if answer is None:
        with pytest.raises(ask.GivenUp, match="protocol"):
            writer([])
    else:
        assert writer([]) == answer


def test_nobodys_rows_are_written_over(workspace: Path) -> None:
    (workspace / "datasets" / "new.jsonl").write_text('{"text": "mine"}\n')
    with endpoint(lambda messages: last(messages)) as stub:
        made(asking(stub), workspace)
    assert (workspace / "datasets" / "new.jsonl").read_text() == '{"text": "mine"}\n'
    assert (workspace / "datasets" / "new-2.jsonl").exists()
    assert not list((workspace / "datasets").glob(".partial*"))


def test_auto_needs_a_model_that_is_loaded(workspace: Path) -> None:
    args = asking("auto")
    run, report = begun(args, workspace)
    with pytest.raises(ResourceError, match="No model is loaded"):
        make.run(args, run, report, Stop())


def test_a_model_that_is_not_loaded_is_said_at_the_field_before_the_start(workspace: Path) -> None:
    from data.checking import preflight

    (problem,) = preflight.problems(asking("auto"), workspace)
    assert problem.path == "endpoint.address" and "Load one in Chat" in problem.text
    assert not preflight.problems(asking("auto", "what=pairs", "what.answer={output}"), workspace)
    assert not preflight.problems(asking("http://127.0.0.1:9"), workspace)


def test_a_thought_is_no_answer(workspace: Path) -> None:
    with endpoint(lambda messages: "<think>\nHm.\n</think>\n\nForty-two.") as stub:
        rows = made(asking(stub, "max_rows=1"), workspace)
    assert turns(rows[0])[-1] == ("assistant", "Forty-two.")


def test_an_address_with_a_secret_is_refused() -> None:
    with pytest.raises(BoardError, match="holds a secret"):
        asking("https://user:secret@example.com/v1")


@pytest.mark.parametrize("address", ["http://[::1", "http://host:99999/v1", "http://host:http/v1"])
def test_an_address_that_cannot_be_reached_is_refused_before_a_run(address: str) -> None:
    with pytest.raises(BoardError, match="endpoint.address: .* is not the address of a server"):
        asking(address)


def test_a_budget_needs_prices() -> None:
    with pytest.raises(BoardError, match="price_in"):
        asking("https://example.com/v1", "endpoint.budget=5")
