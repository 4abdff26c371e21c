"""The frame of the page, its command line, and runs as the page lists them. No browser; no run is started."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from app import __main__ as entry
from app import board
from app.planning import forecast, outlook
from app.running import ledger, live, runs
from app.running.watch import Watch
from app.tabs.runs import RunsTab
from engine.contract import events, text
from engine.contract.args import ServeArgs, TrainArgs
from engine.contract.errors import ArgsError, BoardError
from engine.contract.rundir import Run, make, take_lock, write_json


def a_run(
    workspace: Path,
    state: str = "done",
    *,
    losses: tuple[float, ...] = (),
    held_out: tuple[float, ...] = (),
    **args: Any,
) -> Run:
    run = make(workspace, "test", text.dump(TrainArgs.model_validate(args)))
    journal = events.Journal(run.metrics_path)
    for step, loss in enumerate(losses, 1):
        journal.write(
            events.Metrics(step, 0.1, {"train/loss": loss, "train/tokens_per_second": 100.0, "memory/peak_gb": 2.5})
        )
    for step, loss in enumerate(held_out, 1):
        journal.write(events.Metrics(step, 0.1, {"eval/loss": loss}))
    journal.close()
    write_json(run.status_path, {"state": state, "queued_at": 10**18, "started_at": 10**9 + 5, "ended_at": 10**9 + 65})
    return run


class TestCommandLine:
    def test_another_address_needs_a_password(self, capsys, monkeypatch, tmp_path):
        monkeypatch.delenv("TUNEBOARD_PASSWORD", raising=False)
        assert entry.main(["--host", "0.0.0.0", "--workspace", str(tmp_path / "w")]) == 2
        assert "Set TUNEBOARD_PASSWORD first" in capsys.readouterr().err
        assert not (tmp_path / "w").exists()

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
    def test_what_can_be_reached_from_elsewhere_is_refused(self, monkeypatch, host):
        monkeypatch.delenv("TUNEBOARD_PASSWORD", raising=False)
        with pytest.raises(entry.Refused):
            entry.options(["--host", host])
        monkeypatch.setenv("TUNEBOARD_PASSWORD", "secret")
        assert entry.options(["--host", host]).host == host

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
    def test_this_machine_needs_no_password(self, monkeypatch, host):
        monkeypatch.delenv("TUNEBOARD_PASSWORD", raising=False)
        assert entry.options(["--host", host]).host == host

    def test_a_taken_port_is_named_with_the_way_out(self, capsys, tmp_path):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            assert entry.main(["--port", str(port), "--workspace", str(tmp_path / "w")]) == 2
        said = capsys.readouterr().err
        assert f"Port {port} is taken" in said and "PORT=" in said and "Traceback" not in said

    def test_options_may_come_from_the_environment(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PORT", "7999")
        monkeypatch.setenv("WORKSPACE", str(tmp_path))
        monkeypatch.setenv("ALLOW", os.pathsep.join([str(tmp_path), "/"]))
        given = entry.options([])
        assert (given.port, given.workspace, given.allow) == (7999, tmp_path.resolve(), [tmp_path.resolve(), Path("/")])

    @pytest.mark.parametrize("port", ["no", "0", "70000", "-1"])
    def test_a_port_that_is_none_is_refused(self, port):
        with pytest.raises(entry.Refused, match="is not a port"):
            entry.options([f"--port={port}"])

    def test_a_folder_to_allow_must_be_there(self):
        with pytest.raises(entry.Refused, match="There is no folder"):
            entry.options(["--allow", "/no/such/folder"])

    def test_a_workspace_that_cannot_be_made_is_refused(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(entry.Refused, match="cannot be the workspace"):
            entry.prepare(tmp_path / "file")


def test_a_wish_belongs_to_the_visit_that_it_came_with_and_to_no_later_one():
    wish = board.Ask("run", at=5)
    assert (wish.of(5), wish.of(6), board.Ask().of(0)) == ("run", "", "")


class TestList:
    def test_the_best_loss_is_the_held_out_one_where_there_is_one(self, tmp_path):
        alone = runs.summary(a_run(tmp_path, losses=(3.0, 1.5, 2.0)))
        both = runs.summary(a_run(tmp_path, losses=(3.0, 0.1), held_out=(2.5, 2.2)))
        assert (alone.best_loss, both.best_loss) == (1.5, 2.2)
        assert alone.seconds == 60

    @pytest.mark.parametrize(
        ("task", "metric", "said"), [("grpo", "reward", "reward 0.75"), ("dpo", "preferred", "preferred 75%")]
    )
    def test_a_run_is_listed_by_what_its_task_aims_at(self, tmp_path, task, metric, said):
        run = a_run(tmp_path, losses=(0.1,), task={"kind": task})
        assert "loss 0.1" in ledger.item(runs.summary(run))  # until there is something to say of its aim
        journal = events.Journal(run.metrics_path)
        for step, value in enumerate((0.25, 0.75, 0.5), start=2):
            journal.write(
                events.Metrics(step, 0.2, {"train/loss": 0.1, f"train/{metric}": 1.0, f"eval/{metric}": value})
            )
        write_json(run.status_path, run.status() | {"updated": 1})
        found = runs.summary(run)
        assert said in ledger.item(found) and "loss" not in ledger.item(found)

    def test_a_lucky_batch_is_not_the_best_of_a_run_without_held_out_rows(self, tmp_path):
        run = a_run(tmp_path, task={"kind": "dpo"})
        journal = events.Journal(run.metrics_path)
        for step, value in enumerate((0.5, 1.0, 0.75)):
            journal.write(events.Metrics(step, 0.1, {"train/preferred": value}))
        assert runs.summary(run).best == 0.75

    def test_a_run_is_newest_first_and_gone_when_its_folder_is(self, tmp_path):
        first, second = a_run(tmp_path, name="one"), a_run(tmp_path, name="two")
        assert [found.title for found in runs.listed(tmp_path)] == ["two", "one"]
        second.delete()
        assert [found.id for found in runs.listed(tmp_path)] == [first.id]

    def test_new_losses_of_a_run_that_moves_are_read(self, tmp_path):
        run = a_run(tmp_path, "running", losses=(2.0,))
        os.close(os.open(run.lock_path, os.O_CREAT | os.O_RDWR))
        held = take_lock(run)
        try:
            assert runs.summary(run).best_loss == 2.0
            journal = events.Journal(run.metrics_path)
            journal.write(events.Metrics(2, 0.2, {"train/loss": 1.0}))
            assert (runs.summary(run).best_loss, runs.summary(run).state) == (1.0, "running")
        finally:
            os.close(held)
        assert runs.summary(run).state == "lost"

    def test_a_run_of_another_version_is_listed_all_the_same(self, tmp_path):
        run = make(tmp_path, "old", "kind: train\nflavour: strange\n")
        write_json(run.status_path, {"state": "done", "queued_at": 1})
        found = runs.summary(run)
        assert (found.kind, found.args, found.title) == ("train", None, run.id)
        assert "of another version" in ledger.arguments(run)

    def test_two_hundred_runs_are_listed_from_memory(self, tmp_path, monkeypatch):
        made = [a_run(tmp_path, losses=(1.0,)) for _ in range(200)]
        assert len(runs.listed(tmp_path)) == 200
        monkeypatch.setattr(text, "load", lambda *_: pytest.fail("a run that has ended was read twice"))
        assert len(runs.listed(tmp_path)) == len(made)

    @pytest.mark.parametrize("id", ["", ".", "..", "../models", "/etc", ".deleted-x", "none"])
    def test_a_run_is_opened_by_name_and_never_by_path(self, tmp_path, id):
        (tmp_path / "runs").mkdir()
        (tmp_path / "args.yaml").touch()
        assert runs.opened(tmp_path, id) is None

    def test_what_is_listed_is_escaped(self, tmp_path):
        said = json.loads(ledger.listing([runs.summary(a_run(tmp_path, name="<script>x</script>"))], ""))
        assert "<script>" not in said["rows"][0]["html"]

    def test_a_run_that_moves_is_not_deleted(self, tmp_path):
        run = a_run(tmp_path, "running")
        held = take_lock(run)
        try:
            with pytest.raises(BoardError, match="stop it first"):
                runs.delete(run)
        finally:
            os.close(held)
        assert run.path.is_dir()

    def test_the_arguments_that_were_changed_come_first(self, tmp_path):
        shown = ledger.arguments(a_run(tmp_path, optim={"learning_rate": 0.003}))
        first, _, rest = shown.partition("All arguments")
        assert "optim.learning_rate" in first and "optim.warmup" not in first and "optim.warmup" in rest

    def test_the_command_names_a_workspace_that_is_not_the_usual_one(self, tmp_path, monkeypatch):
        workspace = tmp_path / "my work"
        assert ledger.command(TrainArgs(), workspace) == f"python -m engine train --workspace '{workspace}'"
        monkeypatch.chdir(tmp_path)
        assert ledger.command(TrainArgs(), tmp_path / "workspace") == "python -m engine train"

    def test_who_comes_without_a_run_in_mind_sees_the_newest(self, tmp_path):
        run, tab = a_run(tmp_path), SimpleNamespace(workspace=tmp_path)
        assert RunsTab._newest(tab, "", board.Ask()) == run.id
        assert RunsTab._newest(tab, "another", board.Ask()) == gr.skip()
        assert RunsTab._newest(tab, "", board.Ask("asked-for")) == gr.skip()

    def test_the_chosen_checkpoint_goes_along_to_another_tab_and_stays_when_another_run_ends(self, tmp_path):
        run = a_run(tmp_path)
        for step in ("step-5", "step-10"):
            (run.path / "checkpoints" / step).mkdir(parents=True)
        run.model_path.mkdir()
        tab: Any = SimpleNamespace(workspace=tmp_path, board=SimpleNamespace(jump=lambda *there: there))
        assert RunsTab._jump(tab, "chat", run.id, "step-5") == ("chat", f"{run.id}/step-5")
        assert RunsTab._jump(tab, "chat", run.id, "") == ("chat", run.id)
        assert RunsTab._jump(tab, "train", run.id, "step-5") == ("train", run.id)
        assert RunsTab._beside(tab, run.id)[3].value == ""
        assert RunsTab._beside(tab, run.id, "step-5")[3].value == "step-5"

    def test_times_are_said_as_people_say_them(self):
        now = time.mktime((2026, 11, 21, 15, 0, 0, 0, 0, -1))
        assert ledger.when(now - 60, now) == "14:59"
        assert ledger.when(now - 86400 * 2, now).startswith("19 ")
        assert ledger.when(now - 86400 * 400, now).endswith("2025")


class TestForecast:
    def test_what_can_be_forecast_from_the_files_alone(self, workspace):
        args = TrainArgs.model_validate(
            {
                "model": "tiny",
                "data": {"train": ["sums.jsonl"], "max_length": 256},
                "steps": {"batch_size": 2, "epochs": 2},
            }
        )
        found = forecast.look(args, workspace, [Path("/")])
        assert not found.problems
        assert found.rows.exact and found.rows.total + found.rows.held_out == 12
        assert found.steps == 2 * math.ceil(math.ceil(found.rows.sequences / 2) / found.args.steps.accumulation)
        said = outlook.outlook(found)
        assert "LoRA, rank 16" in said and "a guess from how fast" in said

    def test_the_time_comes_from_the_last_run_of_the_same_kind(self, workspace):
        said = {"model": "tiny", "data": {"train": ["sums.jsonl"], "max_length": 256}}
        args = TrainArgs.model_validate(said)
        first = forecast.look(args, workspace, [Path("/")])
        a_run(workspace, losses=(2.0, 1.0), **first.args.model_dump())
        again = forecast.look(args, workspace, [Path("/")])
        assert again.plan.work.seconds == pytest.approx(first.rows.tokens * 3 / 100)
        assert (first.plan.earlier, again.plan.earlier) == (0, 2.5e9)
        assert "2.5 GB" in outlook.outlook(again) and "an estimate" in outlook.outlook(first)
        longer = args.model_copy(update={"data": args.data.model_copy(update={"max_length": 128})})
        assert forecast.look(longer, workspace, [Path("/")]).plan.earlier == 0
        other = TrainArgs.model_validate({**said, "method": "full"})
        assert forecast.look(other, workspace, [Path("/")]).plan.work.basis == "rate"

    def test_every_problem_is_said_at_its_field(self, workspace):
        args = TrainArgs.model_validate({
            "model": "tiny", "data": {"train": ["sums.jsonl", "nowhere"], "max_length": 256},
            "method": {"kind": "lora", "targets": ["q_prj"]},
        })  # fmt: skip
        found = forecast.look(args, workspace, [Path("/")])
        assert {problem.path for problem in found.problems} == {"data.train", "method.targets"}
        with pytest.raises(ArgsError) as refused:
            runs.start_training(workspace, args, allowed=[Path("/")])
        assert {problem.path for problem in refused.value.problems} == {"data.train", "method.targets"}
        assert runs.listed(workspace) == []

    def test_a_model_that_a_link_leads_out_to_is_refused(self, workspace):
        found = forecast.look(TrainArgs.model_validate({"model": "tiny"}), workspace)
        assert found.problems[0].path == "model.path"
        assert "outside the folders" in found.problems[0].text


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0 k"),
        (9143, "9.1 k"),
        (134_515_008, "135 M"),
        (999_999, "1.0 M"),
        (1.7e9, "1.7 B"),
    ],
)
def test_numbers_are_said_with_sensible_digits(number, said):
    assert outlook.count(number) == said


@pytest.mark.parametrize(("octets", "said"), [(12, "12 B"), (27_700, "27.7 kB"), (269e6, "269 MB"), (2.1e9, "2.1 GB")])
def test_sizes_are_said_with_their_unit(octets, said):
    assert outlook.size(octets) == said


def test_the_pill_counts_what_one_waits_for_and_names_the_chat(tmp_path):
    found = [runs.summary(a_run(tmp_path, name=str(number))) for number in range(4)]
    states = [("running", "train"), ("queued", "train"), ("queued", "evaluate"), ("running", "serve")]
    from dataclasses import replace

    moving = [replace(one, state=state, kind=kind) for one, (state, kind) in zip(found, states, strict=True)]
    assert ">1 running · 2 queued · chat loaded<" in board.pill_html(moving)
    assert ">1 waiting for you · 2 queued · chat loaded<" in board.pill_html(moving, 1)
    assert ">nothing runs<" in board.pill_html([])
    assert "chat loaded" in board.pill_html(moving[3:])


def test_every_tab_is_one_module_with_a_title_and_a_build():
    for name, module in board.modules().items():
        assert module.TITLE and callable(module.build), name


def test_the_page_is_put_together(workspace):
    page = board.page(workspace)
    ids = {component.elem_id for component in page.blocks.values() if getattr(component, "elem_id", None)}
    assert {"train-start", "train-optim-learning_rate", "runs-list", "tb-pill"} <= ids


def test_a_queued_run_says_what_it_waits_for(tmp_path):
    run = a_run(tmp_path, "queued", name="mine")
    assert live.awaited(run) == "Waiting for the device; it starts by itself."
    held = [take_lock(a_run(tmp_path, "running", name="the other one"))]
    try:
        assert live.awaited(run) == "Waiting for “the other one” to end; it starts by itself."
        chat = make(tmp_path, "chat", text.dump(ServeArgs(models=["tiny"])))
        write_json(chat.status_path, {"state": "running"})
        held.append(take_lock(chat))
        assert "Unload under Chat" in live.awaited(run)
    finally:
        for one in held:
            os.close(one)


def test_what_is_preferred_on_held_out_rows_stands_beside_the_loss(tmp_path):
    run = a_run(tmp_path, losses=(0.7, 0.6))
    watch = Watch(run)
    watch.look()
    assert "Preferred" not in live.facts(watch)
    journal = events.Journal(run.metrics_path)
    journal.write(events.Metrics(2, 0.1, {"train/preferred": 0.5, "eval/preferred": 0.75}))
    journal.close()
    watch.look()
    assert "<dt>Preferred</dt><dd>75%</dd>" in live.facts(watch)


def test_a_run_that_learns_nothing_shows_no_curves_and_no_dashes_for_them(tmp_path):
    run = make(tmp_path, "serve", text.dump(ServeArgs(models=["tiny"])))
    write_json(run.status_path, {"state": "done", "queued_at": 1.0, "started_at": 5.0, "ended_at": 65.0})
    watch = Watch(run)
    watch.look()
    assert live.facts(watch).count("<dt>") == 1 and "Elapsed" in live.facts(watch)
    trained = Watch(a_run(tmp_path, losses=(1.0,)))
    trained.look()
    assert "Speed" in live.facts(trained)
    with gr.Blocks():
        view = live.RunView("run", tmp_path)
    shown = dict(zip((one._id for one in view.outputs), view.refresh(run.id, None), strict=True))
    assert shown[view.curves._id]["value"] == "null"


def test_a_run_that_goes_on_with_less_memory_says_so_on_top_and_by_the_labels_of_the_form(tmp_path):
    run = a_run(tmp_path, "running")
    watch = Watch(run)
    journal = events.Journal(run.events_path)
    journal.write(events.Warn("Three rows are cut.", ""))
    watch.look()
    watch.state = "running"
    assert live.verdict(watch) == ""
    journal = events.Journal(run.events_path, attempt=2)
    journal.write(events.Warn("Memory ran out.", "Lower data.max_length."))
    journal.write(events.Warn("Three rows are cut.", ""))
    journal.close()
    watch.look()
    watch.state = "running"
    assert "Memory ran out." in live.verdict(watch) and "Lower “Max length”." in live.verdict(watch)
    assert "data.max_length" not in live.story(list(watch.story), watch.plain)


def test_a_run_that_saves_or_evaluates_is_as_far_as_it_was(tmp_path):
    run = a_run(tmp_path, "running")
    journal = events.Journal(run.events_path)
    watch = Watch(run)

    def after(*said: events.Event) -> int | None:
        for event in said:
            journal.write(event)
        watch.look()
        return watch.progress.step if watch.progress else None

    assert after(events.Phase("loading")) is None
    assert after(events.Phase("training")) is None
    assert after(events.Progress(3, 40)) == 3
    assert after(events.Phase("saving")) == 3
    assert after(events.Phase("evaluating"), events.Progress(7, 9)) == 7
    assert after(events.Phase("training")) == 3
    assert after(events.Phase("loading")) is None  # a new attempt
    journal.close()
