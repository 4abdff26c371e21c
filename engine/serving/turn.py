"""What a chat template puts around what is said: where an answer ends, and the text before and behind each message.

Found by rendering, so it holds for any template; whatever does not fit the pattern gives None. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data.encoding.mask import tokenise
from data.encoding.render import ChatTemplate, NoTemplate
from data.encoding.tokens import TextTokenizer
from data.rows.conversation import Message, Row
from engine.contract.errors import DataError

SYSTEM, ASK, SAID, NEXT = "Xsystem0", "Xuser0", "Xassistant0", "Xuser1"


def end_of_turn(template: ChatTemplate, tokenizer: TextTokenizer) -> int | None:
    """The special token that closes an answer, or None when the template closes it with none."""
    if isinstance(template, NoTemplate):
        return None
    row = Row([{"role": "user", "content": ASK}, {"role": "assistant", "content": SAID}], None, "", 0)
    tokens = tokenise(row, template, tokenizer)
    last = max((index for index, trained in enumerate(tokens.trained) if trained), default=None)
    return tokens.ids[last] if last is not None and tokens.ends else None


def ends(model: Any, template: ChatTemplate, tokenizer: TextTokenizer) -> list[int]:
    """Every token that ends an answer: the model's, the tokenizer's, and the one that the template ends a turn with."""
    own = model.generation_config.eos_token_id if model.generation_config else None
    found = [*(own if isinstance(own, list) else [own]), tokenizer.eos_id, end_of_turn(template, tokenizer)]
    return sorted({id for id in found if id is not None})


@dataclass(frozen=True)
class Frame:
    """The text before and behind the content of each role; `asked` opens the answer; `system` is said by default."""

    opens: dict[str, str]
    closes: dict[str, str]
    asked: str
    system: str = ""

    def render(self, messages: list[Message]) -> str:
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        said = (self.opens[m["role"]] + m["content"] + self.closes[m["role"]] for m in messages)
        return "".join(said) + self.asked


def frame_of(template: ChatTemplate) -> Frame | None:
    """The frame of a template that puts fixed text around every message, tried on conversations; else None."""
    if isinstance(template, NoTemplate):
        nothing = dict.fromkeys(("system", "user", "assistant"), "")
        return Frame(nothing, nothing, "")
    try:
        found = _guess(template)
        if found and all(found.render(m) == template.render(m, add_generation_prompt=True) for m in _trials()):
            return found
    except DataError:
        pass  # the template refuses one of the conversations, so it is no plain frame
    return None


def _trials() -> list[list[Message]]:
    def talk(*turns: str) -> list[Message]:
        return [{"role": role, "content": content} for role, content in zip(turns[::2], turns[1::2], strict=True)]

    asked = talk("user", "What is\ntwo and two?", "assistant", "Four.", "user", "And three?")
    return [talk("user", "Hello."), asked, talk("system", "Be brief.") + asked, talk("system", "S", "user", " a  b ")]


def _guess(template: ChatTemplate) -> Frame | None:
    user, answer = {"role": "user", "content": ASK}, {"role": "assistant", "content": SAID}
    system, again = {"role": "system", "content": SYSTEM}, {"role": "user", "content": NEXT}
    whole = template.render([system, user, answer, again])
    asked = template.render([system, user, answer, again], add_generation_prompt=True).removeprefix(whole)
    before, _, rest = whole.partition(SYSTEM)
    between, _, rest = rest.partition(ASK)
    answering, _, rest = rest.partition(SAID)
    behind, _, user_close = rest.partition(NEXT)
    assistant_close = template.render([system, user, answer]).rpartition(SAID)[2]
    if not answering.startswith(user_close) or not behind.startswith(assistant_close):
        return None
    user_open = behind.removeprefix(assistant_close)
    if not user_open or not between.endswith(user_open):
        return None
    opens = {"system": before, "user": user_open, "assistant": answering.removeprefix(user_close)}
    closes = {"system": between.removesuffix(user_open), "user": user_close, "assistant": assistant_close}
    alone = template.render([user])
    default = alone.removesuffix(user_open + ASK + user_close)
    if default.startswith(before) and default.endswith(closes["system"]) and before:
        default = default[len(before) : len(default) - len(closes["system"])]
    return Frame(opens, closes, asked, default)
