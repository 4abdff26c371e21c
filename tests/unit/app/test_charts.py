"""Metric records become curves: decimated without losing a spike, unbroken over attempts and resumed runs."""

import json

import numpy as np
import pytest

from app.running import charts
from app.running.charts import Curve, bucket_size, extremes, means, picture_json


def record(step, values, *, attempt=1, t=None):
    return {
        "kind": "metrics",
        "t": 1000.0 + step if t is None else t,
        "attempt": attempt,
        "step": step,
        "values": values,
    }


def losses(first, last, value, *, attempt=1, every=1):
    return [record(step, {"train/loss": value}, attempt=attempt) for step in range(first, last + 1, every)]


def series(curve, name="train/loss"):
    every = [one for panel in curve.picture("run")["panels"] for one in panel["series"]]
    return next(one for one in every if one["name"] == name)


def drawn(curve, name="train/loss"):
    raw = series(curve, name)["raw"]
    return list(zip(raw["step"], raw["y"], strict=True))


def test_a_short_run_is_drawn_point_by_point():
    curve = Curve()
    curve.extend([record(1, {"train/loss": 3.0}), record(2, {"train/loss": 2.5})])
    assert drawn(curve) == [(1, 3.0), (2, 2.5)]
    assert "mean" not in series(curve)


def test_no_series_is_sent_with_more_points_than_allowed():
    curve = Curve()
    curve.extend(losses(1, 20_000, 1.0))
    one = series(curve)
    assert one["n"] == 20_000
    assert len(one["raw"]["y"]) <= charts.POINTS + 1
    assert len(one["mean"]["y"]) == -(-20_000 // one["bucket"])


def test_a_single_spike_and_a_single_dip_survive_decimation():
    curve = Curve()
    values = np.ones(50_000)
    values[12_345], values[34_567] = 99.0, -7.0
    curve.extend(record(step, {"train/loss": float(value)}) for step, value in enumerate(values))
    assert (12_345, 99.0) in drawn(curve)
    assert (34_567, -7.0) in drawn(curve)


def test_the_last_value_is_always_drawn():
    curve = Curve()
    curve.extend(record(step, {"train/loss": float(step % 7)}) for step in range(9_999))
    assert drawn(curve)[-1] == (9_998, float(9_998 % 7))


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 4096, 123_457])
def test_buckets_are_powers_of_two_that_fit(count):
    bucket = bucket_size(count, 1000)
    assert bucket & (bucket - 1) == 0
    assert bucket == 1 or 2 * -(-count // bucket) <= 1000 + 2


def test_points_that_were_drawn_do_not_wander_while_the_run_grows():
    values = np.random.default_rng(0).normal(size=5_000)
    bucket = bucket_size(4_200, 1000)
    assert bucket == bucket_size(5_000, 1000) == 16
    before, after = extremes(values[:4_200], bucket), extremes(values, bucket)
    whole = 4_200 // bucket * bucket
    assert before[before < whole].tolist() == after[after < whole].tolist()


def test_the_mean_of_a_bucket_passes_over_what_is_no_number():
    assert means(np.array([1.0, 3.0, np.nan, 5.0, np.nan, np.nan]), 2).tolist()[:2] == [2.0, 5.0]
    assert np.isnan(means(np.array([1.0, 3.0, np.nan, 5.0, np.nan, np.nan]), 2)[2])


def test_a_null_is_a_gap_and_a_metric_that_was_not_logged_is_none():
    curve = Curve()
    curve.extend(
        [
            record(1, {"train/loss": 2.0}),
            record(2, {"train/loss": None}),
            record(3, {"eval/loss": 1.5}),
            record(4, {"train/loss": 1.0}),
        ]
    )
    assert drawn(curve) == [(1, 2.0), (2, None), (4, 1.0)]
    assert drawn(curve, "eval/loss") == [(3, 1.5)]
    assert curve.latest("train/loss") == 1.0


def test_the_latest_value_of_a_run_that_went_bad_is_no_number():
    curve = Curve()
    curve.extend([record(1, {"train/loss": 2.0}), record(2, {"train/loss": None})])
    assert curve.latest("train/loss") is None
    assert curve.latest("train/never") is None


def test_a_new_attempt_replaces_the_steps_after_its_checkpoint():
    curve = Curve()
    curve.extend(losses(1, 30, 9.0) + losses(21, 40, 1.0, attempt=2))
    assert drawn(curve) == [(step, 9.0 if step <= 20 else 1.0) for step in range(1, 41)]


def test_a_child_continues_its_parent_from_the_checkpoint():
    curve = Curve()
    curve.extend(losses(5, 120, 9.0, every=5))
    curve.begin(100)
    curve.extend(losses(110, 140, 1.0, every=10))
    assert [step for step, _ in drawn(curve)] == [*range(5, 101, 5), 110, 120, 130, 140]


def test_a_child_whose_checkpoint_is_unknown_replaces_from_its_first_record_on():
    curve = Curve()
    curve.extend(losses(1, 10, 9.0))
    curve.begin()
    curve.extend(losses(6, 12, 1.0))
    assert drawn(curve) == [(step, 9.0 if step <= 5 else 1.0) for step in range(1, 13)]


def test_a_metric_that_the_new_attempt_no_longer_logs_keeps_its_place():
    curve = Curve()
    curve.extend([record(1, {"train/loss": 3.0, "train/kl": 0.1}), record(2, {"train/loss": 2.0, "train/kl": 0.2})])
    curve.extend([record(2, {"train/loss": 1.5}, attempt=2), record(3, {"train/kl": 0.3}, attempt=2)])
    assert drawn(curve) == [(1, 3.0), (2, 1.5)]
    assert drawn(curve, "train/kl") == [(1, 0.1), (3, 0.3)]


def test_time_counts_work_and_not_the_pause_before_a_resume():
    curve = Curve()
    curve.extend([record(1, {"train/loss": 1.0}, t=100), record(2, {"train/loss": 1.0}, t=130)])
    curve.begin(2)
    curve.extend([record(3, {"train/loss": 1.0}, t=90_000), record(4, {"train/loss": 1.0}, t=90_010)])
    assert series(curve)["raw"]["time"] == [0.0, 30.0, 30.0, 40.0]


def test_tokens_are_carried_to_the_records_that_do_not_say():
    curve = Curve()
    curve.extend([record(1, {"train/loss": 1.0, "train/tokens": 512}), record(1, {"eval/loss": 2.0})])
    assert series(curve, "eval/loss")["raw"]["tokens"] == [512]
    assert curve.picture("run")["tokens"] is True


def test_training_and_evaluation_of_one_metric_share_a_panel_and_loss_comes_first():
    curve = Curve()
    curve.extend(
        [record(1, {"train/rewards/margins": 0.1, "eval/loss": 2.0, "train/loss": 1.0, "train/learning_rate": 1e-4})]
    )
    panels = curve.picture("run")["panels"]
    assert [panel["title"] for panel in panels] == ["Loss", "Learning rate", "Rewards margins"]
    assert [one["name"] for one in panels[0]["series"]] == ["train/loss", "eval/loss"]
    assert [one["eval"] for one in panels[0]["series"]] == [False, True]


def test_a_run_that_works_on_a_reward_shows_it_first():
    curve = Curve()
    curve.extend([record(1, {"train/loss": 1.0, "train/kl": 0.1})])
    assert curve.aim == "loss"
    curve.extend([record(2, {"train/loss": 1.0, "train/reward": 0.5, "eval/reward": 0.4})])
    assert curve.aim == "reward"
    assert [panel["key"] for panel in curve.picture("run")["panels"]] == ["reward", "loss", "kl"]


def test_records_of_other_kinds_are_ignored():
    curve = Curve()
    assert curve.extend([{"kind": "phase", "name": "training"}, record(1, {"train/loss": 1.0})]) == 1
    assert len(curve) == 1


def test_the_picture_is_strict_json_whatever_was_logged():
    curve = Curve()
    curve.extend([record(1, {"train/loss": None}), record(2, {"train/loss": float("inf"), "train/grad_norm": 1e-30})])
    picture = json.loads(picture_json(curve, "run", steps_total=7))
    assert picture["total"] == 7
    assert picture["panels"][0]["series"][0]["raw"]["y"] == [None, None]


def test_an_empty_curve_is_an_empty_picture():
    assert Curve().picture("run")["panels"] == []


def test_tokens_go_on_where_an_attempt_counts_from_nothing_again():
    def logged(attempt: int, step: int, tokens: float) -> dict[str, object]:
        values = {"train/loss": 1.0, "train/tokens": tokens}
        return {"kind": "metrics", "t": float(step), "attempt": attempt, "step": step, "values": values}

    curve = charts.Curve()
    curve.extend([logged(1, 1, 10), logged(1, 2, 20), logged(1, 3, 30)])  # step-2 was saved
    curve.extend([logged(2, 3, 10), logged(2, 4, 20)])
    [panel] = [panel for panel in curve.picture("x")["panels"] if panel["key"] == "loss"]
    drawn = panel["series"][0]["raw"]
    assert (drawn["step"], drawn["tokens"]) == ([1, 2, 3, 4], [10, 20, 30, 40])
