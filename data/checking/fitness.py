"""Whether a model, its template and rows fit together: the faults that make a run a waste, each in a sentence.

Looks at one row at a time, as text and as tokens. Knows nothing of files, of how rows are counted, or of pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from data.datasets.splitting import content
from data.encoding import asked
from data.encoding.cut import Kept, View, shortened
from data.encoding.mask import Rendered, learnt, locate
from data.encoding.outcome import PARTS
from data.encoding.prepare import suited
from data.encoding.render import ChatTemplate, NoTemplate
from data.encoding.special import settings
from data.encoding.templates import suggest
from data.encoding.tokens import Encoded, TextTokenizer
from data.models import called, is_base, sees
from data.review.finding import Finding, Level
from data.rows.conversation import Kind, Row, answer_at
from engine.contract.args import TrainArgs
from engine.contract.dataset import Data
from engine.contract.errors import DataError, ModelError
from engine.contract.fields import sections
from engine.contract.tasks import Task

SETTINGS = ("generation_config.json", "config.json")
COMPARED = 24  # rows whose rendering is compared with the model's own
UNKNOWN_SHARE = 0.02  # of a row's tokens that may be unknown before it is said
# What a template writes to steer a model: text of this form should be one token each.
STEERING = re.compile(r"<\|[^|<>\s]+\|>|<｜[^｜<>]+｜>|<(?:start|end)_of_turn>|<(?:bos|eos)>")
KINDS: dict[Kind, str] = {
    "conversation": "conversations", "text": "plain text", "preference": "pairs of a better and a worse answer",
    "feedback": "answers judged good or bad", "scored": "answers with a score", "prompt": "questions without an answer",
}  # fmt: skip


class Place(NamedTuple):
    """Where a row was read: a file and a number that is unique in its dataset."""

    file: str
    number: int


@dataclass(frozen=True)
class Found(Finding):
    """A finding about the rows of a run, which may come from several datasets: `places` says where `rows` lie."""

    places: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Subject:
    """What rows are rendered with. `own` is what the model brings itself, None when it brings no chat template.

    write: renders a row that shows pictures with as many tokens as these come to; without it they count as one.
    """

    model: str
    template: ChatTemplate
    tokenizer: TextTokenizer
    own: ChatTemplate | None
    stops: frozenset[int]  # ids at which the model itself stops answering
    chosen: bool  # whether the template was chosen, and is not the model's own by default
    sees: bool = False  # whether the model takes pictures
    base: bool = False  # whether it is known to have been taught no conversation, whatever template it brings
    write: Callable[[Row], list[Rendered]] | None = None

    @cached_property
    def control(self) -> re.Pattern[str] | None:
        """The special tokens as they would stand in a text, the longest first."""
        said = {self.tokenizer.token(id) for id in self.tokenizer.special_ids}
        words = sorted((re.escape(word) for word in said if word), key=len, reverse=True)
        return re.compile("|".join(words)) if words else None

    @property
    def unknown_id(self) -> int | None:
        name = self.tokenizer.named.get("unk_token")
        return self.tokenizer.id(name) if name else None

    def word(self, id: int) -> str:
        return self.tokenizer.token(id) or str(id)


class Fault(NamedTuple):
    """One kind of fault in rows; `text` follows `In 3 of 280 rows `."""

    level: Level
    text: str
    hint: str


FAULTS: dict[str, Fault] = {
    "kind": Fault("error", "there are {what}", ""),
    "refused": Fault("error", "the conversation cannot be rendered: {what}.",
                     "To train on the others alone, set Rows that cannot be read to skip."),
    "untrained": Fault("warning", "there is no token to learn from, so they are left out.",
                       "Raise the maximum length, change what is cut, or look at the rows: are there answers?"),
    "open": Fault("warning", "the template {template} ends an answer without a special token, so the model does not "
                  "learn where to stop.", "Choose a template that closes its turns."),
    "open_earlier": Fault("warning", "the template {template} closes the last answer alone; the earlier ones are "
                          "trained without an end.", "Set Train on to last."),
    "stop": Fault("warning", "an answer ends with {what}, and the model itself stops elsewhere: at {stops}.",
                  "Evaluate, Chat and Export of this board stop at both; other programs may run on."),
    "foreign": Fault("warning", "the template {template} writes another text than the model's own.",
                     "Set Template to auto, unless the model is to learn another form."),
    "double_bos": Fault("warning", "the text begins with {what} twice.",
                        "Take it out of the rows, or choose a template that does not write it."),
    "special": Fault("warning", "the text itself holds special tokens: {what}.",
                     "The model takes them for the real ones. Edit or exclude these rows in Data."),
    "unknown": Fault("warning", "the tokenizer does not know much of the text and writes {what}.",
                     "These rows may be in a language that the model was not made for."),
    "cut": Fault("warning", "there are more than {longest:,} tokens{parts}.",
                 "Raise the maximum length, or choose what is cut."),
    "crowded": Fault("warning", "the question has more than {longest:,} tokens, which leaves too little room for the "
                     "answer; they are left out.", "Raise the maximum length, or lower the longest answer."),
    "divided": Fault("note", "the text has more than {longest:,} tokens and becomes several sequences; nothing of it "
                     "is lost.", ""),
}  # fmt: skip
"""In the order in which they are said."""
ALIKE = (
    "All {count:,} answers have the same score ({score:g}), so nothing tells better from worse.",
    "See whether the right column holds the score (data.train), or choose sft (task.kind).",
)
GRAVITY: tuple[Level, ...] = ("error", "warning", "note")
SAID = 3  # things that a sentence lists


def said(
    kind: str, count: int, looked: int, what: Mapping[str, int], places: Sequence[Place], subject: Subject, data: Data
) -> Found:
    """The finding that `count` of the `looked` rows have a fault; `what` they show, and in how many of them."""
    fault = FAULTS[kind]
    level = fault.level
    gone = kind in ("untrained", "crowded") or (kind == "cut" and what.get("row") == count)
    if gone and count == looked:  # nothing to train on at all is no matter of taste
        level = "error"
    if kind == "refused" and data.bad_rows == "skip" and count < looked:
        level = "warning"
    listed = sorted(what, key=lambda word: -what[word])
    words = ", ".join(listed[:SAID]) + (", ..." if len(listed) > SAID else "")
    hint = fault.hint
    if kind == "refused":  # each reason is a sentence of its own
        others = len(listed) - 1
        words = listed[0] + (f"; and {others:,} more reason{'s' * (others > 1)}" if others else "")
        hint = fault.hint if level == "error" and count < looked else ""
    of = f"{count:,} of {looked:,} rows" if count < looked else "all rows" if count > 1 else "the only row"
    text = fault.text.format(
        what=words, template=_name(subject), longest=data.max_length,
        parts=_parts(what, count) if kind == "cut" else "",
        stops=", ".join(sorted(map(subject.word, subject.stops))),
    )  # fmt: skip
    return Found(kind, level, f"In {of} {text}", count, tuple(place.number for place in places), hint,
                 places=tuple(places))  # fmt: skip


def _parts(lost: Mapping[str, int], count: int) -> str:
    """`; they lose their oldest turns`, or `: 3 lose their oldest turns, 1 ...`."""
    if count > 1 and list(lost.values()) == [count]:
        return f"; they {PARTS[next(iter(lost))]}"
    return f": {parts(lost)}"


def parts(lost: Mapping[str, int]) -> str:
    """`3 lose their oldest turns, 1 loses the end of the answer`."""
    said = {part: words for part, words in PARTS.items() if part in lost}
    one = {part: re.sub(r"^lose their", "loses its", words) for part, words in said.items()}
    one = {part: re.sub(r"^lose\b", "loses", re.sub(r"^are\b", "is", words)) for part, words in one.items()}
    return ", ".join(f"{lost[part]:,} {(one if lost[part] == 1 else said)[part]}" for part in said)


def subject(folder: Path, template: str = "auto", words: Sequence[str] = ()) -> Subject:
    """The subject of a run on the model in `folder` with `words` as tokens, read again only when its files have
    changed. Raises ModelError."""
    files = [folder / name for name in (*SETTINGS, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")]
    return _subject(
        folder, template, tuple(words), tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)
    )


def _try(template: ChatTemplate, folder: Path) -> None:
    """Raises ModelError for a template that is broken, with the name of ours that fits the model."""
    try:
        template.render([{"role": "user", "content": "Hello?"}])
    except DataError:
        pass  # it wants another conversation; its rows will show
    except ModelError as problem:
        family = suggest(called(folder))
        hint = f"Set Template to {family.name}, which is for models of this name." if family else problem.hint
        raise ModelError(problem.text, hint) from None


@lru_cache(maxsize=4)
def _subject(folder: Path, template: str, words: tuple[str, ...], changed: object) -> Subject:
    name = None if template == "auto" else template
    chosen, tokenizer = ChatTemplate.if_any(folder, name), TextTokenizer.of(folder, words)
    _try(chosen, folder)
    found = ChatTemplate.if_any(folder) if name else chosen
    own = None if isinstance(found, NoTemplate) else found
    stops = _stops(folder, tokenizer)
    return Subject(called(folder), chosen, tokenizer, own, stops, bool(name), sees(folder), is_base(folder))


def conversations(row: Row) -> list[tuple[Row, int]]:
    """The conversations that a row holds, two where it holds two answers to one question, and in each the index of the
    first message that is not given."""
    if row.kind in ("feedback", "scored"):
        return [(row, answer_at(row.messages))]
    if row.kind != "preference":
        return [(row, 0)]
    talks = (replace(row, messages=[*row.messages, *(answer or [])]) for answer in (row.chosen, row.rejected))
    return [(talk, len(row.messages)) for talk in talks]


def meant(args: TrainArgs) -> TrainArgs:
    """`args` as they hold for rows: where the model writes the answer, the question has what that leaves of the length,
    and is not cut."""
    if not args.task.generates:
        return args
    room = {"max_length": args.data.max_length - args.task.max_new_tokens, "cut": "drop"}
    return args.model_copy(update={"data": args.data.model_copy(update=room)})


def read(row: Row, args: TrainArgs) -> Row:
    """A row as the task reads it: as a question alone where the model writes the answer. Raises DataError."""
    if not args.task.generates:
        return row
    rewards = args.task.rewards
    return asked.ready(row, rewards.column, compares=rewards.compares, needs=rewards.needed)


def rendered(row: Row, subject: Subject, data: Data) -> list[Rendered]:
    """The conversations of a row as text, with what is trained. Raises DataError."""
    if row.kind == "text":
        named = subject.tokenizer.named
        begin = named.get("bos_token", "") if subject.tokenizer.begins else ""
        text = f"{begin}{row.text}{named.get('eos_token', '')}"
        return [Rendered(text, [(0, len(text))])]
    row = suited(row, (row.kind,), data.thoughts, subject.sees and row.kind != "feedback")
    if subject.write and shows(row):
        return subject.write(row)
    talks = conversations(row)
    if row.kind == "prompt":
        return [Rendered(subject.template.render(row.messages, row.tools, add_generation_prompt=True), [])]
    train_on = data.train_on if row.kind == "conversation" else "assistant"  # a judgement is of the whole answer
    return [locate(talk, subject.template, train_on, since) for talk, since in talks]


def views(said: Sequence[Rendered], encoded: Sequence[Encoded], subject: Subject) -> list[View]:
    """Rendered conversations as tokens."""
    both = zip(said, encoded, strict=True)
    return [View(text, tokens, *learnt(text, tokens, subject.tokenizer)) for text, tokens in both]


def viewed(row: Row, subject: Subject, data: Data) -> list[View]:
    """The conversations of one row as tokens, before any cut. Raises DataError."""
    said = rendered(row, subject, data)
    return views(said, [subject.tokenizer.encode(text.text) for text in said], subject)


def cut(row: Row, found: Sequence[View], subject: Subject, data: Data) -> Kept:
    """What is left of a row within the maximum length; a text is divided and loses nothing."""
    if row.kind == "text" or max(len(view.encoded) for view in found) <= data.max_length:
        return Kept([(view.encoded.ids, view.stretches) for view in found])
    return shortened(row, found, data.max_length, data.cut, lambda shorter: viewed(shorter, subject, data))


def kept(view: View, ids: Sequence[int]) -> list[bool]:
    """Which tokens of a conversation are among `ids`, which is what a cut has left of it."""
    left = [False] * len(view.encoded)
    for block in SequenceMatcher(None, view.encoded.ids, ids, autojunk=False).get_matching_blocks():
        left[block.a : block.a + block.size] = [True] * block.size
    return left


def shows(row: Row) -> bool:
    """Whether a row shows pictures or films."""
    return any(isinstance(turn["content"], list) for turn in (*row.messages, *(row.chosen or ())))


def texts(row: Row) -> list[str]:
    """Everything that is said in a row."""
    said = [content(turn) for turn in (*row.messages, *(row.chosen or ()), *(row.rejected or ()))]
    return said if row.text is None else [*said, row.text]


def of_tokens(row: Row, view: View, subject: Subject) -> Iterator[tuple[str, str]]:
    """The faults of one row as it is read by the model, each with the word that it shows."""
    bos, ids = subject.tokenizer.bos_id, view.encoded.ids
    if bos is not None and ids[:2] == [bos, bos]:
        yield "double_bos", subject.word(bos)
    if row.kind != "text" and view.stretches:
        last = ids[view.stretches[-1][1] - 1]
        if not view.ends:
            closed = len(view.stretches) > 1 and last in subject.tokenizer.special_ids
            yield "open_earlier" if closed else "open", ""
        elif subject.stops and last not in subject.stops:
            yield "stop", subject.word(last)
    unknown = subject.unknown_id
    if unknown is not None and unknown in ids and ids.count(unknown) >= UNKNOWN_SHARE * len(ids):
        yield "unknown", subject.word(unknown)


def of_text(row: Row, subject: Subject) -> Iterator[tuple[str, str]]:
    """The faults of one row as it stands in the file."""
    if subject.control is None:
        return
    for text in texts(row):
        if row.kind == "text":  # such rows often bring the marks of their own beginning and end
            named = subject.tokenizer.named
            text = text.strip().removeprefix(named.get("bos_token", "")).removesuffix(named.get("eos_token", ""))
        for found in dict.fromkeys(subject.control.findall(text)):
            yield "special", found


def foreign(row: Row, subject: Subject) -> bool:
    """Whether the chosen template writes a row otherwise than the model's own. What that refuses is not compared."""
    if not subject.chosen or subject.own is None or row.kind == "text":
        return False
    for talk, _ in conversations(row):
        try:
            own = subject.own.render(talk.messages, talk.tools)
        except (DataError, ModelError):
            continue
        if own != subject.template.render(talk.messages, talk.tools):
            return True
    return False


def of_model(rows: Sequence[Row], subject: Subject, differs: bool) -> Iterator[Found]:
    """What there is to say about the model and the template alone; `differs` from the model's own text."""
    talks = [row for row in rows if row.kind != "text"]
    if not talks:
        return
    hint = "A base model learns it from rows enough; if there is a chat model of the same family, start from that."
    if subject.base and subject.own is not None:
        said = (
            f"{subject.model} is a base model, so it may never have seen the form of the chat template that it brings."
        )
        yield Found("base", "note", said, hint=hint)
    elif subject.own is None and subject.chosen:
        said = (
            f"{subject.model} brings no chat template, so it has most likely never seen the form of {_name(subject)}."
        )
        yield Found("base", "warning", said, hint=hint)
    if not subject.chosen:
        return
    if subject.own is None or differs:
        written = dict.fromkeys(STEERING.findall(_frame(talks[0], subject)))
        if lost := [word for word in written if subject.tokenizer.id(word) is None]:
            said = f"The template {_name(subject)} writes {', '.join(lost)}, which the tokenizer takes to pieces."
            yield Found("pieces", "warning", said, hint="Choose the template of the model's own family.")


def unsuited(kind: Kind, takes: Sequence[str], title: str) -> str:
    """What is wrong with rows of a kind that the task cannot learn from, and the tasks that usually do."""
    fitting = [task.title for task in sections(Task) if task.takes[:1] == (kind,)]
    way_out = f"Choose {' or '.join(fitting)} under Task" if fitting else "Choose another dataset"
    wanted = " or ".join(KINDS[name] for name in takes)
    return f"{KINDS[kind]}, and {title} learns from {wanted}. {way_out}."


def _name(subject: Subject) -> str:
    return subject.template.name


def _frame(row: Row, subject: Subject) -> str:
    """What the template writes around what is said."""
    talk, _ = conversations(row)[0]
    text = subject.template.render(talk.messages, talk.tools)
    for said in texts(row):
        text = text.replace(said, "") if said else text
    return text


def _stops(folder: Path, tokenizer: TextTokenizer) -> frozenset[int]:
    said: list[object] = [tokenizer.eos_id]
    for file in SETTINGS:
        stated = settings(folder / file).get("eos_token_id")
        said += stated if isinstance(stated, list) else [stated]
    return frozenset(id for id in said if isinstance(id, int))
