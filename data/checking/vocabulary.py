"""What a model's own files say against words that are to become tokens, before anything is loaded.

Looks at the vocabulary alone; the tokens themselves are made by the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from data import models
from data.encoding.tokens import TextTokenizer
from engine.contract.errors import Problem

PATH = "model.new_tokens"


def problems(folder: Path, words: Sequence[str]) -> Iterator[Problem]:
    """Each thing that keeps the model in `folder` from having `words` as tokens. Raises ModelError: no tokenizer."""
    if not words:
        return
    if models.sees(folder):
        said = f"{folder.name} sees, and only models that read text alone get new tokens here."
        yield Problem(PATH, f"{said} Leave it empty, or choose another model.")
        return
    if kind := models.quantised(folder):
        said = f"{folder.name} is quantised ({kind}), and its embeddings cannot grow."
        yield Problem(PATH, f"{said} Leave it empty, or choose the model in full precision.")
    tokenizer = TextTokenizer.of(folder)
    if known := [word for word in words if tokenizer.id(word) is not None or len(tokenizer.encode(word).ids) == 1]:
        are = "is one token" if len(known) == 1 else "are one token each"
        said = f"{', '.join(map(repr, known))} {are} of {folder.name} already."
        yield Problem(PATH, f"{said} Leave {'it' if len(known) == 1 else 'them'} out.")
