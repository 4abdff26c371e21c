"""Getting what is not on this machine yet: its size, the free disk, progress, cancel, and what to do while offline.

One component for models and datasets. A download is a run of its own kind, so it survives the page.

    downloads = Downloads(board, "train-download", of="model")
    downloads.follows(form.components["model.path", ""])
"""

from __future__ import annotations

import shutil
from html import escape
from typing import Any, Literal

import gradio as gr

from app.board import QUIET, Board
from app.planning.outlook import size
from app.running import live, runs
from app.running.watch import Watch
from app.theme import sentence_error
from data import models
from data.hubs.hub import offline
from engine.contract.download import DownloadArgs
from engine.contract.errors import BoardError

WATCH_SECONDS = 1.0
BYTES_A_PARAMETER = 2  # as most models are published, in bf16


class Downloads:
    """A line that appears when what is chosen is not here, with the button that gets it."""

    def __init__(self, board: Board, elem_id: str, *, of: Literal["model", "dataset"]) -> None:
        self.workspace, self.allowed, self.of = board.workspace, board.allowed, of
        with gr.Row(visible=False, elem_id=elem_id, elem_classes="tb-download") as self.body:
            self.line = gr.HTML(padding=False)
            self.get = gr.Button("Download", size="sm", min_width=0, elem_id=f"{elem_id}-get")
            self.cancel = gr.Button("Cancel", size="sm", min_width=0, visible=False, elem_id=f"{elem_id}-cancel")
        self.clock = board.timer(WATCH_SECONDS)
        self.outputs = [self.body, self.line, self.get, self.cancel, self.clock]
        self._board = board

    def follows(self, chosen: gr.components.Component) -> None:
        """Look whenever `chosen`, which holds the name or hub id, changes, and while a download moves."""
        chosen.change(self.look, chosen, self.outputs, trigger_mode="always_last", **QUIET)
        self._board.opens(self.look, [chosen], self.outputs)
        self.clock.tick(self.look, chosen, self.outputs, **QUIET)
        self.get.click(self._get, chosen, self.outputs, **QUIET)
        self.cancel.click(self._cancel, chosen, self.outputs, **QUIET)

    def look(self, id: str | None) -> list[Any]:
        """What the line says of `id` now."""
        id = (id or "").strip()
        missing = self._missing(id)
        if not missing:
            return [gr.Row(visible=False), "", gr.skip(), gr.skip(), gr.Timer(active=False)]
        run = self._newest(id)
        moving = run is not None and run.state() in runs.MOVING
        if moving:
            watch = Watch(run)
            watch.look()
            html = f'<div class="tb-line">Downloading {escape(id)}</div>{live.progress(watch)}'
        elif set_by := offline():
            html = sentence_error(
                f"{id} is not on this machine, and the board is offline ({set_by} is set).",
                "Choose what is on this machine, or start the board without that variable.",
            )
        else:
            html = f'<div class="tb-line tb-muted">{escape(missing)}</div>{self._ended(run)}'
        again = "Go on" if run is not None and run.state() in ("stopped", "failed", "lost") else "Download"
        return [
            gr.Row(visible=True), html, gr.Button(again, visible=not moving, interactive=not offline()),
            gr.Button(visible=moving), gr.Timer(active=moving),
        ]  # fmt: skip

    def _missing(self, id: str) -> str:
        """A sentence when `id` can be downloaded and is not here; empty otherwise."""
        if not id:
            return ""
        try:
            place = models.find(id, self.workspace)
        except BoardError:
            return self._embedded(id)
        if place.folder is not None:
            return ""
        free = shutil.disk_usage(self.workspace).free
        entry = next((entry for entry in models.known() if id in (entry["name"], *entry.get("hub", ()))), {})
        weights = f" About {size(entry['parameters'] * BYTES_A_PARAMETER)};" if entry.get("parameters") else ""
        gated = " Its owner wants you to accept the terms on the hub first." if entry.get("gated") else ""
        return f"{place.hub_id or id} is not on this machine yet.{weights} {size(free)} are free on this disk.{gated}"

    def _embedded(self, id: str) -> str:
        """The embedded model is no hub's: it comes in a Python package, once."""
        known = any(entry["name"] == id and "wheel" in entry for entry in models.known())
        return f"{id} is not prepared yet: it comes in a Python package." if known else ""

    def _newest(self, id: str) -> Any:
        for found in runs.listed(self.workspace):
            if isinstance(found.args, DownloadArgs) and (found.args.id, found.args.of) == (id, self.of):
                return found.run
        return None

    def _ended(self, run: Any) -> str:
        """Why the last try did not bring it."""
        if run is None or run.state() == "done":
            return ""
        watch = Watch(run)
        watch.look()
        return live.verdict(watch)

    def _get(self, id: str) -> list[Any]:
        try:
            runs.start(
                self.workspace, DownloadArgs(id=id.strip(), of=self.of), f"download-{runs.short(id)}",
                allowed=self.allowed,
            )  # fmt: skip
        except BoardError as problem:
            shown = self.look(id)
            return [shown[0], sentence_error(problem.text, problem.hint), *shown[2:]]
        return self.look(id)

    def _cancel(self, id: str) -> list[Any]:
        if run := self._newest(id.strip()):
            runs.stop(run)
        return self.look(id)
