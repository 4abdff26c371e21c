"""The models and open datasets that people start from, found as one types, for the tabs that choose one.

    found = Models(board.workspace)              # made where it is called, inside the tab
    found.list.select(found.picked, None, form.components["model.path", ""])

Reads `data.hubs.catalogue`; what is not in it can be typed into the field as ever.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app.board import QUIET
from app.planning.outlook import count
from app.theme import Help
from data.hubs import catalogue
from engine.contract import machine

SHOWN = 60
ANY = ""
KINDS = {"any kind": ANY, "base": "base", "instruct": "instruct", "reasoning": "reasoning", "vision": "vision",
         "code": "code"}  # fmt: skip
FITS = {"of any size": ANY, "LoRA fits here": "lora", "full fits here": "full"}
TASKS = {"any task": ANY, "SFT": "sft", "DPO": "dpo", "KTO": "kto", "reward": "reward", "pretraining": "pretrain",
         "GRPO": "grpo"}  # fmt: skip
HELP = {
    "train-find-text": Help("Words of the name, the hub id or the family; all must occur."),
    "train-find-fits": Help(
        "Leaves out what cannot fit into the memory of the device that trains, free or not.",
        usual="a lower bound: long rows and large batches need more",
    ),
    "train-find-here": Help("Only what is on this machine already."),
}


class Models:
    """A search box, three filters, and what they leave, smallest first; `list` is clicked."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        label = f"Find a model among {len(catalogue.listed())}"
        with gr.Accordion(label, open=False, elem_id="train-find", elem_classes="tb-more") as self.opening:
            with gr.Row(elem_classes="tb-row"):
                self.text = gr.Textbox(label="Search", placeholder="qwen 7b instruct", elem_id="train-find-text")
                self.kind = gr.Dropdown(list(KINDS.items()), value=ANY, label="Kind", elem_id="train-find-kind")
                self.fits = gr.Dropdown(list(FITS.items()), value="lora", label="Size", elem_id="train-find-fits")
                self.here = gr.Checkbox(label="On this machine", elem_id="train-find-here")
            self.said = gr.HTML(padding=False)
            self.list = _list("train-find-list")
        asked = [self.text, self.kind, self.fits, self.here]
        shown = [self.said, self.list]
        self.opening.expand(self.look, asked, shown, **QUIET)
        gr.on([field.change for field in asked], self.look, asked, shown, trigger_mode="always_last", **QUIET)

    def look(self, text: str, kind: str, fits: str, here: bool) -> list[Any]:
        memory = machine.memory().total if fits else None
        found = catalogue.search(
            text or "", kind=kind or None, memory=memory, method=fits or "lora",  # type: ignore[arg-type]
            here=self.workspace if here else None,
        )  # fmt: skip
        rows = [{"id": entry.name, "html": self._row(entry), "words": ""} for entry in found[:SHOWN]]
        words = f"{len(found):,} models" if len(found) != 1 else "1 model"
        more = f"; the first {SHOWN} are shown, type on to find others" if len(found) > SHOWN else ""
        return [
            f'<div class="tb-line tb-muted">{words}{more}</div>',
            _drawn(rows, "No model fits. Any hub id (owner/name) or folder can be typed above."),
        ]

    def picked(self, picked: gr.EventData) -> str:
        return str(picked.id)

    def _row(self, entry: catalogue.ModelEntry) -> str:
        marks = []
        if catalogue.on_disk(entry, self.workspace):
            marks.append("on this machine")
        if entry.embedded:
            marks.append("comes with the board")
        if entry.gated:
            marks.append("asks for consent")
        if entry.code:
            marks.append("brings code of its own")
        about = [
            f"{'about ' if entry.rounded else ''}{count(entry.parameters)}",
            f"{entry.context:,} tokens" if entry.context else "",
            entry.licence, entry.kind, entry.hub[0],
        ]  # fmt: skip
        return _item(entry.name, marks, about, entry.note)


class Datasets:
    """As `Models`, for open datasets; `list` is clicked, and `picked` gives the hub id."""

    def __init__(self) -> None:
        label = f"Find one among {len(catalogue.datasets())} open datasets"
        with gr.Accordion(label, open=False, elem_id="data-find", elem_classes="tb-more") as self.opening:
            with gr.Row(elem_classes="tb-row"):
                self.text = gr.Textbox(label="Search", placeholder="math", elem_id="data-find-text")
                self.task = gr.Dropdown(list(TASKS.items()), value=ANY, label="Task", elem_id="data-find-task")
            self.list = _list("data-find-list")
        asked = [self.text, self.task]
        self.opening.expand(self.look, asked, self.list, **QUIET)
        gr.on([field.change for field in asked], self.look, asked, self.list, trigger_mode="always_last", **QUIET)

    def look(self, text: str, task: str) -> str:
        found = catalogue.search_datasets(text or "", task=task or None)  # type: ignore[arg-type]
        rows = [{"id": entry.hub, "html": self._row(entry), "words": ""} for entry in found]
        return _drawn(rows, "None of them fits. Any hub id (owner/name) can be typed above.")

    def picked(self, picked: gr.EventData) -> str:
        return str(picked.id)

    def _row(self, entry: catalogue.DatasetEntry) -> str:
        marks = ["asks for consent"] if entry.gated else []
        about = [
            f"{entry.rows:,} rows" if entry.rows else "",
            entry.task,
            ", ".join(entry.language),
            entry.licence,
            entry.hub,
        ]
        return _item(entry.name, marks, about, entry.note)


def _list(elem_id: str) -> gr.HTML:
    return gr.HTML(
        html_template='<div class="tb-list"></div>', js_on_load="tuneboard.list(element, props, watch, trigger)",
        elem_id=elem_id, elem_classes="tb-found", padding=False,
    )  # fmt: skip


def _drawn(rows: list[dict[str, str]], nothing: str) -> str:
    said = f'<p class="tb-muted">{escape(nothing)}</p>'
    return json.dumps({"rows": rows, "opened": "", "nothing": said}, ensure_ascii=False)


def _item(name: str, marks: list[str], about: list[str], note: str) -> str:
    said = "".join(f'<em class="tb-mark">{escape(mark)}</em>' for mark in marks)
    words = escape(" · ".join(filter(None, about)))
    return (
        f'<span class="tb-item-top"><strong>{escape(name)}</strong><span>{said}</span></span>'
        f'<span class="tb-item-about" title="{escape(note)}"><span>{words}</span></span>'
    )
