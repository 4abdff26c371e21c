"""How a conversation is held: the settings beside a chat, for the page and the terminal alike."""

from __future__ import annotations

from typing import Any, ClassVar

from engine.contract.fields import Section, arg


class Talk(Section):
    """How the next answers are made."""

    title: ClassVar[str] = "Chat"

    system: str = arg(
        "",
        "What the model is told before the conversation begins.",
        when="To give it a role, or the words that its training rows had.",
        usual="empty, or a few sentences",
        label="System prompt",
        lines=3,
    )
    temperature: float = arg(
        0.7,
        "How freely the next token is chosen; 0 always takes the likeliest.",
        when="Lower for facts, higher for stories.",
        usual="0 to 1",
        ge=0,
        le=2,
    )
    top_p: float = arg(
        0.9,
        "Chooses among the likeliest tokens that together have this share of the chance; 1 is off.",
        when="Lower it when answers wander.",
        usual="0.8 to 1",
        label="Top-p",
        gt=0,
        le=1,
    )
    top_k: int = arg(
        0,
        "Chooses among this many of the likeliest tokens; 0 is off.",
        when="20 to 50 when answers wander.",
        usual="0 to 50",
        label="Top-k",
        ge=0,
        le=1000,
    )
    repetition_penalty: float = arg(
        1.0,
        "Makes tokens that were already said less likely; 1 is off.",
        when="When a small model goes in circles.",
        usual="1 to 1.2",
        label="Repetition",
        gt=0,
        le=2,
    )
    max_tokens: int = arg(
        512,
        "Longest answer.",
        when="Raise it when answers are cut.",
        usual="128 to 2,048",
        label="Max tokens",
        ge=1,
        le=1_048_576,
    )
    seed: int | None = arg(
        None,
        "The same number gives the same answer again; empty gives another one each time.",
        when="To compare settings or models fairly.",
        usual="empty",
        ge=0,
        le=2**32 - 1,
    )
    greedy: bool = arg(
        False,
        "Always takes the likeliest token; temperature, top-p and top-k then do nothing.",
        when="To compare two models without chance.",
        usual="off",
    )
    beams: int = arg(
        1,
        "Follows this many continuations at once and keeps the best; the answer then comes as a whole.",
        when="For short, exact answers.",
        usual="1",
        ge=1,
        le=16,
    )

    def request(self) -> dict[str, Any]:
        """These settings as fields of an OpenAI request; what is off is left out, so that any server understands it."""
        fields: dict[str, Any] = {"max_tokens": self.max_tokens, "temperature": 0 if self.greedy else self.temperature}
        if not self.greedy:
            fields["top_p"] = self.top_p
            fields |= {"top_k": self.top_k} if self.top_k else {}
        fields |= {"repetition_penalty": self.repetition_penalty} if self.repetition_penalty != 1 else {}
        fields |= {"seed": self.seed} if self.seed is not None else {}
        return fields | ({"num_beams": self.beams} if self.beams > 1 else {})

    def opening(self) -> list[dict[str, str]]:
        """The messages that stand before the conversation."""
        return [{"role": "system", "content": self.system}] if self.system.strip() else []
