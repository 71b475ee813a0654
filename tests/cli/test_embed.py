"""The command `embed`: features, and beside them which file each row is."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ssl_keras import encoders
from ssl_keras.cli import evaluate, main, rows
from ssl_keras.data.readers import images, text
from ssl_keras.data.splits import from_arrays, hold_out
from ssl_keras.evaluation.features import extract_features
from ssl_keras.networks import Network


@pytest.fixture
def encoder(tmp_path):
    """A small encoder of 8×8 images, saved."""
    made = Network("dense", image_shape=(8, 8, 3), widths=(4,)).build()
    encoders.save_encoder(tmp_path / "e", made, spec={"image": ((8, 8, 3), tf.uint8)})
    return made


def photos(folder, rng, count=20):
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(count // 2):
            image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            image.save(folder / name / f"photo\t{number:02}.png")


def test_all_examples_in_their_order_with_names_and_classes(encoder, tmp_path, rng, capsys):
    photos(tmp_path / "photos", rng)
    assert main(["embed", "e", "--data", "folder:photos", "--split", "all", "--out", "out/all.npy"]) == 0
    assert "out/all.tsv: split, row, name, label of each" in capsys.readouterr().out
    header, *rows = [line.split("\t") for line in (tmp_path / "out" / "all.tsv").read_text().splitlines()]
    assert header == ["split", "row", "name", "label"]
    expected = [[f"{name}/photo\\t{number:02}.png", name] for name in ("cat", "dog") for number in range(10)]
    assert [row[2:] for row in rows] == expected
    splits = images.load("photos")
    features = {part: extract_features(encoder, source) for part, source in splits._asdict().items()}
    made = np.load(tmp_path / "out" / "all.npy")
    np.testing.assert_allclose(made, np.stack([features[part][int(row)] for part, row, *_ in rows]), atol=1e-6)
    assert main(["embed", "e", "--data", "folder:photos"]) == 0
    np.testing.assert_allclose(np.load("features.npy"), features["test"], atol=1e-6)
    rows = (tmp_path / "features.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[2] for row in rows] == [name.replace("\t", "\\t") for name in splits.test.column("name")]


def test_a_table_of_texts(tmp_path):
    texts = [f"Who wrote book {i} ?" for i in range(8)]
    (tmp_path / "t.csv").write_text("text\n" + "\n".join(texts) + "\n")
    assert main(["embed", "masked_lm-trec", "--data", "table:t.csv", "--split", "all"]) == 0
    header, *rows = [line.split("\t") for line in (tmp_path / "features.tsv").read_text().splitlines()]
    assert header == ["split", "row", "text"]
    assert [row[2] for row in rows] == texts


def test_parts_that_are_apart_follow_each_other(rng):
    image = rng.integers(0, 256, (12, 4, 4, 1), np.uint8)
    train, validation, test = from_arrays(image[:9], test=(image[9:], None))
    order = rows.in_order([train, validation, test], [8, 1, 3])
    together = np.concatenate([part.column("image") for part in (train, validation, test)])
    np.testing.assert_array_equal(together[order], image)


def test_rows_of_other_data():
    labeled = from_arrays(np.zeros((20, 4, 4), np.uint8), np.arange(20) % 2, classes=("a\tb", "c"))
    assert rows.rows_of("test", labeled.test, 4)[0].keys() == {"split", "row", "label"}
    assert {row["label"] for row in rows.rows_of("train", labeled.train, 15)} == {"a\\tb", "c"}
    pieces = hold_out(text.documents("t", [str(i) for i in range(10)])).test
    assert rows.rows_of("test", pieces, 3) == [{"split": "test", "row": str(row)} for row in range(3)]


@pytest.mark.parametrize("out", ["f.tsv", "", "."])
def test_the_table_is_not_written_over_the_features(encoder, capsys, out):
    assert main(["embed", "e", "--data", "digits", "--out", out]) == 1
    assert "Expected --out to end in .npy" in capsys.readouterr().err


def test_memory_that_is_out_is_one_line(monkeypatch, capsys):
    def full(_):
        raise tf.errors.ResourceExhaustedError(
            None, None, "{{function_node x}} OOM when allocating tensor with shape[5760000,256] and type float"
        )

    monkeypatch.setattr(evaluate, "embed_command", full)
    assert main(["embed", "e"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: Out of memory: at a tensor of shape [5760000,256]. Use smaller images")
    assert error.count("\n") == 1


def test_evaluate_replaces_only_its_own_table(tmp_path, monkeypatch, capsys):
    tables = iter(range(100))
    monkeypatch.chdir(tmp_path)

    def fake(names, splits, *_, measured, **__):
        probabilities = np.eye(10)[splits.test.column("label")]
        score = next(tables) / 100
        measured.add("pixels", "probes", lambda: ({"all": [score]}, None))
        measured.add(f"{names[0]}, fine-tuned", "all", lambda: ({"all": [0.5]}, probabilities))
        return measured.table()

    monkeypatch.setattr(evaluate, "evaluate", fake)
    command = ["evaluate", "autoencoder-fashion_mnist", "--data", "digits", "--budgets"]
    first = tmp_path / "results" / "autoencoder-fashion_mnist-digits"
    for budget, expected in ((5, "0.0"), (5, "1.0"), (2, "1.0"), (2, "1.0")):  # only the first two replace
        assert main([*command, str(budget)]) == 0
        assert f"| pixels | {expected} |" in (first / "table.md").read_text()
    second, *others = [folder for folder in first.parent.iterdir() if folder != first]
    assert second.name.startswith(f"{first.name}-")
    assert not others
    assert "| pixels | 3.0 |" in (second / "table.md").read_text()
    capsys.readouterr()
    assert main([*command, "2", "--out", str(first)]) == 1
    assert "contains the table of another evaluation" in capsys.readouterr().err
    assert main([*command, "5", "--out", str(first)]) == 0
    assert main([*command, "2", "--out", str(first), "--overwrite"]) == 0
    text = (first / "table.md").read_text()
    assert "| pixels | 5.0 |" in text
    assert "autoencoder-fashion_mnist, fine-tuned, all labels: accuracy 1.000, balanced accuracy 1.000" in text
