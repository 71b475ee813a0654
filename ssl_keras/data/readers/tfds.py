"""TFDS datasets of images (with captions), text or audio, read into arrays.

TFDS decodes images itself and ignores EXIF. If the orientation matters, export the images to files for `folder:PATH`.
"""

import difflib
import os
import pathlib
import socket
import urllib.parse
import urllib.request

import numpy as np
import tensorflow as tf

from ssl_keras.data import audio
from ssl_keras.data.cache import contents, materialize
from ssl_keras.data.readers import captions, image_files, pairs
from ssl_keras.data.readers.text import documents
from ssl_keras.data.splits import hold_out, images
from ssl_keras.files import excerpt

CHUNK = 1024  # examples decoded at a time
CAPTIONS = ("caption", "captions", "text")  # names of features with captions
PASSED_ON = (OSError, ImportError, MemoryError, tf.errors.ResourceExhaustedError)  # their messages name the cause


def prepare(name):
    """Returns the builder of a TFDS dataset, and downloads the data if needed. Raises as `load` does."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name)
    except tfds.core.registered.DatasetNotFoundError as error:
        close = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), 3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"Unknown TFDS dataset {name!r}.{hint}") from error
    except ValueError as error:  # only the first of the message's twenty lines helps
        message = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(f"tfds:{name}: {message}. Expected NAME, NAME/CONFIG or NAME:VERSION.") from error
    except PASSED_ON:
        raise
    except Exception as error:  # protobuf and TFDS raise many kinds for damaged metadata
        raise _unreadable(name, error) from error
    _prepare(builder, name)
    return builder


def load(name, image_size=None):
    """Returns `Splits` of the TFDS dataset `name` ("fashion_mnist", "cmaterdb/bangla", "trec", …).

    Raises:
        ValueError: The dataset is unknown or damaged, has no uint8 image, text or audio, has images of different sizes
            without `image_size`, or audio without a sampling rate.
        RuntimeError: It is not prepared, and preparing it failed, as it does offline.
    """
    import tensorflow_datasets as tfds

    builder = prepare(name)
    parts = {}
    try:
        for split in ("train", "validation", "test"):
            if split in builder.info.splits:
                parts[split] = _split(tfds, builder, split, image_size)
    except PASSED_ON:
        raise
    except Exception as error:
        if str(error).startswith("tfds:"):  # one of ours
            raise
        raise _unreadable(name, error) from error
    if "train" not in parts:
        raise ValueError(
            f"tfds:{name} has no train split. Expected a split train. Received: {', '.join(builder.info.splits)}. "
            "Export the data to files."
        )
    if "caption" in parts["train"].arrays and len(parts) == 1:
        return captions.by_concept(parts["train"])
    return (pairs.split if "target" in parts["train"].arrays else hold_out)(**parts)


def _unreadable(name, error):
    """Returns the error about a dataset whose files are damaged."""
    cause = next((line for line in str(getattr(error, "message", error)).splitlines() if line.strip()), "")
    return ValueError(
        f"tfds:{name} cannot be read: {type(error).__name__}: {excerpt(cause)}. If its files are damaged, remove its "
        f"folder below TFDS_DATA_DIR, and prepare it again: tfds build {name}"
    )


def _prepare(builder, name):
    if builder.is_prepared():
        return
    try:
        _resolve_hosts(builder)
        builder.download_and_prepare()
    except Exception as error:
        folder = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
        raise RuntimeError(
            f"The dataset tfds:{name} is not prepared in {folder}, and preparing it failed: "
            f"{type(error).__name__}: {error}\nOn a machine with network access, run\n"
            f"    tfds build {name}\n"
            f"and copy the folder that it prints into {folder} here, or set TFDS_DATA_DIR to a folder that contains it."
        ) from error


def _resolve_hosts(builder):
    """Fails fast without a network, where TFDS would retry for minutes."""
    if urllib.request.getproxies():
        return  # the proxy resolves names
    for host in {urllib.parse.urlsplit(url).hostname for url in builder.url_infos or ()} - {None}:
        socket.getaddrinfo(host, 443)


def _split(tfds, builder, split, image_size):
    info, title = builder.info, f"tfds:{builder.info.full_name.rsplit('/', 1)[0]}[{split}]"
    features = dict(info.features) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    input_key, label_key = (info.supervised_keys or (None, "label"))[:2]
    input_key = next((key for key in (input_key, "image", "text", "audio") if key in features), None)
    feature = features.get(input_key)
    # Some datasets have several labels ("label-coarse", "label-fine") and name no default: use the first.
    label_key = next(
        (
            key
            for key in (label_key, *sorted(features))
            if isinstance(features.get(key), tfds.features.ClassLabel) and "label" in key
        ),
        None,
    )
    classes = features[label_key].names if label_key else ()
    if isinstance(info.features, tfds.features.Translation):
        return _pairs(tfds, builder, split, title, *(info.supervised_keys or sorted(features))[:2])
    if isinstance(feature, tfds.features.Text):
        return _texts(tfds, builder, split, title, input_key, label_key, classes)
    if isinstance(feature, tfds.features.Audio):
        return _clips(tfds, builder, split, title, feature, input_key, label_key, classes)
    if not isinstance(feature, tfds.features.Image) or feature.np_dtype != np.uint8:
        raise ValueError(f"{title}: expected a uint8 image, text or audio feature. Received: {info.features}")
    found = _images(tfds, builder, split, title, feature, image_size, input_key, label_key, classes)
    texts = _captions(tfds, builder, split, features, input_key)
    return found if texts is None else captions.with_captions(found, texts)


def _captions(tfds, builder, split, features, image_key):
    """Returns [[captions of an image], …] of a split, or None if it has no captions."""
    for key in CAPTIONS:
        feature, inner = features.get(key), None
        if isinstance(feature, tfds.features.Sequence):
            feature = feature.feature
            if isinstance(feature, tfds.features.FeaturesDict):
                inner = next((name for name, f in feature.items() if isinstance(f, tfds.features.Text)), None)
                feature = inner and feature[inner]
        if isinstance(feature, tfds.features.Text):
            break
    else:
        return None
    found = []
    records = _examples(tfds, builder, split, {image_key: tfds.decode.SkipDecoding()})
    for record in records.as_numpy_iterator():
        texts = record[key] if inner is None else record[key][inner]
        texts = (text.decode("utf-8", "replace") for text in np.atleast_1d(texts))
        found.append([text for text in texts if text.strip()])
    return found


def _examples(tfds, builder, split, decoders=None):
    # Files are read one after the other, so that the order of examples is deterministic.
    read = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    return builder.as_dataset(split=split, read_config=read, decoders=decoders, shuffle_files=False)


def _texts(tfds, builder, split, title, text_key, label_key, classes):
    texts, labels = [], []
    for record in _examples(tfds, builder, split).as_numpy_iterator():
        texts.append(record[text_key].decode("utf-8", "replace"))
        if label_key:
            labels.append(record[label_key])
    return documents(title, texts, labels if label_key else None, classes)


def _pairs(tfds, builder, split, title, text_key, target_key):
    records = [*_examples(tfds, builder, split).as_numpy_iterator()]
    return pairs.named(
        title, *([record[key].decode("utf-8", "replace") for record in records] for key in (text_key, target_key))
    )


def _clips(tfds, builder, split, title, feature, audio_key, label_key, classes):
    rate = getattr(feature, "sample_rate", None) or getattr(feature, "_sample_rate", None)
    if not rate:
        raise ValueError(f"{title} has no sampling rate. Export it to files, and use audio:PATH.")
    waveforms, names, labels, several = [], [], [], 0
    for record in _examples(tfds, builder, split).as_numpy_iterator():
        waveform = record[audio_key]
        if waveform.ndim > 1:
            several += waveform.shape[1] > 1
            waveform = np.rint(waveform.mean(axis=1)).astype(waveform.dtype)
        if waveform.dtype.kind == "i":
            if np.abs(waveform).max(initial=0) > -audio.PADDING:
                raise ValueError(f"{title}: expected 16-bit samples. Received: values up to {np.abs(waveform).max()}")
            waveform = waveform.clip(audio.LEAST, audio.MOST).astype(np.int16)
        waveforms.append(waveform)
        names.append(record.get("audio/filename", str(len(names)).encode()).decode())
        labels.append(record[label_key] if label_key else 0)
    found = audio.clips(title, waveforms, rate, names, labels if label_key else None, classes)
    note = f"{several} of {len(names)} clips have several channels, which are averaged"
    return found.with_notes(note) if several else found


def _images(tfds, builder, split, title, feature, image_size, image_key, label_key, classes):
    channels = 3 if feature.shape[2] == 4 else feature.shape[2]  # the fourth is alpha
    shape = (*feature.shape[:2], channels) if image_size is None else (image_size, image_size, channels)
    if None in shape:
        raise ValueError(f"{title} has images of different sizes. Set --image-size, such as --image-size 64.")

    def example(record):
        image = record[image_key] if channels == feature.shape[2] else on_white(record[image_key])
        if image_size is not None and tuple(feature.shape[:2]) != (image_size, image_size):
            image = tf.image.resize(tf.cast(image, tf.float32), shape[:2], antialias=True)
            image = tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)
        return {"image": image} | ({"label": record[label_key]} if label_key else {})

    def chunks():
        dataset = _examples(tfds, builder, split).map(example, num_parallel_calls=tf.data.AUTOTUNE)
        return dataset.batch(CHUNK).prefetch(2).as_numpy_iterator()

    columns = {"image": (shape, np.uint8)} | ({"label": ((), np.int64)} if label_key else {})
    size = builder.info.splits[split].num_examples

    def key():
        folder = pathlib.Path(builder.data_dir)
        files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        return ["tfds", split, list(shape), contents(files) if files else builder.info.full_name]

    arrays = materialize(key, columns, size, chunks)
    found, note = images(title, arrays["image"], arrays.get("label"), classes), image_files.CONVERSIONS["transparent"]
    return found if channels == feature.shape[2] else found.with_notes(f"images {note}")


def on_white(image):
    """Composites uint8 RGBA (H, W, 4) on white: RGB (H, W, 3)."""
    image = tf.cast(image, tf.float32)
    alpha = image[..., 3:] / 255.0
    return tf.cast(tf.round(image[..., :3] * alpha + 255.0 * (1.0 - alpha)), tf.uint8)
