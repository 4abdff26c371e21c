"""Chat: load a base and what was trained from it, ask them the same question, and read the answers side by side.

The page is a client of the server and nothing more; `app.chatting.loaded` knows the server, `app.chatting.talks` the
conversations. What was said lives in the browser's own session, so two browsers share the server and nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from app.board import QUIET, Ask, Board
from app.chatting import loaded, talks
from app.chatting.attached import Attached
from app.chatting.loaded import Loaded
from app.chatting.talks import Talks, Turn
from app.form import Form
from app.results import refs
from app.theme import Help, empty, sentence_error
from engine.contract.client import Said, Server, ServerError
from engine.contract.errors import BoardError
from engine.contract.fields import walk
from engine.contract.talk import Talk

TITLE = "Chat"
MOST_COLUMNS = 3
POLL_SECONDS = 0.7
DRAW_SECONDS = 0.08  # between two pictures of an answer that grows
STREAM: dict[str, Any] = {**QUIET, "concurrency_limit": None}
# One look after the other: a second one that does not know of the first would undo what was chosen since.
IN_TURN: dict[str, Any] = {"concurrency_id": "tb-chat-look", "concurrency_limit": 1}
NOTHING = ("Ask the base and the tuned model the same question", "Choose what to load at the top, and press Load.")
COMING = ("The model is on its way", "You can type your question meanwhile.")
READY = ("Ready", "Type a question below. Enter sends it, Shift+Enter begins a new line.")


def help_texts() -> dict[str, Help]:
    """What the (i) of each setting says."""
    return Form.help_of(Talk, "chat")  # type: ignore[arg-type]


def build(board: Board) -> None:
    Chat(board)


class Chat:
    """The components of the tab and their events."""

    def __init__(self, board: Board) -> None:
        self.board, self.workspace, self.allowed = board, board.workspace, board.allowed
        self.seen = gr.State(Loaded())
        self.talks = gr.State(((),) * MOST_COLUMNS)
        with gr.Row(elem_id="chat", equal_height=True):
            with gr.Column(scale=1, min_width=500, elem_id="chat-main"):
                self._bar()
                with gr.Row(elem_id="chat-columns"):
                    self.columns = [self._column(number) for number in range(MOST_COLUMNS)]
                self._foot()
            with gr.Column(scale=0, min_width=270, elem_classes="tb-card", elem_id="chat-side"):
                self._side()
        self.clock = board.timer(POLL_SECONDS)
        self._connect()

    # Layout

    def _bar(self) -> None:
        with gr.Row(elem_id="chat-bar"):
            self.chosen = gr.Dropdown(
                [], multiselect=True, allow_custom_value=True, show_label=False, container=False, elem_id="chat-models",
                label="Models to load", info=None, scale=3,
            )  # fmt: skip
            self.load = gr.Button("Load", variant="primary", elem_id="chat-load", min_width=0, scale=0)
            self.unload = gr.Button("Unload", elem_id="chat-unload", min_width=0, scale=0, visible=False)
        self.line = gr.HTML(loaded.line(Loaded()), elem_id="chat-state", padding=False)

    def _column(self, number: int) -> tuple[gr.Column, gr.Dropdown, gr.Chatbot, gr.HTML]:
        with gr.Column(visible=number == 0, min_width=200, elem_classes="chat-column") as column:
            with gr.Row(elem_classes="chat-head"):
                who = gr.Dropdown([], show_label=False, container=False, label="Answers", elem_id=f"chat-who-{number}")
                room = gr.HTML(elem_classes="chat-room", padding=False, min_height=20)
            bot = gr.Chatbot(
                show_label=False, container=False, editable="user", buttons=["copy"], layout="bubble", height="100%",
                placeholder=empty(*NOTHING), elem_id=f"chat-talk-{number}", group_consecutive_messages=False,
                label="Conversation", feedback_options=None,
            )  # fmt: skip
        return column, who, bot, room

    def _foot(self) -> None:
        self.said = gr.HTML(elem_id="chat-said", padding=False)
        self.ask = gr.Textbox(
            show_label=False, container=False, label="Your question", placeholder="Ask something", lines=1, max_lines=8,
            submit_btn="Send", elem_id="chat-ask", interactive=True,
        )  # fmt: skip
        with gr.Row(elem_id="chat-actions"):
            self.again = gr.Button("Regenerate", size="sm", min_width=0, elem_id="chat-again")
            self.clear = gr.Button("Clear", size="sm", min_width=0, elem_id="chat-clear")
            self.save = gr.Button("Save", size="sm", min_width=0, elem_id="chat-save")
            self.open = gr.UploadButton("Open", size="sm", min_width=0, file_types=[".json"], elem_id="chat-open")
            self.attached = Attached()
        self.saved = gr.HTML(
            html_template="", js_on_load="tuneboard.download(props, watch)", elem_classes="tb-channel", padding=False
        )

    def _side(self) -> None:
        names = [(word, number) for number, word in enumerate(("One", "Two", "Three"), 1)]
        self.many = gr.Radio(names, value=1, label="Side by side", elem_id="chat-many", elem_classes="tb-segmented")
        self.form = Form(Talk, "chat", {})  # type: ignore[arg-type]
        self.form.field("system", placeholder="none")
        with gr.Row(elem_classes="tb-row chat-settings"):
            for spec in walk(Talk):
                if spec.path != "system":
                    self.form.field(spec.path)

    # Events

    def _connect(self) -> None:
        board, form = self.board, self.form
        people = [who for _, who, _, _ in self.columns]
        self.drawn = [part for _, _, bot, room in self.columns for part in (bot, room)]
        bots = [bot for _, _, bot, _ in self.columns]
        self.view = [
            self.seen, self.line, self.load, self.unload, self.ask, *people, self.many, *bots, self.attached.button,
            self.clock,
        ]  # fmt: skip
        board.opens(self._offer, [*board.visit, self.chosen], [self.chosen])
        board.opens(self._look, [self.seen], self.view, **IN_TURN)
        board.moves(self._look, [self.seen], self.view, **IN_TURN)
        board.asks(self._wanted, [self.seen], [self.chosen, self.said, *self.view])
        self.clock.tick(self._look, [self.seen], self.view, **IN_TURN, **QUIET)
        # Why a question was not sent is over with the loading.
        self.seen.change(lambda now: "" if now.state == "ready" else gr.skip(), self.seen, self.said, **QUIET)
        self.load.click(self._load, [self.chosen, self.seen], [self.said, *self.view], **QUIET)
        self.unload.click(self._unload, [self.seen], self.view, **QUIET)
        gr.on([field.change for field in form.inputs], self._changed, form.inputs, form.channel, **QUIET)
        self.many.change(
            self._spread, [self.many, self.talks], [*(c[0] for c in self.columns), self.talks, *self.drawn], **QUIET
        )

        talked = [self.talks, self.many, self.seen, *people, *form.inputs]
        answers = [self.talks, self.said, self.ask, *self.drawn]
        streams = [
            self.ask.submit(self._send, [self.ask, self.attached.held, *talked], answers, **STREAM),
            self.again.click(self._regenerate, talked, answers, **STREAM),
        ]
        self.attached.connect(self.ask.submit, self.said)
        for number, (_, _, bot, _) in enumerate(self.columns):
            streams += self._corrections(number, bot, talked, answers)
        # First the streams end, then their words are final: the other way round a late piece would overwrite them.
        self.ask.stop(None, cancels=streams, **QUIET).then(self._stopped, [self.talks, *people], answers, **QUIET)
        self.clear.click(None, cancels=streams, **QUIET).then(self._cleared, None, answers, **QUIET)
        self.save.click(self._saved, [self.talks, self.many, *people, *form.inputs], [self.saved, self.said], **QUIET)
        self.open.upload(self._opened, [self.open, *form.inputs], [self.many, *form.inputs, *answers], **QUIET)

    def _corrections(self, number: int, bot: gr.Chatbot, talked: list[Any], answers: list[Any]) -> list[Any]:
        """Edit, retry, and a question that was offered, in one column."""

        def edited(data: gr.EditData, *given: Any) -> Iterator[list[Any]]:
            yield from self._edit(number, data.index, str(data.value), *given)

        def retried(data: gr.RetryData, *given: Any) -> Iterator[list[Any]]:
            yield from self._retry(number, data.index, *given)

        def offered(data: gr.SelectData, *given: Any) -> Iterator[list[Any]]:
            yield from self._send(data.value["text"], (), *given)

        events = [(bot.edit, edited), (bot.retry, retried), (bot.example_select, offered)]
        return [event(answer, talked, answers, **STREAM) for event, answer in events]

    # The server

    def _offer(self, come: int, ask: Ask, chosen: list[str]) -> Any:
        offered = refs.offered(self.workspace)
        if chosen or ask.of(come) or not offered:
            return gr.Dropdown(offered)
        newest = offered[0][1]
        try:
            return gr.Dropdown(offered, value=loaded.pair(self.workspace, newest))
        except BoardError:
            return gr.Dropdown(offered, value=[newest])

    def _wanted(self, ref: str, seen: Loaded) -> list[Any]:
        """Another tab sent somebody here to talk to `ref`."""
        try:
            words = loaded.pair(self.workspace, ref)
        except BoardError as problem:
            return [gr.skip(), self._wrong(problem), *(gr.skip() for _ in self.view)]
        here = loaded.now(self.workspace, seen)
        chosen = gr.Dropdown(refs.offered(self.workspace), value=words)
        if set(words) <= set(here.names):
            return [chosen, "", *self._look(seen)]
        return [chosen, *self._load(words, seen)]

    def _load(self, words: list[str], seen: Loaded) -> list[Any]:
        try:
            run = loaded.load(self.workspace, words, self.allowed)
        except BoardError as problem:
            return [self._wrong(problem), *(gr.skip() for _ in self.view)]
        return ["", *self._viewed(Loaded("loading", run.id))]

    def _wrong(self, problem: BoardError) -> str:
        return sentence_error(*(refs.spoken(said, self.workspace) for said in (problem.text, problem.hint)))

    def _unload(self, seen: Loaded) -> list[Any]:
        loaded.unload(self.workspace)
        return self._viewed(Loaded())

    def _look(self, seen: Loaded) -> list[Any]:
        now = loaded.now(self.workspace, seen)
        if now == seen and not now.moving:
            return [*(gr.skip() for _ in self.view[:-1]), gr.Timer(active=False)]
        return [gr.skip() for _ in self.view] if now == seen else self._viewed(now)

    def _viewed(self, now: Loaded) -> list[Any]:
        """What the page shows of the server; the values of `view`."""
        ready, there = now.state == "ready", now.state in ("queued", "loading", "ready")
        if ready:
            tuned = [name for name in now.names if name not in now.bases]
            order = [*now.bases, *tuned] if len(now.bases) == 1 else list(now.names)
            many = 2 if len(order) > 1 else 1
            names = [(self._named(name, now.names), name) for name in now.names]
            people = [gr.Dropdown(names, value=order[min(n, len(order) - 1)]) for n in range(MOST_COLUMNS)]
        else:
            many, people = gr.skip(), [gr.skip()] * MOST_COLUMNS
        placeholder = empty(*(READY if ready else COMING if there else NOTHING))
        offered = loaded.questions(self.workspace, now.names) if ready else []
        examples = [{"text": question} for question in offered] or None
        return [
            now,
            loaded.line(replace(now, text=refs.spoken(now.text, self.workspace))),
            gr.Button(variant="secondary" if there else "primary"),
            gr.Button("Cancel" if now.moving else "Unload", visible=there),
            gr.Textbox(placeholder="Ask something" if there else "Load a model first", interactive=True),
            *people,
            many,
            *(gr.Chatbot(placeholder=placeholder, examples=examples) for _ in self.columns),
            gr.UploadButton(visible=now.sees),
            gr.Timer(active=now.moving),
        ]

    def _named(self, ref: str, names: Sequence[str]) -> str:
        """By its name, and with its id where another one is called the same."""
        said = refs.short(ref, self.workspace)
        alone = [refs.short(name, self.workspace) for name in names].count(said) == 1
        return said if alone else refs.title(ref, self.workspace)

    # The conversation

    def _send(
        self, question: str, pictures: Sequence[str], said: Talks, many: int, seen: Loaded, *rest: Any
    ) -> Iterator[list[Any]]:
        if not question.strip():
            yield self._unchanged("")
            return
        new = tuple(talks.asked(turns, question, pictures) if n < many else turns for n, turns in enumerate(said))
        yield from self._answered(said, new, range(many), seen, rest, clear=True)

    def _regenerate(self, said: Talks, many: int, seen: Loaded, *rest: Any) -> Iterator[list[Any]]:
        new = tuple(talks.unanswered(turns) if n < many else turns for n, turns in enumerate(said))
        which = [n for n in range(many) if new[n]]
        if not which:
            yield self._unchanged(sentence_error("There is no question yet.", "Type one below."))
            return
        yield from self._answered(said, new, which, seen, rest)

    def _retry(self, column: int, index: Any, said: Talks, many: int, seen: Loaded, *rest: Any) -> Iterator[list[Any]]:
        place = talks.place(said[column], int(index))
        kept = talks.unanswered(said[column][: place + 1])
        yield from self._answered(said, _with(said, column, kept), [column], seen, rest)

    def _edit(
        self, column: int, index: Any, question: str, said: Talks, many: int, seen: Loaded, *rest: Any
    ) -> Iterator[list[Any]]:
        """The question is asked anew in every column in which it stands at the same place."""
        place = talks.place(said[column], int(index))
        old = said[column][place]
        which = [n for n in range(many) if len(said[n]) > place and said[n][place].text == old.text]
        new = said
        for n in which:
            new = _with(new, n, talks.asked(said[n][:place], question, old.pictures))
        yield from self._answered(said, new, which, seen, rest)

    def _answered(
        self, old: Talks, said: Talks, which: Sequence[int], seen: Loaded, rest: Sequence[Any], *, clear: bool = False
    ) -> Iterator[list[Any]]:
        """Stream the answer of each column in `which`, one after the other, as the server does."""
        people, values = rest[:MOST_COLUMNS], rest[MOST_COLUMNS:]
        talk, problems = self.form.checked(values)
        now = loaded.now(self.workspace, seen)
        problem = (
            ("A setting is not usable.", str(problems[0])) if talk is None
            else ("", "") if now.state == "ready"
            else ("The model is still loading.", "Wait until it is ready.") if now.moving
            else ("No model is loaded.", "Choose what to load at the top, and press Load.")
        )  # fmt: skip
        if problem[0]:
            yield self._unchanged(sentence_error(*problem), old)
            return
        server = Server(now.address)
        for column in which:
            said = _with(said, column, talks.answered(said[column], ""))
        emptied = {"value": ""} if clear else {}
        yield [said, "", gr.Textbox(submit_btn=False, stop_btn="Stop", **emptied), *self._draw(said)]
        for column in which:
            try:
                for turns in _stream(server, str(people[column]), talk, said[column][:-1]):
                    said = _with(said, column, turns)
                    yield [said, gr.skip(), gr.skip(), *self._draw(said, column)]
            except ServerError as error:
                said = _with(said, column, talks.answered(said[column], _so_far(said[column]), note="no answer"))
                yield [said, sentence_error(error.text, error.hint), *self._rest(said)]
                return
        yield [said, gr.skip(), *self._rest(said)]

    def _rest(self, said: Talks) -> list[Any]:
        return [gr.Textbox(submit_btn="Send", stop_btn=False), *self._draw(said)]

    def _unchanged(self, sentence: str, said: Talks | None = None) -> list[Any]:
        return [gr.skip(), sentence, gr.skip(), *(self._draw(said) if said else (gr.skip() for _ in self.drawn))]

    def _stopped(self, said: Talks, *people: str) -> list[Any]:
        for column, turns in enumerate(said):
            if turns and turns[-1].role == "assistant" and not turns[-1].note:
                said = _with(said, column, talks.answered(turns, turns[-1].text, note=f"{people[column]} · stopped"))
        return [said, gr.skip(), *self._rest(said)]

    def _cleared(self) -> list[Any]:
        said: Talks = ((),) * MOST_COLUMNS
        return [said, "", *self._rest(said)]

    def _spread(self, many: int, said: Talks) -> list[Any]:
        """A column that comes into sight goes on from where the first one is."""
        for column in range(1, many):
            if not said[column]:
                said = _with(said, column, said[0])
        return [*(gr.Column(visible=n < many) for n in range(MOST_COLUMNS)), said, *self._draw(said)]

    def _draw(self, said: Talks, only: int | None = None) -> list[Any]:
        parts: list[Any] = []
        for column, turns in enumerate(said):
            here = only is None or column == only
            named = [replace(turn, note=refs.spoken(turn.note, self.workspace)) for turn in turns]
            parts += [talks.shown(named), talks.room(turns)] if here else [gr.skip(), gr.skip()]
        return parts

    # Settings and files

    def _changed(self, *values: Any) -> str:
        return self.form.news(values, self.form.checked(values)[1])

    def _saved(self, said: Talks, many: int, *rest: Any) -> list[Any]:
        people, values = rest[:MOST_COLUMNS], rest[MOST_COLUMNS:]
        talk, problems = self.form.checked(values)
        if not any(said[:many]):
            return [gr.skip(), sentence_error("There is nothing to save yet.")]
        if talk is None:
            return [gr.skip(), sentence_error("A setting is not usable.", str(problems[0]))]
        name = time.strftime("conversation-%Y%m%d-%H%M%S.json")
        return [json.dumps({"name": name, "text": talks.saved(said[:many], people, talk)}), ""]

    def _opened(self, file: str | None, *values: Any) -> list[Any]:
        try:
            said, talk = talks.read(Path(file or "").read_bytes())
        except BoardError as problem:
            sentence = sentence_error("This file was not opened.", problem.text)
            return [gr.skip(), *(gr.skip() for _ in values), *self._unchanged(sentence)]
        said = (*said, *((),) * MOST_COLUMNS)[:MOST_COLUMNS]
        many = max(1, sum(bool(turns) for turns in said))
        settings = self.form.shown(talk) if talk else [gr.skip() for _ in values]  # type: ignore[arg-type]
        return [many, *settings, said, "", gr.skip(), *self._draw(said)]


def _stream(server: Server, model: str, talk: Talk, turns: tuple[Turn, ...]) -> Iterator[tuple[Turn, ...]]:
    """`turns` with the answer as it grows. Closing the iterator ends the generation."""
    text, drawn = "", 0.0
    with closing(server.stream(model, talks.messages(talk, turns), talk.request())) as pieces:  # type: ignore[type-var]
        for piece in pieces:
            if isinstance(piece, Said):
                yield talks.answered(turns, text, piece)
                return
            text += piece
            if time.monotonic() - drawn > DRAW_SECONDS:
                yield talks.answered(turns, text)
                drawn = time.monotonic()


def _so_far(turns: Sequence[Turn]) -> str:
    return turns[-1].text if turns and turns[-1].role == "assistant" else ""


def _with(said: Talks, column: int, turns: tuple[Turn, ...]) -> Talks:
    return (*said[:column], turns, *said[column + 1 :])
