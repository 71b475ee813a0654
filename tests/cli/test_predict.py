"""The command `predict`: which class each example is predicted as."""

import csv
import pathlib

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from PIL import Image

from ssl_keras import encoders
from ssl_keras.cli import main
from ssl_keras.data.readers.text import from_texts
from ssl_keras.networks import Network

CLASSES = ("=cat", "dog")


@pytest.fixture
def classifier(tmp_path):
    """A classifier of 8×8 images, saved as c; and its logits of images."""
    encoder = Network("dense", image_shape=(8, 8, 3), widths=(4,)).build()
    head = Network("classifier_head", features=4, classes=2).build()
    spec = {"image": ((8, 8, 3), tf.uint8)}
    encoders.save_encoder(tmp_path / "c", encoder, spec=spec, head=head, classes=CLASSES)
    encoders.save_encoder(tmp_path / "e", encoder, spec=spec)
    return lambda image: head(encoder(image.astype(np.float32) / 255)).numpy()


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_file_gets_its_class(classifier, tmp_path, rng, capsys):
    folder, images = tmp_path / "photos", {}
    folder.mkdir()
    for number in range(12):
        images[f"+{number:02}.png"] = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(images[f"+{number:02}.png"]).save(folder / f"+{number:02}.png")
    assert main(["predict", "c", "--data", "folder:photos", "--probabilities"]) == 0
    assert "predictions.csv: 12 predictions of 2 classes" in capsys.readouterr().out
    found = read("predictions.csv")
    assert list(found[0]) == ["split", "row", "name", "predicted", "probability", "p(=cat)", "p(dog)"]
    assert [row["name"].lstrip("'") for row in found] == sorted(images)
    for row in found:
        expected = scipy.special.softmax(classifier(images[row["name"].lstrip("'")][None])[0])
        np.testing.assert_allclose([float(row["p(=cat)"]), float(row["p(dog)"])], expected, atol=1e-5)
        assert row["predicted"] == ("'=cat", "dog")[expected.argmax()]  # no formula
        assert float(row["probability"]) == pytest.approx(expected.max(), abs=1e-5)
    assert main(["predict", "c", "--data", "folder:photos"]) == 1  # the file is there
    assert "--overwrite" in capsys.readouterr().err
    assert main(["predict", "c", "--data", "folder:photos", "--overwrite", "--split", "test"]) == 0
    assert {row["split"] for row in read("predictions.csv")} == {"test"}


@pytest.mark.parametrize("asked", [[], ["--image-size", "16"]])
def test_images_get_the_size_that_the_encoder_was_trained_on(asked, tmp_path, rng, caplog):
    encoder = Network("cnn", image_shape=(8, 8, 3), width=4).build()
    head = Network("classifier_head", features=encoder.output_shape[-1], classes=2).build()
    encoders.save_encoder(
        tmp_path / "c", encoder, spec={"image": ((8, 8, 3), tf.uint8)}, head=head, classes=("cat", "dog")
    )
    (tmp_path / "photos").mkdir()
    colors = rng.integers(0, 256, (12, 3), np.uint8)
    for number, color in enumerate(colors):  # images of one color are the same at any size
        Image.new("RGB", (16, 16), tuple(map(int, color))).save(tmp_path / "photos" / f"{number:02}.png")
    assert main(["predict", "c", "--data", "folder:photos", "--probabilities", *asked]) == 0
    side = 16 if asked else 8
    image = np.tile(colors[:, None, None] / np.float32(255), (1, side, side, 1))
    expected = scipy.special.softmax(head(encoder(image)).numpy(), 1)[:, 0]
    np.testing.assert_allclose([float(row["p(cat)"]) for row in read("predictions.csv")], expected, atol=1e-5)
    assert ("was trained on 8×8" in caplog.text) == bool(asked)


def test_texts(tmp_path, capsys):
    made = encoders.load_encoder("masked_lm-trec")
    head = Network("classifier_head", features=128, classes=2).build()
    spec = {"tokens": ((40,), tf.int32)}
    tokenizer = encoders.load_tokenizer("masked_lm-trec")
    encoders.save_encoder(
        tmp_path / "t", made, spec=spec, head=head, classes=("a", "b"), tokenizer=tokenizer, context=40
    )
    splits = from_texts([f"Who wrote book {i} ?" for i in range(20)], [0, 1] * 10)
    (tmp_path / "t.csv").write_text("text\n" + "\n".join(splits.train.column("text")) + "\n")
    assert main(["predict", "t", "--data", "table:t.csv"]) == 0
    found = read("predictions.csv")
    assert len(found) == len(splits.train)
    assert {row["predicted"] for row in found} <= {"a", "b"}
    pathlib.Path("one.csv").write_text("text\nWho wrote book 3 ?\n")
    assert main(["predict", "t", "--data", "table:one.csv", "--out", "one_predicted.csv"]) == 0
    (one,) = read("one_predicted.csv")
    (same,) = (row for row in found if row["text"] == one["text"])
    assert (one["row"], one["predicted"]) == ("2", same["predicted"])
    assert float(one["probability"]) == pytest.approx(float(same["probability"]), abs=1e-5)
    assert main(["predict", "t", "--data", "table:one.csv", "--split", "test", "--overwrite"]) == 1
    assert "Expected at least 3 examples. Received: 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("t.csv", 'id,text\n1,Who ?\n2,What ?\n3," Who ?"\n4,\n5,"two\nlines"\n6,=A1\n7,What ?\n', 2),
        ("t.jsonl", '{"text": "Who ?"}\n{"text": "What ?"}\n{"text": "Who ? "}\n{"text": "", "id": 4}\n', 1),
    ],
)
def test_a_table_has_a_prediction_for_each_row(name, content, first, tmp_path, caplog):
    """Also where rows repeat a text; a row without a text has none."""
    made, head = encoders.load_encoder("masked_lm-trec"), Network("classifier_head", features=128, classes=2).build()
    tokenizer = encoders.load_tokenizer("masked_lm-trec")
    own = {"spec": {"tokens": ((40,), tf.int32)}, "classes": ("a", "b"), "tokenizer": tokenizer, "context": 40}
    encoders.save_encoder(tmp_path / "t", made, head=head, **own)
    pathlib.Path(name).write_text(content)
    for data in (f"table:{name}", f"table:{name}[text]"):
        assert main(["predict", "t", "--data", data, "--overwrite"]) == 0
        found = read("predictions.csv")
        last = content.replace("two\nlines", "two").count("\n")
        assert [int(row["row"]) for row in found] == list(range(first, last + 1))
        assert [row["predicted"] == "" for row in found] == [row["text"] == "" for row in found]
        assert {key: found[2][key] for key in ("text", "predicted", "probability")} == {
            key: found[0][key] for key in ("text", "predicted", "probability")
        }
        assert f"no prediction for 1 rows without a text or a label: {'row' if first == 2 else 'line'} " in caplog.text


@pytest.mark.parametrize("count", [1, 2])
def test_one_image(classifier, tmp_path, rng, count):
    (tmp_path / "photos").mkdir()
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "photos" / f"{number}.png")
    assert main(["predict", "c", "--data", "folder:photos"]) == 0
    assert [row["name"] for row in read("predictions.csv")] == [f"{number}.png" for number in range(count)]


def test_an_encoder_without_a_head_is_refused(classifier, capsys):
    assert main(["predict", "e", "--data", "digits"]) == 1
    assert "has no classification head. Fine-tune it" in capsys.readouterr().err
