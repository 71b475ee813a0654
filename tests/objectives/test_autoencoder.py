"""The autoencoder: its loss, its noise, and a comparison with the tutorial's own model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.activations import ALL_OBJECTS_DICT

from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom
from ssl_keras.networks.dense import dense_encoder
from ssl_keras.objectives import autoencoder
from ssl_keras.objectives.autoencoder import Settings, build, pixel_cross_entropy
from ssl_keras.training.optimizer import Adam

SPEC = {"image": ((28, 28, 1), tf.uint8)}


def test_cross_entropy_equals_a_slow_loop(rng):
    image, logits = rng.random((3, 4, 5, 1)), rng.normal(0, 3, (3, 4, 5, 1))
    expected = []
    for x, z in zip(image, logits):
        total = 0.0
        for pixel, logit in zip(x.ravel(), z.ravel()):
            p = 1 / (1 + np.exp(-logit))
            total -= pixel * np.log(p) + (1 - pixel) * np.log(1 - p)
        expected.append(total / x.size)
    np.testing.assert_allclose(pixel_cross_entropy(tf.constant(image), tf.constant(logits)), expected, rtol=1e-12)


def test_its_gradient_is_that_of_the_loss(rng):
    image, logits = tf.constant(rng.random((3, 2, 2, 1))), tf.constant(rng.normal(0, 3, (3, 2, 2, 1)))
    upstream = tf.constant(rng.normal(size=3))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = tf.reduce_sum(upstream * pixel_cross_entropy(image, logits))
    gradient = tape.gradient(total, logits).numpy()
    for index in np.ndindex(3, 2, 2, 1):
        moved = np.zeros((3, 2, 2, 1))
        moved[index] = 1e-5
        change = pixel_cross_entropy(image, logits + moved) - pixel_cross_entropy(image, logits - moved)
        assert gradient[index] == pytest.approx(float(tf.reduce_sum(upstream * change)) / 2e-5, abs=1e-8)


def test_cross_entropy_closed_forms():
    image = tf.random.uniform((2, 3, 3, 1))
    # σ(0) = ½ costs log 2 for any pixel; a confident correct answer costs nothing.
    np.testing.assert_allclose(pixel_cross_entropy(image, tf.zeros_like(image)), np.log(2) * np.ones(2), rtol=1e-6)
    black_or_white = tf.round(image)
    assert float(tf.reduce_max(pixel_cross_entropy(black_or_white, 200 * black_or_white - 100))) < 1e-30
    # A confident wrong answer costs its logit, without clipping.
    np.testing.assert_allclose(
        pixel_cross_entropy(tf.zeros((1, 3, 3, 1)), 500 * tf.ones((1, 3, 3, 1))), [500], rtol=1e-6
    )


def test_cross_entropy_does_not_depend_on_the_order_of_pixels(rng):
    image, logits = rng.random((2, 36)), rng.normal(size=(2, 36))
    order = rng.permutation(36)

    def loss(x, z):
        return pixel_cross_entropy(*(tf.constant(a.reshape(2, 6, 6, 1)) for a in (x, z)))

    np.testing.assert_allclose(loss(image[:, order], logits[:, order]), loss(image, logits), rtol=1e-12)


def test_it_is_the_tutorials_network():
    objective = build(Settings(), SPEC)
    shapes = [tuple(v.shape) for v in objective.trainable_variables if len(v.shape) == 2]
    assert shapes == [(784, 256), (256, 128), (128, 64), (64, 128), (128, 256), (256, 784)]
    layers = objective.encoder.layers + objective.decoder.layers
    activations = [layer.activation.__name__ for layer in layers if hasattr(layer, "activation")]
    assert activations == ["relu"] * 5 + ["linear", "sigmoid"]


def stock():
    """The tutorial's model in plain Keras."""
    x = image = keras.Input((784,))
    for width in (256, 128, 64, 128, 256):
        x = keras.layers.Dense(width, activation="relu")(x)
    return keras.Model(image, keras.layers.Dense(784, activation="sigmoid")(x))


def compiled(optimizers):
    """(our objective, the tutorial's model, how their optimizers begin), for `difference_from_stock`."""
    objective, theirs = build(Settings(), SPEC), stock()
    objective.compile(optimizers[0], steps_per_execution=8)
    theirs.compile(optimizers[1], "binary_crossentropy")
    theirs.optimizer.build(theirs.trainable_variables)
    return objective, theirs, [[v.numpy() for v in model.optimizer.variables] for model in (objective, theirs)]


def difference_from_stock(models, source, steps, seed):
    """Returns the largest difference in any weight after the same training of both, and how far a weight moved."""
    objective, theirs, states = models
    keras.utils.set_random_seed(seed)
    start = [v.numpy() for v in build(Settings(), SPEC).trainable_variables]
    for model, state in zip((objective, theirs), states):
        for variable, value in zip([*model.trainable_variables, *model.optimizer.variables], [*start, *state]):
            variable.assign(value)

    batches = Batches(source, 256, seed=seed)
    ours = objective.fit(batches.dataset(), steps_per_epoch=steps, verbose=0).history["loss"][0]
    images = [batches.numpy(step)["image"].reshape(256, 784) / np.float32(255) for step in range(steps)]
    dataset = tf.data.Dataset.from_tensor_slices(np.stack(images)).map(lambda x: (x, x))
    expected = theirs.fit(dataset, shuffle=False, verbose=0).history["loss"][0]
    assert ours == pytest.approx(expected, abs=1e-5)
    mine, others = ([v.numpy() for v in model.trainable_variables] for model in (objective, theirs))
    return max(np.abs(a - b).max() for a, b in zip(mine, others)), max(np.abs(a - b).max() for a, b in zip(mine, start))


@pytest.fixture
def smooth(monkeypatch):
    """Softplus instead of ReLU: rounding at the kink would make equal runs differ by 1e-4 and more."""
    monkeypatch.setitem(ALL_OBJECTS_DICT, "relu", keras.activations.softplus)


@pytest.mark.fit
def test_fifty_steps_equal_stock_keras(digits, smooth):
    """With Adam, as in the tutorial."""
    models = compiled((Adam(), keras.optimizers.Adam()))
    difference, moved = difference_from_stock(models, digits.train, 50, seed=0)
    assert difference <= 1e-6
    assert moved > 1e-2


@pytest.mark.fit
def test_ten_steps_of_plain_descent_equal_stock_keras(digits, smooth):
    """With SGD, whose step, unlike Adam's, depends on the size of the gradient."""
    models = compiled([keras.optimizers.SGD(1.0) for _ in range(2)])
    difference, moved = difference_from_stock(models, digits.train, 10, seed=0)
    assert difference <= 1e-5
    assert moved > 1e-3


def test_the_fused_adam_is_keras_adam(rng):
    """Gradients over twelve orders of magnitude, some of them rare."""
    gradients = rng.normal(size=(30, 500)) * 10 ** rng.uniform(-12, 0, 500)
    gradients[:, ::7] *= rng.random((30, 72)) < 0.2
    values = []
    for optimizer in (Adam(3e-3), keras.optimizers.Adam(3e-3)):
        variable = keras.Variable(np.zeros(500, np.float32))
        for gradient in gradients.astype(np.float32):
            optimizer.apply([tf.constant(gradient)], [variable])
        values.append(variable.numpy())
    np.testing.assert_allclose(values[0], values[1], rtol=1e-6, atol=1e-8)
    assert np.abs(values[0]).max() > 0.05


def test_noise_is_what_it_says_and_the_target_stays_clean(digits):
    images = {"image": tf.constant(digits.train.gather(np.arange(200))["image"])}
    clean = images["image"].numpy() / np.float32(255)

    def noisy(**settings):
        batch = build(Settings(**settings), SPEC).preprocess(images, BatchRandom(0, 3, 0, 200))
        np.testing.assert_array_equal(batch["image"], images["image"])
        return batch["noisy"].numpy()

    masked = noisy(masking_noise=0.3)
    changed = (masked != clean)[clean > 0]
    assert abs(changed.mean() - 0.3) < 0.01
    assert (masked[masked != clean] == 0).all()

    gaussian = noisy(gaussian_noise=0.1)
    middle = (clean > 0.4) & (clean < 0.6)  # where clipping to [0, 1] has no effect
    assert abs((gaussian - clean)[middle].std() - 0.1) < 0.003
    assert gaussian.min() == 0
    assert gaussian.max() == 1


def test_the_input_is_what_is_noisy():
    """Reconstruction from the clean image would give another loss."""
    objective = build(Settings(masking_noise=0.5), SPEC)
    for variable in objective.trainable_variables:
        variable.assign(3 * variable)  # logits far from 0, where every target costs log 2
    image = tf.random.uniform((4, 28, 28, 1))
    clean, _ = objective.batch_loss({"image": image}, training=False)
    noisy, _ = objective.batch_loss({"image": image, "noisy": image / 2}, training=False)
    other_target, _ = objective.batch_loss({"image": image / 2, "noisy": image / 2}, training=False)
    assert abs(float(clean - noisy)) > 1e-2
    assert abs(float(other_target - noisy)) > 1e-3


@pytest.mark.fit
def test_any_functional_encoder_may_stand_in(digits):
    image = keras.Input((28, 28, 1))
    x = keras.layers.Conv2D(4, 3, strides=4, activation="relu")(image)
    mine = keras.Model(image, keras.layers.Flatten()(x), name="mine")
    objective = build(Settings(), SPEC, encoder=mine)
    objective.compile("adam")
    batches = Batches(digits.train, 64)
    loss = objective.fit(batches.dataset(), steps_per_epoch=20, epochs=2, verbose=0).history["loss"]
    assert loss[1] < loss[0]
    with pytest.raises(ValueError, match=r"must map images \(28, 28, 1\) to features \(D,\)"):
        build(Settings(), SPEC, encoder=dense_encoder((14, 14, 1)))


@pytest.mark.fit
def test_plain_arrays_and_callbacks_work_in_fit(digits):
    objective = build(Settings(), SPEC)
    objective.compile("adam", steps_per_execution=4)
    train, validation = ({"image": part.column("image")} for part in (digits.train, digits.validation))
    seen = []
    history = objective.fit(
        train,
        batch_size=128,
        epochs=3,
        validation_data=(validation,),
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(sorted(logs))),
            keras.callbacks.EarlyStopping("val_loss", patience=1),
            keras.callbacks.ReduceLROnPlateau("val_loss"),
        ],
    ).history
    assert int(objective.step) == 3 * 11
    assert {"gradient_norm", "loss", "mse", "val_loss", "val_mse"} <= set(seen[0])
    assert history["val_loss"][-1] < history["val_loss"][0]
    result = objective.evaluate(validation, batch_size=143, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(history["val_loss"][-1], abs=1e-5)


@pytest.mark.fit
def test_batches_that_are_no_dicts_are_refused(digits):
    objective = build(Settings(), SPEC)
    objective.compile("adam")
    with pytest.raises(ValueError, match="Expected batches that are dicts"):
        objective.fit(digits.train.column("image"), verbose=0)


def test_bad_settings():
    with pytest.raises(ValueError, match="masking_noise must be in"):
        Settings(masking_noise=1.0)
    with pytest.raises(ValueError, match="gaussian_noise must be at least 0. Received: -1"):
        Settings(gaussian_noise=-1)
    with pytest.raises(ValueError, match="widths must be one or more positive"):
        Settings(widths=())


def test_optimizers_that_would_clip_alone_are_refused():
    with pytest.raises(ValueError, match="must not set global_clipnorm"):
        build(Settings(), SPEC).compile(keras.optimizers.Adam(global_clipnorm=1.0))


def test_the_encoder_function_builds_what_the_objective_holds():
    names = [v.path for v in autoencoder.encoder(Settings((8, 4)), SPEC).build().variables]
    assert names == [v.path for v in build(Settings((8, 4)), SPEC).encoder.variables]
