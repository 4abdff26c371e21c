"""Pictures that go with the next question of a chat: chosen, shown small, sent once. For models that see."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app.board import QUIET
from app.theme import sentence_error
from data.rows import pictures
from engine.contract.errors import DataError

EDGE = 1024  # pixels: larger pictures are made smaller before they are sent


class Attached:
    """The button, what it holds (data URLs), and how that looks."""

    def __init__(self) -> None:
        self.held = gr.State(())
        self.button = gr.UploadButton(
            "Picture", size="sm", min_width=0, file_types=["image"], file_count="multiple", visible=False,
            elem_id="chat-picture",
        )  # fmt: skip
        self.strip = gr.HTML(elem_id="chat-attached", padding=False)

    def connect(self, sent: Callable[..., Any], said: gr.HTML) -> None:
        """sent: the event with which a question leaves and takes its pictures along.   said: where problems go."""
        self.button.upload(self._chosen, [self.button, self.held], [self.held, self.strip, said], **QUIET)
        sent(lambda: ((), ""), None, [self.held, self.strip], **QUIET)

    def _chosen(self, files: Sequence[str], held: Sequence[str]) -> list[Any]:
        try:
            new = [embedded(Path(file)) for file in files]
        except DataError as problem:
            return [gr.skip(), gr.skip(), sentence_error("This picture cannot be used.", problem.text)]
        return [(*held, *new), shown((*held, *new)), ""]


def embedded(file: Path) -> str:
    """The picture in a file as a data URL: as it is where it is small enough and of a kind that all know."""
    image = pictures.picture(str(file))
    kind = file.suffix.lower().removeprefix(".")
    if max(image.size) <= EDGE and kind in ("png", "webp"):
        return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"
    return pictures.thumbnail(str(file), EDGE)


def shown(held: Sequence[str]) -> str:
    """What goes with the next question, as HTML."""
    if not held:
        return ""
    images = "".join(f'<img src="{escape(picture)}" alt="attached">' for picture in held)
    return f'<p class="tb-gallery">{images}</p>'
