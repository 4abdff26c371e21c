"""Keeping a dataset, on the page: its name in the list, its export as a file, and the end of its listing.

    panel = Keeping(board)
    panel.connect(draft, choice)        # the draft that is kept, and the dropdown that then shows its name

What is listed and how is `data.datasets.registry`'s to know.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app.board import QUIET, Board
from app.datasets import dataset
from app.theme import Help, sentence_done, sentence_error
from data.datasets import registry
from data.paths import inside
from engine.contract.errors import BoardError

ENDINGS = (("JSON lines", "jsonl"), ("CSV", "csv"), ("Parquet", "parquet"))
FETCH = "() => document.querySelector('#data-file')?.click()"
HELP = {
    "data-name": Help(
        "The word by which Train and the command line name this dataset.", usual="letters, digits, - and _"
    ),
    "data-title": Help("What lists show for it."),
    "data-licence": Help(
        "Under which licence the rows may be used; kept with the dataset.", usual="Apache-2.0, CC-BY-4.0"
    ),
    "data-skip": Help(
        "Training leaves those rows out that cannot be read, instead of refusing the dataset.",
        "Tick it once you have looked at them.",
    ),
}


class Keeping:
    """The components and their events. The export is a file of the page's cache, fetched by the browser."""

    def __init__(self, board: Board) -> None:
        self.workspace, self.allowed = board.workspace, board.allowed
        with gr.Row(elem_classes="tb-row"):
            self.name = gr.Textbox(label="Name", elem_id="data-name", max_lines=1)
            self.title = gr.Textbox(label="Title", elem_id="data-title", max_lines=1)
            self.licence = gr.Textbox(label="Licence", elem_id="data-licence", max_lines=1)
            self.skip = gr.Checkbox(label="Leave out rows that cannot be read", elem_id="data-skip")
        with gr.Row(elem_classes="data-acts"):
            self.save = gr.Button("Save", variant="primary", size="sm", min_width=0, elem_id="data-save")
            self.ending = gr.Radio(ENDINGS, value="jsonl", label="As a file", show_label=False, container=False,
                                   elem_id="data-ending", elem_classes="tb-segmented")  # fmt: skip
            self.export = gr.Button("Export", size="sm", min_width=0, elem_id="data-export")
            self.forget = gr.Button("Forget", size="sm", min_width=0, elem_id="data-forget")
        self.file = gr.DownloadButton("Download", elem_id="data-file", elem_classes="tb-channel")
        with gr.Row(visible=False, elem_classes="tb-confirm", elem_id="data-confirm") as self.confirm:
            self.question = gr.HTML(padding=False)
            self.sure = gr.Button("Take it off the list", size="sm", min_width=0, elem_id="data-sure")
            self.delete = gr.Button("Delete its file too", size="sm", min_width=0, elem_classes="tb-danger-button",
                                    elem_id="data-delete")  # fmt: skip
            self.stay = gr.Button("Keep it", size="sm", min_width=0)
        self.said = gr.HTML(elem_id="data-kept-said", elem_classes="data-said", padding=False)
        self.shown = [self.name, self.title, self.licence, self.skip, self.confirm, self.said]

    def connect(self, draft: gr.State, choice: gr.Dropdown) -> None:
        told = [draft, self.name, self.title, self.licence]
        # A number in the list is shown by what is said; the draft itself changes at the choice of the saved name.
        self.save.click(self._save, [*told, self.skip], [choice, draft, self.said], **QUIET)
        self.skip.input(self._skip, [draft, self.skip], draft, **QUIET)
        self.export.click(self._export, [draft, self.ending], [self.file, self.said], api_visibility="private").success(
            None, None, None, js=FETCH
        )
        self.forget.click(self._ask, draft, [self.confirm, self.question, self.delete], **QUIET)
        self.stay.click(lambda: gr.Row(visible=False), None, self.confirm, **QUIET)
        for button, delete in ((self.sure, False), (self.delete, True)):
            button.click(lambda draft, delete=delete: self._forget(draft, delete), draft,
                         [choice, self.said, self.confirm], **QUIET)  # fmt: skip

    def drawn(self, draft: str) -> list[Any]:
        """What the draft says of itself."""
        if not draft:
            return ["", "", "", False, gr.Row(visible=False), ""]
        entry = dataset.entry(draft)
        name = entry.path.stem if entry.name == entry.path.name else entry.name  # a file that is not listed yet
        return [name, entry.title, entry.licence, entry.skip_bad, gr.Row(visible=False), gr.skip()]

    def _skip(self, draft: str, skip: bool) -> Any:
        return dataset.entry(draft).model_copy(update={"skip_bad": skip}).model_dump_json() if draft else gr.skip()

    def _save(self, draft: str, name: str, title: str, licence: str, skip: bool) -> list[Any]:
        try:
            told = {"name": name.strip(), "title": title.strip() or name.strip(), "licence": licence.strip()}
            entry = dataset.entry(draft).model_copy(update={**told, "skip_bad": skip})
            kept = registry.save(entry, self.workspace)
            if entry.patch and kept.patch and entry.patch.exists() and not kept.patch.exists():
                shutil.copyfile(entry.patch, kept.patch)  # a new name has changes of its own, and begins with these
        except BoardError as problem:
            return [gr.skip(), gr.skip(), sentence_error(problem.text, problem.hint)]
        said = sentence_done(f"Saved as {kept.name}: Train offers it by that name.")
        return [gr.Dropdown(offered(self.workspace, self.allowed), value=kept.name), kept.model_dump_json(), said]

    def _export(self, draft: str, ending: str) -> list[Any]:
        try:
            entry = dataset.entry(draft)
            # Inside gradio's own cache, from where it is served without being copied once more.
            folder = self.workspace / "cache" / "page" / "exported"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{Path(entry.name).stem}.{ending}"
            count = registry.export(entry, path, ending)
        except BoardError as problem:
            return [gr.skip(), sentence_error(problem.text, problem.hint)]
        rows = "1 row" if count == 1 else f"{count:,} rows"
        return [gr.DownloadButton(value=str(path)), sentence_done(f"{path.name}: {rows}, mended and mapped.")]

    def _ask(self, draft: str) -> list[Any]:
        if not draft:
            return [gr.skip()] * 3
        entry = dataset.entry(draft)
        ours = entry.path.is_relative_to(self.workspace.resolve() / "datasets")
        what = f"Take <strong>{escape(entry.title)}</strong> off the list? What you changed in its rows stays."
        return [gr.Row(visible=True), f"<span>{what}</span>", gr.Button(visible=ours)]

    def _forget(self, draft: str, delete: bool) -> list[Any]:
        try:
            entry = dataset.entry(draft)
            listed = registry.forget(entry.name, self.workspace)
            if delete:
                path = inside(entry.path, [self.workspace / "datasets"])
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            elif not listed:
                raise BoardError(
                    f"{entry.name} is not on your list.",
                    "A file in the workspace is offered as long as it is there; what comes with the board always is.",
                )
        except BoardError as problem:
            return [gr.skip(), sentence_error(problem.text, problem.hint), gr.Row(visible=False)]
        rest = offered(self.workspace, self.allowed)
        return [gr.Dropdown(rest, value=rest[0][1] if rest else None), "", gr.Row(visible=False)]


def offered(workspace: Path, allowed: Sequence[Path] = ()) -> list[tuple[str, str]]:
    """(what is shown, the name) of every dataset in the list."""
    found = registry.entries(workspace, allowed)
    return [(one.title if one.title == one.name else f"{one.title} · {one.name}", one.name) for one in found]
