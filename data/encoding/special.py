"""Special tokens and tokenizer settings as a model folder's JSON files state them.

Knows the text of the tokens, not their ids, and nothing of templates.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.contract.errors import ModelError

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def settings(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder, empty when the file is absent; raises ModelError when broken."""
    try:
        value = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file.name} of the model {file.parent.name} cannot be read: {error}.", "Download or copy the model again."
        ) from None
    if not isinstance(value, dict):
        raise ModelError(
            f"{file.name} of the model {file.parent.name} does not hold an object.", "Download or copy the model again."
        )
    return value


def tokenizer_config(model: Path) -> dict[str, Any]:
    """`tokenizer_config.json` of the model folder."""
    return settings(model / "tokenizer_config.json")


def special_tokens(model: Path) -> dict[str, str]:
    """The named special tokens that the model has, by name: `{"eos_token": "</s>"}`."""
    config = tokenizer_config(model)
    # transformers still merges this older file, over the config, where no token table makes it needless
    older = {} if "added_tokens_decoder" in config else settings(model / "special_tokens_map.json")
    stated = {name: _content((config | older).get(name)) for name in NAMES}
    return {name: text for name, text in stated.items() if text is not None}


def extra_special_tokens(model: Path) -> list[str]:
    """Further tokens that are special: the unnamed ones of the config, and those flagged in its token table."""
    config = tokenizer_config(model)
    unnamed = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    listed = [_content(token) for token in (unnamed.values() if isinstance(unnamed, dict) else unnamed)]
    flagged = [
        token["content"] for token in (config.get("added_tokens_decoder") or {}).values() if token.get("special")
    ]
    return [token for token in dict.fromkeys([*listed, *flagged]) if token]


def vocabulary(model: Path) -> frozenset[str]:
    """The tokens that the model's tokenizer takes as one piece wherever they stand."""
    file = model / "tokenizer.json"
    return _added(file, file.stat().st_mtime_ns) if file.is_file() else frozenset()


@lru_cache(maxsize=8)
def _added(file: Path, changed: int) -> frozenset[str]:
    return frozenset(token["content"] for token in settings(file).get("added_tokens") or [])


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token
