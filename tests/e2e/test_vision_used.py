"""What was trained to see is judged, served and exported as it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract.errors import DataError
from engine.models.vision import Sight
from tests.e2e.seeing import LORA, batch_of, model_of, run
from tests.e2e.seeing import seeing as seeing
from tests.e2e.seeing import workspace as workspace


@pytest.mark.parametrize("family", ["qwen2-vl", "gemma3"])
def test_base_and_tuned_are_judged_on_the_same_pictures(workspace: Path, family: str) -> None:
    from engine import evaluate
    from engine.contract import rundir, text
    from engine.contract.rundir import records
    from engine.report import Report, Stop

    tuned = run(workspace, family, *LORA)
    args: Any = text.parse({}, [f"tuned={tuned.id}", "data=shown.jsonl", "dtype=fp32", "max_tokens=4", "device=cpu",
                                "max_length=400", "batch_size=2"], kind="evaluate")  # fmt: skip
    folder = rundir.make(workspace, "judged", text.dump(args))
    evaluate.run(args, folder, Report(folder), Stop())
    rows = {row["number"]: row for row in records(folder.results_path / "rows.jsonl")}
    assert [Path(place).name for place in rows[3]["pictures"]] == ["1.png", "2.png"] and "pictures" not in rows[1]
    assert rows[3]["prompt"] == "Which of  both?"
    batch = batch_of(workspace, family)
    labels = batch.pop("labels")[:, 1:]
    with torch.no_grad():
        logps = model_of(workspace, family)(**batch).logits[:, :-1].double().log_softmax(-1)
    nll = -logps.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * (labels != -100)
    for number, wanted in enumerate(nll.sum(-1).tolist(), 1):
        assert rows[number]["base"]["nll"] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_server_answers_on_a_picture_as_the_model_does(workspace: Path, dtype: str) -> None:
    import base64

    from starlette.testclient import TestClient

    from engine.contract import text
    from engine.serving.api import Api, Desk
    from engine.serving.roster import load

    tuned = run(workspace, "qwen2-vl", *LORA)
    args: Any = text.parse(
        {}, [f"models=[qwen2-vl,{tuned.id}]", f"dtype={dtype}", "device=cpu"], kind="serve"
    )  # fmt: skip
    desk = Desk()
    roster = load(args, workspace, say=lambda word: None)
    client = TestClient(Api(roster, desk).app(), base_url="http://127.0.0.1")
    data = (workspace / "datasets" / "0.png").read_bytes()
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}"}}
    asked = [{"role": "user", "content": [picture, {"type": "text", "text": "What?"}]}]
    request = {"messages": asked, "temperature": 0, "max_tokens": 5}
    try:
        for name in ("qwen2-vl", tuned.id):
            answer = client.post("/v1/chat/completions", json={**request, "model": name}).json()
            assert answer["choices"][0]["message"]["content"] is not None, answer
            plain = client.post(
                "/v1/chat/completions",
                json={**request, "messages": [{"role": "user", "content": "What?"}], "model": name},
            ).json()
            assert answer["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]
        several = client.post("/v1/chat/completions", json={**request, "n": 2, "temperature": 1, "seed": 1}).json()
        assert len(several["choices"]) == 2
        for address in ("https://example.org/a.png", "/etc/hostname", "file:///etc/hostname"):
            there = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}]}]
            refused = client.post("/v1/chat/completions", json={**request, "messages": there})
            assert refused.status_code == 400 and "sent with the request" in refused.json()["error"]["message"]
        [described, *_] = client.get("/v1/models").json()["data"]
        assert described["sees"] is True
        if dtype == "fp32":
            said = roster.find("").prompt(
                [
                    {
                        "role": "user",
                        "content": [{"type": "image", "image": picture["image_url"]["url"]}, asked[0]["content"][1]],
                    }
                ]
            )
            sight = Sight(workspace / "models" / "qwen2-vl")
            ids = torch.tensor([said])
            beside = sight.beside(ids, [([picture["image_url"]["url"]], [])])
            wanted = model_of(workspace, "qwen2-vl").generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, **beside
            )[0, len(said) :]
            again = client.post("/v1/chat/completions", json={**request, "model": "qwen2-vl"}).json()
            tokenizer = roster.find("").tokenizer
            assert again["choices"][0]["message"]["content"] == tokenizer.decode(wanted, skip_special_tokens=True)
    finally:
        desk.close()


def test_a_model_that_reads_text_alone_refuses_a_picture_in_a_sentence(workspace: Path, tiny_model: Path) -> None:
    from engine.contract import text
    from engine.serving.roster import load

    (workspace / "models" / "tiny").symlink_to(tiny_model)
    args: Any = text.parse({}, ["models=[tiny]", "dtype=fp32", "device=cpu"], kind="serve")
    voice = load(args, workspace, say=lambda word: None).find("")
    with pytest.raises(DataError, match="tiny reads text alone. Leave the picture out, or load a model that sees"):
        voice.prompt([{"role": "user", "content": [{"type": "image", "image": "data:,"}]}])


@pytest.mark.parametrize(
    ("family", "method"),
    [("qwen2.5-vl", LORA), ("gemma3", [*LORA, "vision.projector=true"]), ("llava", ["method=full"])],
)
def test_an_export_sees_as_the_tuned_model_does(workspace: Path, family: str, method: list[str]) -> None:
    from engine import export
    from engine.contract import rundir, text
    from engine.models.model import model_of as load
    from engine.models.model import with_adapter
    from engine.report import Report, Stop

    tuned = run(workspace, family, *method)
    args: Any = text.parse({}, [f"tuned={tuned.id}", "to=whole", "dtype=fp32", "device=cpu"], kind="export")
    folder = rundir.make(workspace, "export", text.dump(args))
    export.run(args, folder, Report(folder), Stop())
    batch = batch_of(workspace, family)
    batch.pop("labels")
    device = torch.device("cpu")
    if method[0] == "method=full":
        model = load(tuned.model_path, dtype=torch.float32, device=device)
    else:
        model = with_adapter(load(workspace / "models" / family, dtype=torch.float32, device=device), tuned.model_path)
    exported = workspace / "exports" / "whole"
    with torch.no_grad():
        wanted = model.eval()(**batch).logits
        found = load(exported, dtype=torch.float32, device=device)(**batch).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert Sight(exported).expanded([str(workspace / "datasets" / "0.png")], [])["image"]
