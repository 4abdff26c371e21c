"""Words that become one token each: a model with a larger vocabulary, as a folder that everything else takes for one.

New tokens begin as the mean of the old ones, so that the model says at first what it said before (Hewitt, 2021,
"Initializing new word embeddings").
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, set_seed

from data.encoding.tokens import TextTokenizer
from engine.contract.args import TrainArgs
from engine.contract.methods import Freeze
from engine.models.model import model_of, tokenizer_of
from engine.report import Report

PAD = 64  # rows of a padded embedding come in multiples of it


def ids(folder: Path, words: list[str]) -> list[int]:
    """The ids of `words` in the model that has grown."""
    tokenizer = TextTokenizer.of(folder)
    found = [tokenizer.id(word) for word in words]
    assert None not in found
    return [id for id in found if id is not None]


def grow(args: TrainArgs, folder: Path, into: Path, report: Report) -> None:
    """Make `into` the model in `folder` with a token for each of `model.new_tokens`."""
    wanted, code = args.model, args.model.trust_remote_code
    into.mkdir()
    for file in (*(folder.glob("*.py") if code else ()), *folder.glob("README.md")):
        shutil.copyfile(file, into / file.name)
    tokenizer = tokenizer_of(folder, trust_remote_code=code)
    tokenizer.add_tokens(wanted.new_tokens)
    tokenizer.save_pretrained(into)
    own = AutoConfig.from_pretrained(folder, trust_remote_code=code).dtype or torch.float32
    model: Any = model_of(folder, dtype=own, device=torch.device("cpu"), trust_remote_code=code)
    set_seed(args.steps.seed)
    widen(model, ids(into, wanted.new_tokens))
    model.save_pretrained(into)
    many = len(wanted.new_tokens)
    report.note(f"The vocabulary grew by {many} to {len(tokenizer):,} tokens.", vocabulary=len(tokenizer))
    apart = not getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    if isinstance(args.method, Freeze) and apart and not args.method.head:
        report.warn("The new words are read but hardly written: this model's output layer is its own (method.head).")


@torch.no_grad()
def widen(model: Any, new: list[int]) -> None:
    """Give the tokens `new`, which come behind all others, their places in the embeddings of `model`."""
    rows, first = model.get_input_embeddings().num_embeddings, min(new)
    if max(new) >= rows:
        padded = rows > first and rows % PAD == 0
        model.resize_token_embeddings(max(new) + 1, pad_to_multiple_of=PAD if padded else None, mean_resizing=True)
    # Places that the model kept free were never trained.
    for layer in filter(None, (model.get_input_embeddings(), model.get_output_embeddings())):
        weight = layer.weight
        weight[first:rows] = weight[:first].float().mean(0).to(weight.dtype)
