"""A run as the page shows it where it stands still: ended early, or waiting for a person. No run is started."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gradio as gr
import pytest

from app.running import ledger, live, runs
from app.running.watch import Watch
from engine.contract import events, judging, text
from engine.contract.args import ExportArgs, TrainArgs
from engine.contract.rundir import Run, make, take_lock, write_json


def a_run(workspace: Path, state: str, name: str = "") -> Run:
    """A run of 40 planned steps of which 3 are done."""
    run = make(workspace, "test", text.dump(TrainArgs(name=name)))
    metrics, said = events.Journal(run.metrics_path), events.Journal(run.events_path)
    said.write(events.Phase("training"))
    for step in (1, 2, 3):
        metrics.write(events.Metrics(step, 0.1, {"train/loss": 1.0 / step}))
        said.write(events.Progress(step, 40))
    metrics.close()
    said.close()
    write_json(run.status_path, {"state": state, "queued_at": 10**18, "started_at": 5})
    return run


@pytest.mark.parametrize(("state", "end"), [("running", 40), ("stopped", 3), ("failed", 3)])
def test_the_axis_of_a_run_ends_where_the_run_does(tmp_path, state, end):
    run = a_run(tmp_path, state)
    lock = take_lock(run)
    with gr.Blocks():
        view = live.RunView("run", tmp_path)
    shown = dict(zip((one._id for one in view.outputs), view.refresh(run.id, None), strict=True))
    os.close(lock)
    assert json.loads(shown[view.curves._id]["value"])["total"] == end


def test_a_run_that_waits_for_a_person_does_not_say_that_it_gets_ready(tmp_path):
    run = a_run(tmp_path, "running")
    lock = take_lock(run)
    said = events.Journal(run.events_path)
    watch = Watch(run)
    for phase, words in (("loading", True), (judging.PHASE, False)):
        said.write(events.Phase(phase))
        watch.look()
        assert ("Getting ready" in live.progress(watch)) is words
    said.close()
    os.close(lock)


def test_what_is_queued_behind_a_run_that_waits_for_a_person_says_so(tmp_path):
    queued, judged = a_run(tmp_path, "queued"), a_run(tmp_path, "running", "taste")
    lock = take_lock(judged)
    judging.ask(judged, [("What is 2 and 2?", "It is 4.")])
    said = live.awaited(queued)
    os.close(lock)
    assert said == "“taste” comes first, and waits for you; then this starts by itself."


def test_what_is_made_of_a_run_is_listed_by_that_runs_name(tmp_path):
    trained = a_run(tmp_path, "done", "first try")
    export = make(tmp_path, "export", text.dump(ExportArgs(tuned=trained.id)))
    write_json(export.status_path, {"state": "done", "queued_at": 2})
    found = runs.summary(export)
    assert "<strong>first try</strong>" in ledger.item(found)
    [row] = json.loads(ledger.listing([found], ""))["rows"]
    assert "first try" in row["words"]


def test_a_line_of_a_list_may_say_it_otherwise(tmp_path):
    line = ledger.item(runs.summary(a_run(tmp_path, "done", "first try")), "first try against its base", "better")
    assert "<strong>first try against its base</strong>" in line and "better</span>" in line
