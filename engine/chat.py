"""Talk to a model in the terminal: `python -m engine chat models=RUN "One question?"`, or a whole conversation.

    models=A,B          what to load, as for serve; address=http://... talks to a server that runs already
    model=B             which of them answers; the first, unless said
    temperature=0.2 ... the settings of the Chat tab, by name

A client like any other: the model runs in a server of its own, which ends with the conversation.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine import follow
from engine.contract import start, text
from engine.contract.client import Said, Server, ServerError, address_of
from engine.contract.errors import ArgsError, BoardError
from engine.contract.fields import walk
from engine.contract.rundir import ENDED
from engine.contract.talk import Talk

POLL_SECONDS = 0.1
OWN = ("model", "address")
SERVE = ("models", "template", "dtype", "device", "trust_remote_code", "port")
COMMANDS = """\
/new            begin a new conversation        /regenerate     answer the last question again
/model [NAME]   let another model answer        /system [TEXT]  what the model is told first
/set NAME=VALUE change a setting                /exit           end"""


def main(words: list[str], workspace: Path) -> int:
    """One question (words that set nothing), or a conversation. 0, or 130 when interrupted."""
    own, serve, settings, question = _sorted(words)
    if "address" in own and serve:
        raise BoardError(f"{serve[0]!r} is for a server of our own, and address= names another.", "Leave one out.")
    talk = _settings(Talk(), settings)
    try:
        with contextlib.nullcontext(own["address"]) if "address" in own else _server(serve, workspace) as address:
            chat = Conversation(Server(address), own.get("model", ""), talk)
            if question:
                return chat.ask(" ".join(question))
            return chat.hold()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


@dataclass
class Conversation:
    """Who is asked, how, and what was said so far."""

    server: Server
    model: str
    talk: Talk
    messages: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.models = [str(model["id"]) for model in self.server.models()]
        self.choose(self.model or self.models[0])

    def choose(self, name: str) -> None:
        if name not in self.models:
            raise BoardError(f"There is no model {name!r} here.", f"Loaded are {', '.join(self.models)}.")
        self.model = name

    def ask(self, question: str) -> int:
        """Print the answer as it comes. A Ctrl-C ends the answer, keeps what was said, and gives 130."""
        self.messages.append({"role": "user", "content": question})
        answer, code = "", 0
        try:
            with contextlib.closing(self._stream()) as pieces:
                for piece in pieces:
                    if isinstance(piece, Said):
                        print(flush=True)
                        print(" · ".join(filter(None, (piece.line, piece.context))), file=sys.stderr, flush=True)
                    else:
                        answer += piece
                        print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print(flush=True)
            print("(stopped)", file=sys.stderr, flush=True)
            code = 130
        except ServerError:
            self.messages.pop()
            raise
        self.messages.append({"role": "assistant", "content": answer})
        return code

    def hold(self) -> int:
        """Questions from the terminal, line by line, until /exit, the end of the input, or two Ctrl-C."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() its history and editing
        print(f"{self.model} listens. /help lists the commands, /exit ends.", file=sys.stderr)
        interrupted = False
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                return 0
            except KeyboardInterrupt:
                print("" if interrupted else "\nPress Ctrl-C again, or type /exit, to end.", file=sys.stderr)
                if interrupted:
                    return 0
                interrupted = True
                continue
            interrupted = False
            if line == "/exit":
                return 0
            try:
                if line.startswith("/"):
                    self.command(line)
                elif line:
                    interrupted = bool(self.ask(line))
            except BoardError as problem:
                print(problem.text, problem.hint, file=sys.stderr)
                if isinstance(problem, ServerError) and not self.server.alive():
                    return 1

    def command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name == "/new":
            self.messages.clear()
        elif name == "/system":
            self.talk = _settings(self.talk, [f"system={rest}"])
        elif name == "/set":
            self.talk = _settings(self.talk, [rest])
        elif name == "/model" and rest:
            self.choose(rest)
        elif name == "/model":
            print("\n".join(f"{'*' if model == self.model else ' '} {model}" for model in self.models))
        elif name == "/regenerate" and self.messages:
            self.messages.pop()
            self.ask(self.messages.pop()["content"])
        elif name == "/regenerate":
            print("There is no question yet.", file=sys.stderr)
        else:
            print(COMMANDS)

    def _stream(self) -> Iterator[str | Said]:
        return self.server.stream(self.model, [*self.talk.opening(), *self.messages], self.talk.request())


@contextlib.contextmanager
def _server(words: list[str], workspace: Path) -> Iterator[str]:
    """The address of a server that lives as long as the block. Its folder goes with it, unless it failed."""
    run = follow.begin(text.parse({}, words, kind="serve"), workspace)
    try:
        said = ""
        while (address := address_of(run)) is None:
            state = run.status().get("state")
            now = {"running": "Loading ...", "queued": "Waiting for the device ..."}.get(str(state), "")
            if now and now != said:
                print(now, file=sys.stderr, flush=True)
                said = now
            time.sleep(POLL_SECONDS)
        yield address
    finally:
        start.stop(run)
        while run.state() not in ENDED:
            time.sleep(POLL_SECONDS)
        if run.state() == "stopped":
            run.delete()


def _sorted(words: list[str]) -> tuple[dict[str, str], list[str], list[str], list[str]]:
    """The words by whom they are for: this client, the server, the settings; the rest is the question."""
    known = {spec.path for spec in walk(Talk)}
    own: dict[str, str] = {}
    serve, settings, question = [], [], []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in OWN:
            own[name] = value
        elif equals and name in SERVE:
            # `models=a,b` reads as two, as a person would type it
            serve.append(f"models=[{value}]" if name == "models" and "," in value and value[0] != "[" else word)
        elif equals and name in known:
            settings.append(word)
        else:
            question.append(word)
    return own, serve, settings, question


def _settings(talk: Talk, words: list[str]) -> Talk:
    content, problems = text.overridden(Talk, talk.model_dump(), words)
    made, found = text.checked(Talk, content)  # type: ignore[arg-type]
    if made is None or problems:
        raise ArgsError([*problems, *found])
    return made  # type: ignore[no-any-return]
