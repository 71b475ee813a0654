"""Sources: their content, their splits, and invalid data."""

import dataclasses
import os
import pathlib
import socket
import types
import zipfile

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from PIL import Image

from ssl_keras.data import audio, cache
from ssl_keras.data.cache import materialize
from ssl_keras.data.readers import tfds as tfds_reader
from ssl_keras.data.sources import load
from ssl_keras.data.splits import (
    SPLIT_SEED,
    TEST_FRACTION,
    VALIDATION_FRACTION,
    Source,
    check_classes,
    check_held_out,
    few_labels,
    from_arrays,
    hold_out,
    images,
)
from ssl_keras.objectives import classifier


def contents(source):
    return {image.tobytes() for image in source.column("image")}


def test_digits(digits):
    assert [len(part) for part in digits] == [1295, 143, 359]
    assert digits.train.spec()["image"][0] == (28, 28, 1)
    image = digits.train.column("image")
    assert image.min() == 0
    assert image.max() == 255
    assert digits.train.classes == tuple("0123456789")


def test_splits_are_disjoint_and_fixed(digits):
    rows = [set(part.rows) for part in digits]
    assert not rows[0] & rows[1] | rows[0] & rows[2] | rows[1] & rows[2]
    assert sum(map(len, rows)) == 1797
    for part, again in zip(digits, load("digits")):
        np.testing.assert_array_equal(part.rows, again.rows)
    # The rule is fixed, because published results depend on it.
    assert [part.rows[:4].tolist() for part in digits] == [[1, 4, 5, 6], [3, 14, 21, 25], [0, 2, 8, 12]]


def test_fashion_mnist_equals_that_of_tfds(fashion_mnist):
    import tensorflow_datasets as tfds

    assert [len(part) for part in fashion_mnist] == [55_000, 5_000, 10_000]
    loaded = tfds.load("fashion_mnist", split="test", batch_size=-1)
    assert contents(fashion_mnist.test) == {image.tobytes() for image in loaded["image"].numpy()}
    some = tfds.load("fashion_mnist", split="train[:5000]", batch_size=-1)
    learned = contents(fashion_mnist.train) | contents(fashion_mnist.validation)
    assert {image.tobytes() for image in some["image"].numpy()} <= learned
    assert np.bincount(fashion_mnist.test.column("label")).tolist() == [1000] * 10


def test_few_labels(digits):
    few = few_labels(digits.train, 3, seed=0)
    assert np.bincount(few.column("label")).tolist() == [3] * 10
    assert set(few.rows) <= set(digits.train.rows)
    assert set(few.rows) != set(few_labels(digits.train, 3, seed=1).rows)
    with pytest.raises(ValueError, match="class '.' has too few examples. Expected at least 500"):
        few_labels(digits.train, 500, seed=0)


def test_from_arrays(rng):
    image = rng.random((20, 6, 5)).astype(np.float32)
    splits = from_arrays(image, np.arange(20) % 2)
    assert [len(part) for part in splits] == [15, 1, 4]
    assert splits.train.spec()["image"][0] == (6, 5, 1)
    test = (rng.integers(0, 256, (3, 6, 5, 1), np.uint8), np.array([0, 1, 1]))
    assert len(from_arrays(image, np.arange(20) % 2, test=test).test) == 3


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.zeros((4, 3)), None, r"expected images of shape \(N, H, W\).*Received: shape \(4, 3\)"),
        (np.zeros((0, 3, 3)), None, "no examples"),
        (np.zeros((4, 3, 3), np.int32), None, "expected uint8 images .* Received: dtype int32"),
        (np.full((4, 3, 3), 255.0), None, r"in \[0, 1\]. Received: values from 255 to 255"),
        (np.full((4, 3, 3), -0.1), None, r"in \[0, 1\]. Received: values from -0.1"),
        (
            np.where(np.arange(36).reshape(4, 3, 3) == 20, np.nan, 0),
            None,
            "1 images contain NaN, first at index 2",
        ),
        (
            np.where(np.arange(36).reshape(4, 3, 3) == 20, np.inf, 0),
            None,
            "1 images contain infinity, .* index 2. Remove",
        ),
        (np.zeros((4, 3, 3)), np.zeros(3, int), r"one integer label per example, of shape \(4,\)"),
        (np.zeros((4, 3, 3)), np.zeros(4), "integer label"),
        (np.zeros((4, 3, 3)), np.array([0, 1, 2, -1]), r"class indices, starting at 0. Received: labels from -1 to 2"),
        (np.zeros((4, 3, 3)), np.array([0, 1, 2, 9_999_999]), r"Received: labels from 0 to 9999999"),
    ],
)
def test_bad_arrays(image, label, message):
    with pytest.raises(ValueError, match=message):
        images("mine", image, label)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((4, 3, 8, 9), "read as (H, W, C), with 9 channels"),
        ((4, 1, 28, 28), "with 28 channels"),
        ((4, 8, 9, 3), ""),
        ((4, 3, 3, 3), ""),
        ((4, 3, 9), ""),
        ((4, 8, 8, 12), ""),
    ],
)
def test_channels_first_adds_a_note(shape, said):
    notes = "".join(images("mine", np.zeros(shape, np.uint8)).notes)
    assert said in notes
    assert bool(notes) == bool(said)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ((np.zeros((20, 8, 8), np.uint8), np.zeros(20, int)), r"2 arrays of .* shapes, \(20, 8, 8\) and \(20,\)"),
        ([np.zeros((8, 8, 3)), np.zeros(2, int)], "Pass images and labels as two arguments"),
        ([np.zeros((8, 8)), np.zeros((9, 8))] * 5, r"different shapes, \(8, 8\) and \(9, 8\). Resize them first"),
        ([np.zeros((8, 8)), np.zeros((8, 8, 3)), np.zeros((8, 8))], "expected images of one shape"),
        (
            ((np.zeros((20, 8, 8)), np.zeros(20)), (np.zeros((5, 8, 8)), np.zeros(5))),
            "of different shapes, ragged tuple",
        ),
    ],
)
def test_nested_arrays_are_an_error(image, message):
    with pytest.raises(ValueError, match=f"arrays: .*{message}"):
        from_arrays(image)


def test_one_class_is_an_error_if_labels_are_used():
    two, one = (from_arrays(np.zeros((20, 8, 8)), np.arange(20) % classes, classes=("a", "b")) for classes in (2, 1))
    check_classes(two.train)
    with pytest.raises(ValueError, match=r"arrays\[train\]: only one class, 'a'. Expected at least two classes"):
        check_classes(one.train)
    with pytest.raises(ValueError, match="one class, 'a'"):
        classifier.prepare(classifier.Settings(), one)
    with pytest.raises(ValueError, match="to use its subfolders"):
        check_classes(one.train.with_notes("first", "only one class, 'a'; to use its subfolders"))
    with pytest.raises(ValueError, match="has no labels"):
        check_classes(from_arrays(np.zeros((20, 8, 8))).train)


def test_labels_out_of_range():
    with pytest.raises(ValueError, match=r"labels in 0..1. Received: labels from 0 to 7"):
        images("mine", np.zeros((2, 3, 3)), np.array([0, 7]), ["cat", "dog"])


def test_too_few_examples_to_hold_out():
    with pytest.raises(ValueError, match="too few examples to hold out.* Received: 2"):
        check_held_out(hold_out(images("mine", np.zeros((2, 3, 3)))))
    with pytest.raises(ValueError, match="too few examples to hold out.* Received: 1"):
        from_arrays(np.zeros((1, 3, 3)))


def test_splits_of_different_shapes_are_an_error():
    with pytest.raises(ValueError, match=r"arrays\[test\] does not match arrays. Expected .*28.* Received: .*9"):
        from_arrays(np.zeros((20, 28, 28)), test=(np.zeros((5, 9, 9)), None))


def test_fingerprints_depend_on_the_content(digits, rng):
    assert digits.train.fingerprint() == load("digits").train.fingerprint()
    assert digits.train.fingerprint() != digits.test.fingerprint()
    assert digits.train.base == "digits"
    assert images("folder:a/my[1]", np.zeros((3, 2, 2))).short_name == "my[1]"


@pytest.mark.parametrize("kind", ["folder", "audio", "text"])
def test_splits_are_named_after_their_folder(tmp_path, kind):
    """Not after its subfolder `train`, which all such datasets have."""
    root = tmp_path / "pets.v1"
    for part in ("train", "val", "test"):
        for number in range(4):
            file = root / part / f"{number}"
            file.parent.mkdir(parents=True, exist_ok=True)
            if kind == "folder":
                Image.new("L", (4, 4), number).save(f"{file}.png")
            elif kind == "audio":
                soundfile.write(f"{file}.wav", np.sin(np.arange(4000)), 8000)
            else:
                pathlib.Path(f"{file}.txt").write_text("some words")
    for path in (root, f"{root}/", os.path.relpath(root)):
        splits = load(f"{kind}:{path}")
        assert [part.short_name for part in splits] == ["pets.v1"] * 3
        assert [part.name.rpartition("[")[2] for part in splits] == ["train]", "validation]", "test]"]
        assert len({part.base for part in splits}) == 1
    assert load(f"{kind}:{root}/train").train.short_name == "train"


@pytest.mark.parametrize(
    ("name", "rate", "short"),
    [
        ("table:data/pets.v1.csv", 0, "pets.v1"),
        ("pairs:~/pets.tsv", 0, "pets"),
        ("captions:/a/b/pets.jsonl", 0, "pets"),
        ("transcripts:/a/pets.tsv[theo*]", 8000, "pets-theo"),
        ("audio:/a/pets.v1[*_theo_*]", 8000, "pets.v1-theo"),
        ("audio:/a/pets.v1[one/*]", 8000, "pets.v1-one"),
        ("connected:audio:/a/b/pets", 8000, "pets"),
        ("connected:tfds:spoken_digit[*_theo_*]", 8000, "spoken_digit-theo"),
        ("connected:espeak", 8000, "espeak"),
        ("tfds:cmaterdb/bangla", 0, "cmaterdb-bangla"),
        ("digits", 0, "digits"),
        ("a/b", 0, "a-b"),
        ("folder:a/../pets/.", 0, "pets"),
        ("emoji:/a/pets.2", 0, "pets.2"),
    ],
)
def test_short_names(name, rate, short):
    source = Source(f"{name}[train]", {"image": np.zeros((1, 1))}, rate=rate)
    assert source.short_name == short


def test_missing_labels_are_an_error():
    with pytest.raises(ValueError, match="mine has no labels"):
        images("mine", np.zeros((2, 3, 3))).column("label")


@pytest.mark.parametrize("spec", ["tfds:../mnist", "tfds:mnist/", "tfds:a b"])
def test_a_malformed_tfds_name_is_a_one_line_error(spec):
    with pytest.raises(ValueError, match=f"(Unknown TFDS dataset|{spec}: ).*") as error:
        load(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["digits", "folder:nowhere"])
@pytest.mark.parametrize("image_size", [0, -1, 10**9])
def test_an_invalid_image_size_is_an_error(spec, image_size):
    with pytest.raises(ValueError, match=f"image_size must be 1 to 13377 pixels. Received: {image_size}"):
        load(spec, image_size)


@pytest.mark.parametrize("kind", ["folder", "captions", "emoji", "text", "table", "pairs", "audio", "transcripts"])
def test_a_tilde_without_a_user_is_part_of_the_name(kind):
    with pytest.raises(ValueError, match=f"{kind}:~nobody_of_this_name/x.*(no such|expected)"):
        load(f"{kind}:~nobody_of_this_name/x")


def test_a_path_names_data(tmp_path, rng):
    write_images(tmp_path / "a", 4, rng)
    assert len(load(pathlib.Path(f"folder:{tmp_path}")).train) == 2
    with pytest.raises(ValueError, match="The name of a dataset must be text. Received: 5"):
        load(5)


def test_names_that_the_locale_cannot_read(monkeypatch):
    """In an ASCII locale, Python reads the bytes of a UTF-8 name as surrogates."""
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    spec = "folder:na\u00efve".encode().decode("ascii", "surrogateescape")
    with pytest.raises(ValueError, match="The name itself is UTF-8, .* names as ascii. Set PYTHONUTF8=1 or LC_ALL"):
        load(spec)
    with pytest.raises(ValueError, match="is not UTF-8. .* Rename it, or link to it"):
        load("folder:na\udcefve")


def test_unknown_data():
    with pytest.raises(ValueError, match="Unknown data 'mnist'. Expected digits or folder:PATH"):
        load("mnist")
    with pytest.raises(ValueError, match="Did you mean fashion_mnist"):
        load("tfds:fashion_mnits")


def test_a_damaged_tfds_dataset_is_named(monkeypatch):
    """Protobuf, TFDS and TensorFlow raise errors of their own."""
    import tensorflow_datasets as tfds
    from google.protobuf import json_format

    def fail(error):
        def failing(*_, **__):
            raise error

        return failing

    damage = tf.errors.DataLossError(None, None, "corrupted record at 12\nmore")
    for error, message in (
        (json_format.ParseError("Failed to parse\nmore"), "ParseError: Failed to parse"),
        (damage, "DataLossError: corrupted record at 12"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "UnicodeDecodeError: 'utf-8' .* invalid"),
    ):
        builder = types.SimpleNamespace(info=types.SimpleNamespace(splits={"train": 1}))
        monkeypatch.setattr(tfds_reader, "prepare", lambda name, builder=builder: builder)
        monkeypatch.setattr(tfds_reader, "_split", fail(error))
        with pytest.raises(ValueError, match=f"^tfds:trec cannot be read: {message}\\. .*tfds build trec$"):
            load("tfds:trec")
        monkeypatch.undo()
    monkeypatch.setattr(tfds, "builder", fail(json_format.ParseError("Failed to parse\nmore")))
    with pytest.raises(
        ValueError, match=r"^tfds:trec cannot be read: ParseError: Failed to parse\. .*tfds build trec$"
    ):
        load("tfds:trec")


def test_the_offline_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))

    def offline(*_):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr(tfds_reader.urllib.request, "getproxies", dict)
    import tensorflow_datasets as tfds

    builder = tfds.builder("mnist", data_dir=tmp_path)
    with pytest.raises(RuntimeError, match=f"not prepared in {tmp_path}.*\n.*\n.*tfds build mnist"):
        tfds_reader._prepare(builder, "mnist")


# ----- folders of images ----------------------------------------------------


def write_images(folder, count, rng, size=(8, 6), mode="RGB"):
    folder.mkdir(parents=True, exist_ok=True)
    shape = size[::-1] + ((3,) if mode == "RGB" else ())
    arrays = [rng.integers(0, 256, shape, np.uint8) for _ in range(count)]
    for index, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{index:03}.png")
    return arrays


def test_folder_with_classes(tmp_path, rng):
    cats, dogs = write_images(tmp_path / "cat", 12, rng), write_images(tmp_path / "dog", 12, rng)
    splits = load(f"folder:{tmp_path}")
    assert splits.train.classes == ("cat", "dog")
    everything = splits.train.arrays["image"]
    np.testing.assert_array_equal(everything, np.stack(cats + dogs))
    np.testing.assert_array_equal(splits.train.arrays["label"], [0] * 12 + [1] * 12)
    assert sum(len(part) for part in splits) == 24


def test_folder_without_classes_gray_and_resized(tmp_path, rng):
    write_images(tmp_path, 10, rng, mode="L")
    write_images(tmp_path, 5, rng, size=(16, 12), mode="L")  # replaces the first five
    splits = load(f"folder:{tmp_path}", image_size=4)
    assert splits.train.spec()["image"] == ((4, 4, 1), "uint8")


@pytest.mark.parametrize(("mode", "dtype", "scale"), [("I;16", np.uint16, 257), ("I", np.int32, 257)])
def test_sixteen_bit_images_are_scaled(tmp_path, mode, dtype, scale):
    gray = np.arange(0, 240, 15, dtype=np.uint8).reshape(4, 4)
    for index in range(4):
        Image.fromarray(gray.astype(dtype) * scale).save(tmp_path / f"{index}.{'png' if mode == 'I;16' else 'tif'}")
    source = load(f"folder:{tmp_path}").train
    np.testing.assert_array_equal(source.column("image")[0, ..., 0], gray)


def test_hidden_folders_are_skipped_and_links_followed(tmp_path, rng):
    data = tmp_path / "data"
    write_images(tmp_path / "elsewhere", 6, rng)
    write_images(data / "dog", 6, rng)
    write_images(data / ".ipynb_checkpoints", 6, rng)
    (data / "cat").symlink_to(tmp_path / "elsewhere")
    assert load(f"folder:{data}").train.classes == ("cat", "dog")


def test_held_out_folders_without_train_are_an_error(tmp_path, rng):
    for name in ("learning", "test"):
        write_images(tmp_path / name / "cat", 3, rng)
    with pytest.raises(ValueError, match="has test but no train"):
        load(f"folder:{tmp_path}")


def test_folder_with_its_own_splits(tmp_path, rng):
    for split, count in (("train", 20), ("val", 3), ("test", 5)):
        for name in ("cat", "dog"):
            write_images(tmp_path / split / name, count, rng)
    splits = load(f"folder:{tmp_path}")
    assert [len(part) for part in splits] == [40, 6, 10]


def test_corrupt_images_are_named_and_skipped_up_to_a_limit(tmp_path, rng, caplog):
    write_images(tmp_path / "cat", 120, rng)
    broken = tmp_path / "cat" / "007.png"
    broken.write_bytes(broken.read_bytes()[:40])
    splits = load(f"folder:{tmp_path}")
    assert "skipped 1 of 120 images that cannot be read. truncated, damaged or unsupported PNG" in caplog.text
    assert len(splits.train.arrays["image"]) == 119
    (tmp_path / "cat" / "008.png").write_text("no image")
    expected = r"2 of 120 images cannot be read .*: cat/007.png; not one of the formats .*: cat/008.png"
    with pytest.raises(ValueError, match=expected):
        load(f"folder:{tmp_path}")


def test_a_path_with_a_tilde(tmp_path, rng, monkeypatch):
    write_images(tmp_path / "~photos" / "cat", 4, rng)
    monkeypatch.chdir(tmp_path)
    assert sum(map(len, load("folder:~photos"))) == 4


def test_bad_folders(tmp_path, rng):
    with pytest.raises(ValueError, match="no such folder"):
        load(f"folder:{tmp_path}/nowhere")
    with pytest.raises(ValueError, match="no examples. Expected files ending in"):
        load(f"folder:{tmp_path}")
    write_images(tmp_path / "cat", 4, rng)
    write_images(tmp_path, 1, rng)
    with pytest.raises(ValueError, match="000.png is next to subfolders"):
        load(f"folder:{tmp_path}")


def test_real_photographs_in_a_folder(tmp_path):
    """12,000 JPEG files of CIFAR-10, in train/CLASS and test/CLASS."""
    archive = pathlib.Path(os.environ.get("SSL_KERAS_DATA", "/nowhere")) / "cifar10_jpg" / "cifar10_jpg_10k.zip"
    if not archive.is_file():
        pytest.skip("real data: $SSL_KERAS_DATA holds no cifar10_jpg")
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "cifar")
    splits = load(f"folder:{tmp_path / 'cifar'}")
    assert [len(part) for part in splits] == [9_000, 1_000, 2_000]
    assert splits.train.spec()["image"][0] == (32, 32, 3)
    assert np.bincount(splits.test.column("label")).tolist() == [200] * 10
    assert splits.train.classes[:3] == ("airplane", "automobile", "bird")
    assert 100 < splits.train.column("image").mean() < 140


def test_real_color_images_from_tfds():
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not (pathlib.Path(folder) / "cmaterdb").is_dir():
        pytest.skip("real data: $TFDS_DATA_DIR holds no cmaterdb")
    splits = load("tfds:cmaterdb/bangla", image_size=28)
    assert [len(part) for part in splits] == [4_500, 500, 1_000]
    assert splits.train.spec()["image"][0] == (28, 28, 3)


def test_transparent_images_from_tfds_are_composited_on_white():
    image = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 128]]], np.uint8)
    assert tfds_reader.on_white(image).numpy().tolist() == [[[10, 20, 30], [255, 255, 255], [127, 177, 255]]]


# ----- memory-mapped files --------------------------------------------------


def test_large_data_is_memory_mapped_once(rng, tmp_path):
    data = rng.integers(0, 256, (10, 4, 4, 1), np.uint8)
    reads = []

    def chunks():
        reads.append(1)
        yield {"image": data[:6]}
        yield {"image": data[6:]}

    for _ in range(2):
        arrays = materialize(["key"], {"image": ((4, 4, 1), np.uint8)}, 10, chunks, in_memory_bytes=0)
        assert isinstance(arrays["image"], np.memmap)
        np.testing.assert_array_equal(arrays["image"], data)
    assert len(reads) == 1
    source = images("mapped", arrays["image"])
    assert isinstance(source.arrays["image"], np.memmap)
    np.testing.assert_array_equal(source.take([3, 1]).gather(np.array([1, 0]))["image"], data[[1, 3]])


def test_two_processes_may_fill_the_same_cache(tmp_path):
    def chunks():
        if not reads:  # another process finishes while this one reads
            reads.append(1)
            materialize(["key"], columns, 3, chunks, in_memory_bytes=0)
        yield {"image": np.ones((3, 2, 2, 1), np.uint8)}

    reads, columns = [], {"image": ((2, 2, 1), np.uint8)}
    assert materialize(["key"], columns, 3, chunks, in_memory_bytes=0)["image"].sum() == 12
    assert len(os.listdir(cache.cache_folder())) == 1


def test_a_failed_read_leaves_no_cache(tmp_path):
    def chunks():
        yield {"image": np.zeros((3, 2, 2, 1), np.uint8)}
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        materialize(["key"], {"image": ((2, 2, 1), np.uint8)}, 10, chunks, in_memory_bytes=0)
    assert os.listdir(cache.cache_folder()) == []


def test_split_constants_are_fixed():
    """All published results depend on them."""
    assert (SPLIT_SEED, TEST_FRACTION, VALIDATION_FRACTION) == (20240229, 0.2, 0.1)


# ----- fingerprints ---------------------------------------------------------


def changed(source, name, row):
    """Returns the source with another value in one row of a column."""
    array = source.arrays[name].copy()
    array[row] = array[row] + array.dtype.type(1) if array.dtype != object else array[row] + "x"
    return dataclasses.replace(source, arrays=source.arrays | {name: array})


def test_fingerprints_depend_on_each_example(digits):
    train = digits.train
    for row in range(100, 110):
        for name in ("image", "label"):
            other = changed(train, name, train.rows[row])
            assert other.fingerprint() != train.fingerprint()
    outside = changed(train, "image", digits.test.rows[0])
    assert outside.fingerprint() == train.fingerprint()
    assert dataclasses.replace(train, name="elsewhere").fingerprint() == train.fingerprint()
    assert dataclasses.replace(train, classes=tuple("abcdefghij")).fingerprint() != train.fingerprint()
    assert train.take(np.arange(len(train) - 1)).fingerprint() != train.fingerprint()
    assert train.take(np.arange(len(train))[::-1]).fingerprint() != train.fingerprint()


@pytest.mark.parametrize(
    "column",
    [
        np.array(["a", "b", "c"], object),
        np.array([[1, -1], [2, 3], [4, 5]], np.int32),
        np.array([True, False, True]),
        np.array([0.5, np.inf, 0.1], np.float32),
    ],
)
def test_all_kinds_of_columns_are_hashed(column):
    source = Source("mine", {"image": np.zeros((3, 2, 2, 1)), "more": column})
    assert source.fingerprint() == dataclasses.replace(source, name="other").fingerprint()
    reshaped = Source("mine", {"image": np.zeros((3, 4, 1)), "more": column})
    assert reshaped.fingerprint() != source.fingerprint()
    other = column.copy()
    other[1] = other[0]
    assert Source("mine", source.arrays | {"more": other}).fingerprint() != source.fingerprint()


def test_fingerprints_depend_on_the_boundaries_of_texts():
    one, two = (Source("mine", {"text": np.array(texts, object)}) for texts in (["a", "b\0c"], ["a\0b", "c"]))
    assert one.fingerprint() != two.fingerprint()


def test_memory_mapped_arrays_are_hashed_in_pieces_and_once(tmp_path, monkeypatch):
    from ssl_keras.data import splits

    array = np.arange(40, dtype=np.int64).reshape(10, 4)
    np.save(tmp_path / "a.npy", array)
    monkeypatch.setattr(splits, "CHUNK", 64)
    mapped = Source("mine", {"image": np.load(tmp_path / "a.npy", mmap_mode="r")}, rows=np.arange(9))
    assert mapped.fingerprint() == Source("other", {"image": array[:9]}).fingerprint()
    monkeypatch.setattr(splits, "_digest", None)
    assert mapped.fingerprint()


def test_fingerprints_of_audio_depend_on_samples_and_rate_not_padding():
    rng = np.random.default_rng(0)
    waves = [rng.integers(-900, 900, 400 + 10 * index).astype(np.int16) for index in range(100)]
    clips = audio.clips("c", waves, 8_000)
    assert dataclasses.replace(clips, rate=16_000).fingerprint() != clips.fingerprint()
    short = clips.take(np.arange(50))
    assert short.fingerprint() == audio.clips("d", waves[:50], 8_000).fingerprint()
    waves[33] = waves[33] // 50
    assert audio.clips("c", waves, 8_000).fingerprint() != clips.fingerprint()
