"""Scores against values worked out by hand or by the libraries' public functions; the bootstrap against its promise."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu

from engine import metrics

ASK = {"confidence": 0.95, "resamples": 1000, "seed": 1}


def test_loss_is_weighted_by_tokens() -> None:
    found = metrics.loss([6.0, 1.0], [3, 1])
    assert found.value() == 7 / 4
    assert found.by_row() == [2.0, 1.0]
    assert metrics.perplexity([6.0, 1.0], [3, 1]).value() == pytest.approx(math.exp(7 / 4))


def test_exact_match_ignores_white_space_alone() -> None:
    assert metrics.exact_match(["a  b\n", "A b", "b"], ["a b", "a b", "a b"]).by_row() == [100, 0, 0]


def test_rouge_l_is_the_longest_common_subsequence() -> None:
    # "the cat sat" in 4 said and 6 wanted words: precision 3/4, recall 3/6, F1 0.6
    assert metrics.rouge_l(["The cat sat there"], ["the cat sat on the mat"]).value() == pytest.approx(60)


def test_rouge_l_agrees_with_the_library_on_english() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    answer, wanted = "It's a well-known 2nd test, isn't it?", "This is the 2nd well-known test; it isn't a trick."
    library = RougeScorer(["rougeL"]).score(wanted, answer)["rougeL"].fmeasure
    assert metrics.rouge_l([answer], [wanted]).value() == pytest.approx(100 * library)


def test_rouge_l_reads_chinese_by_character() -> None:
    assert metrics.rouge_l(["我喜欢猫"], ["我喜欢狗"]).value() == pytest.approx(75)
    assert metrics.rouge_l(["Люблю котов"], ["Люблю собак"]).value() == pytest.approx(50)


SAID = ["the cat sat on the mat", "he read a book about the sea", "yes", ""]
WANTED = ["the cat is on the mat", "she read the book about the sea", "yes", "something"]


def test_bleu_and_chrf_of_rows_add_up_to_the_corpus_score() -> None:
    public = sacrebleu.metrics.BLEU(tokenize="13a", effective_order=True).corpus_score(SAID, [WANTED]).score
    assert metrics.bleu(SAID, WANTED, "13a").value() == pytest.approx(public)
    assert metrics.chrf(SAID, WANTED).value() == pytest.approx(
        sacrebleu.metrics.CHRF().corpus_score(SAID, [WANTED]).score
    )


def test_rows_alone_score_as_sentences() -> None:
    public = [sacrebleu.sentence_bleu(said, [wanted]).score for said, wanted in zip(SAID, WANTED, strict=True)]
    assert metrics.bleu(SAID, WANTED, "13a").by_row() == pytest.approx(public)
    public = [sacrebleu.sentence_chrf(said, [wanted]).score for said, wanted in zip(SAID, WANTED, strict=True)]
    assert metrics.chrf(SAID, WANTED).by_row() == pytest.approx(public)


def test_chinese_is_found_and_split_into_characters() -> None:
    said, wanted = ["今天天气很好，我们去公园吧。"], ["今天天气真好，我们去公园吧。"]
    assert metrics.bleu_tokenizer(wanted) == "zh"
    assert metrics.bleu(said, wanted, "zh").value() > 60
    assert metrics.bleu(said, wanted, "13a").value() < 10  # one word, as English would read it


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["Hello there", "Guten Tag"], "13a"),
        (["The sign 猫 means cat, and this is a long English sentence about it."], "13a"),
        (["SELECT name FROM 客户 表 在哪里 呢"], "zh"),
        (["42", ""], "13a"),
    ],
)
def test_the_tokenizer_follows_the_script(texts: list[str], wanted: str) -> None:
    assert metrics.bleu_tokenizer(texts) == wanted


def test_japanese_needs_no_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None)
    assert metrics.bleu_tokenizer(["今日はとても良い天気ですね。"]) == "char"
    assert metrics.bleu(["今日は良い天気"], ["今日は良い天気"], "char").value() == pytest.approx(100)


def test_identical_candidates_differ_by_exactly_nothing() -> None:
    for metric in (
        metrics.bleu(SAID, WANTED, "13a"),
        metrics.chrf(SAID, WANTED),
        metrics.loss([3.0, 2, 1, 9], [1] * 4),
    ):
        found = metrics.compare(metric, metric, **ASK)
        assert (found.difference, found.low, found.high) == (0, 0, 0)
    rows = metrics.loss([0.1 * n for n in range(20)], [3] * 20)
    found = metrics.compare(rows, rows, **ASK)
    assert found.verdict == "no clear difference"
    assert metrics.sentence("loss", found, 0.95).startswith("No clear difference: loss stayed at 0.32 (difference 0.00")


def test_the_same_seed_gives_the_same_interval() -> None:
    random = np.random.default_rng(0)
    a, b = (metrics.loss(random.gamma(2, size=30).tolist(), [2] * 30) for _ in range(2))
    assert metrics.compare(a, b, **ASK) == metrics.compare(a, b, **ASK)
    assert metrics.compare(a, b, **ASK).low != metrics.compare(a, b, **{**ASK, "seed": 2}).low


def test_resampling_is_paired() -> None:
    """Rows differ wildly from each other, and both candidates alike: the interval of the difference stays narrow."""
    hard = np.random.default_rng(0).gamma(1, 50, size=40)
    found = metrics.compare(metrics.loss(hard, [1] * 40), metrics.loss(hard - 0.5, [1] * 40), **ASK)
    assert found.low == pytest.approx(-0.5) and found.high == pytest.approx(-0.5)
    assert found.verdict == "better"


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """200 experiments of 50 rows each with a known difference; a percentile interval of 90 % covers close to that."""
    random = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        counts = random.integers(5, 40, size=50)
        base = random.gamma(4, 0.5, size=50) * counts
        tuned = base + (random.normal(-0.3, 0.4, size=50)) * counts
        found = metrics.compare(
            metrics.loss(base, counts), metrics.loss(tuned, counts), confidence=0.9, resamples=400, seed=trial
        )
        covered += found.low <= -0.3 <= found.high
    assert 0.84 <= covered / 200 <= 0.95


@pytest.mark.parametrize(
    ("shift", "falls", "verdict"),
    [(-1, True, "better"), (1, True, "worse"), (1, False, "better"), (-1, False, "worse")],
)
def test_better_is_down_for_losses_and_up_for_scores(shift: float, falls: bool, verdict: str) -> None:
    values = np.linspace(1, 3, 12)
    base, tuned = (
        metrics.Metric(np.stack([v, np.ones(12)], 1), metrics._ratio, falls) for v in (values, values + shift)
    )
    assert metrics.compare(base, tuned, **ASK).verdict == verdict


def test_few_rows_give_no_verdict() -> None:
    found = metrics.compare(metrics.loss([9.0] * 4, [1] * 4), metrics.loss([1.0] * 4, [1] * 4), **ASK)
    assert found.verdict == "too few rows"
    said = metrics.sentence("held-out loss", found, 0.95)
    assert said == "Too few rows for a verdict: held-out loss fell from 9.00 to 1.00 on 4 rows. It takes 5 or more."


def test_the_verdict_is_a_sentence_with_its_interval() -> None:
    found = metrics.Comparison(2.31, 1.42, -0.89, -1.02, -0.77, 40, True, "better")
    assert metrics.sentence("held-out loss", found, 0.95) == (
        "Better: held-out loss fell from 2.31 to 1.42 (difference -0.89, 95 % interval -1.02 to -0.77, 40 rows)."
    )


def test_small_differences_are_shown_with_enough_digits() -> None:
    found = metrics.Comparison(1.4200, 1.4213, 0.0013, -0.001, 0.004, 40, True, "no clear difference")
    assert "from 1.4200 to 1.4213 (difference 0.0013" in metrics.sentence("loss", found, 0.95)


def test_metrics_need_no_torch() -> None:
    code = "import sys, engine.metrics as m; m.chrf('a', 'a'); m.rouge_l('a', 'a'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
