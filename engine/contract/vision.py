"""How pictures are trained on: which parts of a model that sees are trained, and how much of a picture it is shown."""

from __future__ import annotations

from typing import ClassVar

from engine.contract.fields import AUTO, Auto, Section, arg


class Vision(Section):
    """For models that see: what of them is trained, and how large pictures and films may be."""

    title: ClassVar[str] = "Pictures"

    language: bool = arg(
        True,
        "Trains the language part: how the model speaks of what it sees.",
        when="Off to teach the eyes alone.",
        usual="on",
        label="Train the language part",
        basic=True,
    )
    projector: bool = arg(
        False,
        "Trains the projector, which turns what the tower sees into what the language part reads.",
        when="On for pictures of a kind that the model does not know, such as scans or maps.",
        usual="off; on with full (method.kind)",
        label="Train the projector",
        basic=True,
    )
    tower: bool = arg(
        False,
        "Trains the vision tower, the eyes themselves.",
        when="On when the pictures look like none before and there are many of them.",
        usual="off",
        label="Train the vision tower",
        basic=True,
    )
    max_pixels: int | Auto = arg(
        AUTO,
        "Larger pictures are made smaller, to this many pixels; auto is the model's own limit.",
        when="Lower it when pictures cost too many tokens or too much memory.",
        usual="200000 to 1000000",
        unit="pixels",
        basic=True,
        ge=784,
        le=100_000_000,
    )
    min_pixels: int | Auto = arg(
        AUTO,
        "Smaller pictures are made larger, to this many pixels; auto is the model's own limit.",
        when="When small print must be read.",
        usual="auto",
        unit="pixels",
        ge=1,
        le=100_000_000,
    )
    frames: int = arg(
        8,
        "At most this many frames of a film, evenly spread.",
        when="More when much happens; each frame costs as a picture does.",
        usual="4 to 32",
        unit="frames",
        ge=1,
        le=768,
    )
    frames_per_second: float = arg(
        2.0,
        "How fast the frames that are given follow each other, for models that reckon with time (Qwen2.5-VL).",
        when="When your frames were taken faster or slower.",
        usual="1 to 4",
        gt=0,
        le=240,
    )
