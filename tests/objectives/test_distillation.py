"""Distillation: its losses, the data of a student, the teacher's features, the card, and what is refused."""

import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import teachers
import tensorflow as tf
from contract import prepared_students, small_digits, tones, words

from ssl_keras import encoders
from ssl_keras.cli import main
from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.splits import Splits, from_arrays
from ssl_keras.encoders import hugging_face
from ssl_keras.engine.config import Training
from ssl_keras.evaluation import stored
from ssl_keras.evaluation.features import extract_features
from ssl_keras.networks import Network
from ssl_keras.objectives import distillation
from ssl_keras.objectives.distillation import similarity
from ssl_keras.training.pretrain import pretrain

BERT = pathlib.Path(__file__).parents[1] / "support" / "checkpoints" / "bert"
DATA = {"image": small_digits, "tokens": words, "waveform": tones}
SMALL = {"image": {"width": 4}, "tokens": {"width": 8, "layers": 1, "heads": 2}, "waveform": {"width": 8, "layers": 1}}
SMALL["waveform"] |= {"heads": 2, "frontend": "mel"}
QUICK = Training(steps=3, batch_size=20, eval_every=3, warmup=0, tensorboard=False)


def by_loop(student, teacher, weight, temperature, teacher_temperature):
    """The loss of SEED, one pair after the other."""

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    made, candidates = [], [c for c, w in zip(teacher, weight) if w > 0]
    for p, t in zip(student, teacher):
        target = np.exp([cosine(t, c) / teacher_temperature for c in candidates])
        guess = np.exp([cosine(p, c) / temperature for c in candidates])
        made.append(-sum(target / target.sum() * np.log(guess / guess.sum())))
    return np.array(made)


def draw(rng, count=6, size=5):
    student, teacher = rng.normal(size=(2, count, size)).astype(np.float32)
    weight = np.array([1, 2, 0, 1, 1, 0][:count], np.float32)
    return student, teacher, weight


def test_similarity_equals_a_loop(rng):
    student, teacher, weight = draw(rng)
    made = similarity(student, teacher, weight, 0.5, 0.2).numpy()
    np.testing.assert_allclose(made, by_loop(student, teacher, weight, 0.5, 0.2), rtol=1e-5)


def test_similarity_in_closed_form():
    """Equal features give uniform distributions; a student that equals its teacher has the entropy of its teacher."""
    ones, weight = np.ones((7, 3), np.float32), np.ones(7, np.float32)
    np.testing.assert_allclose(similarity(ones, ones, weight, 0.1, 0.04), np.log(7), rtol=1e-6)
    axes, n, t = np.eye(4, dtype=np.float32), 4, 0.5
    own, other = np.exp(1 / t), 1.0
    p = np.array([own, *[other] * (n - 1)]) / (own + (n - 1) * other)
    np.testing.assert_allclose(similarity(axes, axes, np.ones(4, np.float32), t, t), -(p * np.log(p)).sum(), rtol=1e-5)


def test_similarity_does_not_depend_on_norms_and_padding(rng):
    student, teacher, weight = draw(rng)
    before = similarity(student, teacher, weight, 0.5, 0.2).numpy()
    scaled = similarity(3 * student, 0.2 * teacher, weight, 0.5, 0.2).numpy()
    np.testing.assert_allclose(scaled, before, rtol=1e-5)
    padded = np.where(weight[:, None] > 0, teacher, 100 * rng.normal(size=teacher.shape)).astype(np.float32)
    other = similarity(student, padded, weight, 0.5, 0.2).numpy()
    np.testing.assert_allclose(other[weight > 0], before[weight > 0], rtol=1e-5)


def loss_of(student, teacher, weight, **settings):
    """The mean loss, and the metric, of an objective whose network and projection return `student`."""
    inputs = tf.keras.Input((student.shape[1],))
    same = tf.keras.Model(inputs, tf.keras.layers.Identity()(inputs))
    objective = distillation.Distillation(distillation.Settings(**settings), same, same, None)
    total, count = objective.batch_loss({"image": student, "features": teacher, "weight": weight}, training=False)
    return float(total / count), float(objective.cosine.result())


def test_the_losses_of_a_batch(rng):
    student, teacher, weight = draw(rng)
    cosines = (student * teacher).sum(1) / np.linalg.norm(student, axis=1) / np.linalg.norm(teacher, axis=1)
    mean = (weight * cosines).sum() / weight.sum()
    assert loss_of(student, teacher, weight) == pytest.approx((1 - mean, mean), abs=1e-6)
    expected = (weight * by_loop(student, teacher, weight, 0.5, 0.1)).sum() / weight.sum()
    made = loss_of(student, teacher, weight, loss="similarity", temperature=0.5, teacher_temperature=0.1)
    assert made == pytest.approx((expected, mean), rel=1e-5)
    assert loss_of(teacher, teacher, weight) == pytest.approx((0, 1), abs=1e-6)
    assert loss_of(-5 * teacher, teacher, weight) == pytest.approx((2, -1), abs=1e-6)


def test_components_keep_the_cosines_that_their_number_allows(rng):
    """Of features in a plane two components keep all cosines; further ones than there are dimensions are 0."""
    plane = (rng.normal(size=(50, 2)) @ rng.normal(size=(2, 6))).astype(np.float32)
    unit = plane / np.linalg.norm(plane, axis=1, keepdims=True)
    for count in (2, 4, 9):
        components = distillation.Components(6, count)
        components.adapt(plane)
        made = components(unit).numpy()
        np.testing.assert_allclose(made @ made.T, unit @ unit.T, atol=1e-5)
        np.testing.assert_allclose(made[:, 6:], 0)
        # All of them are the features themselves: a student that has the teacher's layers need not unlearn them.
        assert count < 6 or np.array_equal(made[:, :6], unit)
    spread = rng.normal(size=(200, 6)) * [5, 4, 3, 1, 1, 1]
    spread /= np.linalg.norm(spread, axis=1, keepdims=True)
    components = distillation.Components(6, 3)
    components.adapt(7 * spread)
    singular = np.linalg.svd(spread)[2][:3]
    np.testing.assert_allclose(np.abs(components.basis.numpy()), np.abs(singular.T), atol=1e-5)


def test_loss_of_components(rng):
    student, teacher, weight = draw(rng)
    inputs = tf.keras.Input((5,))
    same = tf.keras.Model(inputs, tf.keras.layers.Identity()(inputs))
    components = distillation.Components(5, 5)
    components.basis.assign(np.eye(5)[::-1])
    settings = distillation.Settings(loss="components")
    objective = distillation.Distillation(settings, same, None, None, components)
    batch = {"image": student, "features": teacher, "weight": weight}
    cosines = (student * teacher[:, ::-1]).sum(1) / np.linalg.norm(student, axis=1) / np.linalg.norm(teacher, axis=1)
    total, count = objective.batch_loss(batch, training=False)
    assert float(total / count) == pytest.approx(1 - (weight * cosines).sum() / weight.sum(), abs=1e-6)


@pytest.mark.parametrize("vocabulary", [0, 300])
def test_a_student_of_text_starts_from_the_features_of_each_token(vocabulary):
    own = {"tokenizer": "bpe", "vocabulary": vocabulary} if vocabulary else {}
    settings, splits = prepared_students("tokens", **SMALL["tokens"] | own, loss="components")
    objective = distillation.build(settings, splits.train.spec())
    before = [each.copy() for each in objective.encoder.get_weights()]
    objective.adapt(splits.train)
    tokenizer, table = splits.train.tokenizer, objective.encoder.get_layer("embeddings").tokens.numpy()
    assert table.shape == (tokenizer.vocabulary, 8)
    features = stored.of_tokens(settings.teacher, tokenizer)
    assert features.shape[0] == tokenizer.vocabulary
    made = features @ objective.components.basis.numpy()
    made /= np.sqrt((made**2).mean(1, keepdims=True))
    np.testing.assert_allclose(table / np.sqrt((table**2).mean(1, keepdims=True)), made, atol=1e-4)
    assert np.std(table) == pytest.approx(np.std(before[0]), rel=0.2)
    changed = [not np.array_equal(a, b) for a, b in zip(before, objective.encoder.get_weights())]
    assert sum(changed) == 1


@pytest.mark.fit
def test_a_run_sets_the_components_before_training(monkeypatch):
    settings = distillation.Settings(teacher=teachers.saved("tokens"), loss="components", **SMALL["tokens"])
    calls, adapt = [], distillation.Distillation.adapt

    def spy(self, source):
        adapt(self, source)
        calls.append((int(self.step), self.components.basis.numpy()))

    monkeypatch.setattr(distillation.Distillation, "adapt", spy)
    pretrain("distillation", settings, QUICK, data=words())
    ((step, basis),) = calls
    assert step == 0
    np.testing.assert_allclose(basis.T @ basis, np.eye(8), atol=1e-5)


def test_batches_of_texts_are_of_similar_length():
    _, splits = prepared_students("tokens", **SMALL["tokens"])
    for part in splits:
        np.testing.assert_array_equal(part.lengths, (part.column("tokens") >= 0).sum(1))
    assert np.ptp(splits.train.lengths) > 0
    order = Batches(splits.train, 8).indices(0)
    assert np.ptp(splits.train.lengths[order]) < np.ptp(splits.train.lengths)


def test_components_have_no_projection():
    settings, splits = prepared_students("image", width=4, loss="components", projection=8)
    with pytest.raises(ValueError, match="has no projection. Received: projection=8"):
        distillation.build(settings, splits.train.spec())


def test_components_need_features_of_either_sign():
    """Those of the teacher's components have one; a student that ends in a ReLU learned next to nothing from them."""
    settings, splits = prepared_students("image", width=4, loss="components")
    with pytest.raises(ValueError, match="needs features of either sign, and those of cnn are not negative"):
        distillation.build(settings, splits.train.spec())
    vit = dataclasses.replace(settings, network="vit", width=16, layers=1)
    assert distillation.build(vit, splits.train.spec()).components is not None


@pytest.mark.parametrize("kind", ["image", "tokens", pytest.param("waveform", marks=pytest.mark.slow)])
def test_each_example_has_its_features(kind):
    """Those that evaluation extracts, whatever rows a split has. Audio, which takes longer, is in the slow tests."""
    settings, splits = prepared_students(kind, **SMALL[kind])
    folder = encoders.find(teachers.saved(kind))
    loaded = encoders.adapt(folder, encoders.card.read(folder), DATA[kind]())
    network = encoders.load_encoder(folder)
    for part, source in zip(splits, loaded):
        expected = extract_features(network, source)
        np.testing.assert_allclose(part.column("features"), expected, atol=1e-5)
        rows = np.array([3, 0, 3])
        np.testing.assert_allclose(part.gather(rows)["features"], expected[rows], atol=1e-5)
        np.testing.assert_allclose(part.take(rows).column("features"), expected[rows], atol=1e-5)
    assert settings.teacher_weights


def test_a_view_is_of_the_student_and_the_target_of_the_clean_image(rng):
    settings, splits = prepared_students("image", width=4, crop=0.3, flip=True)
    objective = distillation.build(settings, splits.train.spec())
    batch = {name: tf.constant(value) for name, value in splits.train.gather(np.arange(8)).items()}
    view = objective.preprocess(batch, BatchRandom(0, 0, 0, 8))
    np.testing.assert_array_equal(view["features"], batch["features"])
    assert np.abs(view["image"] - objective.preprocess_eval(batch, None)["image"]).max() > 0.1


def test_a_student_may_see_images_of_another_size_than_its_teacher(caplog):
    caplog.set_level("INFO")
    large = from_arrays(np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), np.uint8))
    settings, splits = distillation.prepare(distillation.Settings(teacher=teachers.saved("image"), width=4), large)
    assert "converting images for teacher-image: 20×20×3 → 16×16×1" in caplog.text
    assert splits.train.spec()["image"][0] == (20, 20, 3)
    assert distillation.build(settings, splits.train.spec()).encoder.input_shape[-1] == 3


def test_a_student_of_text_has_the_tokens_of_its_teacher_or_its_own():
    teacher, documents = teachers.saved("tokens"), words()
    _, same = distillation.prepare(distillation.Settings(teacher=teacher), documents)
    assert same.train.tokenizer.sha256 == encoders.load_tokenizer(teacher).sha256
    settings, own = distillation.prepare(
        distillation.Settings(teacher=teacher, tokenizer="bpe", vocabulary=300), documents
    )
    assert own.train.tokenizer.kind == "bpe"
    assert settings.vocabulary == 300 == distillation.encoder(settings, own.train.spec()).keywords["vocabulary"]
    np.testing.assert_array_equal(own.train.column("features"), same.train.column("features"))
    assert own.train.column("tokens").shape != same.train.column("tokens").shape


def test_long_documents_become_passages():
    settings = distillation.Settings(teacher=teachers.saved("tokens"), passage=20, context=24)
    _, splits = distillation.prepare(settings, words())
    assert len(splits.train) > len(words().train)
    assert (splits.train.column("tokens") >= 0).sum(1).max() <= 20


def test_a_teacher_from_elsewhere_and_of_another_kind_of_network(tmp_path):
    """An imported BERT; and a recurrent encoder, for a transformer."""
    folder = hugging_face.import_encoder(BERT, tmp_path / "bert")
    settings, splits = distillation.prepare(distillation.Settings(teacher=str(folder)), words())
    card = encoders.card.read(folder)
    assert splits.train.spec()["features"][0] == (card["features"],)
    objective = distillation.build(settings, splits.train.spec())
    assert objective.teacher == {"name": "bert", "weights": card["weights"]["sha256"], "license": "unknown"}
    recurrent = Network("recurrent", vocabulary=card["network"]["vocabulary"], width=8, layers=1).build()
    tokenizer = encoders.load_tokenizer(folder)
    encoders.save_encoder(tmp_path / "gru", recurrent, spec=teachers.SPECS["tokens"], tokenizer=tokenizer, context=24)
    settings = dataclasses.replace(settings, teacher=str(tmp_path / "gru"), vocabulary=0)
    settings, splits = distillation.prepare(settings, words())
    assert splits.train.spec()["features"][0] == recurrent.output_shape[-1:]
    assert distillation.encoder(settings, splits.train.spec()).builder == "transformer"


@pytest.mark.parametrize(
    ("teacher", "data", "options", "message"),
    [
        ("", "image", {}, "distillation needs a teacher"),
        ("nobody", "image", {}, "Unknown encoder 'nobody'"),
        ("tokens", "image", {}, "teacher-tokens takes text. Received: image, label from digits"),
        ("image", "tokens", {}, "teacher-image takes images. Received: text from words"),
        ("waveform", "image", {}, "has no waveforms"),
        ("tokens", "tokens", {"crop": 0.5, "frontend": "mel"}, "Received: crop, frontend. Leave these out"),
        ("image", "image", {"context": 64, "passage": 100}, "Received: context, passage. Leave these out"),
    ],
)
def test_what_is_refused(teacher, data, options, message):
    teacher = teachers.saved(teacher) if teacher in DATA else teacher
    with pytest.raises(ValueError, match=message):
        distillation.prepare(distillation.Settings(teacher=teacher, **options), DATA[data]())
    assert not pathlib.Path("runs").exists()


def test_build_needs_the_features():
    with pytest.raises(ValueError, match="Call prepare"):
        distillation.build(distillation.Settings(teacher=teachers.saved("image")), small_digits().train.spec())


@pytest.mark.fit
@pytest.mark.parametrize(
    "kind", ["tokens", pytest.param("image", marks=pytest.mark.slow), pytest.param("waveform", marks=pytest.mark.slow)]
)
def test_a_run_names_its_teacher_and_resumes_where_the_teacher_was_moved(kind, tmp_path, caplog):
    """Text; images and audio in the slow tests, since they train alike (`tests/objectives/test_contract.py`)."""
    caplog.set_level("INFO")
    teacher = teachers.save(tmp_path / "first", kind, licenses={"data": "MIT", "teacher": None})
    settings = distillation.Settings(teacher=teacher, **SMALL[kind])
    outcome = pretrain("distillation", settings, QUICK, data=DATA[kind]())
    assert caplog.text.count(f"Computing the features of teacher-{kind}") == 3  # of each split
    card = json.loads(pathlib.Path(outcome["folder"], "encoder", "card.json").read_text())
    weights = json.loads((tmp_path / "first" / "card.json").read_text())["weights"]["sha256"]
    named = {"name": f"teacher-{kind}", "weights": weights, "license": "data: MIT"}
    assert card["trained_by"]["teacher"] == named
    assert card["licenses"] == {"data": None, "teacher": "data: MIT"}
    assert np.isfinite([outcome["val_loss"], outcome["test_loss"], outcome["val_cosine"]]).all()
    assert encoders.load_encoder(outcome["folder"]).count_params() == card["parameters"]
    shutil.move(tmp_path / "first", tmp_path / "second")
    moved = dataclasses.replace(settings, teacher=str(tmp_path / "second"))
    caplog.clear()
    again = pretrain("distillation", moved, dataclasses.replace(QUICK, resume=True), data=DATA[kind]())
    assert again["test_loss"] == pytest.approx(outcome["test_loss"], rel=1e-6)
    assert "Computing the features" not in caplog.text
    other = teachers.save(tmp_path / "other", kind, seed=1)
    changed = dataclasses.replace(settings, teacher=other)
    with pytest.raises(ValueError, match="teacher_weights: was"):
        pretrain("distillation", changed, dataclasses.replace(QUICK, resume=True), data=DATA[kind]())


@pytest.mark.fit
@pytest.mark.slow
def test_a_student_starts_from_a_saved_encoder(tmp_path, caplog):
    """A student of two blocks starts from the first two of its teacher. The flow is that of `--init` of all others."""
    caplog.set_level("INFO")
    network = Network("transformer", **teachers.NETWORKS["tokens"].keywords | {"layers": 3}).build()
    tokenizer = encoders.load_tokenizer(teachers.saved("tokens"))
    encoders.save_encoder(tmp_path / "deep", network, spec=teachers.SPECS["tokens"], tokenizer=tokenizer)
    name = str(tmp_path / "deep")
    options = {"layers": 2, "heads": 2, "width": 8, "context": 24, "architecture": "bert"}
    settings = distillation.Settings(teacher=name, **options)
    pretrain("distillation", settings, dataclasses.replace(QUICK, init=name), data=words())
    copied, of_all = re.search(r"Initialized (\d+) of (\d+) encoder weights from", caplog.text).groups()
    assert copied == of_all


@pytest.mark.slow
def test_a_plan_can_be_made(capsys):
    """The command line of what `tests/objectives/test_contract.py` plans."""
    command = ["plan", "distillation", "--teacher", teachers.saved("image"), "--data", "digits", "--image-size", "16"]
    assert main([*command, "--width", "4", "--gpus", "1"]) == 0
    assert "examples/s" in capsys.readouterr().out


def test_the_splits_keep_their_names_and_classes():
    _, splits = prepared_students("image", **SMALL["image"])
    assert isinstance(splits, Splits)
    assert [part.name for part in splits] == [part.name for part in small_digits()]
    assert splits.train.classes == small_digits().train.classes
