"""Folder layouts: their splits and classes, the files that are skipped, and the notes."""

import functools
import io
import logging
import os
import pathlib
import re
import unicodedata

import numpy as np
import pytest
import soundfile
from PIL import Image

from ssl_keras.data.readers import folders
from ssl_keras.data.readers import images as image_reader
from ssl_keras.data.sources import load


@functools.cache
def png(value=0, mode="L", size=(4, 4)):
    content = io.BytesIO()
    Image.new(mode, size, value).save(content, "png")
    return content.getvalue()


def lay(root, files, kind="folder"):
    """Writes examples to folders, {path: count}, and files, {path: bytes}."""
    for path, content in files.items():
        folder = root / path if isinstance(content, int) else (root / path).parent
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            (root / path).write_bytes(content)
            continue
        for number in range(content):
            if kind == "folder":
                (folder / f"{number}.png").write_bytes(png())
            elif kind == "audio":
                soundfile.write(folder / f"{number}.wav", np.sin(np.arange(400)), 8000)
            else:
                (folder / f"{number}.txt").write_text("some words")
    return root


def test_names_of_splits(tmp_path):
    """Names used by Kaggle, Roboflow, fastai, COCO and others are recognized, for all kinds of files."""
    named = [
        ("Training", None, "Testing"),
        ("TRAIN", None, "TEST"),
        ("train", "valid", "test"),
        ("Train", "Dev", "Test"),
        ("train", "val", None),
        ("seg_train", None, "seg_test"),
        ("train2017", "val2017", "test2017"),
        ("training_set", None, "test_set"),
        ("pets-train", "pets-valid", "pets-test"),
    ]
    for number, (kind, parts) in enumerate((kind, parts) for kind in ("folder", "audio", "text") for parts in named):
        if kind != "folder" and number % 3:  # only a third of them
            continue
        root, counts = tmp_path / str(number), dict(zip(parts, (20, 5, 4)))
        below = "" if kind == "text" else "/cat"
        lay(root, {f"{part}{below}": count for part, count in counts.items() if part}, kind)
        if kind != "text":
            lay(root, {f"{part}/dog": 1 for part in counts if part}, kind)
        more = kind != "text"
        splits = load(f"{kind}:{root}")
        held = [counts[part] + more if part else None for part in parts[1:]]
        for size, expected in zip([len(splits.validation), len(splits.test)], held):
            assert expected in (None, size), (kind, parts)
        assert sum(map(len, splits)) == sum(count + more for part, count in counts.items() if part)
        assert splits.train.classes == (("cat", "dog") if more else ())


@pytest.mark.parametrize(
    ("files", "sizes", "classes", "said"),
    [
        # A ZIP archive that was extracted on a Mac and on Windows.
        (
            {
                "pets/train/a": 8,
                "pets/train/b": 8,
                "pets/test/a": 3,
                "pets/test/b": 3,
                "__MACOSX/pets/train": 4,
                "pets/train/a/Thumbs.db": b"x",
                "pets/.DS_Store": b"x",
                "pets/train/a/._0.png": b"x",
            },
            16 + 6,
            ("a", "b"),
            "the splits are in its only subfolder, pets",
        ),
        (
            {"train/a": 8, "train/b": 8, "valid/a": 3, "valid/b": 3, "unlabeled": 5, "preview.png": png},
            16 + 6,
            ("a", "b"),
            r"unlabeled \(5 files\) is skipped, because it is next to the splits train, valid",
        ),
        (
            {"train/a": 8, "train/b": 8, "test/b": 3, "test/a": 1, "preview.png": png},
            16 + 4,
            ("a", "b"),
            "1 files next to test, train are skipped: preview.png",
        ),
        ({"a": 8, "b": 8, "Unlabeled": 5}, 16, ("a", "b"), r"Unlabeled \(5 images\) is skipped: it has"),
        (
            {"train/a": 8, "train/b": 8, "train/unsup": 5, "test/a": 2, "test/b": 2},
            20,
            ("a", "b"),
            r"unsup \(5 images\)",
        ),
        (
            {f"{part}/{part}/{name}": 4 for part in ("seg_train", "seg_test") for name in "ab"}
            | {"seg_pred/seg_pred": 2},
            16,
            ("a", "b"),
            r"seg_pred \(2 files\) is skipped.*seg_train/seg_train is used in place of seg_train",
        ),
        ({"train": 8, "test1": 3}, 11, (), None),
        ({"train": 8, "test1": 3, "test2": 3}, 8, (), r"test2 \(3 files\) is skipped"),
        ({"data/cat": 6, "data/dog": 6}, 12, ("cat", "dog"), "data/data is used in place of data"),
        ({"valid": 8, "invalid": 8}, 16, ("invalid", "valid"), None),
        ({"bus": 6, "car": 6, "train": 6}, 18, ("bus", "car", "train"), "train is read as a class"),
        ({"dataset/cat": 6, "dataset/dog": 6}, 12, ("dataset",), "one class, 'dataset'; to use its subfolders cat"),
        ({"cat": 6}, 6, ("cat",), "one class, 'cat'"),
        ({"unlabeled": 6}, 6, (), None),
        (
            {"cat/train": 6, "cat/test": 2, "dog/train": 6, "dog/test": 2},
            16,
            ("cat", "dog"),
            "each of cat, dog contains test, train",
        ),
        ({"a": 6, "b": 6, "c/x.heic": b"x"}, 12, ("a", "b"), "subfolders have no supported files .*: c"),
        ({"train/a": 8, "train/b": 8, "test": 4}, 16, ("a", "b"), "test is skipped, because it has no subfolders"),
        (
            {"train/a/images": 8, "train/b/images": 8, "val/images": 4},
            16,
            ("a", "b"),
            "val is skipped, because it has no subfolders",
        ),
        ({"train/a": 8, "train/b": 8, "test/a": 4}, 20, ("a", "b"), "there are no images of these classes: b"),
        ({"train/Cat": 8, "train/dog": 8, "test/cat": 2, "test/DOG": 2}, 20, ("Cat", "dog"), None),
        ({"A": 8, "a": 8, "b": 2}, 18, ("A", "a", "b"), "differ only in case: A, a. If they are one class"),
        # Names that contain those of splits.
        (
            {
                "train_images/a": 8,
                "train_images/b": 8,
                "val_images/a": 3,
                "val_images/b": 3,
                "annotations/x.json": b"x",
            },
            16 + 6,
            ("a", "b"),
            None,
        ),
        ({"ISIC_Training_Input": 8, "ISIC_Test_Input": 3, "ISIC_Training_Metadata/x.csv": b"x"}, 11, (), None),
        ({"train_images": 8, "val": 3, "val_masks": 3, "test": 2}, 13, (), r"val_masks \(3 files\) is skipped"),
        ({"trainval/a": 8, "trainval/b": 8, "test/a": 2, "test/b": 2}, 20, ("a", "b"), None),
        ({"train_val": 8, "testset": 3}, 11, (), None),
        ({"trainA": 8, "testA": 3}, 11, (), None),
        ({"train": 8, "test": 3, "trainval": 3}, 11, (), r"trainval \(3 files\) is skipped"),
        ({"train/a": 8, "train/b": 8, "unlabelled": 5}, 16, ("a", "b"), r"unlabelled \(5 files\) is skipped"),
        (
            {"bullet_train": 6, "test_tube": 6, "cat": 6, "dog": 6},
            24,
            ("bullet_train", "cat", "dog", "test_tube"),
            r"not read as splits: bullet_train \(train\); test_tube \(test\). If they are, move them",
        ),
        ({"dev-clean": 8, "test-clean": 3}, 11, ("dev-clean", "test-clean"), "not read as splits: dev-clean"),
        (
            {"valid_train_ticket": 8, "invalid_train_ticket": 8},
            16,
            ("invalid_train_ticket", "valid_train_ticket"),
            None,
        ),
        (
            {
                f"train/{unicodedata.normalize('NFC', 'café')}": 8,
                "train/b": 8,
                f"test/{unicodedata.normalize('NFD', 'café')}": 2,
                "test/b": 2,
            },
            20,
            ("b", "café"),
            None,
        ),
        (
            {"a": 8, "b": 8, "a/notes.txt": b"x", "a/x.HEIC": b"x", "b/y.heic": b"x", "README": b"x"},
            16,
            ("a", "b"),
            r"skipped files: \.heic \(2\), \.txt \(1\), files without an extension \(1\)",
        ),
        (
            {"n01/a.JPEG": png, "n01/b.Png": png, "n02/a b (1).PNG": png, "n02/é.png": png, "n02/c.jpg": png},
            5,
            ("n01", "n02"),
            None,
        ),
    ],
)
def test_layouts(tmp_path, caplog, files, sizes, classes, said):
    files = {path: png() if content is png else content for path, content in files.items()}
    with caplog.at_level(logging.WARNING):
        splits = load(f"folder:{lay(tmp_path / 'data', files)}")
    assert sum(map(len, splits)) == sizes
    assert splits.train.classes == classes
    if said is None:
        assert not caplog.messages
    else:
        notes = " ".join(note for part in splits for note in part.notes)
        assert re.search(said, notes), notes


def test_a_folder_by_any_path(tmp_path, monkeypatch):
    root = lay(tmp_path / "data", {"a": 4, "b": 4})
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root)
    for path in (".", "./", "..//data/", root, f"{root}/", "../link", tmp_path / "link", "a/.."):
        source = load(f"folder:{path}").train
        assert source.classes == ("a", "b")
        assert source.arrays["name"].tolist() == [f"{c}/{i}.png" for c in "ab" for i in range(4)]
    assert load("folder:a").train.classes == ()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train/a": 8, "val/a": 2, "valid/a": 2}, "has val and valid, which name one split"),
        ({"Train/a": 8, "train/a": 2, "test/a": 2}, "has Train and train, which name one split"),
        ({"learning/a": 8, "Test/a": 2}, "has Test but no train"),
        ({"train/a": 8, "train/b": 8, "test/a": 2, "test/c": 2}, r"Expected: a, b\. Received in addition: c\. Rename"),
        (
            {"train/a": 8, "train/b": 8} | {f"test/c{number}": 1 for number in range(50)},
            r"in addition: c0, .* …\. Rename",
        ),
        ({"train": 8, "test/a": 2, "test/b": 2}, r"test: .* so expected no subfolders\. Received: a, b\. Add"),
        (
            {"a/0.png": png, "a/1.heic": b"x", "a/2.heic": b"x", "b/1.cr2": b"x"},
            "Received: 3 files ending in .cr2, .heic, and 1 supported",
        ),
        ({"a/0.heic": b"x", "b/1.svg": b"x"}, r"no examples.*Received: \.heic \(1\), \.svg \(1\)"),
    ],
)
def test_invalid_layouts(tmp_path, files, message):
    files = {path: png() if content is png else content for path, content in files.items()}
    with pytest.raises(ValueError, match=message):
        load(f"folder:{lay(tmp_path / 'data', files)}")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("folder:x.zip", "x.zip is an archive. Expected a folder of images. Extract it"),
        ("audio:x.tar.gz", "x.tar.gz is an archive. Expected a folder of .* files. Extract it"),
        ("folder:a.png", "a.png is a file. Expected a folder of images. Pass the folder"),
        ("audio:gone", "gone: no such folder"),
    ],
)
def test_files_in_place_of_folders(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    for name in ("x.zip", "x.tar.gz", "a.png"):
        pathlib.Path(name).touch()
    with pytest.raises(ValueError, match=message):
        load(path)


def test_brackets_in_the_name_of_a_folder_below_home(tmp_path, monkeypatch):
    lay(tmp_path / "clips[old]", {"a": 5, "b": 5}, "audio")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sum(map(len, load("audio:~/clips[old]"))) == 10


UNCLEAR = [
    ("audio", ["train-clean-100", "train-clean-360", "dev-clean", "test-clean"]),
    ("audio", ["train-clean-100", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other"]),
    ("audio", ["LibriSpeech/train-clean-100", "LibriSpeech/train-other-500", "LibriSpeech/test-clean"]),
    ("folder", ["train_images", "test_images", "train_label_masks"]),
    ("folder", ["trainA", "trainB", "testA", "testB"]),
    ("folder", ["train2014", "train2017", "val2014", "val2017", "test2017"]),
    ("text", ["train_en", "train_fr", "test_en", "test_fr"]),
    ("text", ["train-part1", "train-part2", "valid-part1", "test-part1"]),
]


@pytest.mark.parametrize(("kind", "names"), UNCLEAR)
def test_several_folders_for_one_split_are_refused(tmp_path, kind, names):
    lay(tmp_path, dict.fromkeys(names, 3), kind)
    with pytest.raises(ValueError, match="several subfolders for one split") as error:
        load(f"{kind}:{tmp_path}")
    assert all(pathlib.Path(name).name in str(error.value) for name in names)
    assert f"such as {kind}:{tmp_path}/{names[0]}. If they are classes, rename" in str(error.value)
    assert load(f"{kind}:{tmp_path}/{names[0]}")


@pytest.mark.parametrize(
    "links",
    [
        {"a/up": ".."},
        {"a/self": "."},
        {"x": ".", "y": "."},
        {"a/b": "../b", "c": "a"},
        {"out": "../.."},
        {"a/again.png": "0.png", "b/other.png": "../a/1.png"},
        {"far": "/", "b/near": "../a"},
    ],
)
def test_links_are_followed_once(tmp_path, links):
    root = lay(tmp_path / "in" / "data", {"a": 5, "b": 5})
    for name, target in links.items():
        (root / name).symlink_to(target)
    found = folders.below(root, {".png"})
    assert [str(file.relative_to(root)) for file in found.files] == [f"{c}/{i}.png" for c in "ab" for i in range(5)]
    assert found.others["links to included files"] == len(links)


def test_links_to_other_folders_are_followed_once(tmp_path):
    root, other = lay(tmp_path / "data", {"a": 2}), lay(tmp_path / "other", {"deep/er": 3})
    (root / "b").symlink_to(other / "deep")
    (root / "c").symlink_to(other)
    (root / "a" / "blob.png").symlink_to(other / "deep" / "er" / "0.png")
    found = folders.below(root, {".png"})
    assert len(found.files) == 5
    assert load(f"folder:{root}").train.classes == ("a", "b")


def test_only_regular_files_are_opened(tmp_path):
    root = lay(tmp_path / "data", {"a": 5})
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "dead.png").symlink_to("nowhere")
    (root / "a" / "loop.png").symlink_to("loop.png")
    (root / "a" / "null.png").symlink_to("/dev/null")
    note = load(f"folder:{root}").train.notes[0]
    assert note == "skipped files: dead links (2), special files (2)"


def test_names_that_are_not_utf8_or_not_printable(tmp_path):
    root = lay(tmp_path / "data", {"a": 5, "b": 5})
    (root / "a" / "\x1b[31mred\n.png").write_bytes(png())
    (root / "b" / os.fsdecode(b"\xff.png")).write_bytes(png())
    names = set(load(f"folder:{root}").train.arrays["name"])
    assert {"a/\\x1b[31mred\\n.png", "b/\\udcff.png"} < names
    for name in ("\x1b[31mred\n.png", "\u202egnp.png"):
        (root / "a" / name).write_bytes(b"none")
    with pytest.raises(ValueError, match="cannot be read") as error:
        load(f"folder:{root}")
    assert str(error.value).isprintable()
    os.mkdir(root / os.fsdecode(b"\xff\xfe"))
    (root / os.fsdecode(b"\xff\xfe") / "0.png").write_bytes(png())
    with pytest.raises(ValueError, match=r"subfolder \\udcff\\udcfe is not UTF-8.*Rename it"):
        load(f"folder:{root}")
    with pytest.raises(ValueError, match=r"is not UTF-8. Received: folder:.*\\udcff\\udcfe"):
        load(f"folder:{root}/{os.fsdecode(bytes([255, 254]))}")


def test_a_list_may_use_another_unicode_normalization(tmp_path):
    (tmp_path / unicodedata.normalize("NFD", "é.png")).write_bytes(png())
    assert folders.as_spelled(str(tmp_path / unicodedata.normalize("NFC", "é.png"))).is_file()


# ----- shape and conversions ------------------------------------------------


def test_one_color_image_makes_all_rgb(tmp_path):
    """The color image may be anywhere in the list, also outside the sample of headers that is read first."""
    for place in (0, 50):
        files = {f"{i:02}.png": png((200, 0, 0), "RGB") if i == place else png(9) for i in range(100)}
        source = load(f"folder:{lay(tmp_path / str(place), files)}").train
        assert source.arrays["image"].shape == (100, 4, 4, 3)
        assert source.arrays["image"][place, 0, 0].tolist() == [200, 0, 0]
        assert "99 of 100 images are grayscale and are converted to RGB" in source.notes


@pytest.mark.parametrize(
    ("sides", "expected", "rule"),
    [
        ([9, 4, 4, 4], 4, "the size of 3 of 4 images"),
        ([4] * 60 + [9] * 40, 4, "the size of 60 of 100 images"),
        ([3, 4, 5, 6, 70], 5, "the median"),
        ([8, 8, 8], 8, None),
    ],
)
def test_the_size_is_the_most_common_or_the_median(tmp_path, sides, expected, rule):
    files = {f"{i:03}.png": png(size=(side + 1, side)) for i, side in enumerate(sides)}
    source = load(f"folder:{lay(tmp_path / 'data', files)}").train
    assert source.arrays["image"].shape[1:3] == (expected, expected + 1)
    assert (rule is None) == (not source.notes)
    assert rule is None or f"all are resized to {expected}×{expected + 1}, {rule}. Use --image-size" in source.notes[0]


def test_the_training_split_decides_the_shape_of_others(tmp_path):
    gray, red = png(9), png((200, 0, 0), "RGB", (8, 8))
    files = {f"train/{i}.png": gray for i in range(9)} | {f"test/{i}.png": red for i in range(3)}
    splits = load(f"folder:{lay(tmp_path / 'data', files)}")
    assert splits.test.arrays["image"].shape == (3, 4, 4, 1)
    assert "3 of 3 images are in color and are converted to grayscale" in splits.test.notes


def test_large_and_dark_images_add_notes(tmp_path):
    large = {f"{i}.png": png(size=(700, 600)) for i in range(4)}
    assert "images are large, 600×700 pixels" in load(f"folder:{lay(tmp_path / 'large', large)}").train.notes[0]
    assert not load(f"folder:{tmp_path}/large", 8).train.notes
    for most, said in ((4095, True), (65535, False)):
        values = np.linspace(0, most, 64).reshape(8, 8).astype(np.uint16)
        folder = tmp_path / str(most)
        folder.mkdir()
        for number in range(4):
            Image.fromarray(values).save(folder / f"{number}.png")
        assert ("nearly black" in " ".join(load(f"folder:{folder}").train.notes)) == said


def test_cached_images_have_the_same_notes(tmp_path, monkeypatch):
    monkeypatch.setattr(image_reader.materialize, "__defaults__", (0, "reading"))
    monkeypatch.setattr(image_reader, "IN_MEMORY_BYTES", 0)
    whole = png((1, 2, 3, 128), "RGBA", (32, 32))
    files = {f"{i:03}.png": whole for i in range(150)} | {"007.png": whole[:-30], "008.png": png(3, "RGB", (5, 5))}
    root, notes = lay(tmp_path / "data", files), []
    for _ in range(2):
        source = load(f"folder:{root}").train
        assert source.arrays["image"].shape == (149, 32, 32, 3)
        notes.append(source.notes)
    assert notes[0] == notes[1]
    assert "007.png" in notes[0][0]
    assert "148 of 149 images" in " ".join(notes[0])


def test_messages_with_many_reasons_are_short():
    failed = {pathlib.Path(f"data/a/{number:03}.tif"): f"pixels up to {number}" for number in range(200, 0, -1)}
    expected = r"200 of 200 images .* pixels up to 1: a/001\.tif; .*; and 190 other reasons\. Remove"
    with pytest.raises(ValueError, match=expected) as error:
        folders.unreadable_notes("folder:data", failed, 200, "images")
    assert len(str(error.value)) < 500


def test_files_that_cannot_be_opened_are_not_dead_links(tmp_path, monkeypatch):
    root = lay(tmp_path / "data", {"a": 4, "b": 4, "b/locked.png": b"x"})
    (root / "a" / "dead.png").symlink_to("nowhere.png")
    status = os.stat

    def guarded(path, **options):
        if str(path).endswith("locked.png"):
            raise PermissionError(13, "Permission denied")
        return status(path, **options)

    monkeypatch.setattr(os, "stat", guarded)
    assert load(f"folder:{root}").train.notes == ("skipped files: dead links (1), files that cannot be opened (1)",)
