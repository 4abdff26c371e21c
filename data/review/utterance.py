"""One row as text, split by who says it, for those who look for something in what is said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from data.rows.conversation import Message, Row, said

CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)


@dataclass(frozen=True)
class Utterance:
    """What a row says. `asked` by the user; `answered` by the assistant, of a pair the better answer."""

    row: Row

    @cached_property
    def asked(self) -> str:
        return _joined(self._turns, "user")

    @cached_property
    def answered(self) -> str:
        return self.row.text or _joined(self._turns, "assistant")

    @cached_property
    def everything(self) -> str:
        """All that is said by anybody, thoughts and the worse answer of a pair with it."""
        worse = self.row.rejected or []
        texts = [self.row.text or ""]
        for turn in (*self._turns, *worse):
            texts += [said(turn), turn.get("reasoning_content", "")]
            if calls := turn.get("tool_calls"):
                texts.append(json.dumps(calls, ensure_ascii=False, default=str))
        return "\n".join(filter(None, texts))

    @cached_property
    def prose(self) -> str:
        """Everything but code."""
        return without_code(self.everything)

    @cached_property
    def _turns(self) -> list[Message]:
        return [*self.row.messages, *(self.row.chosen or [])]


def without_code(text: str) -> str:
    return CODE.sub(" ", text) if "`" in text else text


def _joined(turns: Iterable[Message], role: str) -> str:
    return "\n".join(said(turn) for turn in turns if turn["role"] == role)
