"""The view of one run: the right card of Train (`dense`) and the detail under Runs, from the same pieces.

    view = RunView("tb-train-run", board.workspace, dense=True)           # builds its components where it is called
    clock.tick(view.refresh, [run_id, view.watch], view.outputs, **QUIET)
    view.connect(run_id)                                                  # Stop works; the other buttons are the tab's
    view.buttons["details"].click(...)

Only what changed since the last refresh of that browser is sent. This module draws; `app.running.watch` reads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app.board import QUIET
from app.running import charts, runs
from app.running.judging import SCORES, Judging
from app.running.tail import last_lines
from app.running.watch import Happening, Watch
from app.theme import empty, pill, sentence_done, sentence_error, sentence_warning
from engine.contract import events, judging
from engine.contract.rundir import Run

BUTTONS = {"resume": "Resume", "clone": "Clone", "evaluate": "Evaluate", "chat": "Chat", "export": "Export"}
DENSE_BUTTONS = {"details": "All of it", "evaluate": "Evaluate", "chat": "Chat", "export": "Export"}
LOG_LINES, STORY_LINES = 400, 100
SHARES = {"preferred": "Preferred", "agreed": "As labelled"}
NOTHING = ("No run is open", "Choose one on the left, or start one under Train.")


class RunView:
    """The components of one run. `buttons` holds `stop` and, for the tab to wire, BUTTONS (or DENSE_BUTTONS)."""

    def __init__(
        self, elem_id: str, workspace: Path, *, dense: bool = False, nothing: tuple[str, str] = NOTHING
    ) -> None:
        self.workspace, self.dense = workspace, dense
        self.watch = gr.State(None)
        self.blank = gr.HTML(empty(*nothing), apply_default_css=False)
        size = ["tb-run", "tb-run-dense"] if dense else ["tb-run"]
        with gr.Column(visible=False, elem_id=elem_id, elem_classes=size) as self.body:
            self.head = gr.HTML("", apply_default_css=False)
            with gr.Row(elem_classes="tb-run-buttons"):
                self.buttons = {"stop": gr.Button("Stop", size="sm", min_width=0, elem_classes="tb-stop")}
                for name, label in (DENSE_BUTTONS if dense else BUTTONS).items():
                    self.buttons[name] = gr.Button(label, size="sm", min_width=0)
            self.judging = Judging(f"{elem_id}-judging")
            self.curves = charts.chart(f"{elem_id}-curves", dense=dense)
            with gr.Row(elem_classes="tb-run-below", equal_height=True):
                if not dense:
                    self.story = gr.HTML("", apply_default_css=False, elem_classes="tb-story-box")
                self.log = gr.HTML(
                    "",
                    html_template=f'<div class="tb-log{" tb-dense" if dense else ""}"></div>',
                    js_on_load="tuneboard.log(element, props, watch)",
                    apply_default_css=False,
                )
        parts = [self.blank, self.body, self.head, self.curves, self.log, *([] if dense else [self.story])]
        self.outputs = [self.watch, *parts, *self.judging.outputs, *self.buttons.values()]

    def connect(self, run_id: gr.State | gr.Textbox) -> None:
        """Stop asks the run to save and end; while it saves, the button says Kill and means it."""
        again: dict[str, Any] = {"fn": self.refresh, "inputs": [run_id, self.watch], "outputs": self.outputs, **QUIET}
        self.buttons["stop"].click(self._stop, run_id, None, **QUIET).then(**again)
        place = self.judging
        for pressed, score in zip(place.buttons, SCORES.values(), strict=True):
            pressed.click(
                lambda id, number, score=score: place.score(self._run(id), number, score),
                [run_id, place.number], None, **QUIET,
            ).then(**again)  # fmt: skip
        place.other.submit(
            lambda id, number, said: place.typed(self._run(id), number, said),
            [run_id, place.number, place.other], [place.other, place.said], **QUIET,
        ).then(**again)  # fmt: skip

    def _run(self, run_id: str) -> Run | None:
        return runs.opened(self.workspace, run_id)

    def _stop(self, run_id: str) -> None:
        if run := runs.opened(self.workspace, run_id):
            runs.stop(run)

    def refresh(self, run_id: str, watch: Watch | None) -> list[Any]:
        """The updates for `outputs`: the run as it is now, or the empty place when there is no such run."""
        run = runs.opened(self.workspace, run_id)
        if run is None:
            hidden = [gr.HTML(visible=True), gr.Column(visible=False)]
            return [None, *hidden, *(gr.skip() for _ in self.outputs[3:])]
        if watch is None or watch.run.id != run.id:
            watch = Watch(run)
        watch.look()
        parts: dict[str, Any] = {
            "blank": {"visible": False},
            "body": {"visible": True},
            "head": {"value": head(watch)},
            "curves": self._curves(watch),
            "log": self._log(watch),
        }
        if not self.dense:
            parts["story"] = {"value": story(list(watch.story), watch.plain)}
        parts |= self.judging.parts(watch)
        for name in self.buttons:
            parts[name] = button(name, watch)
        return [watch, *(_changed(watch, name, part) for name, part in parts.items())]

    def _curves(self, watch: Watch) -> dict[str, Any] | None:
        # What was planned and will not come would only press the curve of a run that ended early into a corner.
        total = watch.steps_total if watch.moving else watch.curve.last_step
        drawn = (len(watch.curve), watch.curve.last_step, total)
        if watch.sent.get("drawn") == drawn:
            return None
        watch.sent["drawn"] = drawn
        if not watch.learns:
            return {"value": charts.NONE}
        return {"value": charts.picture_json(watch.curve, watch.run.id, steps_total=total)}

    def _log(self, watch: Watch) -> dict[str, Any] | None:
        path = watch.run.log_path
        stamp = path.stat() if path.exists() else None
        size = (stamp.st_size, stamp.st_mtime_ns) if stamp else None
        if "log size" in watch.sent and watch.sent["log size"] == size:
            return None
        watch.sent["log size"] = size
        return {"value": json.dumps({"run": watch.run.id, "lines": last_lines(path, LOG_LINES)})}


def _changed(watch: Watch, name: str, part: dict[str, Any] | None) -> Any:
    if part is None or watch.sent.get(name) == part:
        return gr.skip()
    watch.sent[name] = part
    return gr.update(**part)


def button(name: str, watch: Watch) -> dict[str, Any]:
    """How a button stands: Stop while the run moves, Kill once it was asked to; the others when they make sense."""
    if name == "stop":
        stopping = bool(watch.status.get("stopping")) and watch.moving
        return {"value": "Kill" if stopping else "Stop", "interactive": watch.moving}
    usable = watch.run.model_path.is_dir() or bool(watch.run.checkpoints())
    ready = {
        "resume": not watch.moving and watch.state != "done" and bool(watch.run.checkpoints()),
        "evaluate": usable, "chat": usable, "export": usable,
    }  # fmt: skip
    return {"interactive": ready.get(name, True)}


def head(watch: Watch) -> str:
    """Verdict on top when it has ended badly, then name and state, progress, and the numbers of the moment."""
    doing = ""
    if watch.moving:
        doing = "stopping: saving a checkpoint" if watch.status.get("stopping") else watch.phase
    again = [f"attempt {watch.attempt}"] if watch.attempt > 1 else []
    doing = " · ".join([doing] * bool(doing) + again)
    return (
        f'<div class="tb-run-head">{verdict(watch)}<div class="tb-run-line">{pill(watch.state)}'
        f'<strong title="{escape(watch.title)}">{escape(watch.title)}</strong><span>{escape(doing)}</span></div>'
        f"{progress(watch)}{facts(watch)}</div>"
    )


def verdict(watch: Watch) -> str:
    """Why it ended, as a sentence with the way out; empty while there is nothing to say."""
    why, hint = str(watch.status.get("why", "")), str(watch.status.get("hint", ""))
    match watch.state:
        case "failed" if watch.failure and not watch.status.get("out_of_memory"):
            return sentence_error(watch.plain(watch.failure.text), watch.plain(watch.failure.hint))
        case "failed":
            return sentence_error(watch.plain(why or "The run failed."), watch.plain(hint or "The log says more."))
        case "running" if watch.again:
            return sentence_warning(watch.again.text, watch.plain(watch.again.hint))
        case "lost":
            return sentence_error(
                "The run was lost: its processes ended without a word, as after a power cut.",
                "Resume goes on from its last checkpoint." if watch.run.checkpoints() else "Clone starts it again.",
            )
        case "stopped":
            return sentence_warning(watch.plain(why) or "Stopped on request.")
        case "done" if watch.result:
            return sentence_done(watch.result.sentence)
    return ""


def progress(watch: Watch) -> str:
    """The bar and what it says; it keeps its height when nothing is known."""
    share, words, left = (1.0 if watch.state == "done" else 0.0), "", ""
    if watch.state == "queued":
        words = awaited(watch.run)
    elif found := watch.progress:
        share = min(1.0, found.step / found.steps) if found.steps else 0.0
        counted = f"{found.step:,} of {found.steps:,}"
        words = f"step {counted}" if found.unit == "steps" else f"{counted} {found.unit}"
        if watch.moving and found.seconds_left:
            left = f"{duration(found.seconds_left)} left"
    elif watch.moving:
        words = "Starting" if not watch.phase else "" if watch.phase == judging.PHASE else "Getting ready"
    return (
        f'<div class="tb-progress" role="progressbar" aria-label="Progress" aria-valuenow="{share * 100:.0f}">'
        f'<i class="tb-{watch.state}" style="width:{share:.1%}"></i></div>'
        f'<div class="tb-progress-words"><span>{escape(words)}</span><span>{left}</span></div>'
    )


def awaited(run: Run) -> str:
    """What a queued run waits for, and whether somebody must do something about it."""
    working = [one for one in runs.listed(run.workspace) if one.state == "running"]
    if any(one.kind == "serve" for one in working):
        return "The chat holds the device. Press Unload under Chat; then this starts by itself."
    who = f"“{working[-1].title}” to end" if working else "the device"
    if working and judging.waiting(working[-1].run):
        return f"“{working[-1].title}” comes first, and waits for you; then this starts by itself."
    return f"Waiting for {who}; it starts by itself."


def facts(watch: Watch) -> str:
    """The numbers of the moment; an unknown one is a dash, so that none moves."""
    begun, ended = watch.status.get("started_at"), watch.status.get("ended_at")
    until = ended or (time.time() if watch.moving else runs.last_sign(watch.run))
    elapsed = duration(float(str(until)) - float(str(begun))) if begun else "–"
    shown = {"Elapsed": elapsed} | (_learnt(watch.curve, watch.aim) if watch.learns else {})
    pairs = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in shown.items())
    return f'<dl class="tb-facts">{pairs}</dl>'


def _learnt(curve: charts.Curve, aim: str) -> dict[str, str]:
    return {
        aim.capitalize(): _number(curve.latest(f"train/{aim}"), ".4g"),
        f"Held-out {aim}": _number(curve.latest(f"eval/{aim}"), ".4g"),
        **{words: f"{share:.0%}" for words, share in _shares(curve)},
        "Speed": _number(curve.latest("train/tokens_per_second"), ",.0f", " tokens/s"),
        "Memory": _number(curve.latest("memory/peak_gb"), ".1f", " GB"),
    }


def _shares(curve: charts.Curve) -> list[tuple[str, float]]:
    """How often it is right, where that says more than a loss: on held-out rows if there are any."""
    found = {word: (curve.latest(f"eval/{key}"), curve.latest(f"train/{key}")) for key, word in SHARES.items()}
    lasts = {word: held if held is not None else seen for word, (held, seen) in found.items()}
    return [(word, share) for word, share in lasts.items() if share is not None]


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def story(happenings: list[Happening], plain: Callable[[str], str]) -> str:
    """What happened, newest first; `plain` puts labels for the paths of arguments."""
    lines = "".join(_told(one, plain) for one in reversed(happenings[-STORY_LINES:]))
    return f'<h3 class="tb-title">What happened</h3><ol class="tb-story">{lines or "<li>Nothing yet.</li>"}</ol>'


def _told(one: Happening, plain: Callable[[str], str]) -> str:
    kind, more = one.event.kind, ""
    match one.event:
        case events.Checkpoint(step=step):
            text = f"Checkpoint at step {step:,}"
        case events.Sample(step=step, prompt=prompt, answer=answer, reward=reward):
            text = f"Sample at step {step:,}" + ("" if reward is None else f", worth {reward:.3g}")
            more = f'<q>{escape(prompt)}</q><p class="tb-answer">{escape(answer)}</p>'
        case events.Warn(text=text, hint=hint) | events.Failure(text=text, hint=hint):
            text, more = plain(text), f"<p>{escape(plain(hint))}</p>" if hint else ""
        case events.Result(sentence=text) | events.Note(text=text):
            text = plain(text)
        case events.Serving(address=address):
            text = f"Answering at {address}"
        case _:
            return ""
    at = time.strftime("%H:%M:%S", time.localtime(one.t))
    return f'<li class="tb-told-{kind}"><time>{at}</time><div>{escape(text)}{more}</div></li>'


def duration(seconds: float) -> str:
    """Seconds in a person's words, two units at most: `45 s`, `3 min 20 s`, `1 h 5 min`, `2 d 3 h`."""
    whole = max(0, round(seconds))
    units = [("d", whole // 86400), ("h", whole // 3600 % 24), ("min", whole // 60 % 60), ("s", whole % 60)]
    first = next((place for place, (_, count) in enumerate(units) if count), len(units) - 1)
    return " ".join(f"{count} {unit}" for unit, count in units[first : first + 2] if count or unit == units[first][0])
