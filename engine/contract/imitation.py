"""Tasks that learn to write as the rows do: pretrain and sft."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.contract.learning import Learning


class Pretrain(Learning):
    """Learn to go on with plain text, token by token."""

    title: ClassVar[str] = "Pretrain"
    takes: ClassVar[tuple[str, ...]] = ("text",)
    kind: Literal["pretrain"] = "pretrain"


class Sft(Learning):
    """Learn to answer as the rows do (supervised fine-tuning)."""

    title: ClassVar[str] = "SFT"
    takes: ClassVar[tuple[str, ...]] = ("conversation", "text")
    kind: Literal["sft"] = "sft"
