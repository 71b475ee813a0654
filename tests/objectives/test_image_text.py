"""Images and captions: losses against loops and `transformers`, splits by concept, retrieval, the whole flow."""

import dataclasses
import json
import logging
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ssl_keras import encoders, losses
from ssl_keras.cli import main
from ssl_keras.data import masking, near_duplicates
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.readers import captions, text
from ssl_keras.data.sources import load
from ssl_keras.data.splits import hold_out
from ssl_keras.encoders.initialize import initialize
from ssl_keras.evaluation import retrieval
from ssl_keras.inference import search
from ssl_keras.networks import Network, towers
from ssl_keras.objectives import image_text, masked_lm, rotation
from ssl_keras.training.pretrain import pretrain

SHAPES = ("square", "disc", "cross", "bar", "ring")
COLORS = {
    "red": (200, 30, 30),
    "green": (30, 160, 60),
    "blue": (40, 60, 200),
    "yellow": (220, 200, 40),
    "white": (240, 240, 240),
    "pink": (240, 120, 180),
}


def drawn(shape, color, random, side=16):
    """Draws a shape at a random place: uint8 (side, side, 3)."""
    y, x = np.mgrid[:side, :side] - side / 2 + random.uniform(-2, 2, (2, 1, 1))
    r, size = np.hypot(x, y), random.uniform(4, 6)
    inside = {
        "square": (abs(x) < size * 0.8) & (abs(y) < size * 0.8),
        "disc": r < size,
        "bar": abs(y) < 2,
        "cross": (abs(x) < 1.5) | (abs(y) < 1.5),
        "ring": (r < size) & (r > size - 2),
    }[shape]
    return np.where(inside[..., None], COLORS[color], random.integers(0, 30)).astype(np.uint8)


def shapes(count=240):
    random = np.random.default_rng(0)
    names = [(COLOR, SHAPE) for COLOR in COLORS for SHAPE in SHAPES]
    chosen = [names[i % len(names)] for i in range(count)]
    images = np.stack([drawn(shape, color, random) for color, shape in chosen])
    texts = [[f"a {color} {shape}", f"{shape} {color}"] for color, shape in chosen]
    source = captions.source("shapes", images, texts)
    order = random.permutation(count)
    parts = np.split(order, [count - 60, count - 30])
    return captions.Splits(
        *(
            dataclasses.replace(source.take(rows), name=f"shapes[{name}]")
            for name, rows in zip(("train", "validation", "test"), parts)
        )
    )


def test_images_get_the_channels_of_the_encoder_to_start_from():
    """Colored images become gray, since a vision transformer is taken with its patches."""
    network = Network("vit", image_shape=(16, 16, 1), width=8, layers=1).build()
    encoders.save_encoder("gray", network, spec={"image": ((16, 16, 1), tf.uint8)})
    settings = image_text.Settings(init_image="gray", text_layers=1, text_width=16, projection=8)
    settings, splits = image_text.prepare(settings, shapes(24))
    spec = splits.train.spec()
    assert spec["image"][0][2] == 1
    assert "captions" in spec
    image_text.build(settings, spec)


def pair(rng, rows=6, width=4):
    return (tf.constant(rng.normal(size=(rows, width)), tf.float32) for _ in range(2))


def normalized(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_clip_equals_a_slow_loop(rng):
    first, second = pair(rng)
    similarity = 3.0 * normalized(first.numpy()) @ normalized(second.numpy()).T
    expected = []
    for i in range(6):
        there = -np.log(np.exp(similarity[i, i]) / np.exp(similarity[i]).sum())
        back = -np.log(np.exp(similarity[i, i]) / np.exp(similarity[:, i]).sum())
        expected.append((there + back) / 2)
    np.testing.assert_allclose(losses.clip(first, second, tf.ones(6), 3.0), expected, rtol=1e-5)


def test_siglip_equals_a_slow_loop(rng):
    first, second = pair(rng)
    similarity = 3.0 * normalized(first.numpy()) @ normalized(second.numpy()).T - 1.5
    expected = [sum(np.log1p(np.exp(-(1 if i == j else -1) * similarity[i, j])) for j in range(6)) for i in range(6)]
    np.testing.assert_allclose(losses.siglip(first, second, tf.ones(6), 3.0, -1.5), expected, rtol=1e-5)


def test_closed_forms():
    """With equal embeddings the loss is the log of the number of candidates; with orthogonal ones it is known too."""
    same = tf.ones((5, 3))
    np.testing.assert_allclose(losses.clip(same, same, tf.ones(5), 9.0), np.log(5), rtol=1e-5)
    eye = tf.eye(5)
    expected = np.log(1 + 4 * np.exp(-2.0))
    np.testing.assert_allclose(losses.clip(eye, eye, tf.ones(5), 2.0), expected, rtol=1e-5)
    expected = np.log1p(np.exp(-2.0)) + 4 * np.log(2)
    np.testing.assert_allclose(losses.siglip(eye, eye, tf.ones(5), 2.0, 0.0), expected, rtol=1e-5)


def both_losses():
    return {
        "clip": lambda a, b, w, same=None: losses.clip(a, b, w, 4.0, same),
        "siglip": lambda a, b, w, same=None: losses.siglip(a, b, w, 4.0, -2.0, same),
    }


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_swapping_the_modalities_changes_nothing(rng, name):
    first, second = pair(rng)
    loss = both_losses()[name]
    there, back = loss(first, second, tf.ones(6)), loss(second, first, tf.ones(6))
    np.testing.assert_allclose(np.sum(there), np.sum(back), rtol=1e-5)
    if name == "clip":  # SigLIP sums over the other modality's candidates
        np.testing.assert_allclose(there, back, rtol=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_padding_and_the_same_concept_are_no_negatives(rng, name):
    first, second = pair(rng)
    loss = both_losses()[name]
    weight = tf.constant([1.0, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(loss(first, second, weight)[:4], loss(first[:4], second[:4], tf.ones(4)), rtol=1e-5)
    same = tf.constant([[0, 1], [2, 3], [0, 1], [4, 5], [0, 9], [6, 7]])
    ours = loss(first, second, tf.ones(6), same).numpy()
    without = [0, 1, 3, 4, 5]  # the third example has the first one's caption
    kept = loss(tf.gather(first, without), tf.gather(second, without), tf.ones(5)).numpy()
    np.testing.assert_allclose(ours[0], kept[0], rtol=1e-5)
    assert ours[1] > kept[1]  # for it, both are negatives


def test_equal_captions_have_equal_numbers(rng):
    ids = rng.integers(-1, 3000, (4_000, 7)).astype(np.int32)
    ids[3_999] = ids[0]
    numbers = masking.hash_rows(tf.constant(ids)).numpy()
    np.testing.assert_array_equal(numbers[0], numbers[3_999])
    few = rng.integers(-1, 30, (20_000, 5)).astype(np.int32)
    few = np.concatenate([few, [[10, 10, 10, 7, -1], [13, 7, 11, 7, -1]]]).astype(np.int32)
    for each in (ids, few):
        numbers = masking.hash_rows(tf.constant(each)).numpy()
        assert len(np.unique(numbers, axis=0)) == len(np.unique(each, axis=0))


def test_captions_are_drawn_joined_and_thinned():
    ids = np.full((64, 3, 4), -1, np.int32)
    ids[:, 0, :2], ids[:, 1, :1], ids[32:, 2] = (10, 11), (20,), (30, 31, 32, 33)
    one, joined, thin = (
        masking.sample_captions(tf.constant(ids), BatchRandom(0, 0, 0, 64), joined, omitted, context=6).numpy()
        for joined, omitted in ((1, 0.0), (3, 0.0), (3, 0.9))
    )

    def rows(tokens):
        assert all((row[np.argmax(row < 0) :] < 0).all() for row in tokens if (row < 0).any())  # padding comes last
        return [tuple(map(int, row[row >= 0])) for row in tokens]

    whole = {(10, 11), (20,), (30, 31, 32, 33)}
    assert set(rows(one)) == whole
    assert set(rows(one)[:32]) == {(10, 11), (20,)}
    found = rows(joined)
    assert {(10, 11), (20,), (10, 11, 20), (20, 10, 11)} == set(found[:32])
    assert {(30, 31, 32, 33, 10, 11), (20, 30, 31, 32, 33, 10), (10, 11, 20)} & set(found[32:])
    assert max(map(len, found)) == 6  # the context
    assert all(len(row) >= 1 for row in rows(thin))
    assert np.mean([len(row) for row in rows(thin)]) < 1.6
    assert all(set(row) <= {token for each in whole for token in each} for row in rows(thin))
    again = masking.sample_captions(tf.constant(ids), BatchRandom(0, 0, 0, 64), 3, 0.0, context=6)
    np.testing.assert_array_equal(again.numpy(), joined)


@pytest.mark.slow
def test_transformers_has_the_same_losses(rng):
    torch = pytest.importorskip("torch")
    clip = pytest.importorskip("transformers.models.clip.modeling_clip")
    first, second = (x.numpy() for x in pair(rng, 9, 8))
    logits = torch.tensor(3.0 * normalized(second) @ normalized(first).T)  # per text
    ours = losses.clip(tf.constant(first), tf.constant(second), tf.ones(9), 3.0)
    assert float(tf.reduce_mean(ours)) == pytest.approx(float(clip.image_text_contrastive_loss(logits)), abs=1e-4)
    # As in SiglipModel's forward.
    eye = torch.eye(9)
    theirs = -torch.nn.functional.logsigmoid((2 * eye - 1) * (logits - 1.0)).sum(-1).mean()
    ours = losses.siglip(tf.constant(first), tf.constant(second), tf.ones(9), 3.0, -1.0)
    assert float(tf.reduce_mean(ours)) == pytest.approx(float(theirs), abs=1e-4)


def test_near_duplicates_are_found():
    texts = ["Grinning face", "grinning  FACE!", "grinning faces", "crocodile", "Café", "cafe"]
    found = {tuple(map(int, each)) for each in near_duplicates.similar_texts(texts)}
    assert found == {(0, 1), (0, 2), (1, 2), (4, 5)}
    assert near_duplicates.similar_texts(texts[:1], texts[3:]).size == 0
    assert near_duplicates.similar_texts(["a crocodile"], texts).tolist() == [[0, 3]]
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (5, 32, 32, 3)).astype(np.uint8)
    images[3] = np.clip(images[1].astype(int) + random.integers(-5, 6, images[1].shape), 0, 255)
    images[4] = images[0] // 2 + 60  # the same picture, darker and with less contrast
    assert {tuple(map(int, each)) for each in near_duplicates.similar_images(images)} == {(1, 3), (0, 4)}
    flat = np.stack([np.full((8, 8, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255), (250, 3, 2))])
    assert near_duplicates.similar_images(flat).tolist() == [[0, 2]]
    gray = np.stack([np.full((8, 8, 1), value, np.uint8) for value in (0, 128, 255, 250)])
    assert near_duplicates.similar_images(gray).tolist() == [[2, 3]]


def test_groups_stay_whole():
    group = near_duplicates.groups(7, np.array([[0, 1], [1, 4]]), np.array([[5, 6]]))
    assert group[0] == group[1] == group[4]
    assert len(set(group)) == 4
    random = np.random.default_rng(0)
    group = np.concatenate([np.full(100, 400), random.integers(0, 400, 900)])
    group = np.unique(group, return_inverse=True)[1]
    names = ["".join(random.choice(list("abcdefgh"), 9)) for _ in group]
    part = near_duplicates.parts_of(group, names, 20)
    assert all(len(set(part[group == one])) == 1 for one in set(group))
    assert set(part[:100]) == {-1}  # more than one part may hold: in no part
    assert np.bincount(part[100:]).min() > 15
    order = random.permutation(len(group))[:700]  # removing and renumbering others moves none
    again = near_duplicates.parts_of(np.unique(group[order], return_inverse=True)[1], [names[i] for i in order], 20)
    first = {one: min(name for g, name in zip(group, names) if g == one) for one in set(group)}
    same = [first[group[i]] in {names[j] for j in order if group[j] == group[i]} for i in order]
    assert (again == part[order])[same].all()


def written(tmp_path, rows):
    """Writes a file of captions and its images."""
    random = np.random.default_rng(0)
    for index in range(120):
        Image.fromarray(random.integers(0, 255, (12, 12, 3)).astype(np.uint8)).save(tmp_path / f"{index}.png")
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def rows(random):
    letters = "bcdfghjklmnprstvwz"
    return [{"image": f"{i}.png", "caption": ["".join(random.choice(list(letters), 9)), "thing"]} for i in range(120)]


def test_files_of_captions(tmp_path, rng, caplog):
    listed = rows(rng)
    listed += [listed[0], {"image": "1.png", "caption": "another"}]
    with caplog.at_level(logging.WARNING):
        splits = load(f"captions:{written(tmp_path, listed)}")
    assert "2 rows repeat" in caplog.text
    assert sum(map(len, splits)) == 120
    assert splits.train.spec()["image"][0] == (12, 12, 3)
    together = [each for part in splits for each in captions.captions_of(part)]
    assert [listed[1]["caption"][0], "thing", "another"] in together
    table = tmp_path / "captions.csv"
    table.write_text("image,caption\n" + "\n".join(f'{r["image"]},"{r["caption"][0]}, it is"' for r in rows(rng)))
    third = load(f"captions:{table}[3]")
    assert third.test.name == f"captions:{table}[3][test]"
    assert (third.test.short_name, splits.train.short_name) == ("captions-3", "captions")
    held_out = set(captions.names_of(splits.test))
    assert not held_out & {text.removesuffix(", it is") for text in captions.names_of(third.test)}
    smaller = load(f"captions:{tmp_path}/captions.jsonl", 8)  # the same split at another size
    assert captions.names_of(smaller.test) == captions.names_of(splits.test)


def test_splits_by_concept(tmp_path, rng):
    """Folds do not overlap, near duplicates stay together, and no held-out name is a caption in the training part."""
    listed = rows(rng)
    for i in range(0, 120, 6):
        listed[i + 1]["caption"][0] = listed[i]["caption"][0] + "s"
        listed[i + 2]["caption"].append(listed[i]["caption"][0])
        listed[i + 3]["caption"].append(f"{listed[i]['caption'][0]}t")
    path = written(tmp_path, listed)
    tested = []
    for fold in range(5):
        train, validation, test = load(f"captions:{path}[{fold}]")
        held_out = captions.names_of(validation) + captions.names_of(test)
        assert not near_duplicates.similar_texts(captions.names_of(train), held_out).size
        learned = [text for each in captions.captions_of(train) for text in each]
        assert not near_duplicates.similar_texts(learned, held_out).size
        assert not any(map(len, near_duplicates.leaks(captions.Splits(train, validation, test)).values()))
        tested += captions.names_of(test)
    assert sorted(tested) == sorted(row["caption"][0] for row in listed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda listed: listed[3].update(image="gone.png"), "1 images do not exist: .*gone.png"),
        (lambda listed: listed[3].update(image="a long caption " * 50), "1 images do not exist: .*a long caption"),
        (lambda listed: listed[3].update(caption=" "), "row 4: the caption is empty"),
        (lambda listed: listed[3].update(caption=[]), "row 4: the caption is empty"),
        (lambda listed: listed[3].pop("caption"), "line 4: expected"),
        (lambda listed: listed[3].update(caption=None), "line 4: expected"),
        (lambda listed: listed[3].update(image=3), "line 4: expected"),
    ],
)
def test_bad_captions_are_named(tmp_path, rng, change, message):
    listed = rows(rng)
    change(listed)
    with pytest.raises(ValueError, match=message):
        load(f"captions:{written(tmp_path, listed)}")


def test_other_bad_input(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load("captions:nowhere.jsonl")
    (tmp_path / "t.csv").write_text("picture,words\na.png,b\n")
    with pytest.raises(ValueError, match="columns image and caption"):
        load(f"captions:{tmp_path}/t.csv")
    (tmp_path / "latin.jsonl").write_bytes('{"image": "a.png", "caption": "café"}'.encode("latin1"))
    with pytest.raises(ValueError, match=r"characters are not UTF-8: .*latin\.jsonl"):
        load(f"captions:{tmp_path}/latin.jsonl")
    (tmp_path / "open.csv").write_text('image,caption\n1.png,"a cat\n2.png,dog\n')
    with pytest.raises(ValueError, match="quotation mark that is not closed"):
        load(f"captions:{tmp_path}/open.csv")
    with pytest.raises(ValueError, match=r"emoji\.jsonl and one sheet"):
        load(f"emoji:{tmp_path}")
    Image.new("RGBA", (132, 66)).save(tmp_path / "a_sheet_1.png")
    row = {"name": "a", "short_names": [], "keywords": [], "sheet_x": 2, "sheet_y": 0}
    row |= {"sheet_x": 0}
    for wrong in (
        json.dumps(row | {"sheet_x": 2}),
        "{}",
        "nonsense",
        "[" * 10**5,
        json.dumps(row | {"name": 5}),
        json.dumps(row | {"keywords": [1]}),
        json.dumps(row | {"short_names": "abc"}),
        "[1]",
        json.dumps(row | {"sheet_x": True}),
        json.dumps(row | {"sheet_y": 0.5}),
    ):
        (tmp_path / "emoji.jsonl").write_text(wrong)
        with pytest.raises(ValueError, match="line 1: expected name"):
            load(f"emoji:{tmp_path}")
    with pytest.raises(ValueError, match="too few groups .* to hold some out"):
        captions.by_concept(captions.source("few", np.zeros((3, 8, 8, 1), np.uint8), ["a", "b", "c"]))
    with pytest.raises(ValueError, match="no captions"):
        image_text.prepare(image_text.Settings(), load("digits"))
    with pytest.raises(ValueError, match="The fold must be"):
        captions.by_concept(shapes().train, 7)


def test_a_caption_is_drawn_by_position():
    settings, splits = image_text.prepare(image_text.Settings(tokenizer="characters", text_layers=1), shapes())
    objective = image_text.build(settings, splits.train.spec())
    rows = np.arange(40)
    batch = {k: tf.constant(v) for k, v in splits.train.gather(rows).items()} | {"weight": tf.ones(40)}
    made, again = (objective.preprocess(batch, BatchRandom(1, step, 0, 40))["tokens"].numpy() for step in (0, 0))
    np.testing.assert_array_equal(made, again)
    first = batch["captions"].numpy()[:, 0]
    share = (made == first).all(1).mean()
    assert 0.2 < share < 0.8
    held_out = objective.preprocess_eval(batch, BatchRandom(1, 0, 0, 40))
    np.testing.assert_array_equal(held_out["tokens"], first)


def test_without_blocks_the_text_is_a_mean_of_its_tokens():
    """Without blocks and projection: embeddings of length 1, from a table that a few steps can change a lot."""
    settings = image_text.Settings(tokenizer="characters", text_layers=0, text_width=16, projection=0)
    settings, splits = image_text.prepare(settings, shapes())
    objective = image_text.build(settings, splits.train.spec())
    table = towers.text_network(objective.head).get_layer("embeddings").tokens.numpy()
    assert np.std(table) == pytest.approx(towers.EMBEDDING_SCALE, rel=0.1)
    ids = splits.train.column("captions")[:5, 0]
    _, made = objective.head([tf.zeros((5, objective.encoder.output_shape[-1])), tf.constant(ids)])
    expected = [normalized(table)[row[row >= 0]].mean(0) for row in ids]
    np.testing.assert_allclose(made, expected, rtol=1e-2, atol=1e-3)  # the norm's epsilon
    assert not any("of_text" in layer.name for layer in objective.head.layers)


def test_captions_of_a_part_are_those_of_its_rows():
    part = load("digits").train.take(np.array([5, 3, 8]))
    assert captions.names_of(captions.with_captions(part, ["five", "three", "eight"])) == ["five", "three", "eight"]
    assert captions.names_of(captions.with_captions(part, ["a", "b", "c"]).take(np.array([2, 0]))) == ["c", "a"]


def test_recalls_count_ties_against(rng):
    x, own = normalized(rng.normal(size=(50, 8))), np.arange(50)
    assert retrieval.recall_at_k(x, x, own) == {1: 1.0, 5: 1.0, 10: 1.0}
    assert retrieval.recall_at_k(x, np.ones((50, 8)), own)[10] == 0.0
    shuffled = retrieval.recall_at_k(x, normalized(rng.normal(size=(50, 8))), own)
    assert shuffled[10] < 0.6
    slow = np.mean([list(np.argsort(-(x @ (x + 0.5).T)[i])).index(i) < 5 for i in range(50)])
    assert retrieval.recall_at_k(x, x + 0.5, own)[5] == pytest.approx(slow)


def test_equal_names_are_all_right(rng):
    """A perfect network scores 1 despite duplicates, and chance accounts for them."""
    concepts = retrieval.concepts_of(["A cat", *["a dog!", "a dog"] * 6, "cow", "hen", "pig"])
    x = normalized(rng.normal(size=(16, 8)))[concepts]
    assert retrieval.recall_at_k(x, x, concepts) == {1: 1.0, 5: 1.0, 10: 1.0}
    drawn = [np.isin(concepts[rng.permutation(16)[:5]], concepts[i]).any() for i in range(16) for _ in range(2_000)]
    assert retrieval.chance(concepts)[5] == pytest.approx(np.mean(drawn), abs=0.01)
    assert retrieval.chance(np.arange(50)) == pytest.approx({1: 0.02, 5: 0.1, 10: 0.2})


def test_the_scale_stays_within_its_limit():
    settings, splits = image_text.prepare(image_text.Settings(tokenizer="characters", text_layers=1), shapes())
    objective = image_text.build(settings, splits.train.spec())
    objective.compile("adam")
    scale = objective.similarity.log_scale
    scale.assign(9.0)
    gradients = [tf.zeros_like(v) for v in objective.trainable_variables]
    objective.optimizer.apply(gradients, objective.trainable_variables)
    assert float(scale.numpy()) == pytest.approx(np.log(100.0))


@pytest.mark.fit
def test_the_whole_way(tmp_path, monkeypatch, capsys):
    """Pretrain on shapes, search them by words, start from encoders of images and text, load again."""
    monkeypatch.chdir(tmp_path)
    settings = image_text.Settings(width=8, text_layers=1, text_width=32, projection=32, tokenizer="characters")
    training = dataclasses.replace(
        image_text.DEFAULTS, epochs=40, batch_size=60, warmup=10, run="shapes", eval_every=60, tensorboard=False
    )
    pretrain("image_text", settings, training, data=shapes())
    encoder, towers, card = encoders.load_with_head("shapes")
    assert card["head"]["loss"] == "clip"
    test = image_text.prepare(dataclasses.replace(settings, tokenizer="runs/shapes/encoder"), shapes())[1].test
    image = search.embeddings_of_images(encoder, towers, test.column("image"))
    words = search.embeddings_of_texts(towers, test.column("captions")[:, 0])
    assert image.shape == (30, 32)
    found = retrieval.both_ways(image, words, np.arange(30))
    assert np.mean([each[5] for each in found.values()]) > 0.5  # chance is 5/30
    again, prepared = image_text.prepare(image_text.Settings(), shapes(), init="shapes")
    again = image_text.build(again, prepared.train.spec())
    assert initialize(again.encoder, "shapes", again.head) == ([], [])
    trained = towers.get_layer("similarity").log_scale.numpy()  # the temperature is saved
    assert abs(trained - np.log(1 / 0.07)) > 1e-3
    some = tmp_path / "some"
    some.mkdir()
    for index, image in enumerate(test.column("image")[:12]):
        Image.fromarray(image).save(some / f"{index}.png")
    for _ in range(2):  # the second time from the cache
        assert main(["search", "shapes", "a red square", "--images", str(some), "--count", "3", "--overwrite"]) == 0
        answer = capsys.readouterr().out.splitlines()
        assert len(answer) == 4
        assert all(line.endswith(".png") for line in answer)
    assert (tmp_path / "found.png").stat().st_size > 1_000
    (tmp_path / "words.txt").write_text("a red square\na blue disc\n")
    assert main(["search", "shapes", str(some / "0.png"), "--texts", "words.txt"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "one.png").write_text("no picture")
    for wrong, message in (
        (["a red square", "--images", "broken"], "one.png, cannot be read: not one of"),
        (["a red square"], "--images FOLDER"),
        (["§§", "--images", str(some)], "Expected words"),
        (["a red square", "--images", "nowhere"], "no such folder"),
        (["words.txt", "--texts", "words.txt"], "an image"),
    ):
        assert main(["search", "shapes", *wrong, "--overwrite"]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.fit
def test_recall_beside_its_baselines(tmp_path, rng, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = f"captions:{written(tmp_path, rows(rng))}"
    assert main(["leaks", "--data", data]) == 0
    assert (
        main(
            [
                "pretrain",
                "image_text",
                "--data",
                data,
                "--width",
                "4",
                "--text-layers",
                "1",
                "--text-width",
                "16",
                "--text-heads",
                "2",
                "--steps",
                "2",
                "--batch-size",
                "20",
                "--run",
                "few",
                "--tokenizer",
                "characters",
                "--no-tensorboard",
            ]
        )
        == 0
    )
    assert main(["recall", "few", "--data", data, "--record"]) == 0
    table = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[-3:] == ["chance", "bag of words", "few"]
    assert list(encoders.card.read(encoders.find("few"))["results"]) == [f"{data}[test]"]


def test_leaks_are_found(tmp_path, capsys):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    random = np.random.default_rng(0)
    for index in range(12):
        image = Image.fromarray(random.integers(0, 255, (12, 12, 3)).astype(np.uint8))
        image.save(tmp_path / "train" / f"{index}.png")
        if index == 3:
            image.save(tmp_path / "test" / "copy.png")
    assert main(["leaks", "--data", f"folder:{tmp_path}"]) == 1
    found = capsys.readouterr()
    assert "test: 1 of 1 images" in found.out
    assert "1 held-out examples are near duplicates" in found.err
    with pytest.raises(ValueError, match="neither images nor texts"):
        near_duplicates.leaks(
            captions.Splits(
                *(dataclasses.replace(part, arrays={"label": part.arrays["label"]}) for part in load("digits"))
            )
        )


@pytest.mark.parametrize("size", [28, 64])
def test_real_drawings_are_apart_at_any_size(size):
    folder = pathlib.Path(os.environ.get("SSL_KERAS_DATA", "/nowhere")) / "emoji_pairs"
    if not folder.is_dir():
        pytest.skip("real data: $SSL_KERAS_DATA holds no emoji_pairs")
    splits = load(f"emoji:{folder}", size)
    assert [len(part) for part in splits] == [1305, 160, 446]
    assert not any(map(len, near_duplicates.leaks(splits).values()))


@pytest.mark.fit
def test_it_starts_from_saved_encoders(tmp_path, monkeypatch):
    """Starting from image and text encoders takes their weights, networks and tokenizer."""
    monkeypatch.chdir(tmp_path)
    splits = shapes()
    tiny = {"steps": 2, "eval_every": 2, "tensorboard": False, "batch_size": 16, "warmup": 0}
    spec = splits.train.spec()
    encoders.save_encoder("seen", rotation.build(rotation.Settings(width=4), spec).encoder, spec=spec)
    said = hold_out(text.documents("said", [each[0] for part in splits for each in captions.captions_of(part)]))
    settings, said = masked_lm.prepare(
        masked_lm.Settings(layers=1, heads=2, width=16, hidden=32, context=8, tokenizer="wordpiece", vocabulary=60),
        said,
    )
    spec = said.train.spec()
    objective = masked_lm.build(settings, spec)
    encoders.save_encoder(
        "said",
        objective.encoder,
        spec=spec,
        head=objective.head,
        tokenizer=said.train.tokenizer,
        context=objective.context,
    )
    settings = image_text.Settings(init_image="seen", init_text="said", projection=8)
    settings, prepared = image_text.prepare(settings, splits)
    assert (settings.width, settings.text_width, settings.context, settings.causal) == (4, 16, 8, False)
    objective = image_text.build(settings, prepared.train.spec())
    for name, network in (("seen", objective.encoder), ("said", towers.text_network(objective.head))):
        saved = encoders.named_variables(encoders.load_encoder(name))
        for key, variable in encoders.named_variables(network).items():
            np.testing.assert_array_equal(variable.numpy(), saved[key].numpy())
    settings = image_text.Settings(init_image="seen", freeze_image=True, text_layers=1, text_width=16, projection=8)
    outcome = pretrain(
        "image_text", settings, dataclasses.replace(image_text.DEFAULTS, run="pairs", epochs=0, **tiny), data=splits
    )
    saved = encoders.named_variables(encoders.load_encoder("seen"))
    for key, variable in encoders.named_variables(encoders.load_encoder(outcome["folder"])).items():
        np.testing.assert_array_equal(variable.numpy(), saved[key].numpy())  # including batch statistics
    finer, _ = image_text.prepare(image_text.Settings(init_image="seen", pool_grid=2), splits)
    assert (finer.width, finer.pool_grid) == (4, 2)  # a pool grid has no weights
    network = image_text.build(finer, prepared.train.spec()).encoder
    assert network.output_shape[-1] == 4 * objective.encoder.output_shape[-1]
    for key, variable in encoders.named_variables(network).items():
        np.testing.assert_array_equal(variable.numpy(), saved[key].numpy())
    with pytest.raises(ValueError, match="freeze_image needs a pretrained image encoder"):
        image_text.prepare(image_text.Settings(freeze_image=True), splits)
    with pytest.raises(ValueError, match="Leave out text_width"):
        image_text.prepare(image_text.Settings(init_text="said", text_width=32), splits)
    with pytest.raises(ValueError, match="not the encoder of a language model"):
        image_text.prepare(image_text.Settings(init_text="seen"), splits)


@pytest.mark.parametrize("several", [True, False])
def test_caption_sets_of_tfds(tmp_path, monkeypatch, several):
    """Several captions per image, as in COCO, or one; data without held-out parts is split by concept."""
    import tensorflow_datasets as tfds

    splits = shapes()

    class Drawings(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            text = tfds.features.Text()
            listed = {"captions": tfds.features.Sequence({"id": np.int64, "text": text})} if several else {"text": text}
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(16, 16, 3))} | listed),
            )

        def _split_generators(self, manager):
            if not several:
                return {"train": self._generate_examples(splits.train)}
            return {name: self._generate_examples(part) for name, part in splits._asdict().items()}

        def _generate_examples(self, part):
            for row, (image, texts) in enumerate(zip(part.column("image"), captions.captions_of(part))):
                listed = {"captions": [{"id": i, "text": each} for i, each in enumerate(texts)]}
                yield row, {"image": image} | (listed if several else {"text": " ".join([texts[0], str(row // 6)])})

    builder = Drawings(data_dir=tmp_path)
    builder.download_and_prepare()
    monkeypatch.setattr(tfds, "builder", lambda name: builder)
    loaded = load("tfds:drawings")
    image = {text[0]: image for part in loaded for text, image in zip(captions.captions_of(part), part.column("image"))}
    assert image["a red square" if several else next(iter(image))].shape == (16, 16, 3)
    assert sum(map(len, loaded)) == (240 if several else 180)
    if several:
        assert {len(each) for each in captions.captions_of(loaded.test)} == {2}
        key = lambda part: sorted(zip(captions.names_of(part), map(bytes, part.column("image"))))  # noqa: E731
        assert key(loaded.test) == key(splits.test)
