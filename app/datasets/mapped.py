"""How a dataset is read, on the page: its format, which column means what, who speaks, and what one record becomes.

    panel = Mapped()                          # makes the components where it is called
    panel.connect(draft)                      # draft: a state that holds the open dataset's entry as JSON
    event.then(panel.drawn, [draft, panel.place], panel.shown)

Every change goes into the draft at once; it is kept when the dataset is saved. What formats there are and what fields
they have is `data.rows.formats`' to say.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any, get_args

import gradio as gr

from app.board import QUIET
from app.datasets import dataset, reading, turns
from app.datasets.dataset import Head
from app.datasets.reading import Reading
from app.theme import Help, sentence_error
from data.datasets.registry import Entry
from data.rows import formats
from data.rows.formats import AUTO, FORMATS, Field
from data.rows.mapping import Role
from engine.contract.errors import BoardError

FIELDS = max(len(form.fields) for form in FORMATS.values())
SPEAKERS = 6
UNUSED = "(not used)"
ROLES = {
    "system": "the system's instruction", "user": "the user", "assistant": "the assistant", "tool": "a tool's result",
    "call": "the assistant, calling a tool",
}  # fmt: skip
CHOOSE = "Choose the format that is most like it; then each of its fields can be given a column."
LONGEST = 6_000  # characters of the raw record that are shown
HELP = {
    **reading.HELP,
    "data-format": Help("How the file is laid out.", when="Change it when the sample below is not what you meant."),
}


class Mapped:
    """The components: a dropdown for the format, one for each field and speaker, how the file is
    read, and the sample."""

    def __init__(self) -> None:
        self.place = gr.State(0)  # which of the first records is the sample
        with gr.Row(elem_classes="tb-row"):
            self.format = gr.Dropdown([AUTO], value=AUTO, label="Format", elem_id="data-format")
            self.fields = [
                gr.Dropdown([], label="field", visible=False, allow_custom_value=True, elem_id=f"data-field-{place}")
                for place in range(FIELDS)
            ]
            self.speakers = [
                gr.Dropdown([], label="speaker", visible=False, elem_id=f"data-speaker-{place}")
                for place in range(SPEAKERS)
            ]
        self.reading = Reading()
        with gr.Row(elem_classes="tb-pager"):
            self.before = gr.Button("Earlier", size="sm", min_width=0)
            self.where = gr.HTML(padding=False)
            self.after = gr.Button("Later", size="sm", min_width=0)
        with gr.Row(elem_classes="data-sample"):
            self.raw = gr.HTML(elem_id="data-raw", padding=False)
            self.becomes = gr.HTML(elem_id="data-becomes", padding=False)
        self.shown = [
            self.place, self.format, *self.fields, *self.speakers, self.where, self.raw, self.becomes, self.before,
            self.after,
        ]  # fmt: skip

    def connect(self, draft: gr.State) -> None:
        self.reading.connect(draft)
        # `input` and not `change`: what is drawn here changes these fields too, and is not a person's wish.
        self.format.input(self._format, [draft, self.format], draft, **QUIET)
        for place, field in enumerate(self.fields):
            field.input(self._column(place), [draft, field], draft, **QUIET)
        for place, speaker in enumerate(self.speakers):
            speaker.input(self._speaker(place), [draft, speaker], draft, **QUIET)
        for button, step in ((self.before, -1), (self.after, 1)):
            button.click(
                lambda draft, place, step=step: self.drawn(draft, place + step),
                [draft, self.place],
                self.shown,
                **QUIET,
            )

    def drawn(self, draft: str, place: int) -> list[Any]:
        """What the draft says, and what becomes of the record at `place` among the first."""
        if not draft:
            return self._nothing("", "")
        entry = dataset.entry(draft)
        try:
            records = dataset.records(entry)
        except BoardError as problem:
            return self._nothing("", sentence_error(problem.text, problem.hint))
        place = min(max(0, place), len(records) - 1)
        raw = _raw(records[place].record)
        try:
            head = dataset.head(entry)
        except BoardError as problem:
            hint = CHOOSE if isinstance(problem, dataset.Unrecognised) else problem.hint
            said = self._nothing(raw, sentence_error(problem.text, hint))
            return [place, gr.Dropdown(_formats(None), value=entry.format), *said[2:]]
        return [
            place,
            gr.Dropdown(_formats(head if entry.format == AUTO else None), value=entry.format),
            *_fields(head),
            *_speakers(head),
            f'<span class="tb-muted">record {records[place].number:,}, as the file has it and as it is read</span>',
            raw,
            _becomes(head, place, entry),
            gr.Button(interactive=place > 0),
            gr.Button(interactive=place + 1 < len(records)),
        ]

    def _nothing(self, raw: str, said: str) -> list[Any]:
        away = [gr.Dropdown(visible=False) for _ in (*self.fields, *self.speakers)]
        return [0, gr.skip(), *away, "", raw, said, gr.Button(interactive=False), gr.Button(interactive=False)]

    def _format(self, draft: str, name: str) -> str:
        if not draft:
            return draft
        told = {"format": name, "columns": {}, "roles": {}}
        return dataset.entry(draft).model_copy(update=told).model_dump_json()

    def _column(self, place: int) -> Any:
        def chosen(draft: str, column: str | None) -> str:
            entry = dataset.entry(draft)
            head = dataset.head(entry)
            field = formats.known(head.mapping.format).fields[place]
            said = "" if column in (None, UNUSED) else str(column)
            # A field that is moved by hand fixes the format: its name means nothing in another.
            told = {"format": head.mapping.format, "columns": {**entry.columns, field.name: said}}
            return entry.model_copy(update=told).model_dump_json()

        return chosen

    def _speaker(self, place: int) -> Any:
        def chosen(draft: str, role: str) -> str:
            entry = dataset.entry(draft)
            named = dataset.speakers(dataset.head(entry))
            return entry.model_copy(update={"roles": {**entry.roles, named[place]: role}}).model_dump_json()

        return chosen


def _formats(head: Head | None) -> list[tuple[str, str]]:
    found = f": {FORMATS[head.mapping.format].title.partition(':')[0]}" if head else ""
    return [(f"Recognised{found}", AUTO), *((form.title, form.name) for form in FORMATS.values())]


def _fields(head: Head) -> list[Any]:
    form = FORMATS[head.mapping.format]
    columns, keys = dataset.columns(head), dataset.keys(head)
    shown = []
    for field in form.fields:
        value = head.mapping.columns.get(field.name) or (None if field.required else UNUSED)
        offered = [
            *([] if field.required else [UNUSED]),
            *(keys if field.inside else columns),
            *([value] if value else []),
        ]
        shown.append(gr.Dropdown(list(dict.fromkeys(offered)), value=value, label=_label(field), visible=True))
    return shown + [gr.Dropdown(visible=False) for _ in range(FIELDS - len(shown))]


def _label(field: Field) -> str:
    name = dataset.label(field)
    return f"{name} (needed)" if field.required else name


def _speakers(head: Head) -> list[Any]:
    named = dataset.speakers(head)[:SPEAKERS]
    choices = [(ROLES[role], role) for role in get_args(Role)]
    shown = [gr.Dropdown(choices, value=_role(head, name), label=f"{name[:40]!r} is", visible=True) for name in named]
    return shown + [gr.Dropdown(visible=False) for _ in range(SPEAKERS - len(shown))]


def _role(head: Head, name: str) -> str | None:
    return head.mapping.roles.get(name) or formats.ROLES.get(name.strip().lower())


def _raw(record: dict[str, Any]) -> str:
    said = json.dumps(record, ensure_ascii=False, indent=2, default=str)
    more = f"\n… and {len(said) - LONGEST:,} characters more" if len(said) > LONGEST else ""
    return f"<pre>{escape(said[:LONGEST] + more)}</pre>"


def _becomes(head: Head, place: int, entry: Entry) -> str:
    found = head.records[place]
    folder = entry.path if entry.path.is_dir() else entry.path.parent
    try:
        row = formats.row(found.record, head.mapping, found.file, found.number, None, folder)
    except BoardError as problem:
        problem = dataset.unsaid(head) or problem
        said = problem.text[:1].upper() + problem.text[1:]
        return sentence_error(said, problem.hint or "Choose another column, or another format.")
    return turns.conversation(row)
