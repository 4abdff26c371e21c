"""Text to token ids and back.

Wraps the `tokenizers` library and never adds a special token by itself: what is in the text is all there is. Knows
nothing of conversations or masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken, Encoding, Tokenizer

from data.encoding.encoded import Encoded as Encoded
from data.encoding.encoded import Offsets as Offsets
from data.encoding.encoded import Spelling
from data.encoding.special import extra_special_tokens, special_tokens
from engine.contract.errors import ModelError


class TextTokenizer:
    """The tokenizer of a model folder; it can be sent to another process."""

    def __init__(self, tokenizer: Tokenizer, named: dict[str, str], extra: Sequence[str] = ()) -> None:
        """`named` maps names such as `eos_token` to their text; `extra` lists more tokens that are special."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.begins = _begins(tokenizer, named.get("bos_token"))
        # A post-processor only adds special tokens and trims spaces off the offsets; the mask needs neither.
        tokenizer.post_processor = None
        flagged = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        control = [text for text in dict.fromkeys([*named.values(), *extra]) if tokenizer.token_to_id(text) is not None]
        # Where tokenizer.json fails to list a special token, transformers adds it on loading.
        tokenizer.add_special_tokens(
            [AddedToken(text, special=True, normalized=False) for text in control if text not in flagged]
        )
        self._tokenizer = tokenizer
        self._control = frozenset(tokenizer.token_to_id(text) for text in control)
        self.named = {name: text for name, text in named.items() if tokenizer.token_to_id(text) is not None}

    @classmethod
    def of(cls, model: str | Path, words: Sequence[str] = ()) -> TextTokenizer:
        """The tokenizer in a model folder, with a token more for each of `words`. Raises ModelError when there is no
        readable `tokenizer.json`."""
        model = Path(model)
        file = model / "tokenizer.json"
        if not file.is_file():
            raise ModelError(
                f"the model {model.name} has no tokenizer.json.",
                "Load its tokenizer once with transformers and save it again: that writes the file.",
            )
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing more precise
            raise ModelError(
                f"tokenizer.json of the model {model.name} cannot be read: {error}.",
                "Download or copy the model again.",
            ) from None
        tokenizer.add_tokens(list(words))
        return cls(tokenizer, special_tokens(model), extra_special_tokens(model))

    def encode(self, text: str) -> Encoded:
        return Encoded(self._tokenizer.encode(text, add_special_tokens=False), len(text))

    def encode_batch(self, texts: Sequence[str]) -> list[Encoded]:
        """As `encode`, for many texts on all cores."""
        return self.placed(texts, self.split(texts))

    def split(self, texts: Sequence[str]) -> list[Encoding]:
        """The first step of `encode_batch`, which takes nearly all of its time and leaves Python's lock to others."""
        follow = self._tokenizer.encode_batch if self._spelling is None else self._tokenizer.encode_batch_fast
        return follow(list(texts), add_special_tokens=False)

    def placed(self, texts: Sequence[str], encodings: list[Encoding]) -> list[Encoded]:
        """The second step, with what the first one gave for the same texts."""
        if self._spelling is None:
            return [Encoded(encoding, len(text)) for encoding, text in zip(encodings, texts, strict=True)]
        found = self._spelling.read(texts, encodings)
        return [self.encode(text) if one is None else one for one, text in zip(found, texts, strict=True)]

    @cached_property
    def _spelling(self) -> Spelling | None:
        return Spelling.of(self._tokenizer)

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)

    def id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def token(self, id: int) -> str | None:
        return self._tokenizer.id_to_token(id)

    @property
    def bos_id(self) -> int | None:
        return self._named_id("bos_token")

    @property
    def eos_id(self) -> int | None:
        return self._named_id("eos_token")

    @property
    def pad_id(self) -> int | None:
        return self._named_id("pad_token")

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokens that are control, not text."""
        added = self._tokenizer.get_added_tokens_decoder()
        return self._control | {id for id, token in added.items() if token.special}

    @property
    def vocabulary_size(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def _named_id(self, name: str) -> int | None:
        return self._tokenizer.token_to_id(self.named[name]) if name in self.named else None


def _begins(tokenizer: Tokenizer, bos: str | None) -> list[int]:
    """The ids that the model's own tokenizer puts before every text, templates apart: its BOS, or nothing."""
    first = tokenizer.encode("").ids[:1]
    return first if bos is not None and first == [tokenizer.token_to_id(bos)] else []
