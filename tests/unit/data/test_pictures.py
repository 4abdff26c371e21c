"""Pictures from every address, and everything that is refused with a sentence."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.rows import pictures
from engine.contract.errors import DataError


def encoded(size: tuple[int, int] = (30, 20), kind: str = "PNG", mode: str = "RGB", colour: object = "red") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, kind)  # type: ignore[arg-type]
    return file.getvalue()


def url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@pytest.fixture
def moving(tmp_path: Path) -> Path:
    """A GIF of ten frames, each of another grey."""
    shades = [Image.new("L", (8, 8), 20 * index) for index in range(10)]
    shades[0].save(tmp_path / "moving.gif", save_all=True, append_images=shades[1:], duration=100, loop=0)
    return tmp_path / "moving.gif"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_a_picture_is_the_same_from_a_file_from_bytes_and_from_a_data_url(tmp_path: Path, kind: str) -> None:
    data = encoded(kind=kind)
    file = tmp_path / "picture"
    file.write_bytes(data)
    found = [pictures.picture(address) for address in (str(file), data, url(data))]
    assert {image.mode for image in found} == {"RGB"} and {image.size for image in found} == {(30, 20)}
    assert len({image.tobytes() for image in found}) == 1


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA", "1", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert pictures.picture(encoded(kind="TIFF", mode=mode, colour=0)).mode == "RGB"


def test_a_picture_taken_sideways_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert pictures.picture(str(tmp_path / "turned.jpg")).size == (20, 30)


def test_a_cut_off_file_is_damaged(tmp_path: Path) -> None:
    Image.effect_noise((200, 200), 50).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut.jpg is damaged: .*truncated"):
        pictures.picture(str(tmp_path / "cut.jpg"))


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<svg></svg>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0" * 100])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="an embedded picture is no picture, or of a kind that is not read here"):
        pictures.picture(data)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match="too large a picture. At most 100 million pixels"):
        pictures.picture(bomb)


def test_a_file_of_too_many_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "big.png").write_bytes(encoded())
    monkeypatch.setattr(pictures, "MAX_BYTES", 50)
    for address in (str(tmp_path / "big.png"), url(encoded((90, 90), mode="RGB"))):
        with pytest.raises(DataError, match="too large a picture"):
            pictures.picture(address)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("/nowhere/at/all.png", "there is no picture at /nowhere/at/all.png"),
        ("/tmp", "there is no picture at /tmp"),
        ("/a\0b.png", "is not a usable path|there is no picture"),
        ("/" + "x" * 5000, "not a usable path"),
        ("data:image/png;base64", "broken off"),
        ("data:image/png;base64,!!!", "not valid base64"),
        ("https://example.org/a.png", "is not on this machine"),
        ("http://example.org/a.png", "is not a safe address. Use https"),
    ],
)
def test_an_address_that_leads_nowhere_is_a_sentence(address: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        pictures.picture(address)


def test_a_path_outside_the_allowed_folders_is_refused_symlinks_followed(tmp_path: Path) -> None:
    outside, within = tmp_path / "outside.png", tmp_path / "within"
    outside.write_bytes(encoded())
    within.mkdir()
    (within / "link.png").symlink_to(outside)
    (within / "own.png").write_bytes(encoded())
    assert pictures.picture(str(within / "own.png"), [within]).size == (30, 20)
    for address in (outside, within / "link.png", within / ".." / "outside.png"):
        with pytest.raises(DataError, match="outside the folders"):
            pictures.picture(str(address), [within])


def test_an_address_is_fetched_once_and_then_read_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Answer(io.BytesIO):
        url = "https://example.org/a.png"

    def urlopen(request: Any, timeout: float) -> Answer:
        asked.append(request.full_url)
        return Answer(encoded())

    monkeypatch.setattr(pictures, "urlopen", urlopen)
    for _ in range(2):
        pictures.fetch("https://example.org/a.png", tmp_path / "cache")
    assert asked == ["https://example.org/a.png"]
    assert pictures.picture("https://example.org/a.png", cache=tmp_path / "cache").size == (30, 20)
    monkeypatch.setattr(pictures, "MAX_BYTES", 50)
    with pytest.raises(DataError, match="too large a picture"):
        pictures.fetch("https://example.org/b.png", tmp_path / "cache")
    Answer.url = "ftp://example.org/a.png"
    with pytest.raises(DataError, match="leads away from https"):
        pictures.fetch("https://example.org/c.png", tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_frames_come_from_a_list_a_folder_or_a_picture_that_moves(tmp_path: Path, moving: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(10):
        Image.new("RGB", (8, 8), (20 * index,) * 3).save(folder / f"{index:03}.png")
    (folder / "notes.txt").write_text("not a frame")
    listed = [str(folder / f"{index:03}.png") for index in range(10)]
    for film in (listed, str(folder), str(moving)):
        found = pictures.frames(film, 5)
        assert [image.getpixel((0, 0))[0] for image in found] == pytest.approx([0, 40, 80, 120, 160], abs=3)  # type: ignore[index]
    assert len(pictures.frames(str(moving), 99)) == 10
    assert len(pictures.frames(url(encoded()), 4)) == 1


def test_a_film_needs_a_decoder(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(DataError, match="film.mp4 (is a film, and nothing here decodes films. Give its frames|cannot)"):
        pictures.frames(str(tmp_path / "film.mp4"), 4)


def test_a_folder_without_pictures_is_no_film(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no pictures to be frames"):
        pictures.frames(str(tmp_path), 4)


def test_frames_are_spread_over_the_whole_film() -> None:
    assert pictures.spread(3, 8) == [0, 1, 2]
    assert pictures.spread(100, 4) == [0, 25, 50, 75]


def test_a_thumbnail_keeps_the_shape_and_is_small() -> None:
    small = pictures.thumbnail(url(encoded((3000, 1500))), 256)
    assert small.startswith("data:image/jpeg;base64,")
    assert pictures.picture(small).size == (256, 128)


def test_the_pictures_of_a_conversation_are_named_in_their_order() -> None:
    messages = [
        {"role": "user", "content": [{"type": "image", "image": "/a"}, {"type": "text", "text": "and"},
                                     {"type": "image", "image": "/b"}, {"type": "video", "video": "/c"}]},
        {"role": "assistant", "content": "Two."},
    ]  # fmt: skip
    assert pictures.of(messages) == ["/a", "/b"] and pictures.of(messages, "video") == ["/c"]
