"""Models are loaded whole, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.contract.errors import ModelError
from engine.models.model import model_of


def test_weights_that_are_not_in_the_files_are_not_drawn_by_chance(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(tiny_model, folder)
    kept = load_file(folder / "model.safetensors")
    lost = "model.layers.0.mlp.up_proj.weight"
    save_file({name: one for name, one in kept.items() if name != lost}, folder / "model.safetensors")
    wanted: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu")}
    assert model_of(tiny_model, **wanted).num_parameters() > 0  # the output layer is the table of embeddings
    with pytest.raises(ModelError, match=f"torn lacks its weights {lost}"):
        model_of(folder, **wanted)
