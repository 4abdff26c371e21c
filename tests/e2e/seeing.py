"""Tiny models that see, rows that show pictures to them, and what both come to, for the tests of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from data.datasets import registry
from data.encoding.render import ChatTemplate
from data.encoding.tokens import TextTokenizer
from engine.models.seen import Show
from engine.models.vision import Sight
from engine.training.rows import Collate, maker_of
from tests import tiny_sight
from tests.e2e.training import train

FAMILIES = sorted(tiny_sight.FAMILIES)
LORA = ["method.rank=4", "method.alpha=8"]


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny model of every family."""
    folder = tmp_path_factory.mktemp("seeing")
    for name in FAMILIES:
        tiny_sight.make(name, folder / name)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, seeing: Path) -> Path:
    """A workspace with those models, and rows that show no picture, one, two, and one in a later turn."""
    folder = tmp_path / "workspace"
    (folder / "datasets").mkdir(parents=True)
    (folder / "models").mkdir()
    for name in FAMILIES:
        (folder / "models" / name).symlink_to(seeing / name)
    torch.manual_seed(3)
    for index, size in enumerate([(90, 60), (56, 100), (200, 140)]):
        pixels = torch.randint(0, 255, (*size[::-1], 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / "datasets" / f"{index}.png")
    asked = [("What is it?", []), ("<image>And this?", [0]), ("<image>Which of <image> both?", [1, 2])]
    rows = [
        {
            "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"It is {number}."}],
            "images": [f"{index}.png" for index in shown],
        }
        for number, (text, shown) in enumerate(asked)
    ]
    later = [
        {"role": "user", "content": "<image>Look."}, {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "And <image> now?"}, {"role": "assistant", "content": "No."},
    ]  # fmt: skip
    rows.append({"messages": later, "images": ["0.png", "1.png"]})
    write(folder / "datasets" / "shown.jsonl", rows)
    pairs = [
        {
            "messages": [{"role": "user", "content": text}], "images": [f"{index}.png" for index in shown],
            "chosen": {"role": "assistant", "content": f"It is {number}."},
            "rejected": {"role": "assistant", "content": "No idea, sorry."},
        }
        for number, (text, shown) in enumerate(asked)
    ]  # fmt: skip
    write(folder / "datasets" / "pairs.jsonl", pairs)
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(workspace: Path, family: str, *overrides: str) -> Any:
    common = [f"model={family}", "data=shown.jsonl", "steps.max_steps=2", "data.max_length=400"]
    return train(workspace, *common, *overrides)


def prepared(workspace: Path, family: str, **options: Any) -> list[dict[str, Any]]:
    """The rows of shown.jsonl as examples for the model of `family`."""
    from data.encoding.batches import batches
    from engine.contract import text

    folder = workspace / "models" / family
    args: Any = text.parse({}, [f"model={family}", "data=shown.jsonl"], kind="train")
    data = {**args.data.model_dump(), "max_length": 400, **options}
    args = type(args).model_validate({**args.model_dump(), "data": data})
    maker = maker_of(args, ChatTemplate.of(folder), TextTokenizer.of(folder), Sight.of(folder))
    rows = registry.load(registry.find("shown.jsonl", workspace))
    return [example for batch in batches(rows, maker) for example in batch.columns.to_pylist()]


def batch_of(workspace: Path, family: str) -> dict[str, torch.Tensor]:
    sight = Sight.of(workspace / "models" / family)
    assert sight is not None
    return Show(sight, Collate(sight.processor.tokenizer.pad_token_id))(prepared(workspace, family))


def model_of(workspace: Path, family: str) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(workspace / "models" / family, dtype=torch.float32).eval()
