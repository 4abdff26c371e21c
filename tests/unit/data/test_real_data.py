"""Real public files that lie beside a development checkout: recognised by themselves, every row used."""

from __future__ import annotations

from itertools import islice

import pytest

from app.datasets import dataset, table, turns
from data.datasets import registry
from data.reading.files import read
from data.rows.formats import FORMATS, load, recognise, restored

SHARED = {
    "bench/agieval": "multiple_choice", "bench/bbh": "prompt_completion", "bench/mmlu_dev": "multiple_choice",
    "bench/human_eval_example_problem.jsonl": "prompt_completion", "bench/mt_bench_question.jsonl": "prompt",
    "formats/alpaca.csv": "alpaca", "formats/alpaca.jsonl": "alpaca", "formats/alpaca2.csv": "alpaca",
    "formats/chat_tiny.json": "sharegpt", "formats/chatml.jsonl": "messages",
    "formats/conversations.jsonl": "sharegpt", "formats/hh_rlhf_tiny.json": "preference",
    "formats/instruct_tiny.json": "alpaca", "formats/multi_modal": "prompt_completion",
    "formats/sharegpt.jsonl": "firefly", "formats/swift_multi": "prompt_completion", "formats/swift_pre": "text",
    "formats/swift_single": "prompt_completion", "formats/vqa_tiny.json": "prompt_completion",
    "grpo/gsm8k_train_1000.jsonl": "question_answer", "grpo/medicalgpt_grpo_sample.jsonl": "question_answer",
    "grpo/open_instruct_rlvr_test.jsonl": "prompt",
    "instruct/dolly_sample.json": "alpaca", "instruct/identity.json": "alpaca",
    "instruct/longform_train.json": "prompt_completion", "instruct/self_instruct_seed_tasks.jsonl": "self_instruct",
    "instruct/wwdc25_prompt_completion.jsonl": "prompt_completion",
    "messages": "messages", "multiturn/chinese_vicuna_chat_sample.jsonl": "prompt_completion",
    "multiturn/chinese_vicuna_instruct_sample.jsonl": "alpaca",
    "multiturn/fastchat_dummy_conversation.json": "sharegpt",
    "preference/kto_en_demo.json": "feedback", "preference/dpo_en_demo.json": "preference",
    "preference/toolcall_dpo_zh_demo.jsonl": "preference", "preference/v1_dpo_demo.jsonl": "preference",
    "pretrain": "text", "text2sql/dbgpt_example_text2sql.json": "alpaca", "text2sql/mlx_wikisql": "text",
    "toolcall": "sharegpt",
}  # fmt: skip


@pytest.mark.shared
def test_every_real_file_is_recognised_and_every_row_of_it_used(shared):
    seen = set()
    for file in sorted(path for path in shared.rglob("*.*") if path.is_file()):
        name = file.relative_to(shared).as_posix()
        if name == "README.md" or name.startswith("tokenizers/") or file.suffix == "":
            continue
        prefix = next((prefix for prefix in SHARED if name.startswith(prefix)), None)
        assert prefix, f"{name} is not in the table"
        rows = load(file)
        assert rows and {found.kind for found in rows} == {FORMATS[SHARED[prefix]].kind}, name
        assert recognise(found.record for found in islice(read(file), 20)).format == SHARED[prefix], name
        for found in rows:
            assert restored(found.record(), found.kind, found.file, found.number) == found, name
        seen.add(prefix)
    assert seen == set(SHARED)


@pytest.mark.shared
def test_every_real_file_opens_in_the_data_tab(shared, tmp_path):
    """Window, head, table, conversations and findings, as the page makes them; and nothing is written beside it."""
    before = {file: file.stat().st_mtime_ns for file in shared.rglob("*") if file.is_file()}
    opened = 0
    for prefix, form in SHARED.items():
        place = shared / prefix
        files = (
            [place] if place.is_file() else sorted(shared.glob(f"{prefix}*/*.*" if place.is_dir() else f"{prefix}*"))
        )
        for file in (file for file in files if file.suffix):
            entry = registry.find(str(file), tmp_path, [shared])
            window = dataset.window(entry)
            assert window.lines and not window.skipped, file
            assert dataset.head(entry).mapping.format == form, file
            assert "<table" in table.html(window.lines, table.Query(), 0)
            assert all(turns.conversation(row) for row in islice(window.rows, 20))
            assert isinstance(dataset.look(entry), dict)
            opened += 1
    assert opened >= len(SHARED)
    assert before == {file: file.stat().st_mtime_ns for file in shared.rglob("*") if file.is_file()}
