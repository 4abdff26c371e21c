"""Which weights each method trains, against numbers counted by hand."""

from __future__ import annotations

import pytest

from data.planning import forecast
from engine.contract.adapters import Lora
from engine.contract.methods import Freeze, Full

HIDDEN, INNER, KEYS, VOCABULARY, LAYERS = 576, 1536, 192, 49152, 30  # SmolLM2-135M


def smollm(layers: int = LAYERS, *, tied: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,),
    }  # fmt: skip
    if not tied:
        shapes["lm_head.weight"] = (VOCABULARY, HIDDEN)
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        shapes |= {
            f"{stem}.self_attn.q_proj.weight": (HIDDEN, HIDDEN), f"{stem}.self_attn.k_proj.weight": (KEYS, HIDDEN),
            f"{stem}.self_attn.v_proj.weight": (KEYS, HIDDEN), f"{stem}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{stem}.mlp.gate_proj.weight": (INNER, HIDDEN), f"{stem}.mlp.up_proj.weight": (INNER, HIDDEN),
            f"{stem}.mlp.down_proj.weight": (HIDDEN, INNER),
            f"{stem}.input_layernorm.weight": (HIDDEN,), f"{stem}.post_attention_layernorm.weight": (HIDDEN,),
        }  # fmt: skip
    return shapes


def test_full_counts_every_parameter_of_smollm2():
    assert forecast.trained_parameters(smollm(), Full()) == 134_515_008


def test_lora_counts_rank_times_both_sides_of_every_linear_layer():
    a_layer = 2 * (576 + 576) + 2 * (192 + 576) + 3 * (1536 + 576)
    assert forecast.trained_parameters(smollm(), Lora(rank=16)) == 16 * 30 * a_layer == 4_884_480


def test_lora_on_named_layers_counts_those_alone():
    wanted = Lora(rank=8, targets=["q_proj", "v_proj"])
    assert forecast.trained_parameters(smollm(), wanted) == 30 * 8 * ((576 + 576) + (192 + 576))


def test_a_target_may_be_a_longer_name():
    wanted = Lora(rank=1, targets=["layers.3.mlp.up_proj"])
    assert forecast.trained_parameters(smollm(), wanted) == INNER + HIDDEN


def test_dora_adds_one_magnitude_for_each_output():
    plain, dora = (forecast.trained_parameters(smollm(), Lora(dora=on)) for on in (False, True))
    assert dora - plain == 30 * (2 * 576 + 2 * 192 + 2 * 1536 + 576)


def test_neither_embeddings_nor_the_output_layer_get_an_adapter():
    layers = forecast.linear(smollm(tied=False) | {"transformer.wpe.weight": (1024, 576)})
    assert len(layers) == 7 * LAYERS
    assert not any("embed" in name or "lm_head" in name or "wpe" in name for name in layers)


def test_freeze_counts_the_last_layers_whole():
    a_layer = 2 * HIDDEN * HIDDEN + 2 * KEYS * HIDDEN + 3 * INNER * HIDDEN + 2 * HIDDEN
    assert forecast.trained_parameters(smollm(), Freeze(layers=2)) == 2 * a_layer
    assert forecast.trained_parameters(smollm(12), Freeze(layers=3)) == 3 * a_layer  # 9, 10 and 11: numbers, not words


@pytest.mark.parametrize("tied", [True, False])
def test_freeze_with_the_head_adds_the_norm_and_one_vocabulary(tied):
    shapes = smollm(tied=tied)
    without, with_head = (
        forecast.trained_parameters(shapes, Freeze(layers=1, head=on), tied=tied) for on in (False, True)
    )
    assert with_head - without == HIDDEN + VOCABULARY * HIDDEN


def test_a_target_that_no_layer_has_is_found_with_the_names_that_there_are():
    unknown, has = forecast.unknown_targets(smollm(), ["q_proj", "q_prj"])
    assert unknown == ["q_prj"]
    assert "q_proj" in has and "embed_tokens" not in has
