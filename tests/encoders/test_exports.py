"""Exports to SavedModel, TFLite and ONNX work for the encoders listed in docs/troubleshooting.md."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

import ssl_keras
from ssl_keras import encoders
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import load_encoder, save_encoder
from ssl_keras.networks import Network

MODELS = pathlib.Path(ssl_keras.__file__).parents[1] / "saved_models"
SHIPPED = sorted(path.parent.name for path in MODELS.glob("*/card.json"))
NOT_ONNX = {"masked_lm-trec", "speech-spoken_digit"}  # ONNX has no erfc and no rfft
TEXT_AND_SOUND = ("tokens", "waveform")


def example(encoder):
    """Returns a small input for an encoder."""
    shape = [side or 28 for side in encoder.input.shape[1:]]
    random = np.random.default_rng(0)
    if encoder.input.dtype == "int32":
        return random.integers(0, 10, (1, 8)).astype(np.int32)
    if len(shape) == 1:
        return random.uniform(-0.1, 0.1, (1, 8_000)).astype(np.float32)
    return random.random((1, *shape), np.float32)


def converted(folder, *more_ops):
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, *more_ops]
    return converter.convert()


def run(content, x):
    interpreter = tf.lite.Interpreter(model_content=content)
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def check_exports(encoder, folder, images):
    x = example(encoder)
    expected = np.asarray(encoder(x))
    encoder.export(folder, verbose=False)
    served = tf.saved_model.load(folder)
    np.testing.assert_allclose(served.serve(x), expected, atol=1e-5)
    if images:
        np.testing.assert_allclose(run(converted(folder), x), expected, atol=1e-4)
    else:
        with pytest.raises(Exception, match="neither a custom op nor a flex op|SELECT_TF_OPS|Select"):
            converted(folder)
        assert converted(folder, tf.lite.OpsSet.SELECT_TF_OPS)


def test_encoder_of_images_converts_without_extra_ops(tmp_path):
    network = Network("dense", image_shape=(8, 8, 1), widths=(6, 4)).build()
    save_encoder(tmp_path / "e", network, spec={"image": ((8, 8, 1), tf.uint8)})
    check_exports(load_encoder("e"), str(tmp_path / "served"), images=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_encoders_convert_as_documented(name, tmp_path):
    card = cards.read(encoders.find(name))
    check_exports(load_encoder(name), str(tmp_path / "served"), images=not set(TEXT_AND_SOUND) & card["input"].keys())


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_onnx(name, tmp_path):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    encoder, path = load_encoder(name), str(tmp_path / "encoder.onnx")
    x = example(encoder)
    expected = np.asarray(encoder(x))  # Keras exports only models that have been called
    encoder.export(path, format="onnx", verbose=False)
    if name in NOT_ONNX:
        with pytest.raises(Exception, match="Erfc|RFFT"):
            runtime.InferenceSession(path)
        return
    session = runtime.InferenceSession(path)
    made = session.run(None, {session.get_inputs()[0].name: x})[0]
    np.testing.assert_allclose(made, expected, atol=1e-4)
