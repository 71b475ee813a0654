"""Awkward images, read through every image source: metadata is applied, and unreadable files are named."""

import json
import re
import warnings

import images as awkward
import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from ssl_keras.cli import search as search_command
from ssl_keras.data import cache
from ssl_keras.data.readers import captions, folders, image_files
from ssl_keras.data.sources import load
from ssl_keras.files import printable
from ssl_keras.inference import search

FEW = 8  # of 255, the mean error allowed for lossy formats
SETS = {"color": (awkward.in_color, awkward.scene), "gray": (awkward.in_gray, lambda: awkward.gray_scene()[..., None])}


@pytest.fixture(scope="module", params=SETS)
def pictures(request, tmp_path_factory):
    """Returns (a folder, the names of its files, the scene of each)."""
    files, scene = SETS[request.param]
    files, folder = files(), tmp_path_factory.mktemp(request.param)
    awkward.write(folder, files)
    return folder, sorted(files), scene()


@pytest.fixture
def uncut(monkeypatch):
    """Captions without splits: (the source, the images compared)."""
    monkeypatch.setattr(captions, "by_concept", lambda source, fold, compared: (source, compared))


def check(images, names, scene):
    wrong = {name: np.abs(image.astype(int) - scene).mean() for name, image in zip(names, images, strict=True)}
    assert not {name: error for name, error in wrong.items() if error > FEW}


def test_folder(pictures):
    folder, names, scene = pictures
    source = load(f"folder:{folder}").train
    check(source.arrays["image"], names, scene)
    assert source.arrays["name"].tolist() == [printable(name) for name in names]
    small = load(f"folder:{folder}", 8).train.arrays["image"]
    like = small[names.index("a.ppm" if scene.shape[2] == 3 else "a.png")].astype(int)
    assert np.abs(small - like).max(0).mean() < 32


def test_headers_agree_with_decoded_files(pictures):
    folder, names, scene = pictures
    for name in names:
        assert image_files.header(folder / name) == image_files.decode(folder / name)[1], name
        assert image_files.header(folder / name)[:2] == scene.shape[:2], name


def test_captions(pictures, uncut, tmp_path):
    folder, names, scene = pictures
    lines = [json.dumps({"image": f"{folder}/{name}", "caption": f"number {row}"}) for row, name in enumerate(names)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    source, _ = captions.load(tmp_path / "c.jsonl")
    check(source.arrays["image"], names, scene)


def test_search_and_queries(pictures):
    folder, names, scene = pictures
    retriever = object.__new__(search.Retriever)
    retriever.card, retriever.shape, retriever.of_images = (
        {"weights": {"sha256": ""}},
        scene.shape,
        lambda images: images,
    )
    paths = folders.files_below(folder, image_files.EXTENSIONS)
    for _ in range(3):  # the second time, from the cache, which is damaged after that
        found, read = retriever.of_files(paths)
        assert read == paths
        check(found, names, scene)
        for entry in cache.cache_folder().glob("*.npz"):
            content = entry.read_bytes()
            assert content.count(b"PK\x01\x02") == 2
            start = content.index(b"PK\x01\x02") + 10
            entry.write_bytes(content[:start] + b"\x63\x00" + content[start + 2 :])  # an unknown compression
    check([search_command._picture(path, scene.shape) for path in paths], names, scene)


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_a_sheet_of_emoji_is_composited_on_white(mode, uncut, tmp_path):
    sheet = Image.new("RGBA", (132, 66))
    sheet.paste((0, 0, 0, 255), (10, 10, 40, 40))
    (sheet.quantize(4) if mode == "P" else sheet.convert(mode)).save(tmp_path / "a_sheet_64.png")
    (tmp_path / "._a_sheet_64.png").write_bytes(b"of macOS")
    row = {"short_names": [], "keywords": [], "sheet_y": 0}
    rows = [row | {"name": name, "sheet_x": x} for x, name in enumerate("ab")]
    (tmp_path / "emoji.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source, _ = captions.emoji(tmp_path)
    drawn, empty = source.arrays["image"]
    assert (empty == 255).all()
    assert (drawn[9:39, 9:39] == 0).all()
    assert (drawn[:9] == 255).all()


def test_notes_count_conversions(tmp_path):
    awkward.write(tmp_path, awkward.in_color())
    notes = " ".join(load(f"folder:{tmp_path}").train.notes)
    for sentence, count in (
        ("rotated", 11),
        ("transparent", 7),
        ("profile", 3),
        ("cmyk", 2),
        ("frames", 4),
        ("deep", 4),
    ):
        assert f"{count} of 43 images {image_files.CONVERSIONS[sentence]}" in notes


def test_twelve_bits_in_sixteen_are_noted_in_color_too(tmp_path):
    twelve = awkward.scene().astype(np.uint16) * 16
    awkward.write(tmp_path, {f"{n}.tif": awkward.tiff(twelve, 2) for n in range(4)})
    notes = " ".join(load(f"folder:{tmp_path}").train.notes)
    assert "4 of 4 images have more than 8 bits" in notes
    assert "nearly black (at most 15 of 255)" in notes


def test_unreadable_files_are_named_with_the_reason(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: ran.append("Ghostscript"))
    broken = awkward.broken()
    awkward.write(tmp_path, {name: content for name, (content, _) in broken.items()})
    for name, (_, reason) in broken.items():
        for function in (image_files.header, image_files.decode):
            if function is image_files.decode or not name.startswith(("cut", "signed")):  # their headers are valid
                with pytest.raises(image_files.Unreadable, match=reason):
                    function(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name}: expected an image. Received: .*{reason}"):
            search_command._picture(tmp_path / name, (8, 8, 3))
    with pytest.raises(ValueError, match="17 of 17 images cannot be read") as error:
        load(f"folder:{tmp_path}")
    assert all(re.search(reason, str(error.value)) for _, reason in broken.values())
    assert not ran


def test_webp_has_a_lower_limit(tmp_path):
    """Its decoder takes 3.6 GB for what 0.5 GB are enough for in PNG."""
    awkward.write(tmp_path, {"wide.webp": awkward.broken()["wide.webp"][0]})
    with pytest.raises(image_files.Unreadable, match=r"too large \(more than 67,108,864 pixels\)"):
        image_files.header(tmp_path / "wide.webp")


def test_a_large_image_raises_no_decompression_bomb_warning(tmp_path, monkeypatch):
    Image.new("L", (4, 4)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow warns above this, and raises above twice this
    for asked in ("default", "error"):
        with warnings.catch_warnings(record=True) as said:
            warnings.resetwarnings()
            if asked == "error":
                warnings.simplefilter("error")
            image_files._pillow.cache_clear()
            if asked == "default":
                assert image_files.decode(tmp_path / "large.png")[0].shape == (4, 4, 1)
            else:
                with pytest.raises(image_files.Unreadable, match="too large"):
                    image_files.decode(tmp_path / "large.png")
        assert not said


def test_a_query_that_is_not_a_file(tmp_path):
    for path in (tmp_path, tmp_path / "gone.png"):
        with pytest.raises(ValueError, match="no such file. Expected an image file"):
            search_command._picture(path, (8, 8, 3))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\x02"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_is_ignored(exif, tmp_path):
    (tmp_path / "a.jpg").write_bytes(awkward.encoded(Image.fromarray(awkward.scene()), "JPEG", quality=100, exif=exif))
    check([image_files.decode(tmp_path / "a.jpg")[0]], ["a.jpg"], awkward.scene())


def test_an_invalid_profile_is_ignored(tmp_path):
    for number, profile in enumerate((b"nonsense", bytes(200), awkward.swapped_profile()[:150])):
        (tmp_path / f"{number}.png").write_bytes(
            awkward.encoded(Image.fromarray(awkward.scene()), "PNG", icc_profile=profile)
        )
        check([image_files.decode(tmp_path / f"{number}.png")[0]], ["a"], awkward.scene())
