"""An export is whole, equal to what was trained, and refused with a sentence where it cannot be."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import export
from engine.contract import rundir, text
from engine.contract.args import ExportArgs
from engine.contract.errors import BoardError, ModelError, ResourceError
from engine.contract.events import decode
from engine.contract.rundir import Run, records
from engine.exporting import verify
from engine.report import Report, Stop
from tests import tuned


def do(workspace: Path, **args: object) -> Run:
    """One export in this process, as the worker does it."""
    run = rundir.make(workspace, "export", text.dump(ExportArgs(**args)))
    export.run(ExportArgs(**args), run, Report(run), Stop())
    return run


def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    """Plain transformers and PEFT, in fp32."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model.eval()(torch.arange(4, 60)[None]).logits[0]


def test_merged_weights_answer_as_base_plus_adapter(workspace: Path, tiny_model: Path) -> None:
    run = tuned.adapter_run(workspace)
    do(workspace, tuned=run.id, to="mine", dtype="fp32")
    found = logits(workspace / "exports/mine")
    assert (found - logits(tiny_model, run.model_path)).abs().max() <= 1e-5
    assert (found - logits(tiny_model)).abs().max() > 0.01


@pytest.mark.parametrize("variant", [{"use_dora": True}, {"use_rslora": True}])
def test_other_kinds_of_adapters_merge_as_exactly(workspace: Path, tiny_model: Path, variant: dict) -> None:
    run = tuned.adapter_run(workspace, **variant)
    do(workspace, tuned=run.id, to="mine", dtype="fp32")
    assert (logits(workspace / "exports/mine") - logits(tiny_model, run.model_path)).abs().max() <= 1e-5


def test_bf16_is_verified_and_its_rounding_reported(workspace: Path) -> None:
    run = do(workspace, tuned=tuned.adapter_run(workspace).id, to="half", dtype="bf16")
    tensors = load_file(workspace / "exports/half/model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    receipt = json.loads(run.receipt_path.read_text())
    assert receipt["verified"]
    checks = receipt["checks"]
    assert checks["merge"]["max_difference"] < 1e-5 < checks["whole"]["max_difference"]
    assert checks["file"]["max_difference"] == 0
    assert json.loads((workspace / "exports/half/config.json").read_text())["dtype"] == "bfloat16"


def test_an_export_is_complete(workspace: Path) -> None:
    import hashlib

    trained = tuned.adapter_run(workspace)
    run = do(workspace, tuned=trained.id)
    folder = workspace / "exports" / trained.id
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "README.md", "Modelfile",
            "receipt.json", "model.safetensors"} <= names  # fmt: skip
    receipt = json.loads((folder / "receipt.json").read_text())
    assert {file["name"] for file in receipt["files"]} == names - {"receipt.json"}
    for file in receipt["files"]:
        assert hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest() == file["sha256"]
    (result,) = [event for record in records(run.events_path) if (event := decode(record)).kind == "result"]
    assert str(folder) in result.sentence and "Verified" in result.sentence
    card = (folder / "README.md").read_text()
    assert "sums.jsonl" in card and "lora" in card and str(workspace) not in card


def test_what_was_written_in_part_never_gets_a_name(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tampering between saving and verifying is what a bad disk, or a bug in a library, would do."""
    genuine = export._save

    def save_and_spoil(model: object, plan: export.Plan, partial: Path) -> None:
        genuine(model, plan, partial)
        file = partial / "model.safetensors"
        tensors = load_file(file)
        name = next(name for name in tensors if "down_proj" in name)
        save_file({**tensors, name: tensors[name] * 1.5}, file, {"format": "pt"})

    monkeypatch.setattr(export, "_save", save_and_spoil)
    with pytest.raises(verify.VerificationError, match="the written weights differ"):
        do(workspace, tuned=tuned.adapter_run(workspace).id, to="bad")
    assert list((workspace / "exports").iterdir()) == []


def test_a_merge_that_loses_the_adapter_is_caught(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import PeftModel

    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self, **_: self.unload(), raising=False)
    with pytest.raises(verify.VerificationError, match="merging changed the logits"):
        do(workspace, tuned=tuned.adapter_run(workspace).id, to="bad")
    assert list((workspace / "exports").iterdir()) == []


def test_a_tokenizer_that_reads_otherwise_is_caught(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = export._save

    def save_and_spoil(model: object, plan: export.Plan, partial: Path) -> None:
        genuine(model, plan, partial)
        file = partial / "chat_template.jinja"
        file.write_text(file.read_text().replace("<|im_end|>", ""))

    monkeypatch.setattr(export, "_save", save_and_spoil)
    with pytest.raises(verify.VerificationError, match="reads the probe"):
        do(workspace, tuned=tuned.adapter_run(workspace).id, to="bad")
    assert list((workspace / "exports").iterdir()) == []


def test_an_export_is_never_overwritten(workspace: Path) -> None:
    run = tuned.adapter_run(workspace)
    (workspace / "exports/mine").mkdir(parents=True)
    with pytest.raises(BoardError, match="mine already"):
        do(workspace, tuned=run.id, to="mine")
    assert list((workspace / "exports/mine").iterdir()) == []


def test_a_full_disk_is_refused_before_anything_is_written(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tuned.adapter_run(workspace)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(ResourceError, match=r"needs .* kB, and 1\.0 kB are free"):
        do(workspace, tuned=run.id, to="mine")
    assert list((workspace / "exports").iterdir()) == []


def test_weights_are_written_in_shards_of_the_asked_size(workspace: Path, tiny_model: Path) -> None:
    run = tuned.adapter_run(workspace)
    do(workspace, tuned=run.id, to="shards", shard_gb=2e-5, dtype="fp32")
    folder = workspace / "exports/shards"
    files = list(folder.glob("model-*.safetensors"))
    assert len(files) > 2 and (folder / "model.safetensors.index.json").is_file()
    assert (logits(folder) - logits(tiny_model, run.model_path)).abs().max() <= 1e-5


def test_a_fully_trained_model_is_copied_and_verified(workspace: Path) -> None:
    run = tuned.full_run(workspace)
    do(workspace, tuned=run.id, to="full")
    assert torch.equal(logits(workspace / "exports/full"), logits(run.model_path))
    with pytest.raises(ModelError, match="has no adapter"):
        do(workspace, tuned=run.id, to="nothing", form="adapter")


def test_an_adapter_alone_loads_again(workspace: Path, tiny_model: Path) -> None:
    run = tuned.adapter_run(workspace)
    do(workspace, tuned=run.id, to="small", form="adapter")
    folder = workspace / "exports/small"
    assert torch.equal(logits(tiny_model, folder), logits(tiny_model, run.model_path))
    assert not (folder / "model.safetensors").exists() and (folder / "tokenizer.json").is_file()
    receipt = json.loads((folder / "receipt.json").read_text())
    assert receipt["verified"] and receipt["checks"]["whole"]["max_difference"] == 0


def test_a_quantised_base_is_refused(workspace: Path, tiny_model: Path) -> None:
    run = tuned.adapter_run(workspace)
    quantised = workspace / "models/tiny"
    quantised.unlink()
    shutil.copytree(tiny_model, quantised)
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (quantised / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"quantised \(gptq\)"):
        do(workspace, tuned=run.id, to="mine")
    assert not (workspace / "exports/mine").exists()


def test_what_cannot_be_merged_is_refused(workspace: Path) -> None:
    run = tuned.prompt_run(workspace)
    with pytest.raises(ModelError, match="nothing to merge"):
        do(workspace, tuned=run.id, to="mine")


def test_left_overs_of_dead_exports_are_removed(workspace: Path) -> None:
    import subprocess

    process = subprocess.Popen(["true"])
    process.wait()
    left = workspace / "exports" / f".partial-old-{process.pid}"
    left.mkdir(parents=True)
    do(workspace, tuned=tuned.adapter_run(workspace).id, to="mine")
    assert [entry.name for entry in (workspace / "exports").iterdir()] == ["mine"]
