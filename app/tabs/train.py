"""Train: choose, see what will happen, start, and watch it in the same place.

The form is `app.form`, the facts are `app.planning.forecast`, the words `app.planning.outlook`, the live run
`app.running.live`: here they are laid out and connected. Nothing is kept between two events but what the page shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from app.board import QUIET, Board
from app.fetching import catalogue
from app.fetching.downloads import Downloads
from app.form import Form
from app.planning import counting, forecast, outlook
from app.planning.fitting import Fitting
from app.planning.look import RowsView
from app.running import ledger, live, runs
from app.theme import Help, sentence_error
from data import models
from data.datasets import registry
from data.encoding import render
from engine.contract import auto, kernels, machine, text
from engine.contract.args import TrainArgs
from engine.contract.clusters import CLUSTERS
from engine.contract.errors import BoardError
from engine.contract.fields import AUTO, kind, sections
from engine.contract.needs import Here, lacking
from engine.contract.tasks import Task

TITLE = "Train"
NEXT = "The form holds its arguments, for the next run."
HERE = "here"
PLACES = {
    HERE: "This machine", "machines": "By hand", "slurm": "Slurm", "ray": "Ray", "kubernetes": "Kubernetes",
}  # fmt: skip
WATCH_SECONDS = 1.0
COUNT_SECONDS = 1.0
# With the model, the data, the task, the method and the name not more than a dozen fields for who only wants SFT.
BASICS = ("task", "method", "optim.learning_rate", "steps.epochs", "steps.batch_size", "data.max_length", "data.split")
ROWS_DEPEND_ON = (
    "model.path", "model.template", "task.kind", "data.train", "data.validation", "data.fill", "data.train_on",
    "data.thoughts", "data.max_length", "data.cut", "data.split", "data.mix", "data.until", "data.weights",
    "data.repeat", "data.limits", "data.bad_rows", "data.max_rows", "steps.seed",
)  # fmt: skip
AS_YOU_TYPE: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}
# One at a time and in order, so that a slow first look never comes in over the answer to a later key.
IN_ORDER: dict[str, Any] = {"concurrency_id": "train-plan", "concurrency_limit": 1}
SAVE = """watch('value', () => {
  if (!props.value) return;
  const {name, text} = JSON.parse(props.value), link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/yaml'}));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
})"""

# A finding in the outlook leads to its rows.
SHOW = """element.addEventListener('click', event => {
  const link = event.target.closest('[data-show]');
  if (link) trigger('select', {kind: link.dataset.show});
})"""


def help_texts() -> dict[str, Help]:
    """What the (i) of each field says, and why `auto` comes to that attention on this machine."""
    texts = Form.help_of(TrainArgs, "train") | catalogue.HELP
    asked, (_, why) = texts["train-model-attention"], kernels.attention(AUTO, Here.of(AUTO))
    return texts | {"train-model-attention": replace(asked, what=f"{asked.what} Here: {why}")}


def build(board: Board) -> None:
    Train(board)


class Train:
    """The components of the tab and their events."""

    def __init__(self, board: Board) -> None:
        self.board, self.workspace, self.allowed = board, board.workspace, board.allowed
        decided = auto.resolved(TrainArgs(), auto.Facts(machine.machine(), 1))
        args, here = TrainArgs(), Here.of(AUTO)
        kernel = kernels.attention(AUTO, here)[0] or "sdpa"
        beside = {("model.attention", AUTO): kernel}
        self.form = Form(
            TrainArgs, "train", self._offered(), decided,
            lambda path, choice: beside.get((path, choice)) or lacking(args, path, choice, here),
        )  # fmt: skip
        with gr.Row(elem_classes="tb-columns"):
            with gr.Column(scale=5, min_width=560):
                self._left()
            with gr.Column(scale=3, min_width=400, elem_classes="tb-sticky"):
                self._right()
        self._connect()

    # Layout

    def _left(self) -> None:
        form = self.form
        with gr.Column(elem_classes="tb-card"):
            form.field("model.path")
            self.model_line = gr.HTML(outlook.model_line(None), padding=False)
            self.downloads = Downloads(self.board, "train-download", of="model")
            self.models = catalogue.Models(self.workspace)
            form.field("data.train")
            self.data_line = gr.HTML(outlook.data_line((), None), padding=False)
            form.field("data.fill", elem_classes="tb-away")
            self.look = RowsView(self.workspace, self.allowed, form, self._found)
        with gr.Column(elem_classes="tb-card"):
            with gr.Row(elem_classes="tb-choices"):
                form.field("task.kind")
                form.field("method.kind")
            self.qlora = gr.Button("QLoRA: LoRA on a 4-bit base", size="sm", elem_id="train-qlora")
            form.fields(*BASICS)
            form.more(leave_out=("name",))

    def _right(self) -> None:
        with gr.Column(elem_classes="tb-card", elem_id="train-plan") as self.plan:
            gr.HTML('<h2 class="tb-title">What will happen</h2>', padding=False)
            self.outlook = gr.HTML(js_on_load=SHOW, elem_id="train-outlook", padding=False, min_height=336)
            self.fitting = Fitting(self.board, self.form, self._found)
            with gr.Column(visible=False, elem_id="train-chat-holds") as self.holds:
                gr.HTML(
                    '<p class="tb-muted">The chat holds the device; the run starts once it is unloaded.</p>',
                    padding=False,
                )
                self.unload = gr.Button("Unload chat", size="sm")
            self.form.field("name", placeholder="a few words, or empty")
            with gr.Row(elem_classes="tb-actions"):
                self.start = gr.Button(
                    "Start", variant="primary", elem_id="train-start", interactive=False, min_width=0
                )
                self.preview = gr.Button("Preview", elem_id="train-preview", min_width=0)
                self.save = gr.Button("Save", elem_id="train-save", min_width=0)
                self.load = gr.UploadButton(
                    "Load", file_types=[".yaml", ".yml", ".json"], elem_id="train-load", min_width=0
                )
            self.said = gr.HTML(elem_id="train-said", padding=False)
            self.saved = gr.HTML(html_template="", js_on_load=SAVE, elem_classes="tb-channel", padding=False)
            with gr.Column(visible=False, elem_id="train-previewed") as self.previewed:
                self.place = gr.Radio(
                    [(said, name) for name, said in PLACES.items()], value=HERE, label="The same run from a terminal",
                    elem_id="train-place", elem_classes="tb-segmented tb-many",
                )  # fmt: skip
                self.command = gr.Code(
                    show_label=False, language="shell", interactive=False, wrap_lines=True, lines=2, max_lines=24,
                    show_line_numbers=False, elem_id="train-command",
                )  # fmt: skip
                self.yaml = gr.Code(label="args.yaml", language="yaml", interactive=False, max_lines=24)
        with gr.Column(elem_classes="tb-card", visible=False, elem_id="train-live") as self.live_card:
            with gr.Row(elem_classes="tb-card-top"):
                gr.HTML('<h2 class="tb-title">The run</h2>', padding=False)
                self.again = gr.Button("New run", size="sm", min_width=0, elem_id="train-new")
            gr.HTML(f'<div class="tb-line tb-muted">{NEXT}</div>', padding=False)
            self.view = live.RunView("train-run", self.workspace, dense=True)

    # Events

    def _connect(self) -> None:
        board, form = self.board, self.form
        fields, held, look = form.inputs, form.gathered(), self.look
        self.counting = board.timer(COUNT_SECONDS)
        shown = [form.channel, self.model_line, self.data_line, self.outlook, self.start, self.holds, *look.offers,
                 self.counting, *self.fitting.outputs]  # fmt: skip
        given = [look.offered, look.chosen, held]
        held.change(self._changed, given, shown, **AS_YOU_TYPE, **IN_ORDER)
        offered = [form.components[key, ""] for key in ("model.path", "data.train")]
        board.opens(self._refreshed, given, [*offered, *shown], **IN_ORDER)
        board.moves(self._changed, given, shown, **IN_ORDER)
        self.downloads.follows(form.components["model.path", ""])
        self.models.list.select(self.models.picked, None, form.components["model.path", ""], **QUIET)
        form.components["model.path", ""].change(self._choices, held, form.dropdowns, **AS_YOU_TYPE)

        own = {(f"task.{name}", kind(task)) for task in sections(Task) for name in task.decides}
        own |= {(path, "") for path in ROWS_DEPEND_ON}
        decisive = [field for (path, variant), field in form.components.items()
                    if (path, variant) in own or (path.rpartition(".")[0], variant) in own]  # fmt: skip
        self.fitting.connect(held, given, shown, self._changed)
        look.connect(board, held, decisive, self.outlook)
        self.counting.tick(self._counted, given, shown, **QUIET, **IN_ORDER)

        clock = board.timer(WATCH_SECONDS)
        swap = [self.plan, self.live_card]
        self.start.click(self._start, held, [board.watched, board.opened, *swap, self.said], **QUIET).then(
            self.view.refresh, [board.watched, self.view.watch], self.view.outputs, **QUIET
        )
        board.watched.change(self._swapped, board.watched, [*swap, clock], **QUIET).then(
            self.view.refresh, [board.watched, self.view.watch], self.view.outputs, **QUIET
        )
        clock.tick(self._tick, [board.watched, self.view.watch], [*self.view.outputs, clock], **QUIET)
        self.view.connect(board.watched)
        self.again.click(lambda: "", None, board.watched, **QUIET)
        self.unload.click(self._unload, given, shown, **QUIET, **IN_ORDER)

        base = [form.components[key, ""] for key in ("method.kind", "model.quantisation")]
        self.qlora.click(lambda: ("lora", "nf4"), None, base, **QUIET)
        previewed = [self.previewed, self.yaml, self.place, self.command, self.said]
        gr.on([self.preview.click, self.place.input], self._preview, [self.place, held], previewed, **QUIET)
        self.save.click(self._save, held, [self.saved, self.said], **QUIET)
        everything = [*fields, self.said]
        self.load.upload(self._load, self.load, everything, **QUIET)
        board.asks(self._asked, (), [*everything, board.watched])
        for name, button in self.view.buttons.items():
            tab = {"details": "runs"}.get(name, name)
            if name == "stop":
                continue
            if not board.has(tab):
                button.visible = False
                continue
            button.click(lambda id, tab=tab: board.jump(tab, id), board.watched, board.jump_to(tab), **QUIET)

    def _offered(self) -> dict[str, list[str]]:
        return {
            "models": models.listed(self.workspace),
            "datasets": [entry.name for entry in registry.entries(self.workspace)],
            "templates": ["auto", *render.names()],
        }

    def _refreshed(self, *given: Any) -> list[Any]:
        """Somebody comes to the tab: new models and datasets are offered, and free memory is looked at again."""
        offered = self._offered()
        return [gr.Dropdown(offered["models"]), gr.Dropdown(offered["datasets"]), *self._changed(*given)]

    def _found(self, held: str) -> forecast.Forecast | None:
        args, _ = self.form.checked(self.form.values(held))
        return forecast.look(args, self.workspace, self.allowed) if args else None

    def _choices(self, held: str) -> Any:
        found = self._found(held)
        return self.form.relabelled(found.args if found else None)

    def _changed(self, offered: Any, which: str, held: str, counted: str = "") -> list[Any]:
        """Everything that follows from what the form holds; called on every key."""
        values = self.form.values(held)
        args, problems = self.form.checked(values)
        found = forecast.look(args, self.workspace, self.allowed) if args else None
        problems = [*problems, *(found.problems if found else ())]
        content = self.form.content(values)
        chosen, fill = self._datasets(content["data"]["train"])
        moving = [run for run in runs.listed(self.workspace) if run.moving]
        busy = any(run.kind != "serve" for run in moving)
        serving = any(run.kind == "serve" and run.state == "running" for run in moving)
        words = [self.form.headed(problem, values) for problem in problems]
        linked = partial(self.form.linked, values=values)
        return [
            self.form.news(
                values, problems, found.args if found else None,
                hints={"data.fill": "\n".join(f"{name}={word}" for name, word in fill.items())},
                away={"data.fill": not fill, "vision": not self._sees(content["model"])},
            ),
            self._model_line(content["model"]),
            outlook.data_line(chosen, found),
            outlook.wrong(words) if words else outlook.outlook(found, counted, linked) if found else "",
            gr.Button(outlook.start(found, busy), interactive=not words and bool(found and found.may_start)),
            gr.Column(visible=serving),
            *self.look.offer(found, offered, which),
            gr.Timer(active=bool(found and found.question and not words)),
            *self.fitting.offer(found if not words else None, linked),
        ]  # fmt: skip

    def _counted(self, offered: Any, which: str, held: str) -> list[Any]:
        """While the page shows a sample: see to it that all rows are counted, and say how far that is."""
        found, counted = self._found(held), ""
        if found and found.question and not found.problems:
            counted = counting.ask(found.question, found.args, self.workspace)
        return self._changed(offered, which, held, counted)

    def _sees(self, model: dict[str, Any]) -> bool:
        """Whether the model that is named takes pictures, as far as it is on this machine."""
        args, _ = text.checked(TrainArgs, {"model": {key: model[key] for key in ("path", "revision")}})
        try:
            folder = runs.model_folder(self.workspace, args, self.allowed) if args else None
            return folder is not None and models.sees(folder)
        except BoardError:
            return False

    def _model_line(self, model: dict[str, Any]) -> str:
        """The line under the model, whatever is wrong with other fields."""
        args, problems = text.checked(TrainArgs, {"model": {key: model[key] for key in ("path", "revision")}})
        if args is None:
            return outlook.model_line(None, problems[0].text)
        try:
            folder = runs.model_folder(self.workspace, args, self.allowed)
            return outlook.model_line(models.card(folder) if folder else None, "Not on this machine yet.")
        except BoardError as problem:
            return outlook.model_line(None, f"{problem.text} {problem.hint}")

    def _datasets(self, names: Sequence[str]) -> tuple[list[tuple[registry.Entry, registry.Count]], dict[str, str]]:
        """The chosen datasets that can be read, and the placeholders that they have."""
        chosen, fill = [], {}
        for name in names:
            try:
                entry = registry.find(name, self.workspace, self.allowed)
                chosen.append((entry, registry.count(entry)))
            except BoardError:
                continue  # said by the forecast, at its field
            fill |= entry.fill
        return chosen, fill

    def _start(self, held: str) -> list[Any]:
        try:
            args = self._usable(held)
            found = forecast.look(args, self.workspace, self.allowed)
            rows = found.rows.sequences if found.rows and found.rows.exact else 0
            run = runs.start_training(self.workspace, args, rows=rows, allowed=self.allowed)
        except BoardError as problem:
            return [*(gr.skip() for _ in range(4)), self.form.refusal(problem, self.form.values(held))]
        return [run.id, run.id, gr.Column(visible=False), gr.Column(visible=True), ""]

    def _usable(self, held: str) -> TrainArgs:
        values = self.form.values(held)
        args, problems = self.form.checked(values)
        if args is None:
            lines = (f"{self.form.label(problem, values)}: {problem.text}" for problem in problems)
            raise BoardError("The arguments are not usable yet.", "\n".join(lines))
        return args  # type: ignore[no-any-return]

    def _swapped(self, watched: str) -> list[Any]:
        there = runs.opened(self.workspace, watched) is not None
        return [gr.Column(visible=not there), gr.Column(visible=there), gr.Timer(active=there)]

    def _tick(self, watched: str, watch: Any) -> list[Any]:
        shown = self.view.refresh(watched, watch)
        run = runs.opened(self.workspace, watched)
        return [*shown, gr.skip() if run and run.state() in runs.MOVING else gr.Timer(active=False)]

    def _unload(self, *given: Any) -> list[Any]:
        for found in runs.listed(self.workspace):
            if found.kind == "serve" and found.moving:
                runs.stop(found.run)
        return self._changed(*given)

    def _preview(self, place: str, held: str) -> list[Any]:
        """The arguments as a file, and the command or the job that starts them in a place."""
        try:
            args = self._usable(held)
        except BoardError as problem:
            return [gr.Column(visible=False), "", gr.skip(), "", self.form.refusal(problem, self.form.values(held))]
        if place == HERE and args.launch.machines > 1:
            place = "machines"
        usual = self.workspace.resolve() == Path("workspace").resolve()
        elsewhere = "" if usual else str(self.workspace)
        told = ledger.command(args, self.workspace) if place == HERE else CLUSTERS[place](args, elsewhere)
        return [gr.Column(visible=True), text.dump(args), place, told, ""]

    def _save(self, held: str) -> list[Any]:
        try:
            args = self._usable(held)
        except BoardError as problem:
            return [gr.skip(), self.form.refusal(problem, self.form.values(held))]
        name = f"{re.sub(r'[^A-Za-z0-9]+', '-', args.name).strip('-') or 'args'}.yaml"
        return [json.dumps({"name": name, "text": text.dump(args)}), ""]

    def _load(self, file: str | None) -> list[Any]:
        path = Path(file or "")
        try:
            args = text.load(path, kind="train")
        except BoardError as problem:
            why = problem.text.replace(str(path), path.name)  # in the file's own words, but for where gradio put it
            return [
                *(gr.skip() for _ in self.form.inputs),
                sentence_error("This file was not loaded.", why),
            ]
        return [*self.form.shown(args), ""]

    def _asked(self, ref: str) -> list[Any]:
        """A run to be cloned, `run:ID`: the one that is shown, or `data:NAME`: a dataset in place of those chosen."""
        if ref.startswith("run:"):
            return self._reached(ref.removeprefix("run:"))
        if not ref.startswith("data:"):
            return self._clone(ref)
        chosen = gr.Dropdown(self._offered()["datasets"], value=[ref.removeprefix("data:")])
        train = self.form.components["data.train", ""]
        return [*(chosen if field is train else gr.skip() for field in self.form.inputs), "", ""]

    def _reached(self, ref: str) -> list[Any]:
        """The address names the run that is shown: the form holds its arguments, as it did when it was started."""
        found = next((one for one in runs.listed(self.workspace) if one.id == ref), None)
        if found and found.kind != "train":
            return [*(gr.skip() for _ in self.form.inputs), sentence_error(f"{ref} is no training.", "See Runs."), ""]
        return [*self._clone(ref)[:-1], gr.skip() if found else ""]

    def _clone(self, ref: str) -> list[Any]:
        run = runs.opened(self.workspace, ref)
        if run is None:
            return [*(gr.skip() for _ in self.form.inputs), sentence_error(f"There is no run {ref} any more."), ""]
        try:
            args = text.load(run.args_path, ["resume={}"], kind="train")  # a copy begins at the beginning
        except BoardError as problem:
            return [*(gr.skip() for _ in self.form.inputs), self.form.refusal(problem), ""]
        return [*self.form.shown(args), "", ""]
