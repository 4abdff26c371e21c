"""Signal and noise of matrices, by spectra that are known, and the layers that are chosen by them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from data.planning import forecast
from engine.contract.methods import Freeze
from engine.tuning.spectrum import signal_to_noise, strongest, told


def with_spectrum(values: list[float], columns: int) -> torch.Tensor:
    """A matrix (len(values), columns) with these singular values and directions by chance."""
    chance = torch.Generator().manual_seed(3)
    rows = len(values)
    left, _ = torch.linalg.qr(torch.randn(rows, rows, generator=chance, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(columns, rows, generator=chance, dtype=torch.float64))
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.T


def noise(seed: int, rows: int = 48, columns: int = 64) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / 8


def test_the_ratio_is_that_of_the_sums_beyond_and_below_the_edge_by_the_largest() -> None:
    values = [20.0, 10.0, 4.0, 3.5, 3.0, 2.5, 2.0, 1.5, 1.0]
    # Quartiles 2 and 4, the third and the seventh of nine; four times as wide as high.
    edge = (4.0 - 2.0) / 1.349 * (1 + math.sqrt(1 / 4))
    assert 2.0 < edge < 2.5
    wanted = (20 + 10 + 4 + 3.5 + 3 + 2.5) / (2 + 1.5 + 1) / 20
    matrix = with_spectrum(values, 36)
    assert signal_to_noise(matrix) == pytest.approx(wanted, rel=1e-5)
    assert signal_to_noise(matrix.T) == pytest.approx(wanted, rel=1e-5)


def test_it_falls_with_the_scale_and_knows_matrices_without_noise_or_signal() -> None:
    matrix = noise(1)
    assert signal_to_noise(2 * matrix) == pytest.approx(signal_to_noise(matrix) / 2, rel=1e-5)
    assert signal_to_noise(matrix.bfloat16()) == pytest.approx(signal_to_noise(matrix), rel=0.02)
    assert signal_to_noise(torch.zeros(4, 6)) == 0
    assert signal_to_noise(torch.diag(torch.tensor([2.0, 2.0, 2.0, 2.0]))) == math.inf


def planted(seed: int) -> torch.Tensor:
    """Noise with a quarter of its directions well above it."""
    left, values, right = torch.linalg.svd(noise(seed), full_matrices=False)
    values = torch.cat([torch.full((12,), 2.0), values[12:] * 0.2])
    return left @ torch.diag(values) @ right


def test_of_each_kind_the_layers_with_the_signal_are_chosen_and_experts_go_together() -> None:
    weights = {f"model.layers.{layer}.up.weight": noise(layer) for layer in range(4)}
    weights["model.layers.2.up.weight"] = planted(2)
    weights |= {f"model.layers.{layer}.down.weight": noise(9 + layer, 64, 48) for layer in range(4)}
    weights["model.layers.0.down.weight"] = planted(9).T
    blocks = {f"model.layers.{layer}.mlp.experts.gate": torch.stack([noise(30 + layer)] * 2) for layer in range(4)}
    blocks["model.layers.3.mlp.experts.gate"] = torch.stack([planted(33), planted(34)])
    others = {"model.layers.1.norm.weight": torch.ones(4), "model.embed.weight": noise(70)}
    names = strongest({**weights, **blocks, **others}, 0.25)
    assert names == ["model.layers.2.up.weight", "model.layers.0.down.weight", "model.layers.3.mlp.experts.gate"]
    assert told(names).endswith(": up in 2; down in 0; gate in 3.")
    apart = {name.replace("experts", f"experts.{one}") + ".weight": block[one] for name, block in blocks.items()
             for one in range(2)}  # fmt: skip
    assert strongest(apart, 0.25) == [f"model.layers.3.mlp.experts.{one}.gate.weight" for one in range(2)]


def test_a_kind_of_two_sizes_is_two_and_equals_keep_their_order() -> None:
    weights = {f"layers.{layer}.q.weight": torch.ones(4, 8 if layer % 2 else 4) for layer in range(4)}
    assert strongest(weights, 0.5) == ["layers.0.q.weight", "layers.1.q.weight"]


@pytest.mark.parametrize("which", ["spectrum", "last"])
def test_experts_count_alike_as_matrices_in_files_and_as_blocks_in_memory(which: str) -> None:
    apart = {f"layers.{layer}.mlp.experts.{one}.{side}.weight": (8, 16) for layer in range(1, 4) for one in range(4)
             for side in ("gate", "up")}  # fmt: skip
    block = {f"layers.{layer}.mlp.experts.gate_up": (4, 16, 16) for layer in range(1, 4)}
    others = {"layers.0.mlp.up.weight": (32, 16), "layers.0.norm.weight": (16,), "layers.3.mlp.experts.bias": (4, 2, 2)}
    method = Freeze(which=which, layers=2, share=0.5)  # type: ignore[arg-type]
    counts = {forecast.trained_parameters({**experts, **others}, method) for experts in (apart, block)}
    assert counts == {2 * 4 * 256 + (512 if which == "spectrum" else 16)}


@pytest.mark.parametrize(("share", "many", "wanted"), [(0.25, 28, 7), (0.25, 30, 8), (0.07, 100, 7), (1e-9, 4, 1)])
def test_a_share_is_rounded_up_and_is_never_nothing(share: float, many: int, wanted: int) -> None:
    assert forecast.share_of(share, many) == wanted


def test_only_what_holds_most_signal_moves_and_a_resumed_run_chooses_the_same(workspace: Path) -> None:
    from safetensors.torch import load_file, save_file

    from tests import tiny
    from tests.e2e.training import train, weights

    folder = tiny.model_folder(workspace / "models" / "planted")
    held: dict[str, Any] = load_file(folder / "model.safetensors")
    wanted = {name for name in held if ".layers.1." in name and name.endswith("_proj.weight")}
    for name in wanted:
        left, values, right = torch.linalg.svd(held[name], full_matrices=False)
        held[name] = left @ torch.diag(torch.cat([values[:4], values[4:] * 0.1])) @ right
    save_file({name: one.contiguous() for name, one in held.items()}, folder / "model.safetensors", {"format": "pt"})
    said = ["model=planted", "method=freeze", "method.which=spectrum", "method.share=0.5", "steps.max_steps=2"]
    run = train(workspace, *said)
    before, after = weights(folder), weights(run.model_path)
    assert {name for name in before if not torch.equal(before[name], after[name])} == wanted
    assert "counted from 0: q_proj in 1; k_proj in 1; v_proj in 1; " in run.events_path.read_text(encoding="utf-8")
    resumed = weights(train(workspace, *said, f"resume.run={run.id}", "resume.checkpoint=step-1").model_path)
    assert all(torch.equal(after[name], resumed[name]) for name in after)
