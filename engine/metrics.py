"""Scores of answers against references, and how sure a difference between two models is.

Every metric is a function of statistics that add up over rows: the loss of a set of rows is their summed negative
log-likelihood over their summed tokens, BLEU is a function of summed n-gram counts. So a resample of rows is a weighted
sum, and one bootstrap serves all of them. Knows no models and no files; needs no torch.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Verdict = Literal["better", "worse", "no clear difference", "too few rows"]

FEWEST_ROWS = 5  # below this an interval says more about chance than about the models
RESAMPLES_AT_ONCE = 500  # bounds the memory of the weight matrix: 500 x rows numbers

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = r"\u3040-\u30ff"
_WORD = re.compile(rf"[{_HAN}{_KANA}]|[^\W_{_HAN}{_KANA}]+")


@dataclass(frozen=True)
class Metric:
    """A score of one candidate: `rows` is (n, k), what each row adds; `score` takes the sums over rows, (m, k) -> (m,).

    `falls` says that lower is better.
    """

    rows: np.ndarray
    score: Callable[[np.ndarray], np.ndarray]
    falls: bool = False

    def value(self) -> float:
        return float(self.score(self.rows.sum(axis=0, keepdims=True))[0])

    def by_row(self) -> list[float]:
        """The score of each row alone."""
        return [float(value) for value in self.score(self.rows)]


@dataclass(frozen=True)
class Comparison:
    """One metric of both candidates; `low` and `high` bound tuned minus base, in the metric's own unit."""

    base: float
    tuned: float
    difference: float
    low: float
    high: float
    n: int
    falls: bool
    verdict: Verdict

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def compare(base: Metric, tuned: Metric, *, confidence: float, resamples: int, seed: int) -> Comparison:
    """Tuned minus base with its paired bootstrap interval, by the percentile method.

    Rows are drawn with replacement, the same ones for both candidates, so that hard rows do not count as difference
    (Koehn, "Statistical significance tests for machine translation evaluation", 2004; the interval as in Efron and
    Tibshirani, "An introduction to the bootstrap", 1993, chapter 13). With few rows such an interval is too narrow.
    """
    n = len(base.rows)
    drawn = _resampled(base, tuned, n, resamples, seed)
    tail = 100 * (1 - confidence) / 2
    low, high = (float(bound) for bound in np.percentile(drawn, [tail, 100 - tail]))
    was, now = base.value(), tuned.value()
    return Comparison(was, now, now - was, low, high, n, base.falls, _verdict(low, high, n, base.falls))


def _resampled(base: Metric, tuned: Metric, n: int, resamples: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    found = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        # How often each row is drawn, which is all that sums need: (resamples, n).
        weights = generator.multinomial(n, np.full(n, 1 / n), size=min(RESAMPLES_AT_ONCE, resamples - start))
        found.append(tuned.score(weights @ tuned.rows) - base.score(weights @ base.rows))
    return np.concatenate(found)


def _verdict(low: float, high: float, n: int, falls: bool) -> Verdict:
    if n < FEWEST_ROWS:
        return "too few rows"
    if low <= 0 <= high or not (math.isfinite(low) and math.isfinite(high)):
        return "no clear difference"
    return "better" if (high < 0) == falls else "worse"


def loss(nlls: Sequence[float], counts: Sequence[int]) -> Metric:
    """Mean negative log-likelihood in nats per token; each row adds its sum and its tokens."""
    return Metric(_columns(nlls, counts), _ratio, falls=True)


def perplexity(nlls: Sequence[float], counts: Sequence[int]) -> Metric:
    return Metric(_columns(nlls, counts), lambda sums: np.exp(np.minimum(_ratio(sums), 700)), falls=True)


def mean(values: Sequence[float]) -> Metric:
    return Metric(_columns(values, np.ones(len(values))), _ratio)


def _columns(*columns: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / sums[:, 1]


def exact_match(answers: Sequence[str], references: Sequence[str]) -> Metric:
    """Share of answers, in percent, that equal their reference but for white space."""
    pairs = zip(answers, references, strict=True)
    return mean([100.0 * (answer.split() == reference.split()) for answer, reference in pairs])


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> Metric:
    """Mean ROUGE-L F1 in percent: the longest common subsequence of words, of characters in Chinese and Japanese."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    pairs = zip(answers, references, strict=True)
    return mean([100 * scorer.score(reference, answer)["rougeL"].fmeasure for answer, reference in pairs])


class _Words:
    """rouge-score's own tokenizer knows ASCII alone and would find nothing in any other script."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


def bleu(answers: Sequence[str], references: Sequence[str], tokenizer: str) -> Metric:
    """Corpus BLEU (sacrebleu), 0 to 100, smoothed as sacrebleu does by default."""
    from sacrebleu.metrics import BLEU

    return _of_sacrebleu(BLEU(tokenize=tokenizer, force=True, effective_order=True), answers, references)


def chrf(answers: Sequence[str], references: Sequence[str]) -> Metric:
    """Corpus chrF (sacrebleu), 0 to 100: character n-grams, so it needs no words."""
    from sacrebleu.metrics import CHRF

    return _of_sacrebleu(CHRF(), answers, references)


def _of_sacrebleu(metric: Any, answers: Sequence[str], references: Sequence[str]) -> Metric:
    # The statistics of single rows are what sacrebleu's own significance tests are made of; it has no public name for
    # them, so a test holds their sum against its public corpus score.
    rows = np.asarray(metric._extract_corpus_statistics(list(answers), [list(references)]), dtype=np.float64)

    def score(sums: np.ndarray) -> np.ndarray:
        return np.asarray([metric._compute_score_from_stats(list(line)).score for line in sums])

    return Metric(rows, score)


def bleu_tokenizer(texts: Sequence[str]) -> str:
    """sacrebleu's tokenizer for the script that the texts are in: `zh`, `ja-mecab` (`char` without it), or `13a`."""
    text = "".join(texts)
    kana, han = len(re.findall(f"[{_KANA}]", text)), len(re.findall(f"[{_HAN}]", text))
    letters = sum(map(str.isalpha, text))
    if kana + han < 0.05 * letters or not letters:
        return "13a"
    if kana > 0.05 * (kana + han):
        return "ja-mecab" if importlib.util.find_spec("MeCab") and importlib.util.find_spec("ipadic") else "char"
    return "zh"


def sentence(name: str, found: Comparison, confidence: float) -> str:
    """`Better: held-out loss fell from 2.31 to 1.42 (difference -0.89, 95 % interval -1.02 to -0.77, 40 rows).`"""
    digits = _digits(found.difference)
    moved = "stayed at" if found.difference == 0 else "fell from" if found.difference < 0 else "rose from"
    path = f"{found.base:.2f}" if found.difference == 0 else f"{found.base:.{digits}f} to {found.tuned:.{digits}f}"
    rows = f"{found.n} row{'s' if found.n != 1 else ''}"
    if found.verdict == "too few rows":
        return f"Too few rows for a verdict: {name} {moved} {path} on {rows}. It takes {FEWEST_ROWS} or more."
    interval = f"{100 * confidence:g} % interval {found.low:.{digits}f} to {found.high:.{digits}f}"
    head = found.verdict[0].upper() + found.verdict[1:]
    return f"{head}: {name} {moved} {path} (difference {found.difference:.{digits}f}, {interval}, {rows})."


def _digits(difference: float) -> int:
    """Decimals that show two digits of a small difference."""
    return 2 if abs(difference) >= 0.1 or difference == 0 else min(6, 1 - math.floor(math.log10(abs(difference))))
