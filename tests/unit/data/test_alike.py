"""Whether a new row says what one before it said."""

from __future__ import annotations

from typing import Any

from data.review.alike import Likeness


def test_rows_that_share_their_words_are_alike() -> None:
    def row(question: str, answer: str = "Yes.") -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}

    likeness = Likeness(0.6, questions=True)
    assert likeness.is_new(row("what is the capital city of france"))
    assert not likeness.is_new(row("What is the capital  city of France", "Other."))
    assert not likeness.is_new(row("what is the capital city of france today"))
    assert likeness.is_new(row("what is the capital city of the kingdom of spain"))
    exact = Likeness(1.0)
    assert exact.is_new(row("a b c d")) and exact.is_new(row("a b c d e")) and not exact.is_new(row("a b c d"))
