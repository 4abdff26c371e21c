"""The lists of models and open datasets: whole, free of contradictions, and in step with the templates."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from data import models
from data.encoding.templates import families, suggest
from data.hubs import catalogue
from data.hubs.catalogue import ModelEntry
from data.rows import formats
from engine.contract.errors import ModelError

ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
ENTRIES = catalogue.listed()
NAMED = {entry.name: entry for entry in ENTRIES}
# Family -> the template of ours that renders as its chat models do; a family that is absent has none. By hand: patterns
# that are too wide or too narrow are what this is to find.
OURS = {
    "SmolLM 2": "smollm2", "SmolLM 1": "chatml", "SmolLM 3": "smollm3", "Qwen 3.5": "qwen3_5", "Qwen 3": "qwen3",
    "Qwen 3 (mixture of experts)": "qwen3", "QwQ": "qwq", "Qwen 2.5": "qwen2_5", "Qwen 2.5 Coder": "qwen2_5",
    "Qwen 2.5 Math": "qwen2_5", "Qwen 2.5-VL": "qwen2_vl", "Qwen 2-VL": "qwen2_vl", "Qwen 2": "qwen2",
    "Qwen 1.5": "qwen1_5", "Llama 3.2": "llama3_2", "Llama 3.1": "llama3_1", "Llama 3.3": "llama3_1",
    "Llama 4": "llama4", "Llama 3": "llama3", "Llama 2": "llama2", "Gemma 4": "gemma4", "Gemma 3": "gemma3",
    "Gemma 3n": "gemma3", "Gemma 2": "gemma", "Gemma 1": "gemma", "Mistral 7B": "mistral_v1", "Mixtral": "mistral_v1",
    "Mistral Nemo": "mistral_nemo", "Mistral Small": "mistral_small", "Phi 4": "phi4", "Phi 3 and 3.5": "phi3",
    "DeepSeek R1 distilled": "deepseek_r1_distill", "DeepSeek V3 and R1": "deepseek_v3", "DeepSeek V2": "deepseek_v2",
    "DeepSeek LLM": "deepseek_v2", "GLM 4": "glm4", "GLM 4.5 and later": "glm4_6", "ChatGLM": "chatglm3",
    "Yi 1.5": "chatml", "Yi": "chatml", "InternLM 2 and 2.5": "internlm2", "InternLM 3": "internlm2",
    "Baichuan 2": "baichuan2", "MiniCPM": "minicpm", "Granite 4": "granite4", "Granite 3": "granite3",
    "Command R": "command_r", "Aya": "command_r", "gpt-oss": "gpt_oss", "Zephyr": "zephyr",
    "OpenChat and Starling": "openchat", "OpenHermes and Dolphin": "chatml", "Vicuna": "vicuna", "Alpaca": "alpaca",
    "Falcon 1": "falcon", "Ziya": "ziya", "Nemotron": "llama3_1", "LFM 2": "lfm2",
}  # fmt: skip
# Models that differ from their family: their own text is another, or (None) none of ours is it.
DIFFERENT = {
    "Qwen3.5-0.8B": "qwen3_5_nothink", "Qwen3.5-2B": "qwen3_5_nothink", "Mistral-7B-Instruct-v0.3": "mistral_v3",
    "mathstral-7B-v0.1": None, "Mixtral-8x22B-Instruct-v0.1": "mistral_v3",
    "Mistral-Small-Instruct-2409": "mistral_v3", "Mistral-Small-3.2-24B-Instruct-2506": None,
    "Devstral-Small-2505": None, "Devstral-Small-2507": None, "Mistral-Large-Instruct-2407": "mistral_v3",
    "Mistral-Large-Instruct-2411": "mistral_small", "Phi-4-reasoning": None, "Phi-4-reasoning-plus": None,
    "Phi-4-mini-instruct": "phi4_mini", "Phi-4-mini-reasoning": "phi4_mini", "DeepSeek-R1-0528-Qwen3-8B": None,
    "DeepSeek-R1-0528": None, "DeepSeek-V3.1": "deepseek_v3_1", "DeepSeek-V2.5": None,
    "deepseek-math-7b-instruct": None, "GLM-4-9B-0414": None, "GLM-Z1-9B-0414": None, "GLM-4-32B-0414": None,
    "GLM-Z1-32B-0414": None, "GLM-4.1V-9B-Thinking": None, "chatglm2-6b": "chatglm2", "MiniCPM3-4B": "minicpm3",
    "MiniCPM4-0.5B": None, "MiniCPM4-8B": None, "MiniCPM4.1-8B": None, "c4ai-command-r7b-12-2024": None,
    "c4ai-command-a-03-2025": None, "stablelm-zephyr-3b": "zephyr", "stablelm-2-zephyr-1_6b": "zephyr",
    "openchat-3.6-8b-20240522": None, "BELLE-7B-2M": "belle", "firefly-1b4": "firefly", "firefly-2b6": "firefly",
    "llava-v1.6-mistral-7b-hf": "mistral_v1", "llava-v1.6-vicuna-7b-hf": "vicuna",
    "Qwen3-4B-Instruct-2507": "qwen3_instruct", "Qwen3-30B-A3B-Instruct-2507": "qwen3_instruct",
    "Qwen3-235B-A22B-Instruct-2507": "qwen3_instruct",
}  # fmt: skip
CHATTING = [entry for entry in ENTRIES if entry.template != "none" and entry.kind != "base"]
# Templates without a model of their own, and why.
WITHOUT = {"gemma_no_bos": "an explicit choice: another text for the models of gemma"}
SIZES = {
    "Llama 2": "7b 13b 70b", "Llama 3": "8B 70B", "Llama 3.1": "8B 70B 405B", "Llama 3.2": "1B 3B 11B 90B",
    "Llama 3.3": "70B", "Llama 4": "Scout Maverick", "Qwen 1.5": "0.5B 1.8B 4B 7B 14B 32B 72B 110B",
    "Qwen 2": "0.5B 1.5B 7B 57B 72B", "Qwen 2.5": "0.5B 1.5B 3B 7B 14B 32B 72B",
    "Qwen 2.5 Coder": "0.5B 1.5B 3B 7B 14B 32B", "Qwen 2.5 Math": "1.5B 7B 72B",
    "Qwen 3": "0.6B 1.7B 4B 8B 14B 32B", "Qwen 3 (mixture of experts)": "30B 235B", "QwQ": "32B",
    "Qwen 3.5": "0.8B 2B 4B 9B 27B 35B 122B 397B", "Qwen 2-VL": "2B 7B 72B", "Qwen 2.5-VL": "3B 7B 32B 72B",
    "Qwen 3-VL": "2B 4B 8B 32B 30B", "Yi": "6B 9B 34B", "Yi 1.5": "6B 9B 34B", "Falcon 1": "7b 40b",
    "Falcon 2": "11B", "GLM 4": "9b 32B", "ChatGLM": "chatglm2 chatglm3", "Ziya": "13B",
    "BLOOM": "560m 1b1 1b7 3b 7b1", "Mistral 7B": "v0.1 v0.2 v0.3", "Mixtral": "8x7B 8x22B", "Mistral Nemo": "Nemo",
    "Mistral Small": "2409 2501 2503", "Gemma 1": "2b 7b", "Gemma 2": "2b 9b 27b", "Gemma 3": "270m 1b 4b 12b 27b",
    "Gemma 4": "E2B E4B 12B 26B 31B", "Phi 3 and 3.5": "Phi-3-mini Phi-3-medium Phi-3.5-mini", "Phi 4": "phi-4 mini",
    "DeepSeek V2": "Lite V2-Chat", "DeepSeek V3 and R1": "V3 R1", "DeepSeek R1 distilled": "1.5B 7B 8B 14B 32B 70B",
    "InternLM 2 and 2.5": "1_8b 7b 20b", "InternLM 3": "8b", "Baichuan 2": "7B 13B", "MiniCPM": "1B 2B MiniCPM3-4B",
    "Granite 3": "2b 8b 1b 3b", "Granite 4": "micro tiny small", "Command R": "r-v01 r-plus",
    "SmolLM 2": "135M 360M 1.7B", "SmolLM 3": "3B", "gpt-oss": "20b 120b", "OpenHermes and Dolphin": "OpenHermes",
    "Alpaca": "alpaca", "Vicuna": "7b 13b", "Zephyr": "7b", "OpenChat and Starling": "openchat-3.5",
    "BELLE and Firefly": "BELLE firefly",
}  # fmt: skip


def test_there_are_enough_and_each_is_named_once() -> None:
    assert len(ENTRIES) >= 300
    assert len(catalogue.datasets()) >= 60
    for names in (ENTRIES, catalogue.datasets()):
        lower = [entry.name.lower() for entry in names]
        assert len(set(lower)) == len(lower)
    ids = [hub for entry in ENTRIES for hub in entry.hub]
    assert len(set(ids)) == len(ids)


def test_the_embedded_model_comes_first() -> None:
    assert ENTRIES[0].name == "SmolLM2-135M-Instruct" and ENTRIES[0].embedded
    assert not any(entry.embedded for entry in ENTRIES[1:])


def test_ids_revisions_and_sizes_have_the_form_that_hubs_take() -> None:
    for entry in ENTRIES:
        for hub in (*entry.hub, *filter(None, [entry.modelscope])):
            assert ID.match(hub), entry
        assert re.fullmatch(r"[0-9a-f]{40}|", entry.revision), entry
        assert not entry.revision or entry.note, f"{entry.name} pins a revision without saying why"
        assert 10**7 <= entry.parameters < 10**12, entry
        assert entry.context is None or 512 <= entry.context <= 11 * 10**6, entry
        assert entry.lora and all(re.fullmatch(r"[\w-]+", name) for name in entry.lora), entry
    for dataset in catalogue.datasets():
        assert ID.match(dataset.hub) and (not dataset.modelscope or ID.match(dataset.modelscope)), dataset
        assert dataset.format == "auto" or formats.known(dataset.format), dataset
        assert dataset.language and (dataset.rows is None or dataset.rows > 0), dataset


def test_a_stated_licence_is_not_empty() -> None:
    for file in (models.LIST, catalogue.HERE / catalogue.LIST):
        for line, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            assert not re.search(r"^[^#]*licence:\s*($|[,}'\"]{1,2}\s*[,}]?)$", text), f"{file.name}:{line}: {text}"


def test_a_name_in_the_catalogue_does_not_contradict_its_size() -> None:
    """Exact counts lie near what the name says: 1.5B is 1.54 billion, and never 15."""
    for entry in ENTRIES:
        stated = re.search(r"(?<![\dx.A])(\d+(?:[._]\d+)?)([bm])(?![a-z0-9])", entry.name, re.IGNORECASE)
        if stated and not entry.rounded and entry.family != "Mixtral":
            size = float(stated[1].replace("_", ".")) * (1e9 if stated[2] in "bB" else 1e6)
            assert 0.8 < entry.parameters / size < 1.7, entry


@pytest.mark.parametrize("family", SIZES)
def test_every_family_that_is_asked_for_is_there_with_its_sizes(family: str) -> None:
    found = [entry for entry in ENTRIES if entry.family == family]
    for size in SIZES[family].split():
        assert any(re.search(rf"(?<![\d.]){re.escape(size)}(?![\d.])", entry.name) for entry in found), size


@pytest.mark.parametrize("entry", CHATTING, ids=lambda entry: entry.name)
def test_the_patterns_of_our_templates_find_the_right_one(entry: ModelEntry) -> None:
    ours = suggest(entry.hub[0])
    right = DIFFERENT[entry.name] if entry.name in DIFFERENT else OURS.get(entry.family)
    assert (ours.name if ours else None) == right
    if entry.template != "own":
        assert entry.template in families()


def test_every_template_has_a_model_or_a_reason() -> None:
    served = {family.name for entry in CHATTING if (family := suggest(entry.hub[0]))}
    assert served | WITHOUT.keys() == families().keys()
    assert not served & WITHOUT.keys()
    assert DIFFERENT.keys() <= NAMED.keys() and OURS.keys() <= set(catalogue.families())


def test_glm_4_9b_chat_is_pinned_and_says_what_else_there_is() -> None:
    assert NAMED["glm-4-9b-chat"].revision == "4b556ad4d70c38924cb8c120adbf21a0012de6ce"
    assert "glm-4-9b-chat-hf" in NAMED["glm-4-9b-chat"].note and "glm-4-9b-chat-hf" in NAMED


def test_suggested_layers_are_called_so_in_transformers() -> None:
    """By their text, so that nothing is imported; models with code of their own name their layers themselves."""
    (folder,) = importlib.util.find_spec("transformers").submodule_search_locations
    source = "\n".join(file.read_text(encoding="utf-8") for file in Path(folder).glob("models/*/modeling_*.py"))
    for name in {name for entry in ENTRIES if not entry.code for name in entry.lora} - {"all-linear"}:
        assert f"self.{name} = " in source, name


def test_the_list_is_read_once_and_by_the_reader_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    loaders: list[type] = []
    load = yaml.load
    monkeypatch.setattr(yaml, "load", lambda stream, Loader: loaders.append(Loader) or load(stream, Loader=Loader))
    models._known.cache_clear()
    assert models.known() == models.known()
    assert loaders == [getattr(yaml, "CSafeLoader", yaml.SafeLoader)]


def test_search_takes_every_word_and_puts_prefixes_and_small_models_first() -> None:
    names = [entry.name for entry in catalogue.search("qwen2.5 7b")]
    assert names[:2] == ["Qwen2.5-7B", "Qwen2.5-7B-Instruct"] and "Qwen2.5-Coder-7B" in names[2:]
    assert {entry.name for entry in catalogue.search("META-LLAMA 3.2 1b")} == {"Llama-3.2-1B", "Llama-3.2-1B-Instruct"}
    assert catalogue.search("no such model") == []
    sizes = [entry.parameters for entry in catalogue.search()]
    assert len(sizes) == len(ENTRIES) and sizes == sorted(sizes)


def test_search_narrows_by_family_kind_size_and_memory() -> None:
    assert {entry.family for entry in catalogue.search(family="Qwen 2.5", kind="base")} == {"Qwen 2.5"}
    assert all(entry.kind == "base" for entry in catalogue.search(family="Qwen 2.5", kind="base"))
    assert max(entry.parameters for entry in catalogue.search(most=10**9)) <= 10**9
    memory = 24 * 10**9
    full, lora, four = (set(catalogue.search(memory=memory, method=way)) for way in ("full", "lora", "4-bit"))
    assert full < lora < four
    assert NAMED["Qwen2.5-7B"] in lora - full and NAMED["Qwen2.5-0.5B"] in full


def test_what_is_on_the_disk_is_found_in_workspace_and_cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(models, "cached", lambda hub, revision="": tmp_path / "hub" if hub == "Qwen/Qwen3-8B" else None)
    folder = tmp_path / "models" / "Qwen3-0.6B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert catalogue.on_disk(NAMED["Qwen3-0.6B"], tmp_path) is None
    (folder / "model.safetensors").write_bytes(b"")
    assert catalogue.on_disk(NAMED["Qwen3-0.6B"], tmp_path) == folder
    assert [entry.name for entry in catalogue.search(here=tmp_path)] == ["Qwen3-0.6B", "Qwen3-8B"]


def test_a_name_from_the_catalogue_is_a_hub_model_and_the_embedded_one_is_not(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(models, "cached", lambda hub, revision="": None)
    place = models.find("glm-4-9b-chat", tmp_path)
    assert (place.folder, place.hub_id, place.revision) == (None, "zai-org/glm-4-9b-chat", NAMED[place.name].revision)
    assert models.find("glm-4-9b-chat", tmp_path, "main").revision == "main"
    assert models.find("someone/unlisted", tmp_path).hub_id == "someone/unlisted"
    with pytest.raises(ModelError, match="SmolLM2-135M-Instruct is not prepared yet"):
        models.find("SmolLM2-135M-Instruct", tmp_path)
    with pytest.raises(ModelError, match="Did you mean Qwen3-0.6B"):
        models.find("Qwen3-0.6", tmp_path)


def test_open_datasets_are_found_by_word_task_and_language() -> None:
    assert [entry.name for entry in catalogue.search_datasets("gsm8k")] == ["GSM8K"]
    assert {entry.task for entry in catalogue.search_datasets(task="kto")} == {"kto"}
    assert all({"zh", "mul"} & set(entry.language) for entry in catalogue.search_datasets(language="zh"))
