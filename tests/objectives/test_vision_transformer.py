"""Every image objective with a vision transformer as its encoder: one gradient each, and what is refused."""

import dataclasses

import numpy as np
import pytest
import teachers
import tensorflow as tf
from contract import prepared_captions, small_digits

from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom
from ssl_keras.networks import depth_groups, vit_block
from ssl_keras.objectives import classifier, contrastive, distillation, freematch, image_text, jigsaw, rotation

VIT = {"network": "vit", "width": 8, "layers": 2, "patch": 4}
CASES = {
    "classifier": (classifier, {"drop_path": 0.5}),
    "contrastive": (contrastive, {"drop_path": 0.5, "projection": (8, 4)}),
    "freematch": (freematch, {"labels_per_class": 8}),
    "jigsaw": (jigsaw, {"drop_path": 0.5, "hidden": 8}),
    "rotation": (rotation, {"drop_path": 0.5}),
}


def gradients(objective, splits, step=0):
    """The gradients of one batch's loss."""
    batches = Batches(splits.train, 8, preprocess=None)
    raw = {key: tf.constant(value) for key, value in batches.numpy(step).items()}
    batch = objective.preprocess(raw, BatchRandom(0, step, 0, 8))
    with tf.GradientTape() as tape:
        total, weight = objective.batch_loss(batch, training=True)
    assert np.isfinite(total)
    assert float(weight) > 0
    return batch, tape.gradient(total, [v.value for v in objective.encoder.trainable_variables])


def check(objective, splits):
    batch, found = gradients(objective, splits)
    assert len(depth_groups(objective.encoder)) == 3
    for variable, gradient in zip(objective.encoder.trainable_variables, found):
        assert gradient is not None, variable.path
        assert np.isfinite(tf.convert_to_tensor(gradient)).all(), variable.path
    return batch


@pytest.mark.parametrize("name", [name for name in CASES if name != "freematch"])
def test_an_objective_trains_a_vision_transformer(name):
    module, options = CASES[name]
    settings, splits = module.prepare(module.Settings(**VIT, **options), small_digits())
    batch = check(module.build(settings, splits.train.spec()), splits)
    assert batch["depth"].shape[0] == 8
    assert batch["depth"].shape[2] == 4  # two branches of two blocks


def test_image_and_text_train_a_vision_transformer():
    settings, splits = prepared_captions(**VIT, drop_path=0.5)
    assert check(image_text.build(settings, splits.train.spec()), splits)["depth"].shape == (8, 1, 4)


def test_unlabeled_images_train_a_vision_transformer():
    module, options = CASES["freematch"]
    settings, splits = module.prepare(module.Settings(**VIT, **options), small_digits())
    objective = module.build(settings, splits.train.spec())
    assert len(vit_block.blocks_of(objective.student.encoder)) == 2
    with pytest.raises(ValueError, match="drop_path must be 0 for freematch, which does not draw it"):
        module.prepare(dataclasses.replace(settings, drop_path=0.1), small_digits())


def test_puzzles_have_interpolated_positions():
    """Tiles of 6 pixels make 2×2 patches of a network with 4×4 positions."""
    settings, splits = jigsaw.prepare(jigsaw.Settings(**VIT), small_digits())
    objective = jigsaw.build(settings, splits.train.spec())
    assert objective.encoder.get_layer("tokens").grid == (4, 4)
    assert objective.encoder(np.zeros((2, 6, 6, 1), np.float32)).shape == (2, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 4}, "patch must be 0 for the network cnn. Received: {'patch': 4}. Use --network vit."),
        ({"network": "resnet18", "drop_path": 0.1}, "drop_path must be 0 for the network resnet18"),
        ({**VIT, "pool_grid": 5}, "pool_grid must be at most 4, the side of vit's last stage"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        rotation.prepare(rotation.Settings(**options), small_digits())


def test_local_terms_are_refused():
    settings, splits = contrastive.prepare(contrastive.Settings(**VIT, loss="local_global"), small_digits())
    with pytest.raises(ValueError, match="local_global compares stages of several sizes, and vit has none"):
        contrastive.build(settings, splits.train.spec())


def test_a_student_may_be_a_vision_transformer():
    options = {"teacher": teachers.saved("image"), **VIT, "drop_path": 0.5}
    settings, splits = distillation.prepare(distillation.Settings(**options), small_digits())
    assert check(distillation.build(settings, splits.train.spec()), splits)["depth"].shape == (8, 1, 4)
