"""Pictures in a chat: attached, said in OpenAI's words, shown, and saved with the conversation."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from app.chatting import attached, talks
from data.rows import pictures
from engine.contract.errors import DataError
from engine.contract.talk import Talk

DOT = "data:image/png;base64,iVBORw0KGgo="


def test_a_picture_becomes_a_data_url_and_a_large_one_is_made_smaller(tmp_path: Path) -> None:
    Image.new("RGB", (60, 30), "red").save(tmp_path / "small.png")
    Image.new("RGB", (4000, 2000), "red").save(tmp_path / "large.png")
    small, large = (attached.embedded(tmp_path / name) for name in ("small.png", "large.png"))
    assert pictures.picture(small).size == (60, 30) and pictures.picture(large).size == (1024, 512)
    assert attached.shown([small, large]).count("<img ") == 2 and attached.shown([]) == ""


def test_what_is_no_picture_is_not_attached(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(DataError, match="is no picture"):
        attached.embedded(tmp_path / "a.png")


def test_a_question_with_a_picture_is_asked_shown_and_saved_with_it() -> None:
    turns = talks.asked((), "What is it?", [DOT])
    [asked] = talks.messages(Talk(), turns)
    assert asked["content"] == [
        {"type": "image_url", "image_url": {"url": DOT}}, {"type": "text", "text": "What is it?"}
    ]  # fmt: skip
    seen, said = talks.shown(turns)
    assert f'<img src="{DOT}"' in seen["content"] and said["content"] == "What is it?"
    assert talks.place(turns, 1) == 0
    read, _ = talks.read(talks.saved((turns,), ["x"], Talk()).encode())
    assert read == (turns,)


def test_a_conversation_from_elsewhere_brings_no_address_into_the_page() -> None:
    given = '[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.b/\\"><script>"}}, '
    read, _ = talks.read((given + '{"type": "text", "text": "Hm"}]}]').encode())
    assert read[0][0].pictures == () and read[0][0].text == "Hm"
