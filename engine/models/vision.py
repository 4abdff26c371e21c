"""What a model sees with: its processor, and what becomes of pictures and films in text and in tensors.

The processor's own code decides how many tokens a picture takes and what its tensors are; nothing is reckoned a second
time here. It runs on Pillow alone. Knows nothing of rows, masks or training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data import models
from data.rows import pictures
from engine.contract.errors import DataError, ModelError
from engine.contract.vision import Vision

KINDS = ("image", "video")
REMEMBERED = 256  # rows whose pictures need not be looked at again while their row is cut
FILMS = ("Qwen2VLProcessor", "Qwen2_5_VLProcessor")  # whose film is patches of frames, as Frames makes them
SEQUENCES = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")  # a processor's rows of tokens
FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.json")


Shown = tuple[Sequence[str], Sequence[Any]]
"""The addresses of the pictures of a row, and of its films."""


class Frames:
    """The film processor of Qwen2-VL on Pillow: each frame as the image processor makes it, neighbours side by side.

    (transformers' own needs torchvision.) A film is a uint8 array (frames, height, width, 3).
    """

    model_input_names = ["pixel_values_videos", "video_grid_thw"]

    def __init__(self, image_processor: Any) -> None:
        self.image_processor = image_processor
        self.merge_size = getattr(image_processor, "merge_size", 1)
        self.temporal_patch_size = getattr(image_processor, "temporal_patch_size", 1)
        self.frames_per_second = Vision().frames_per_second

    def __call__(self, videos: Sequence[np.ndarray], **_: Any) -> dict[str, Any]:
        from transformers.video_utils import VideoMetadata

        found, grids, facts = [], [], []
        for film in videos:
            patches, grid = self._patches(film)
            found.append(patches)
            grids.append(grid)
            whole = list(range(len(film)))
            facts.append(VideoMetadata(len(film), fps=self.frames_per_second, frames_indices=whole))
        return {
            "pixel_values_videos": np.concatenate(found),
            "video_grid_thw": np.array(grids),
            "video_metadata": facts,
        }

    def _patches(self, film: np.ndarray) -> tuple[np.ndarray, list[int]]:
        depth, maker = self.temporal_patch_size, self.image_processor
        film = np.concatenate([film, *[film[-1:]] * (-len(film) % depth)])  # the last frame fills the last group
        made = maker(images=[Image.fromarray(frame) for frame in film])
        _, height, width = (int(edge) for edge in made["image_grid_thw"][0])
        # Of a picture, which stands still, each patch holds `depth` equal layers: one of them is the frame's.
        layers = np.asarray(made["pixel_values"]).reshape(len(film), height * width, 3, depth, maker.patch_size**2)
        grouped = layers[:, :, :, 0].reshape(len(film) // depth, depth, height * width, 3, maker.patch_size**2)
        patches = grouped.transpose(0, 2, 3, 1, 4).reshape(-1, 3 * depth * maker.patch_size**2)
        return patches, [len(film) // depth, height, width]


@dataclass(frozen=True)
class Sight:
    """The processor of the model in `folder`; another process makes its own."""

    folder: Path
    settings: Vision = Vision()
    cache: Path | None = None  # where pictures from https addresses lie

    @classmethod
    def of(cls, folder: Path, settings: Vision | None = None, cache: Path | None = None) -> Sight | None:
        """The sight of the model in `folder`; None when it reads text alone."""
        return cls(folder, settings or Vision(), cache) if models.sees(folder) else None

    def __reduce__(self) -> tuple[Any, ...]:
        return Sight, (self.folder, self.settings, self.cache)

    @cached_property
    def processor(self) -> Any:
        """Raises ModelError when the folder's processor cannot be made."""
        found = _processor(self.folder)
        maker, wanted = found.image_processor, self.settings
        if hasattr(maker, "merge_size") and "longest_edge" in dict(maker.size):
            low, high = wanted.min_pixels, wanted.max_pixels
            own = {"shortest_edge": maker.size["shortest_edge"], "longest_edge": maker.size["longest_edge"]}
            own |= {"shortest_edge": int(low)} if low != "auto" else {}
            own |= {"longest_edge": int(high)} if high != "auto" else {}
            maker.size = {**own, "shortest_edge": min(own.values())}
        if isinstance(getattr(found, "video_processor", None), Frames):
            found.video_processor.frames_per_second = wanted.frames_per_second
        return found

    @property
    def files(self) -> list[Path]:
        """What must lie beside weights that are to see with this processor."""
        return [self.folder / name for name in FILES if (self.folder / name).is_file()]

    @cached_property
    def signs(self) -> dict[str, str]:
        """The text that stands for a picture, and the one for a film, before they are expanded."""
        signs = {kind: getattr(self.processor, f"{kind}_token", None) for kind in ("image", "video")}
        return {kind: sign for kind, sign in signs.items() if sign}

    @cached_property
    def ids(self) -> dict[str, frozenset[int]]:
        """Ids of the tokens that pictures, and films, are laid on."""
        processor = self.processor
        found = {
            "image": processor.image_token_ids,
            "video": processor.video_token_ids if "video" in self.signs else [],
        }
        return {kind: frozenset(id for id in ids if id is not None) for kind, ids in found.items()}

    def expanded(self, images: Sequence[str], films: Sequence[Any]) -> dict[str, list[str]]:
        """What the sign of each picture and film becomes. Raises DataError for one that cannot be opened."""
        if not images and not films:
            return {kind: [] for kind in KINDS}
        key = json.dumps([images, films])
        if key not in self._known:
            made = self._made([(images, films)], return_text_replacement_offsets=True)
            if "text_replacement_offsets" not in made:
                raise ModelError(
                    f"{type(self.processor).__name__} does not say what it makes of a picture.",
                    "Choose a model of another family, such as Qwen2.5-VL, Gemma 3 or LLaVA.",
                )
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            places = made["text_replacement_offsets"][0]
            self._known[key] = {
                kind: [place["replacement"] for place in places if place["type"] == kind] for kind in KINDS
            }
        return self._known[key]

    def laid_on(self, images: Sequence[str], films: Sequence[Any]) -> dict[str, int]:
        """How many tokens the pictures are laid on, and the films."""
        words = {kind: self.processor.tokenizer.convert_ids_to_tokens(sorted(self.ids[kind])) for kind in KINDS}
        expanded = self.expanded(images, films)
        return {kind: sum(text.count(word) for text in expanded[kind] for word in words[kind]) for kind in KINDS}

    @cached_property
    def _known(self) -> dict[str, dict[str, list[str]]]:
        return {}

    def features(self, rows: Sequence[Shown]) -> dict[str, torch.Tensor]:
        """What the model takes beside the tokens of these rows, each with its pictures and its films."""
        shown = [row for row in rows if row[0] or row[1]]
        if not shown:
            return {}
        made = self._made(shown, padding=True, return_tensors="pt")
        return {name: value for name, value in made.items() if name not in SEQUENCES}

    @cached_property
    def _kinds_name(self) -> str:
        """What the model calls the kinds of tokens; empty when it takes none."""
        if not getattr(self.processor, "return_mm_token_type_ids", False):
            return ""
        made = self.processor(text=["."], add_special_tokens=False)
        return next((name for name in ("mm_token_type_ids", "token_type_ids") if name in made), "")

    def kinds(self, ids: Sequence[Sequence[int]]) -> dict[str, list[list[int]]]:
        """Per token whether it is text (0), picture (1) or film (2), by the name that the model takes it under."""
        name = self._kinds_name
        return {name: self.processor.create_mm_token_type_ids([list(row) for row in ids])} if name else {}

    def beside(self, ids: torch.Tensor, rows: Sequence[Shown]) -> dict[str, torch.Tensor]:
        """All that the model takes beside (rows, longest) token ids: the kinds of tokens, and `features`."""
        kinds = {name: torch.tensor(value) for name, value in self.kinds(ids.tolist()).items()}
        return {**kinds, **self.features(rows)}

    def _made(self, rows: Sequence[Shown], **options: Any) -> Any:
        images = [[self._picture(address) for address in shown] for shown, _ in rows]
        films = [self._film(film) for _, shown in rows for film in shown]
        texts = [
            self.signs.get("image", "") * len(pictured) + self.signs.get("video", "") * len(filmed)
            for pictured, filmed in rows
        ]
        given = {"images": images if any(images) else None, "videos": films or None}
        given = {name: value for name, value in given.items() if value is not None}
        try:
            return self.processor(text=texts, add_special_tokens=False, **given, **options)
        except ValueError as problem:  # a shape that the model cannot be shown
            raise DataError(f"a picture cannot be shown to {self.folder.name}: {problem}") from None

    def _picture(self, address: str) -> Image.Image:
        if address.startswith("https:") and self.cache is not None:
            pictures.fetch(address, self.cache)
        image = pictures.picture(address, cache=self.cache)
        low, high = self.settings.min_pixels, self.settings.max_pixels
        if hasattr(self.processor.image_processor, "merge_size"):
            return image  # the processor keeps the limits itself
        pixels = image.width * image.height
        wanted = min(max(pixels, low if low != "auto" else 0), high if high != "auto" else pixels)
        if wanted == pixels:
            return image
        scale = (wanted / pixels) ** 0.5
        edges = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return image.resize(edges, Image.Resampling.BICUBIC)

    def _film(self, film: Any) -> np.ndarray:
        if type(self.processor).__name__ not in FILMS:
            raise DataError(
                f"{self.folder.name} is not shown films here.", "Give frames of it as several pictures instead."
            )
        shown = pictures.frames(film, self.settings.frames, cache=self.cache)
        if len({frame.size for frame in shown}) > 1:
            raise DataError("the frames of a film differ in size.", "Make them alike.")
        return np.stack([np.asarray(frame) for frame in shown])


def _processor(folder: Path) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name

    from data.encoding.special import settings

    stated = next((name for file in FILES[:2] if (name := settings(folder / file).get("processor_class"))), None)
    try:
        known = processor_class_from_name(stated) if stated else None
        kind = known or PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(folder))]
        made = type(kind.__name__, (_OnPillow, kind), {})
        return made.from_pretrained(folder, backend="pil")
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as problem:
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        raise ModelError(
            f"What {folder.name} sees with cannot be loaded: {lines[0][:300]}",
            "Its processor's files must lie beside the weights; a family that needs torchvision is not served.",
        ) from None


class _OnPillow:
    """What a processor class is given here, so that it is made without torchvision: frames instead of films."""

    @classmethod
    def _get_arguments_from_pretrained(cls, folder: Any, processor_dict: Any = None, **options: Any) -> list[Any]:
        from transformers import AutoImageProcessor, AutoTokenizer

        found: dict[str, Any] = {}
        for name in cls.get_attributes():  # type: ignore[attr-defined]
            if name == "image_processor":
                found[name] = AutoImageProcessor.from_pretrained(folder, **options)
            elif name == "tokenizer":
                found[name] = AutoTokenizer.from_pretrained(folder)
            elif name == "video_processor":
                found[name] = Frames(found["image_processor"])
            else:
                raise ValueError(f"it has a {name}, which is not served here")
        return list(found.values())

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().to_dict().items() if name != "video_processor"}  # type: ignore[misc]

    def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
        return type(argument)


Written = tuple[int, int, int, int]
"""Where a sign was in the text, and where what it became is in the longer one: begin and end of each."""


def expand(text: str, signs: dict[str, str], expanded: dict[str, list[str]]) -> tuple[str, list[Written]]:
    """`text` with each sign as the processor writes it out, and where.

    Raises DataError when there are more or fewer signs than pictures: a template that writes none, or a text that
    holds the sign itself.
    """
    kinds = {sign: kind for kind, sign in signs.items()}
    places = list(re.finditer("|".join(map(re.escape, kinds)), text)) if kinds else []
    for kind, wanted in expanded.items():
        found = sum(kinds[place.group()] == kind for place in places)
        if found != len(wanted):
            noun = "pictures" if kind == "image" else "films"
            raise DataError(
                f"the text has {found} places for {noun} ({signs.get(kind, 'the model takes none')}), and "
                f"{len(wanted)} are given.",
                "The template must be one that writes them, and no text may hold that sign itself.",
            )
    left = {kind: iter(found) for kind, found in expanded.items()}
    longer, written, end = "", [], 0
    for place in places:
        longer += text[end : place.start()]
        begin = len(longer)
        longer += next(left[kinds[place.group()]])
        written.append((*place.span(), begin, len(longer)))
        end = place.end()
    return longer + text[end:], written
