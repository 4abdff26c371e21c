"""Models that see, tiny and random, of the real architectures: their tokens, their loss, what moves, what is saved."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from data import registry
from data.render import ChatTemplate
from data.tokens import TextTokenizer
from engine.contract.errors import ArgsError, DataError
from engine.contract.vision import Vision
from engine.parts import Parts
from engine.rows import Collate, maker_of
from engine.seen import Show
from engine.vision import Sight
from tests import tiny_sight
from tests.e2e.training import losses, train, weights

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
    _write(folder / "datasets" / "shown.jsonl", rows)
    pairs = [
        {
            "messages": [{"role": "user", "content": text}], "images": [f"{index}.png" for index in shown],
            "chosen": {"role": "assistant", "content": f"It is {number}."},
            "rejected": {"role": "assistant", "content": "No idea, sorry."},
        }
        for number, (text, shown) in enumerate(asked)
    ]  # fmt: skip
    _write(folder / "datasets" / "pairs.jsonl", pairs)
    return folder


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(workspace: Path, family: str, *overrides: str) -> Any:
    common = [f"model={family}", "data=shown.jsonl", "steps.max_steps=2", "data.max_length=400"]
    return train(workspace, *common, *overrides)


def prepared(workspace: Path, family: str, **options: Any) -> list[dict[str, Any]]:
    """The rows of shown.jsonl as examples for the model of `family`."""
    from data.batches import batches
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


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_tensors_are_those_of_the_processor_itself(workspace: Path, family: str) -> None:
    sight = Sight.of(workspace / "models" / family)
    assert sight is not None
    rows = registry.load(registry.find("shown.jsonl", workspace))
    texts = [ChatTemplate.of(workspace / "models" / family).render(row.messages) for row in rows]
    shown = [[], [0], [1, 2], [0, 1]]
    images = [[Image.open(workspace / "datasets" / f"{index}.png") for index in row] for row in shown]
    theirs = [
        sight.processor(text=[text], images=[row] if row else None, add_special_tokens=False, return_tensors="pt")
        for text, row in zip(texts, images, strict=True)
    ]
    for example, wanted in zip(prepared(workspace, family), theirs, strict=True):
        assert example["input_ids"] == wanted["input_ids"][0].tolist()
    batch = batch_of(workspace, family)
    pixels = torch.cat([wanted["pixel_values"] for wanted in theirs if "pixel_values" in wanted])
    assert torch.equal(batch["pixel_values"], pixels)
    for name in ("mm_token_type_ids", "token_type_ids"):
        for row, wanted in zip(batch.get(name, []), theirs, strict=False):
            assert row[: wanted[name].shape[1]].tolist() == wanted[name][0].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("train_on", ["assistant", "everything"])
def test_a_picture_is_never_trained(workspace: Path, family: str, train_on: str) -> None:
    sight = Sight.of(workspace / "models" / family)
    assert sight is not None
    for example in prepared(workspace, family, train_on=train_on):
        trained = {id for id, label in zip(example["input_ids"], example["labels"], strict=True) if label != -100}
        assert trained and not trained & sight.ids["image"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_loss_equals_a_plain_cross_entropy_on_the_model(workspace: Path, family: str) -> None:
    found = run(workspace, family, *LORA, "steps.max_steps=1", "steps.batch_size=2", "steps.accumulation=2")
    model = model_of(workspace, family)
    batch = batch_of(workspace, family)
    labels = batch.pop("labels")[:, 1:]
    model.train()  # some take pictures otherwise in training
    with torch.no_grad():
        logps = model(**batch).logits[:, :-1].double().log_softmax(-1)
    kept = labels != -100
    total = -float(logps.gather(-1, labels.clamp(min=0)[..., None])[..., 0][kept].sum())
    count = int(kept.sum())
    assert losses(found)[0] == pytest.approx(total / count, abs=1e-5)


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    """Every parameter of the model in `folder`, loaded afresh, by its name in the model."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return dict(model.named_parameters(remove_duplicate=False))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parts", [["language"], ["projector", "tower"]], ids="-".join)
def test_full_moves_exactly_the_chosen_parts(workspace: Path, family: str, parts: list[str]) -> None:
    said = [f"vision.{part}={str(part in parts).lower()}" for part in ("language", "projector", "tower")]
    found = run(workspace, family, "method=full", *said)
    part = Parts(model_of(workspace, family))
    before, after = parameters(workspace / "models" / family), parameters(found.model_path)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {part.of(name) for name in moved} == set(parts)


@pytest.mark.parametrize("family", ["qwen2.5-vl", "gemma3"])
def test_lora_leaves_every_part_alone_that_was_not_chosen(workspace: Path, family: str) -> None:
    found = run(workspace, family, *LORA)
    part = Parts(model_of(workspace, family))
    names = [name.removeprefix("base_model.model.").partition(".lora_")[0] for name in weights(found.model_path)]
    assert names and {part.of(name) for name in names} == {"language"}
    both = run(workspace, family, *LORA, "vision.projector=true", "vision.tower=true")
    names = [name.removeprefix("base_model.model.").partition(".lora_")[0] for name in weights(both.model_path)]
    assert {part.of(name) for name in names} == {"language", "projector", "tower"}


@pytest.mark.parametrize("family", ["qwen2-vl", "llava"])
def test_preferences_with_pictures_start_from_no_margin_and_are_learnt(workspace: Path, family: str) -> None:
    found = run(workspace, family, *LORA, "data=pairs.jsonl", "task=dpo", "steps.max_steps=4", "optim.warmup=0",
                "optim.learning_rate=1e-2", "steps.batch_size=3", "steps.accumulation=1")  # fmt: skip
    assert losses(found)[0] == pytest.approx(0.693147, abs=1e-4)
    assert losses(found)[-1] < 0.65
    assert losses(found, "train/preferred")[-1] == 1.0


def test_a_row_too_long_loses_whole_turns_and_never_part_of_a_picture(workspace: Path) -> None:
    sight = Sight.of(workspace / "models" / "qwen2-vl")
    assert sight is not None
    whole = prepared(workspace, "qwen2-vl")
    shorter = prepared(workspace, "qwen2-vl", max_length=len(whole[3]["input_ids"]) - 8, cut="oldest")
    last = next(example for example in shorter if example["number"] == 4)
    assert last["pictures"] == whole[3]["pictures"][1:]
    [expected] = sight.expanded(last["pictures"], [])["image"]
    assert sum(id in sight.ids["image"] for id in last["input_ids"]) == expected.count("<|image_pad|>")
    tight = prepared(workspace, "qwen2-vl", max_length=24, cut="answer")
    assert {example["number"] for example in tight} == {1}  # the others would keep half a picture


def test_larger_pictures_cost_more_tokens_up_to_the_limit(workspace: Path) -> None:
    picture = str(workspace / "datasets" / "2.png")
    folder = workspace / "models" / "qwen2-vl"
    sizes = [
        Sight(folder, Vision(max_pixels=most)).laid_on([picture], [])["image"] for most in (784 * 4, 784 * 16, 784 * 64)
    ]
    assert sizes[0] < sizes[1] < sizes[2] and sizes[0] <= 4 and sizes[1] <= 16
    assert Sight(folder, Vision(min_pixels=784 * 60, max_pixels=784 * 64)).laid_on([picture], [])["image"] >= 60


def test_a_film_is_its_frames_two_by_two(workspace: Path) -> None:
    folder, first, second = (
        workspace / "models" / "qwen2-vl",
        *(str(workspace / "datasets" / f"{n}.png") for n in (0, 3)),
    )
    Image.open(first).rotate(180).save(second)
    sight = Sight(folder)
    still = sight.features([([first], [])])
    film = sight.features([([], [[first, first]])])
    assert torch.equal(film["pixel_values_videos"], still["pixel_values"])  # what stands still is one picture
    assert film["video_grid_thw"].tolist() == still["image_grid_thw"].tolist()
    moving = sight.features([([], [[first, second, second]])])
    assert moving["video_grid_thw"][0, 0] == 2  # the third frame fills its pair
    layers = moving["pixel_values_videos"].reshape(2, -1, 3, 2, 14 * 14)
    [alone] = [sight.features([([second], [])])["pixel_values"].reshape(-1, 3, 2, 14 * 14)]
    assert torch.equal(layers[0, :, :, 0], still["pixel_values"].reshape(-1, 3, 2, 14 * 14)[:, :, 0])
    assert torch.equal(layers[0, :, :, 1], alone[:, :, 1]) and torch.equal(layers[1], alone)
    assert sight.laid_on([], [[first, second, second]])["video"] == 2 * sight.laid_on([first], [])["image"]


@pytest.mark.parametrize("family", ["qwen2-vl", "qwen2.5-vl"])
def test_films_are_trained_on_too(workspace: Path, family: str) -> None:
    _write(workspace / "datasets" / "films.jsonl", [
        {"messages": [{"role": "user", "content": [{"type": "video", "video": str(_moving(workspace))},
                                                   {"type": "text", "text": "What happens?"}]},
                      {"role": "assistant", "content": "Nothing."}]}
    ])  # fmt: skip
    found = run(workspace, family, *LORA, "data=films.jsonl", "vision.frames=2")
    assert all(math.isfinite(loss) for loss in losses(found))


def _moving(workspace: Path) -> Path:
    file = workspace / "datasets" / "moving.gif"
    frames = [Image.new("RGB", (60, 60), (40 * index, 0, 0)) for index in range(4)]
    frames[0].save(file, save_all=True, append_images=frames[1:])
    return file


def test_films_are_refused_where_the_model_is_not_shown_them(workspace: Path) -> None:
    with pytest.raises(DataError, match="llava is not shown films here. Give frames of it as several pictures"):
        Sight(workspace / "models" / "llava").expanded([], [str(_moving(workspace))])


def test_a_model_that_is_blind_refuses_rows_with_pictures(workspace: Path, tiny_model: Path) -> None:
    (workspace / "models" / "tiny").symlink_to(tiny_model)
    with pytest.raises(DataError, match="shows a picture, and the model reads text alone. Choose a model that sees"):
        train(workspace, "model=tiny", "data=shown.jsonl", *LORA)


def test_a_picture_that_is_not_there_names_its_row(workspace: Path) -> None:
    (workspace / "datasets" / "1.png").unlink()
    with pytest.raises(DataError, match="(?s)row 3: there is no picture at .*1.png"):
        run(workspace, "llava", *LORA)


def test_a_text_with_the_sign_of_a_picture_in_it_is_refused(workspace: Path) -> None:
    _write(workspace / "datasets" / "sly.jsonl", [
        {"messages": [{"role": "user", "content": "Say <|image_pad|>!"}, {"role": "assistant", "content": "No."}]}
    ])  # fmt: skip
    with pytest.raises(DataError, match=r"the text has 1 places for pictures \(<\|image_pad\|>\), and 0 are given"):
        run(workspace, "qwen2-vl", *LORA, "data=sly.jsonl")


def test_packing_is_refused_for_a_model_that_sees(workspace: Path) -> None:
    with pytest.raises(ArgsError, match="data.packing.*not packed"):
        run(workspace, "llava", *LORA, "data.packing=true")


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

    from engine.api import Api, Desk
    from engine.contract import text
    from engine.roster import load

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
    from engine.roster import load

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
    from engine.model import model_of as load
    from engine.model import with_adapter
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
