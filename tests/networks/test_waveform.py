"""Speech encoders: padding, shapes, and the receptive field of a frame."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.networks import waveform

RATE, HOP = 8_000, 160
KINDS = [("convolution", "transformer"), ("mel", "transformer"), ("convolution", "recurrent")]


def network(front="convolution", context="transformer", **options):
    keras.utils.set_random_seed(0)
    made = waveform.waveform_encoder(
        RATE, 16, 2, 2, channels=8, frontend=front, context=context, pool_segments=3, **options
    )
    for variable in made.trainable_variables:  # weights of 0 would hide mistakes
        variable.assign_add(0.1 * tf.random.stateless_normal(variable.shape, (len(variable.path), 1)))
    return made


def noise(*lengths, most=None):
    """Clips of noise, padded with −1."""
    x = np.full((len(lengths), most or max(lengths)), -1, np.float32)
    for row, length in zip(x, lengths):
        row[:length] = np.random.default_rng(length).uniform(-0.5, 0.5, length)
    return x


@pytest.mark.parametrize(("front", "context"), KINDS)
def test_padding_changes_nothing(front, context):
    """The amount of padding and the rest of the batch do not change features, states or gradients."""
    model = network(front, context)
    lengths = (1_000, 3 * HOP, 7)
    together = noise(*lengths, most=1_400)
    states = keras.Model(model.input, model.get_layer("norm").output)

    def gradients(x, rows):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(model(x)[rows]))
        return tape.gradient(loss, model.trainable_variables)

    features_together, states_together = model(together), states(together)
    for row, length in enumerate(lengths):
        alone = noise(length)
        frames = -(-length // HOP)
        assert model(alone).shape == (1, 48)
        np.testing.assert_allclose(features_together[row], model(alone)[0], atol=2e-5)
        np.testing.assert_allclose(states_together[row, :frames], states(alone)[0], atol=2e-5)
        for a, b in zip(gradients(together, slice(row, row + 1)), gradients(alone, slice(0, 1))):
            np.testing.assert_allclose(a, b, atol=1e-4)
    # Negative control: a sound in place of the padding changes the frames before it.
    other = together.copy()
    other[0, 1_000:] = 0.3
    assert np.abs(model(other)[0] - model(together)[0]).max() > 1e-3


@pytest.mark.parametrize("rate", waveform.STRIDES)
def test_a_frame_is_twenty_milliseconds(rate):
    model = waveform.waveform_encoder(rate, 16, 1, 2, channels=4)
    hop = rate // 50
    assert np.prod(waveform.STRIDES[rate]) == hop
    overlap = {8_000: 0.16, 16_000: 0.08}[rate]
    assert waveform.receptive_field(waveform.STRIDES[rate]) / hop - 1 == pytest.approx(overlap, abs=0.005)
    for length in (1, hop - 1, hop, hop + 1, 10 * hop):
        x, places = waveform.features(model, tf.zeros((1, length)))
        assert x.shape[1] == places.shape[1] == -(-length // hop)
        assert np.all(places == 0)
        assert waveform.context(model, x, places).shape == (1, -(-length // hop), 16)


def test_a_convolutional_frame_sees_its_field():
    """A change of one sample affects exactly the frames whose receptive field, which is centered, contains it."""
    model = network()
    seen = waveform.receptive_field(waveform.STRIDES[RATE])
    before = (seen - HOP) // 2
    normalized = tf.random.stateless_normal((1, 20 * HOP), (1, 2))
    front = model.get_layer("front")
    base = front(normalized)
    for at in (0, 5 * HOP + 3, 20 * HOP - 1):
        other = tf.tensor_scatter_nd_add(normalized, [[0, at]], [1.0])
        changed = np.flatnonzero(np.abs(front(other) - base)[0].max(-1) > 1e-6)
        expected = [t for t in range(20) if t * HOP - before <= at < t * HOP - before + seen]
        assert list(changed) == expected


def test_loudness_changes_nothing_and_silence_stays_finite():
    model = network()
    x = noise(2_000)
    np.testing.assert_allclose(model(0.1 * x), model(x), atol=1e-3)
    np.testing.assert_allclose(model(x * 0.5 + 0.2), model(x), atol=1e-3)
    assert np.isfinite(model(np.zeros((2, 500), np.float32))).all()
    assert np.isfinite(model(np.full((1, 500), -1, np.float32))).all()


def test_stretches_against_a_loop():
    x = np.random.default_rng(0).normal(size=(4, 7, 2)).astype(np.float32)
    frames = (7, 5, 2, 1)
    places = np.array([[0] * n + [-1] * (7 - n) for n in frames])
    made = waveform.Stretches(3)(x, places)
    for row, n in enumerate(frames):
        for part in range(3):
            first, last = int(np.floor(part * n / 3)), int(np.ceil((part + 1) * n / 3))
            np.testing.assert_allclose(made[row, 2 * part : 2 * part + 2], x[row, first:last].mean(0), atol=1e-6)


def test_the_spectrogram_shows_a_tone_where_it_is():
    """A tone of 1 kHz is loudest in the band around it."""
    layer = network("mel").get_layer("front").log_mel
    t = np.arange(RATE) / RATE
    bands = layer.mel(np.sin(2 * np.pi * 1000 * t, dtype=np.float32)[None])[0].numpy()
    mel = 2595 * np.log10(1 + np.array([20, 1000, 4000]) / 700)
    place = (mel[1] - mel[0]) / (mel[2] - mel[0]) * (waveform.MEL_BINS + 1) - 1
    assert abs(bands[:, 20].argmax() - place) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 44_100}, "rate must be"),
        ({"frontend": "fft"}, "frontend must be"),
        ({"context": "none"}, "context must be"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        waveform.waveform_encoder(**{"rate": RATE, "width": 16, "layers": 1, "heads": 2} | options)


def test_saved_for_plain_keras(tmp_path):
    for front, context in KINDS:
        model = network(front, context)
        model.save(tmp_path / "encoder.keras")
        again = keras.saving.load_model(tmp_path / "encoder.keras")
        np.testing.assert_allclose(again(noise(1_000, 400)), model(noise(1_000, 400)), atol=1e-6)


def test_a_microphone_that_weights_bands_changes_nothing(monkeypatch):
    """A constant offset of a band in all frames of a clip has no effect; a change over time has one."""
    front = network("mel").get_layer("front")
    places = np.where(np.arange(9) < np.array([[9], [5]]), 0, -1)
    bands = np.random.default_rng(0).normal(size=(2, 9, waveform.MEL_BINS)).astype(np.float32)
    bands *= (places >= 0)[..., None]
    tilt = np.linspace(-1, 1, waveform.MEL_BINS, dtype=np.float32)

    def seen(bands):
        monkeypatch.setattr(front, "log_mel", lambda x, places: bands)
        return front(tf.zeros((2, 9 * HOP)), tf.constant(places))

    expected = seen(bands)
    np.testing.assert_allclose(seen((bands + tilt) * (places >= 0)[..., None]), expected, atol=1e-5)
    clip = bands[1, :5] - bands[1, :5].mean(0)
    ours = tf.nn.gelu(clip @ front.kernel.numpy() + front.bias.numpy(), approximate=True)
    np.testing.assert_allclose(expected[1, :5], ours, atol=1e-5)
    bands[0, 2, 3] += 1
    assert np.abs(seen(bands) - expected).max() > 1e-3
