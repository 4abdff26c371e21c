"""The pictures of a row on the page: small, escaped, and only from folders that may be read."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from app import gallery


def test_pictures_are_small_and_what_is_not_there_says_so(tmp_path: Path) -> None:
    Image.new("RGB", (900, 300), "red").save(tmp_path / "a<b>.png")
    found = gallery.strip([str(tmp_path / "a<b>.png"), str(tmp_path / "gone.png")], [tmp_path])
    assert found.count("<img ") == 1 and 'src="data:image/jpeg;base64,' in found and len(found) < 20_000
    assert 'alt="a&lt;b&gt;.png"' in found and "there is no picture at" in found


def test_a_picture_outside_the_allowed_folders_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "private.png")
    found = gallery.strip([str(tmp_path / "private.png")], [tmp_path / "own"])
    assert "<img" not in found and "outside the folders" in found


def test_a_picture_that_changed_is_shown_anew(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (9, 9), "red").save(file)
    first = gallery.strip([str(file)], [tmp_path])
    Image.new("RGB", (90, 9), "blue").save(file)
    assert gallery.strip([str(file)], [tmp_path]) != first


def test_a_conversation_without_pictures_has_no_gallery_and_films_are_counted(tmp_path: Path) -> None:
    assert gallery.of([{"role": "user", "content": "Hi"}], [tmp_path]) == ""
    film = [{"role": "user", "content": [{"type": "video", "video": "/f.gif"}, {"type": "text", "text": "?"}]}]
    assert "a film" in gallery.of(film, [tmp_path])
