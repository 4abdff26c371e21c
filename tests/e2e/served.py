"""A real server on the tiny model with two adapters, for the tests of serving and of the terminal chat."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from engine.contract import start, text
from engine.contract.client import address_of
from engine.contract.rundir import ENDED, Run

MESSAGES = [{"role": "user", "content": "What is the answer?"}]
SECONDS = 90.0  # how long anything may take before a test gives up
LONG = 200_000  # tokens: minutes of work, so whoever waits for all of them fails


def until(true: Callable[[], Any], what: str) -> Any:
    """The first true value of `true()`; fails after SECONDS."""
    end = time.monotonic() + SECONDS
    while not (value := true()):
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.02)
    return value


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the model `base`, whose context is huge, and the adapters exports/one and exports/two on it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tests import tiny

    workspace = tmp_path_factory.mktemp("house")
    folder = tiny.model_folder(workspace / "models" / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1_000_000}))
    # Recommendations of the model's own must not leak into answers.
    recommended = {"do_sample": True, "temperature": 0.1, "top_k": 3, "repetition_penalty": 1.7, "max_length": 9}
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | recommended))
    for seed, name in enumerate(("one", "two"), 1):
        model = AutoModelForCausalLM.from_pretrained(folder)
        torch.manual_seed(seed)
        tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        for key, weight in tuned.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=0.2)
        tuned.save_pretrained(workspace / "exports" / name)
    return workspace


def serving(workspace: Path, *words: str) -> Run:
    args = text.parse({}, ["models=[base,exports/one,exports/two]", "dtype=fp32", "device=cpu", *words], kind="serve")
    return start.start(workspace, "chat", text.dump(args), share=True)


def ended(run: Run) -> Run:
    until(lambda: run.state() in ENDED, "the end of the server")
    return run


@pytest.fixture(scope="module")
def address(house: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEBOARD_STATE", str(tmp_path_factory.mktemp("state")))
        run = serving(house)
        try:
            yield until(lambda: address_of(run), "serving")
        finally:
            start.stop(run)
            ended(run)


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=SECONDS) as made:
        yield made


def answer(client: openai.OpenAI, model: str = "base", **settings: Any) -> str:
    settings = {"temperature": 0, "max_tokens": 24, **settings}
    extra = {key: settings.pop(key) for key in ("top_k", "num_beams", "repetition_penalty") if key in settings}
    said = client.chat.completions.create(model=model, messages=MESSAGES, extra_body=extra, **settings)  # type: ignore[call-overload]
    return str(said.choices[0].message.content)


def generated(house: Path, adapter: str = "", **settings: Any) -> str:
    """What transformers' own `generate` says, on weights loaded for this alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    folder = house / "models" / "base"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config = GenerationConfig()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if adapter:
        model = PeftModel.from_pretrained(model, house / adapter)
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt")
    config = GenerationConfig(max_new_tokens=24, eos_token_id=tokenizer.eos_token_id, pad_token_id=0, **settings)
    out = model.generate(**prompt, generation_config=config)
    return str(tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
