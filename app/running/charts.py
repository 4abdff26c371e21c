"""Metric records -> live plots that the browser draws: `Curve` gathers and decimates, `chart` carries it to the page.

Every poll sends the whole current picture, never more than about 1,000 points a series, so a page that opens late or
reloads shows the same as one that has watched from the start. Smoothing, log scale and the choice of the x axis happen
in the browser (static/chart.js). This module knows records and numbers; it reads no file and knows no run folder.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr
import numpy as np

POINTS = 1000  # most points of one series that are sent for the picture; small multiples get a third of it

# Panel key -> title and unit, in the order shown; metrics that are not named here follow under their own names.
PANELS = {
    "loss": ("Loss", ""),
    "perplexity": ("Perplexity", ""),
    "accuracy": ("Tokens guessed right", "share"),
    "reward": ("Reward", ""),
    "reward_spread": ("Spread of the reward", ""),
    "alike": ("Answers worth the same", "share"),
    "margin": ("Margin of the better", ""),
    "preferred": ("Better answer preferred", "share"),
    "chosen_reward": ("Reward of better", ""),
    "rejected_reward": ("Reward of worse", ""),
    "good_reward": ("Reward of good", ""),
    "bad_reward": ("Reward of bad", ""),
    "agreed": ("Judged as labelled", "share"),
    "score": ("Reward less distance", ""),
    "kl": ("Distance moved", "nats"),
    "kl_coefficient": ("Cost of distance", "per nat"),
    "entropy": ("Entropy", "nats"),
    "clip_share": ("Held back by the clip", "share"),
    "explained_variance": ("Reward foreseen", "share"),
    "q": ("Worth of the answer", ""),
    "value": ("Worth expected", ""),
    "advantage": ("Worth beyond expected", ""),
    "length": ("Length of answers", "tokens"),
    "ended": ("Ended by themselves", "share"),
    "chosen_logp": ("Likelihood of better", "nats"),
    "rejected_logp": ("Likelihood of worse", "nats"),
    "good_logp": ("Likelihood of good", "nats"),
    "bad_logp": ("Likelihood of bad", "nats"),
    "policy_loss": ("Loss of the policy", ""),
    "value_loss": ("Loss of the value head", ""),
    "q_loss": ("Loss of the Q heads", ""),
    "cql_loss": ("CQL loss (not said)", ""),
    "sft_loss": ("Token loss of better", ""),
    "learning_rate": ("Learning rate", ""),
    "grad_norm": ("Gradient norm", ""),
    "tokens_per_second": ("Speed", "tokens/s"),
    "memory/peak_gb": ("Memory", "GB"),
}
AXES_NOT_PANELS = {"train/tokens", "train/epoch"}
WITHOUT_NOISE = {"learning_rate", "memory/peak_gb"}  # drawn as they are: smoothing would only make them late

ABSENT, NOT_A_NUMBER = math.nan, math.inf  # how a column tells "not logged at this step" from "logged as null"


class Curve:
    """The metrics of one run (and of the runs it continues) as columns over one growing list of rows."""

    def __init__(self) -> None:
        self._step, self._tokens, self._seconds = array("d"), array("d"), array("d")
        self._columns: dict[str, array[float]] = {}
        self._attempt: int | None = None
        self._last_t = 0.0
        self._tokens_before = 0.0  # those of the attempts before, where this one counts from nothing again

    def __len__(self) -> int:
        return len(self._step)

    @property
    def last_step(self) -> int | None:
        return int(self._step[-1]) if self._step else None

    @property
    def aim(self) -> str:
        """What training works on: the reward where there is one, else the loss."""
        return "reward" if {"train/reward", "eval/reward"} & self._columns.keys() else "loss"

    def latest(self, name: str) -> float | None:
        """The last number logged under `name`; None when there is none or it was no number."""
        for value in reversed(self._columns.get(name, ())):
            if not math.isnan(value):
                return value if math.isfinite(value) else None
        return None

    def extend(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Add metric records in the order they were written; how many were added. Other kinds are ignored."""
        added = 0
        for record in records:
            if record.get("kind") == "metrics":
                self._add(record["step"], record.get("t", 0.0), record.get("attempt", 1), record["values"])
                added += 1
        return added

    def begin(self, checkpoint_step: int | None = None) -> None:
        """What comes next continues from `checkpoint_step`: a child run's records. Later steps so far are dropped;
        without a step, those from the continuation's first record on are."""
        if checkpoint_step is not None:
            self._keep_before(checkpoint_step + 1)
        self._attempt = None

    def _add(self, step: float, t: float, attempt: int, values: Mapping[str, float | None]) -> None:
        if attempt != self._attempt:
            # A new attempt logs again from its checkpoint on. The clock counts work, not the pause in between.
            self._keep_before(step)
            self._attempt, self._last_t = attempt, t
            self._tokens_before = 0.0
        row = len(self._step)
        tokens = values.get("train/tokens")
        if tokens is not None:
            if row and tokens + self._tokens_before < self._tokens[-1]:
                self._tokens_before = self._tokens[-1]
            tokens += self._tokens_before
        self._step.append(step)
        self._seconds.append((self._seconds[-1] if row else 0.0) + max(0.0, t - self._last_t))
        self._tokens.append(tokens if tokens is not None else self._tokens[-1] if row else 0.0)
        self._last_t = t
        for name, value in values.items():
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = array("d")
            if len(column) < row:
                column.extend([ABSENT] * (row - len(column)))
            column.append(NOT_A_NUMBER if value is None else value)

    def _keep_before(self, step: float) -> None:
        keep = int(np.searchsorted(np.array(self._step), step, side="left"))
        for column in (self._step, self._tokens, self._seconds, *self._columns.values()):
            del column[keep:]

    def picture(self, run: str, *, steps_total: int | None = None) -> dict[str, Any]:
        """What static/chart.js draws: `panels` of `series`, each decimated for its size. While `run` stays the same the
        axes only grow; `steps_total` fixes the end of the step axis."""
        panels = []
        aim = self.aim
        for key, names in sorted(self._panels().items(), key=lambda panel: panel[0].partition("/")[0] != aim):
            title, unit = PANELS.get(key, (_title(key), ""))
            points = POINTS if key in ("loss", aim) else POINTS // 3
            series = [self._series(name, points) for name in names]
            if series := [one for one in series if one["n"]]:
                panels.append(
                    {"key": key, "title": title, "unit": unit, "noisy": key not in WITHOUT_NOISE, "series": series}
                )
        has_tokens = bool(self._tokens) and self._tokens[-1] > 0
        return {"run": run, "total": steps_total, "tokens": has_tokens, "panels": panels}

    def _panels(self) -> dict[str, list[str]]:
        """Panel key -> metric names; a training and an evaluation metric of one name share a panel."""
        panels: dict[str, list[str]] = {key: [] for key in PANELS}
        for name in sorted(self._columns, key=lambda name: (not name.startswith("train/"), name)):
            if name not in AXES_NOT_PANELS:
                head, _, tail = name.partition("/")
                panels.setdefault(tail if head in ("train", "eval") else name, []).append(name)
        return panels

    def _series(self, name: str, points: int) -> dict[str, Any]:
        column = np.array(self._columns[name])
        rows = np.flatnonzero(~np.isnan(column))
        values = np.where(np.isinf(column[rows]), np.nan, column[rows])
        bucket = bucket_size(len(values), points)
        kept = extremes(values, bucket)
        drawn = {"n": len(values), "bucket": bucket, "raw": self._points(rows[kept], values[kept])}
        if bucket > 1:
            centres = np.minimum(np.arange(0, len(values), bucket) + bucket // 2, len(values) - 1)
            drawn["mean"] = self._points(rows[centres], means(values, bucket))
        return {"name": name, "eval": name.startswith("eval/"), **drawn}

    def _points(self, rows: np.ndarray, values: np.ndarray) -> dict[str, list[float | None]]:
        return {
            "step": np.array(self._step)[rows].tolist(),
            "tokens": np.array(self._tokens)[rows].tolist(),
            "time": np.array(self._seconds)[rows].round(1).tolist(),
            "y": [None if math.isnan(value) else float(f"{value:.6g}") for value in values.tolist()],
        }


def bucket_size(count: int, points: int) -> int:
    """How many neighbours share a bucket so that two extremes from each stay within `points`.

    A power of two: while a run grows, buckets only ever merge in pairs, so points that were drawn do not wander.
    """
    return 1 if count <= points else 1 << math.ceil(math.log2(2 * count / points))


def extremes(values: np.ndarray, bucket: int) -> np.ndarray:
    """Indices of the smallest and the largest value of every bucket, and of the last value; ascending, without doubles.
    A bucket without any number keeps one index, so that its gap is drawn."""
    if bucket == 1:
        return np.arange(len(values))
    table = _table(values, bucket)
    starts = np.arange(len(table)) * bucket
    low = starts + np.where(np.isnan(table), np.inf, table).argmin(axis=1)
    high = starts + np.where(np.isnan(table), -np.inf, table).argmax(axis=1)
    return np.unique(np.concatenate([low, high, [len(values) - 1]]))


def means(values: np.ndarray, bucket: int) -> np.ndarray:
    """The mean of the numbers of every bucket; NaN where a bucket has none."""
    table = _table(values, bucket)
    counts = (~np.isnan(table)).sum(axis=1)
    return np.divide(np.nansum(table, axis=1), counts, out=np.full(len(table), np.nan), where=counts > 0)


def _table(values: np.ndarray, bucket: int) -> np.ndarray:
    """One row a bucket; the last is filled up with NaN."""
    return np.pad(values, (0, -len(values) % bucket), constant_values=np.nan).reshape(-1, bucket)


def _title(key: str) -> str:
    words = key.replace("reward/", "reward: ").replace("/", " ").replace("_", " ")
    return words[:1].upper() + words[1:]


def chart(elem_id: str, *, dense: bool = False) -> gr.HTML:
    """A large plot and its small multiples; `dense` is the size for a side card. Its value comes from `picture_json`.

    One string, not a tree: the page compares values by text at every update, and a string is cheap to compare.
    """
    return gr.HTML(
        "",
        html_template=f'<div class="tb-chart{" tb-dense" if dense else ""}"></div>',
        js_on_load="tuneboard.chart(element, props, watch)",
        apply_default_css=False,
        elem_id=elem_id,
    )


NONE = "null"  # the value of a `chart` where there is nothing to draw, now or later: it takes no room


def picture_json(curve: Curve, run: str, *, steps_total: int | None = None) -> str:
    """The value of a `chart`; see `Curve.picture`."""
    return json.dumps(curve.picture(run, steps_total=steps_total), separators=(",", ":"), allow_nan=False)
