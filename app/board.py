"""Puts the tabs together: the frame, the order of the pages, and what they share. It knows nothing of what a tab does.

A tab is one module in `app/tabs` and one word in `TABS`:

    TITLE = "Evaluate"                     # the word on the tab; its id is the module's name, here `evaluate`

    def help_texts() -> dict[str, Help]:   # optional: what the (i) of each field says, by component id
        return Form.help_of(EvaluateArgs, "evaluate")

    def build(board: Board) -> None:       # called once, inside the tab: make the components, connect the events
        ref = gr.Textbox(...)
        clock = board.timer(1.0)           # ticks only while this tab is the one on screen ...
        clock.tick(look, ..., [view, clock])  # ... and rests when look returns gr.Timer(active=False): all is still
        board.opens(refresh, outputs=[...])   # runs whenever somebody comes to this tab, so also after a reload
        board.moves(refresh, outputs=[...])   # runs, while this tab is on screen, when some run starts, ends or goes
        board.asks(take, outputs=[...])       # another tab sent somebody here: take(ref) -> outputs

From another tab, "evaluate this run" is an event whose function returns `board.jump("evaluate", ref)` and whose outputs
are `board.jump_to("evaluate")`. `ref` is what `data.weights` reads: `RUN`, `RUN/step-40`, `exports/NAME`, a model's
name; for `runs` it is a run's id, for `train` that of the run to begin from. The tab on screen and the run or dataset
that is open stand in the address, so that a reload or a second browser shows the same; Train is then asked for
`run:ID`, as its form begins from the run that it shows.

Every function of a tab gets values and returns values; what must survive lies in the workspace, never in this process.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlencode

import gradio as gr

from app.running import runs
from app.theme import Help
from engine.contract import judging, machine

TABS = ("train", "evaluate", "chat", "export", "runs", "data")
"""Modules of `app.tabs`, in the order of the page."""
FRAME_SECONDS = 4.0

IN_ORDER: dict[str, Any] = {"concurrency_id": "tb-tabs", "concurrency_limit": 1}
QUIET: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": [], "api_visibility": "private"}
"""For every event that answers at once: no flicker, and no public endpoint.

Nothing to show progress on: gradio would tell each output that ever had an answer how every later event fares, and look
for each through the whole tree of components, several times an event.
"""


@dataclass(frozen=True)
class Ask:
    """What one tab asks of another; the time makes the same wish twice two wishes."""

    ref: str = ""
    at: int = 0

    def of(self, come: int) -> str:
        """The wish, if it is what this visit came with."""
        return self.ref if self.at == come else ""


@dataclass
class Board:
    """What the tabs share. `workspace` and `allowed` are the only folders that a path from the page may lie in."""

    workspace: Path
    allowed: tuple[Path, ...]
    page: gr.Blocks
    tabs: gr.Tabs
    shown: gr.State  # id of the tab on screen
    opened: gr.State  # id of the run that is open under Runs; write it to open another
    watched: gr.State  # id of the run that Train shows in place of its plan; empty for none
    dataset: gr.State  # name or path of the dataset that is open under Data
    moving: gr.State  # changes when a run starts, ends or goes
    asked: dict[str, gr.State]
    come: dict[str, gr.State]  # changes whenever somebody comes to that tab
    moved: dict[str, gr.State]  # changes with `moving` while that tab is on screen
    building: str = ""
    timers: dict[str, list[gr.Timer]] = field(default_factory=dict)

    def timer(self, seconds: float) -> gr.Timer:
        """A clock of the tab that is being built; it rests whenever another tab is on screen."""
        clock = gr.Timer(seconds, active=False)
        self.timers.setdefault(self.building, []).append(clock)
        return clock

    def opens(
        self, look: Callable[..., Any], inputs: Sequence[Any] = (), outputs: Sequence[Any] = (), **more: Any
    ) -> None:
        """Call `look` whenever this tab comes on screen. `more` goes to gradio's listener."""
        self.come[self.building].change(look, list(inputs), list(outputs), **QUIET, **more)

    def moves(
        self, look: Callable[..., Any], inputs: Sequence[Any] = (), outputs: Sequence[Any] = (), **more: Any
    ) -> None:
        """Call `look` when some run has started, ended or gone, while this tab is on screen."""
        self.moved[self.building].change(look, list(inputs), list(outputs), **QUIET, **more)

    def asks(self, take: Callable[..., Any], inputs: Sequence[Any] = (), outputs: Sequence[Any] = ()) -> None:
        """Call `take(ref, *inputs)` when another tab sends somebody to this one."""

        def taken(ask: Ask, *given: Any) -> Any:
            return take(ask.ref, *given) if ask.ref else skip(outputs)

        asked = self.asked[self.building]
        asked.change(taken, [asked, *inputs], list(outputs), **QUIET)

    @property
    def visit(self) -> list[gr.State]:
        """The inputs `come` and `ask` of an `opens` that must not undo what an `asks` of this tab does meanwhile."""
        return [self.come[self.building], self.asked[self.building]]

    def jump(self, tab: str, ref: str = "") -> list[Any]:
        """The values for `jump_to(tab)`: show that tab and hand it `ref`."""
        now = time.time_ns()
        return [gr.Tabs(selected=tab), tab, now, Ask(ref, now)]

    def jump_to(self, tab: str) -> list[Any]:
        """The outputs of an event that jumps to `tab`."""
        return [self.tabs, self.shown, self.come[tab], self.asked[tab]]

    def select(self, tab: str) -> Callable[[str], list[Any]]:
        """What a click on the word of `tab` does; nothing where the page itself has led there."""
        return lambda shown: [gr.skip(), gr.skip()] if shown == tab else [tab, time.time_ns()]

    def has(self, tab: str) -> bool:
        return tab in self.asked


def modules() -> dict[str, ModuleType]:
    return {name: import_module(f"app.tabs.{name}") for name in TABS}


def help_texts() -> dict[str, Help]:
    """The help behind every field of every tab, by component id; a tab that has fields says `help_texts()`."""
    return {
        key: help
        for module in modules().values()
        if hasattr(module, "help_texts")
        for key, help in module.help_texts().items()
    }


def skip(outputs: Sequence[Any]) -> Any:
    """Leave every output as it is."""
    return [gr.skip() for _ in outputs] if len(outputs) != 1 else gr.skip()


def page(workspace: Path, allowed: Sequence[Path] = ()) -> gr.Blocks:
    """The whole page; `launch` it with what `app.theme` says."""
    names = modules()
    with gr.Blocks(title="Tuneboard", analytics_enabled=False, fill_width=True) as blocks:
        with gr.Row(elem_id="tb-frame"):
            gr.HTML('<div class="tb-brand">Tuneboard</div>', elem_id="tb-brand", padding=False)
            pill = gr.HTML(elem_id="tb-pill", js_on_load=PILL_CLICK, padding=False)
            meter = gr.HTML(meter_html(), elem_id="tb-meter", padding=False)
        address = gr.HTML(html_template="", js_on_load=ADDRESS, elem_id="tb-address", padding=False)
        # Outside gr.Tabs, which counts every child as a tab.
        shown, opened, watched, dataset, moving = *(gr.State("") for _ in range(4)), gr.State(())
        asked = {name: gr.State(Ask()) for name in names}
        come, moved = ({name: gr.State(0) for name in names} for _ in range(2))
        with gr.Tabs(selected=next(iter(names)), elem_id="tb-tabs") as tabs:
            board = Board(
                workspace, tuple(allowed), blocks, tabs, shown, opened, watched, dataset, moving, asked, come, moved
            )
            for name, module in names.items():
                with gr.Tab(module.TITLE, id=name, elem_id=f"tb-tab-{name}") as tab:
                    board.building = name
                    module.build(board)
                # None is dropped, as the last of them counts, and none overtakes another or the address.
                tab.select(
                    board.select(name), board.shown, [board.shown, board.come[name]], trigger_mode="multiple",
                    **IN_ORDER, **QUIET,
                )  # fmt: skip
        _connect(board, list(names), pill, meter, address)
    return blocks


def _connect(board: Board, names: list[str], pill: gr.HTML, meter: gr.HTML, address: gr.HTML) -> None:
    clocks = [(name, clock) for name, made in board.timers.items() for clock in made]

    def shown(name: str) -> list[Any]:
        return [gr.Timer(active=owner == name) for owner, _ in clocks]

    def addressed(name: str, opened: str, watched: str, dataset: str) -> str:
        there = {"runs": {"run": opened}, "train": {"run": watched}, "data": {"data": dataset}}.get(name, {})
        return "?" + urlencode({"tab": name, **{key: value for key, value in there.items() if value}})

    def arrived(search: str) -> list[Any]:
        said = {key: values[-1] for key, values in parse_qs(search.removeprefix("?")).items()}
        name = said.get("tab", "")
        name = name if name in names else names[0]
        run = said.get("run", "")
        opened = [run if name == "runs" else "", run if name == "train" else "", said.get("data", "")]
        watched = Ask(f"run:{run}", time.time_ns()) if opened[1] else gr.skip()
        return [gr.Tabs(selected=name), name, *opened, *only(name), watched]

    def only(shown: str) -> list[Any]:
        return [time.time_ns() if name == shown else gr.skip() for name in names]

    def looked() -> list[Any]:
        moving = [found for found in runs.listed(board.workspace) if found.moving]
        everything = tuple((found.id, found.state) for found in runs.listed(board.workspace))
        waiting = sum(bool(judging.waiting(found.run)) for found in moving if found.state == "running")
        return [pill_html(moving, waiting), meter_html(), everything]

    board.shown.change(shown, board.shown, [clock for _, clock in clocks], **QUIET)
    said = [board.shown, board.opened, board.watched, board.dataset]
    gr.on([state.change for state in said], addressed, said, address, **QUIET)
    # For the tab on screen alone: an event for each of them would only find out that it is not meant.
    board.moving.change(only, board.shown, list(board.moved.values()), **QUIET)
    # A click that was made before the answer came goes before it; only the browser knows of it.
    loaded = board.page.load(
        arrived, address, [board.tabs, *said, *board.come.values(), board.asked["train"]],
        js="() => window.location.search", **IN_ORDER, **QUIET,
    )  # fmt: skip
    loaded.then(None, None, None, js="() => tuneboard.stay()")
    board.page.load(looked, None, [pill, meter, board.moving], **QUIET)
    gr.Timer(FRAME_SECONDS).tick(looked, None, [pill, meter, board.moving], **QUIET)
    if board.has("runs"):
        # Clicked: to the run that waits for somebody, or else that works, or else to the first in the queue.
        def first() -> list[Any]:
            moving = sorted((found for found in runs.listed(board.workspace) if found.moving), key=_urgent_first)
            return [*board.jump("runs", moving[0].id if moving else "")]

        pill.click(first, None, board.jump_to("runs"), **QUIET)


def _urgent_first(found: runs.Summary) -> tuple[bool, bool, float]:
    """A run that waits for somebody, then those that work, then the queue."""
    running = found.state == "running"
    return not (running and judging.waiting(found.run)), not running, found.began


def pill_html(moving: Sequence[runs.Summary], waiting: int = 0) -> str:
    """`1 running · 2 queued`; a server that answers is no run that one waits for, so it is named by itself.

    waiting: how many of the running ones wait for a person's judgement.
    """
    serving = [found for found in moving if found.kind == "serve" and found.state == "running"]
    counts = {
        "waiting for you": waiting,
        "running": sum(found.state == "running" for found in moving) - len(serving) - waiting,
        "queued": sum(found.state == "queued" for found in moving),
        "chat loaded": len(serving),
    }
    words = [f"{number} {word}" if word != "chat loaded" else word for word, number in counts.items() if number]
    state = "running" if counts["running"] or waiting else "queued" if counts["queued"] else "still"
    return (
        f'<button type="button" class="tb-pill tb-{state}">{html.escape(" · ".join(words) or "nothing runs")}</button>'
    )


def meter_html() -> str:
    """The device that trains, and its memory."""
    found, memory = machine.machine(), machine.memory()
    used = memory.total - memory.free
    share = used / memory.total if memory.total else 0.0
    return (
        f'<div class="tb-meter" title="Memory in use on the device that trains">'
        f"<span>{html.escape(found.device_name)}</span>"
        f'<span class="tb-bar"><i style="width:{share:.0%}"></i></span>'
        f"<span>{used / 1e9:.1f} of {memory.total / 1e9:.0f} GB</span></div>"
    )


PILL_CLICK = "element.addEventListener('click', event => event.target.closest('button') && trigger('click'))"
ADDRESS = "watch('value', () => props.value && history.replaceState(null, '', props.value))"
