"""Models that see, tiny and random, of the real architectures: their tokens, their loss, what moves, what is saved."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from data.datasets import registry
from data.encoding.render import ChatTemplate
from engine.contract.errors import ArgsError, DataError
from engine.contract.vision import Vision
from engine.models.parts import Parts
from engine.models.vision import Sight
from tests.e2e.seeing import FAMILIES, LORA, batch_of, model_of, prepared, run, write
from tests.e2e.seeing import seeing as seeing
from tests.e2e.seeing import workspace as workspace
from tests.e2e.training import losses, train, weights


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
    write(workspace / "datasets" / "films.jsonl", [
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
    write(workspace / "datasets" / "sly.jsonl", [
        {"messages": [{"role": "user", "content": "Say <|image_pad|>!"}, {"role": "assistant", "content": "No."}]}
    ])  # fmt: skip
    with pytest.raises(DataError, match=r"the text has 1 places for pictures \(<\|image_pad\|>\), and 0 are given"):
        run(workspace, "qwen2-vl", *LORA, "data=sly.jsonl")


def test_packing_is_refused_for_a_model_that_sees(workspace: Path) -> None:
    with pytest.raises(ArgsError, match="data.packing.*not packed"):
        run(workspace, "llava", *LORA, "data.packing=true")


@pytest.mark.parametrize("method", [["method=oft", "method.block_size=8"], ["method=tuner"]], ids=" ".join)
def test_other_adapters_leave_every_part_alone_that_was_not_chosen(workspace: Path, method: list[str]) -> None:
    found = run(workspace, "gemma3", *method)
    part = Parts(model_of(workspace, "gemma3"))
    names = [name.removeprefix("base_model.model.") for name in weights(found.model_path) if ".layers." in name]
    assert names and {part.of(name) for name in names} == {"language"}


@pytest.mark.parametrize("method", ["prompt", "prefix", "expand"])
def test_a_learnt_prompt_and_new_layers_are_for_models_that_read_alone(workspace: Path, method: str) -> None:
    with pytest.raises(ArgsError, match="Only models that read text alone can"):
        run(workspace, "gemma3", f"method={method}", "method.tokens=4" if method != "expand" else "method.layers=1")
