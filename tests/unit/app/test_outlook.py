"""What the page says of rows before Start: the words, the bars, the tokens, and the exact count behind them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import errands
from app.planning import counting, forecast, histogram, outlook, rows
from data.checking import survey
from data.checking.inspection import Inspection
from engine.contract.args import TrainArgs
from engine.contract.errors import BoardError
from tests.processes import until

ALL = [Path("/")]


@pytest.fixture
def look(workspace: Path) -> Callable[..., forecast.Forecast]:
    """`look(data={...})`: the forecast of a run on `sums.jsonl` with the tiny model."""

    def looked(**said: Any) -> forecast.Forecast:
        data = {"train": ["sums.jsonl"], "max_length": 256, "split": "100/0/0", **said.pop("data", {})}
        return forecast.look(TrainArgs.model_validate({"model": "tiny", "data": data, **said}), workspace, ALL)

    return looked


def add(workspace: Path, *said: str) -> None:
    with open(workspace / "datasets" / "sums.jsonl", "a", encoding="utf-8") as file:
        turns = [{"role": role, "content": words} for role, words in zip(("user", "assistant"), said, strict=True)]
        file.write(json.dumps({"messages": turns}) + "\n")


def plain(html: str) -> str:
    return re.sub(r"<[^>]+>", "", html)


class TestWords:
    def test_what_the_model_writes_is_said_beside_what_it_reads(self, look):
        task = {"kind": "grpo", "group": 4, "max_new_tokens": 50, "rewards": {"functions": {"length": 1}}}
        found = look(task=task, steps={"batch_size": 4, "accumulation": 2, "max_steps": 10})
        assert found.plan.work.written == 10 * 8 * 50
        said = plain(outlook.outlook(found))
        assert "of 8 answers (4 at once × 2 batches). The model writes up to 4.0 k tokens;" in said
        assert "The model writes" not in plain(outlook.outlook(look()))

    def test_plain_text_has_no_template_and_no_answers(self, look, workspace):
        texts = "".join(json.dumps({"text": f"The cat number {number} sat on a mat."}) + "\n" for number in range(8))
        (workspace / "datasets" / "texts.jsonl").write_text(texts, encoding="utf-8")
        said = plain(outlook.outlook(look(task="pretrain", data={"train": ["texts.jsonl"]})))
        assert "No row is cut" in said
        assert "template" not in said and "answer" not in said

    def test_each_method_is_called_by_its_name(self, look):
        for kind, name in {"full": "all weights", "ia3": "(IA)³", "expand": "New layers", "tuner": "vera"}.items():
            assert f"({name})" in plain(outlook.outlook(look(method=kind)))

    def test_packed_weights_and_devices_are_named(self, look):
        said = plain(outlook.outlook(look(launch={"processes": 2, "machines": 2, "address": "10.0.0.1"})))
        assert "of 16 rows (4 at once × 4 devices)." in said
        base = {"path": "tiny", "quantisation": "nf4"}
        found = forecast.Forecast(TrainArgs.model_validate({"model": base}))
        assert "(LoRA, rank 16, on nf4 weights)" in plain(outlook.outlook(found))

    def test_good_rows_may_start_and_nothing_is_wrong(self, look):
        found = look()
        said = plain(outlook.outlook(found))
        assert "All 12 rows looked at: nothing is wrong." in said and "The end of each answer is trained." in said
        assert found.may_start and outlook.start(found, busy=False) == "Start"
        assert outlook.start(found, busy=True) == "Queue"

    def test_a_warning_can_be_waved_through_and_leads_to_its_rows(self, look, workspace):
        add(workspace, "What is <|im_end|>?", "It is four.")
        found = look()
        html = outlook.outlook(found)
        assert "All 13 rows looked at: 1 warning." in html and 'data-show="special"' in html
        assert "&lt;|im_end|&gt;" in html and "<|im_end|>" not in html
        assert found.may_start and outlook.start(found, busy=False) == "Start anyway"
        assert ("with special tokens in the text (1)", "special") in rows.choices(found)

    def test_an_error_holds_start_back(self, look):
        found = look(task="dpo")
        assert not found.problems and not found.may_start and outlook.start(found, busy=False) == "Start"
        assert 'class="tb-error"' in outlook.outlook(found)

    def test_a_sample_says_that_it_is_one(self, look, monkeypatch):
        monkeypatch.setattr(survey, "SAMPLE", 4)
        found = look(data={"max_length": 255})
        assert (found.rows.rows, found.rows.total, found.question != "") == (4, 12, True)
        said = plain(outlook.outlook(found))
        assert (
            "about 12 rows" in said and "4 of 12 rows looked at: nothing is wrong. The rest is being counted." in said
        )
        assert "8 of 12 rows are counted so far." in outlook.outlook(found, "8 of 12 rows")

    def test_of_a_large_file_only_the_head_is_read_at_once(self, look, monkeypatch):
        monkeypatch.setattr(survey, "READ_AT_ONCE", 5)
        monkeypatch.setattr(survey, "SAMPLE", 4)
        monkeypatch.setattr(survey.sets, "read", lambda *_: pytest.fail("all rows were read"))
        found = look(data={"max_length": 254, "split": "75/25/0"})
        assert (found.rows.rows, found.rows.total, found.rows.held_out) == (4, 9, 3)


class TestCounting:
    def test_the_exact_answer_comes_from_an_engine_process_and_is_kept(self, look, workspace, monkeypatch):
        monkeypatch.setattr(survey, "SAMPLE", 4)
        found = look(data={"max_length": 253})
        assert counting.known(found.question, workspace) is None

        def answered() -> bool:
            counting.ask(found.question, found.args, workspace)
            assert not counting.failed(found.question, workspace)
            return counting.known(found.question, workspace) is not None

        until(answered)
        exact = look(data={"max_length": 253})
        assert exact.question == "" and exact.rows.exact and exact.rows.used == 12
        assert {file.suffix for file in (workspace / "cache" / "rows").iterdir()} == {".json"}
        assert look(data={"max_length": 252}).question not in ("", found.question)
        (workspace / "cache" / "rows" / f"{found.question}.json").write_text("{}x")
        assert counting.known(found.question, workspace) is None

    def test_what_nobody_asks_about_any_more_is_ended(self, look, workspace, monkeypatch):
        monkeypatch.setattr(survey, "SAMPLE", 4)
        monkeypatch.setattr(errands, "FORGOTTEN_SECONDS", 0.0)
        first, second = look(data={"max_length": 251}), look(data={"max_length": 250})
        counting.ask(first.question, first.args, workspace)
        [process] = [work.process for work in counting._errands._work.values()]
        counting.ask(second.question, second.args, workspace)
        assert process.returncode is not None and len(counting._errands._work) == 1
        [other] = [work.process for work in counting._errands._work.values()]
        other.wait()


class TestHistogram:
    def inspection(self, lengths: dict[int, int], **more: Any) -> Inspection:
        many = sum(lengths.values())
        given = {"template": "t", "max_length": 512, "total": many, "held_out": 0, "rows": many}
        return Inspection(**given, lengths=lengths, **more)

    def test_bins_have_a_round_width_and_hold_every_row(self):
        bins = self.inspection({3: 1, 19: 2, 20: 4, 199: 1}).histogram(10)
        assert [(one.low, one.high) for one in bins[:2]] == [(0, 19), (20, 39)]
        assert [one.rows for one in bins] == [3, 4, *[0] * 7, 1]

    def test_one_row_far_longer_than_all_others_leaves_them_room(self):
        bins = self.inspection(
            {20: 99, 90_000: 1},
        ).histogram(10)
        assert bins[0].high < 1000 and bins[-1].high == 90_000 and sum(one.rows for one in bins) == 100

    def test_quantiles_are_lengths_that_there_are(self):
        found = self.inspection({10: 50, 20: 45, 30: 5})
        assert (found.quantile(0.5), found.quantile(0.95), found.longest) == (10, 20, 30)

    def test_the_cut_and_what_it_takes_are_said_and_drawn(self):
        html = histogram.histogram(self.inspection({100: 3, 600: 1}, cut=1, lost={"turns": 1}))
        assert "cut at 512" in html and "25.0 % of the rows are cut: 1 loses its oldest turns." in html
        assert 'title="100 to 119 tokens: 3 rows"' in html
        assert "cut at" not in histogram.histogram(self.inspection({100: 3}))


class TestRows:
    def test_rows_are_shown_token_by_token_with_what_is_learnt_cut_and_special(self, look, workspace):
        found = look(data={"max_length": 20, "cut": "answer"})
        seen = rows.page(found, workspace, ALL, number=99)
        assert (seen.number, seen.pages) == (3, 4)
        html = rows.page(found, workspace, ALL, number=-5).html
        kinds = set(re.findall(r'class="(tb-[a-z]+)', html))
        assert {"tb-learnt", "tb-given", "tb-cut"} <= kinds and "&lt;|im_start|&gt;" in html
        assert re.search(r'class="tb-given tb-special tb-odd" title="\d+">&lt;\|im_start\|&gt;', html)
        assert "cut off (the end of the answer)" in html and f"{rows.NEWLINE}\n" in html

    def test_every_character_of_a_row_is_shown(self, look, workspace):
        add(workspace, "你好 🙂🙃", "a < b & c")
        seen = rows.page(look(), workspace, ALL, row=13).html
        said = plain(seen.partition("<pre>")[2]).replace(rows.NEWLINE, "")
        assert "你好 🙂🙃" in said and "a &lt; b &amp; c" in said

    def test_the_oldest_turns_are_those_that_are_struck_out(self, look, workspace):
        talk = [("user", "Hello?"), ("assistant", "I see."), ("user", "What is it?"), ("assistant", "It is four.")]
        with open(workspace / "datasets" / "sums.jsonl", "w") as file:
            file.write(json.dumps({"messages": [{"role": role, "content": said} for role, said in talk]}) + "\n")
        html = rows.page(look(data={"max_length": 32}), workspace, ALL).html
        cut = plain("".join(re.findall(r'<span class="tb-cut[^>]*>.*?</span>', html, re.DOTALL)))
        assert "Hello?" in cut and "I see." in cut and "It is four." not in cut and "the oldest turns" in html

    def test_of_a_very_long_row_the_middle_is_left_out(self, look, workspace):
        add(workspace, "Hello? " * 2000, "It is four.")
        html = rows.page(look(), workspace, ALL, row=13).html
        assert "tokens in between" in html and html.count("<span") <= rows.HEAD + rows.TAIL

    def test_rows_are_found_by_their_number_in_the_file(self, look, workspace):
        assert "row 7</b>" in rows.page(look(), workspace, ALL, row=7).html
        with pytest.raises(BoardError, match="no row 99"):
            rows.page(look(), workspace, ALL, row=99)

    def test_both_answers_of_a_pair_are_shown(self, look, workspace):
        pairs = [{"prompt": f"{n}?", "chosen": "It is four.", "rejected": "I see."} for n in range(4)]
        (workspace / "datasets" / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n")
        html = rows.page(look(task="dpo", data={"train": ["pairs.jsonl"]}), workspace, ALL).html
        assert "chosen ·" in html and "rejected ·" in html
