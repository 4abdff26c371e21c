"""Adding a dataset, on the page: files dropped in, rows pasted, an address, a hub's id, or a path.

    panel = Adding(board)
    panel.connect(choice)               # the dropdown that then shows what was added

One field takes all that can be typed, and says under it what it takes it for. A download runs in a thread of its own,
tells how far it is, and ends at its next chunk when it is cancelled; what has arrived is kept for the next try.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import gradio as gr

from app.board import QUIET, Board
from app.datasets import arrivals, keeping
from app.fetching import catalogue
from app.planning.outlook import size
from app.theme import Help, sentence_done, sentence_error
from data.datasets import llamafactory, registry
from data.datasets.entries import Entry
from data.hubs import catalogue as open_data
from data.hubs import hub, web
from data.hubs.hub import HubDataset
from data.reading import files
from data.rows.formats import AUTO
from engine.contract.errors import BoardError, DataError

Kind = Literal["nothing", "rows", "address", "hub", "path"]
ANY = "(all)"
ON_THE_HUBS = {"huggingface.co": "huggingface", "modelscope.cn": "modelscope", "www.modelscope.cn": "modelscope"}
DATASET_PAGE = re.compile(r"/datasets/([\w.-]+/[\w.-]+)/?(?:(?:tree|blob|summary|viewer|files).*)?")
KINDS = (
    f"Files that are read: {', '.join(files.READERS)}, also compressed (.gz, .bz2, .xz, .zst), several at once, or in "
    f"an archive ({', '.join(files.MEMBERS)}); as large as the disk allows. They are copied into the workspace."
)
TOLD_SECONDS = 0.3
HELP = {
    "data-typed": Help(
        "Rows in JSON, JSON lines, CSV or plain text; the https address of a file; a dataset's id on a hub "
        "(owner/name) or the address of its page; or the path of a file or folder on this machine.",
    ),
    "data-hub": Help("Where the id is looked up.", "ModelScope where Hugging Face cannot be reached."),
    "data-subset": Help("Which of the dataset's configurations to get."),
    "data-split": Help("Which of its splits to get."),
}


@dataclass
class Fetching:
    """A download under way: `said` are (bytes here, bytes in all), then what came of it."""

    work: Callable[[Fetching], Entry]
    said: queue.SimpleQueue[tuple[int, int] | Entry | BoardError] = field(default_factory=queue.SimpleQueue)
    stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name="dataset download").start()

    def _run(self) -> None:
        try:
            self.said.put(self.work(self))
        except BoardError as problem:
            self.said.put(problem)
        except Exception as problem:
            self.said.put(BoardError(f"The download failed: {problem!r}.", "This is a mistake of the board's."))
            raise

    def tell(self, here: int, total: int) -> None:
        self.said.put((here, total))

    def end(self) -> None:
        """Ask it to stop, and wake whoever waits for its next word."""
        self.stop.set()
        self.tell(0, 0)


class Adding:
    """The components and their events."""

    def __init__(self, board: Board) -> None:
        self.workspace, self.allowed = board.workspace, board.allowed
        self.found: gr.State = gr.State(None)  # the hub dataset that was looked up
        self.fetching: gr.State = gr.State(None)
        with gr.Row(elem_classes="data-add"):
            self.files = gr.File(label="Files", file_count="multiple", height=132, elem_id="data-files")
            with gr.Column(min_width=300):
                self.typed = gr.Textbox(
                    label="Or paste rows, an https address, a hub's id, or a path", lines=3, max_lines=3,
                    placeholder='{"messages": [...]}   https://…/rows.jsonl   owner/name   /data/rows.csv',
                    elem_id="data-typed",
                )  # fmt: skip
                with gr.Row(elem_classes="data-acts"):
                    self.add = gr.Button("Add", variant="primary", size="sm", min_width=0, elem_id="data-add",
                                         interactive=False)  # fmt: skip
                    self.cancel = gr.Button("Cancel", size="sm", min_width=0, visible=False, elem_id="data-cancel")
                    self.taken = gr.HTML(elem_id="data-taken", padding=False)
        gr.HTML(f'<p class="tb-muted data-kinds">{escape(KINDS)}</p>', padding=False)
        with gr.Row(visible=False, elem_classes="tb-row", elem_id="data-parts") as self.parts:
            self.hub = gr.Dropdown([(title, name) for name, title in hub.TITLES.items()], value="huggingface",
                                   label="Hub", elem_id="data-hub")  # fmt: skip
            self.subset = gr.Dropdown([ANY], value=ANY, label="Subset", elem_id="data-subset")
            self.split = gr.Dropdown([ANY], value=ANY, label="Split", elem_id="data-split")
        self.open = catalogue.Datasets()
        self.said = gr.HTML(elem_id="data-add-said", elem_classes="data-said", padding=False)

    def connect(self, choice: gr.Dropdown) -> None:
        asked = [self.typed, self.hub, self.subset, self.split, self.found]
        offered = [self.add, self.taken, self.parts]
        fields = [self.subset, self.split, self.found]
        done = [choice, self.typed, self.said]
        self.files.upload(self._uploaded, self.files, [choice, self.files, self.said], **QUIET)
        self.typed.change(self._typed, [self.typed, self.found], offered, trigger_mode="always_last", **QUIET)
        self.open.list.select(self.open.picked, None, self.typed, **QUIET)
        self.hub.input(lambda: [gr.skip(), gr.skip(), None], None, fields, **QUIET)
        self.found.change(self._typed, [self.typed, self.found], offered, **QUIET)
        self.subset.input(self._splits, [self.subset, self.found], self.split, **QUIET)
        self.add.click(
            self._add, asked, [*done, *fields, self.fetching, self.add, self.cancel], concurrency_limit=4, **QUIET
        )
        self.cancel.click(self._cancel, self.fetching, None, **QUIET)

    # Files and text

    def _uploaded(self, uploaded: list[str] | None) -> list[Any]:
        try:
            place = arrivals.stored([Path(file) for file in uploaded or []], self.workspace)
        except BoardError as problem:
            return [gr.skip(), None, sentence_error(problem.text, problem.hint)]
        name = self._named(place)
        return [gr.Dropdown(keeping.offered(self.workspace, self.allowed), value=name), None, ""]

    def _named(self, place: Path) -> str:
        """What the list calls what lies at `place`; a LLaMA-Factory list names several, of which the first is shown."""
        entries = registry.entries(self.workspace, self.allowed)
        real = place.resolve()
        name = next((entry.name for entry in entries if entry.path == real), None)
        name = name or next((entry.name for entry in entries if entry.path.is_relative_to(real)), None)
        if name is None and (place / llamafactory.LIST).is_file():
            problems = llamafactory.read(place).problems
            raise DataError("none of the files that dataset_info.json names is here.", " ".join(problems))
        return name or str(place)

    def _typed(self, typed: str, found: HubDataset | None) -> list[Any]:
        """What the text is taken for, before anything is done with it."""
        kind, what = self._kind(typed)
        looked = found if kind == "hub" and found and found.id == what else None
        words = {
            "nothing": "",
            "rows": f"Kept as a .{arrivals.ending(typed)} file in the workspace.",
            "address": f"Gets this file from {urlsplit(what).hostname}.",
            "hub": _about(looked) if looked else "A dataset of a hub: look up what it holds first.",
            "path": "Opens it where it is; nothing is copied.",
        }[kind]
        button = "Download" if looked else "Look up" if kind == "hub" else "Add"
        return [
            gr.Button(button, interactive=kind != "nothing"),
            f'<span class="tb-muted">{escape(words)}</span>',
            gr.Row(visible=kind == "hub"),
        ]

    def _kind(self, typed: str | None) -> tuple[Kind, str]:
        """What the text is, and the part of it that matters."""
        text = (typed or "").strip()
        if not text:
            return "nothing", ""
        if "\n" in text or text[0] in "[{":
            return "rows", text
        if re.match(r"https?://", text, re.IGNORECASE):
            parts = urlsplit(text)
            page = DATASET_PAGE.fullmatch(parts.path)
            return ("hub", page[1]) if page and parts.hostname in ON_THE_HUBS else ("address", text)
        if text[0] in "/~." or files.is_readable(Path(text)):
            return "path", text
        return ("hub", text) if hub.NAME.fullmatch(text) else ("path", text)

    def _splits(self, subset: str, found: HubDataset | None) -> Any:
        splits, split = _splits(found, subset)
        return gr.Dropdown(splits, value=split)

    def _cancel(self, fetching: Fetching | None) -> None:
        if fetching:
            fetching.end()

    def _add(self, typed: str, where: str, subset: str, split: str, found: HubDataset | None) -> Iterator[list[Any]]:
        kind, what = self._kind(typed)
        same: list[Any] = [gr.skip()] * 3
        still = [None, gr.Button(interactive=True), gr.Button(visible=False)]
        try:
            if kind == "rows":
                yield [*self._chosen(self._named(arrivals.pasted(what, self.workspace))), *same, *still]
            elif kind == "path":
                entry = registry.find(what, self.workspace, self.allowed)
                yield [*self._chosen(str(entry.path) if entry.name == entry.path.name else entry.name), *same, *still]
            elif kind == "hub" and not (found and found.id == what):
                yield [gr.skip(), gr.skip(), '<span class="tb-muted">Looking it up …</span>', *same, None,
                       gr.Button(interactive=False), gr.skip()]  # fmt: skip
                looked = hub.look(what, ON_THE_HUBS.get(urlsplit(typed.strip()).hostname or "", where))  # type: ignore[arg-type]
                yield [gr.skip(), gr.skip(), "", *_offered(looked), *still]
            elif kind != "nothing":
                work = self._from_hub(found, subset, split) if kind == "hub" and found else self._from_web(what)
                yield from self._fetched(Fetching(work), same, still)
        except BoardError as problem:
            yield [gr.skip(), gr.skip(), sentence_error(problem.text, problem.hint), *same, *still]

    def _chosen(self, name: str) -> list[Any]:
        return [gr.Dropdown(keeping.offered(self.workspace, self.allowed), value=name), "", ""]

    # Downloads

    def _from_hub(self, found: HubDataset, subset: str, split: str) -> Callable[[Fetching], Entry]:
        part = [("" if name == ANY else name) for name in (subset, split)]

        def work(fetching: Fetching) -> Entry:
            into = self.workspace / "datasets"
            place = hub.download(
                found.id, found.hub, *part, into=into, progress=fetching.tell, stop=fetching.stop.is_set
            )
            entry = hub.entry(found, place, *part)
            if (known := _known(found)) and known.format != AUTO:
                entry = entry.model_copy(update={"format": known.format})
            return registry.save(entry, self.workspace)

        return work

    def _from_web(self, url: str) -> Callable[[Fetching], Entry]:
        name = web.name_of(url)
        if not files.is_readable(Path(name)):
            raise DataError(
                f"{name}: files that end like this are not read.", f"Use one of {', '.join(files.READERS)}."
            )

        def work(fetching: Fetching) -> Entry:
            here = 0

            def tell(more: int) -> None:
                nonlocal here
                here += more
                fetching.tell(here, 0)

            place = web.get(url, self.workspace / "datasets", tell=tell, stop=fetching.stop.is_set)
            return registry.save(Entry(name=place.name, title=place.stem, path=place, origin=url), self.workspace)

        return work

    def _fetched(self, fetching: Fetching, same: list[Any], still: list[Any]) -> Iterator[list[Any]]:
        fetching.start()
        words = '<span class="tb-muted">Waiting for the first byte …</span>'
        while True:
            stopping = fetching.stop.is_set()
            cancel = gr.Button(visible=True, interactive=not stopping)
            words = '<span class="tb-muted">Stopping …</span>' if stopping else words
            yield [gr.skip(), gr.skip(), words, *same, fetching, gr.Button(interactive=False), cancel]
            said = _latest(fetching.said)
            if isinstance(said, BoardError):
                raise said
            if isinstance(said, Entry):
                chosen = self._chosen(said.name)
                yield [*chosen[:2], sentence_done(f"{said.title} is on this machine."), *same, *still]
                return
            words = _progress(*said)


def _latest(said: queue.SimpleQueue[Any]) -> Any:
    """The newest word, waited for; the last one is never skipped."""
    word = said.get()
    end = threading.Event()
    if isinstance(word, tuple):
        end.wait(TOLD_SECONDS)  # several words a second are enough
    while isinstance(word, tuple) and not said.empty():
        word = said.get()
    return word


def _progress(here: int, total: int) -> str:
    share = min(1.0, here / total) if total else 0.0
    whole = f" of {size(total)}" if total else ""
    bar = f'<div class="tb-progress"><i style="width:{share:.1%}"></i></div>' if total else ""
    return f'{bar}<span class="tb-muted">{size(here)}{whole} have arrived.</span>'


def _about(found: HubDataset) -> str:
    terms = " Its owner wants you to accept the terms on the hub first." if found.gated else ""
    licence = f", {found.licence}" if found.licence else ""
    return f"{size(found.size)} in {len(found.files()):,} files on {hub.TITLES[found.hub]}{licence}.{terms}"


def _offered(found: HubDataset) -> list[Any]:
    """The subsets and splits to choose from: the outputs of `fields`."""
    subsets = [name for name in found.parts if name]
    choices = subsets if len(subsets) == 1 else [ANY, *subsets]
    known = _known(found)
    first = next((name for name in (known.subset if known else "", "default") if name in subsets), choices[0])
    splits, split = _splits(found, first)
    split = known.split if known and known.split in splits else split
    return [gr.Dropdown(choices, value=first), gr.Dropdown(splits, value=split), found]


def _known(found: HubDataset) -> open_data.DatasetEntry | None:
    """What our own list says of the dataset."""
    return next((one for one in open_data.datasets() if one.hub == found.id), None)


def _splits(found: HubDataset | None, subset: str) -> tuple[list[str], str]:
    held = [splits for name, splits in (found.parts if found else {}).items() if subset in (ANY, name)]
    names = list(dict.fromkeys(name for splits in held for name in splits if name))
    choices = names if len(names) == 1 else [ANY, *names]
    return choices, next((name for name in names if name == "train"), choices[0])
