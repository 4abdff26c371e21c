"""Pictures and films of a row: an address each, in the place that the row says."""

from __future__ import annotations

import json

import pytest

from data.rows.formats import load, recognise, row
from engine.contract.errors import DataError

ASKED = {"role": "user", "content": "Who?"}
SAID = {"role": "assistant", "content": "Me."}
SAY = {"from": "gpt", "value": "Me."}


def made(record):
    return row(record, recognise([record]), "/data/set/a.jsonl", 1)


PNG = b"\x89PNG\r\n\x1a\n0000"


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("a.png", "/data/set/a.png"),
        ("../a.png", "/data/a.png"),
        ("/pictures/a.png", "/pictures/a.png"),
        ("https://example.org/a.png", "https://example.org/a.png"),
        ("data:image/png;base64,AA==", "data:image/png;base64,AA=="),
        ({"bytes": PNG, "path": "a.png"}, "data:image/png;base64,iVBORw0KGgowMDAw"),
        ({"bytes": None, "path": "a.png"}, "/data/set/a.png"),
        (PNG, "data:image/png;base64,iVBORw0KGgowMDAw"),
    ],
)
def test_a_picture_is_an_address_however_it_is_given(said, address):
    picture, text = {"type": "image", "image": address}, {"type": "text", "text": "Who?"}
    whole = {"role": "user", "content": [picture, text]}
    asked = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": said}}, text]}
    for record in (
        {"question": "Who?", "answer": "Me.", "image": said},
        {"query": "<image>Who?", "response": "Me.", "images": [said]},
        {"messages": [{"role": "user", "content": [{"type": "image"}, text]}, SAID], "images": [said]},
        {"messages": [{"role": "user", "content": [{"type": "image", "image": said}, text]}, SAID]},
        {"messages": [asked, SAID]},
    ):
        assert made(record).messages == [whole, SAID]


def test_several_pictures_and_films_stand_where_the_text_says():
    record = {"conversations": [{"from": "human", "value": "<image>one<image>two <video>"}, SAY],
              "images": ["1.png", "2.png"], "videos": ["f.mp4"]}  # fmt: skip
    kinds = [(part["type"], part[part["type"]]) for part in made(record).messages[0]["content"]]
    assert kinds == [("image", "/data/set/1.png"), ("text", "one"), ("image", "/data/set/2.png"), ("text", "two "),
                     ("video", "/data/set/f.mp4")]  # fmt: skip


def test_a_placeholder_is_text_where_there_are_no_pictures():
    assert made({"prompt": "What is <image> in XML?", "completion": "A tag."}).messages[0]["content"].count("<image>")


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"prompt": "<image><image>Who?", "completion": "Me.", "image": "a.png"},
         "2 places ask for a picture, but there are 1"),
        ({"prompt": "<image>Who?", "completion": "Me.", "images": ["a", "b"]},
         "2 images, but only 1 <image> in the text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, SAID]},
         "1 places ask for a picture, but there are 0"),
        ({"prompt": "Who?", "completion": "Me.", "image": {"bytes": None}}, "a picture has no address"),
        ({"messages": [ASKED, SAID], "audio": "a.wav"}, "holds sound"),
    ],
)  # fmt: skip
def test_pictures_that_do_not_fit_their_places_are_refused(record, sentence):
    with pytest.raises(DataError, match=sentence):
        made(record)


def test_a_picture_of_a_folder_lies_beside_its_file_else_in_the_folder(tmp_path):
    (tmp_path / "part").mkdir()
    for place in ("part/near.png", "far.png"):
        (tmp_path / place).write_bytes(PNG)
    rows = [{"question": "Who?", "answer": "Me.", "image": name} for name in ("near.png", "far.png")]
    (tmp_path / "part" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = [row.messages[0]["content"][0]["image"] for row in load(tmp_path)]
    assert found == [str(tmp_path / "part" / "near.png"), str(tmp_path / "far.png")]
