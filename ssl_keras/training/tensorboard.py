"""`TensorBoard`: the callback that writes a run's TensorBoard events.

- `loss/…`: training loss, validation loss and learning rate.
- `quality/…`: the other metrics, and kNN accuracy and RankMe of the validation features.
- `health/…`: the gradient norm; the standard deviation of the features, which is 0 after a collapse; their
  uniformity; for images, the alignment of two crops.
- `speed/…`: examples and tokens per second, and model FLOPs utilization (MFU).
- `pictures/…`, `sounds/…`, `texts/…`: samples, among them validation images above their nearest neighbors.
- `weights/…`: histograms. There are also the encoder's graph, and the settings and outcome (HParams).
- The projector: validation images with labels and thumbnails, or texts and the token embeddings.
"""

import functools
import logging
import math
import time

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import api as hparams

from ssl_keras.data.batches import Batches
from ssl_keras.data.inputs import signature
from ssl_keras.data.random import BatchRandom
from ssl_keras.evaluation import collapse, probes
from ssl_keras.evaluation.features import compile_network, crop_images, evenly_spaced, extract_features
from ssl_keras.files import write
from ssl_keras.pictures import PICTURES, neighbors, picture_grid
from ssl_keras.training import speed

KNN_TRAIN, KNN_VALIDATION = 5_000, 2_000  # examples: enough for a curve, fast enough for every few epochs
FEW = 256  # examples of text and audio, each of which takes as long as many images
SHOWN_CHARACTERS = 80  # of a text in the projector
MAX_HISTOGRAM_VALUES, HISTOGRAM_EXAMPLES = 100_000, 256  # values of a weight; examples whose values are shown
PROJECTED, THUMBNAIL = 1_000, 28  # points in the projector; side length of a thumbnail in pixels
MAX_SPRITE_SIDE = 8192  # pixels, the limit of TensorBoard
log = logging.getLogger(__name__)


class TensorBoard(keras.callbacks.Callback):
    """Writes `RUN/tensorboard`. Call `close` after training.

    Args:
        folder: the run's folder.
        splits: `Splits`; pictures and features are from the validation split.
        training: `Training`.
        settings: flat dict for HParams.
    """

    def __init__(self, folder, splits, training, settings):
        super().__init__()
        self.folder, self.splits, self.training = folder / "tensorboard", splits, training
        self.writer = tf.summary.create_file_writer(str(self.folder))
        self.settings = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
        self.training_seconds, self.embed = 0.0, None

    def on_train_begin(self, logs=None):
        self.first_step = int(self.model.step.numpy())
        if self.embed is None:
            self.embed = compile_network(self.model.encoder)
            with self.writer.as_default(step=self.first_step):
                hparams.hparams(self.settings)
                tf.summary.graph(self._graph())

    def on_epoch_end(self, epoch, logs=None):
        step = int(self.model.step.numpy())
        seconds = self.training_seconds / (step - self.first_step)
        with self.writer.as_default(step=step):
            for key, value in logs.items():
                tf.summary.scalar(_tag(key), value)
            for warning in self.model.warnings(logs):
                tf.summary.text("health/warning", warning)
            tf.summary.scalar("loss/learning_rate", self.model.optimizer.learning_rate)
            tf.summary.scalar("speed/milliseconds_per_step", 1e3 * seconds)
            for name, value in speed.rates(self.model, self.training, seconds).items():
                tf.summary.scalar(f"speed/{name}", value)
            every = self.training.report_every
            if every and epoch % every == 0:
                self._report()
        self.writer.flush()
        self.training_seconds, self.first_step = 0.0, step

    # The speed counts training steps only, not evaluations or the work of this callback.
    def on_train_batch_begin(self, batch, logs=None):
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.training_seconds += time.perf_counter() - self.started

    def close(self, objective, outcome):
        """Writes the last report, the outcome and the projector."""
        self.embed = self.embed or compile_network(objective.encoder)
        with self.writer.as_default(step=outcome["step"]):
            report = self._report(objective)
            for key, value in outcome.items():
                if isinstance(value, float) and math.isfinite(value):
                    tf.summary.scalar(f"outcome/{key}", value)
        self._project(report.embeddings)
        self.writer.close()

    def _graph(self):
        encoder = self.model.encoder
        return tf.function(lambda x: encoder(x, training=False)).get_concrete_function(signature(encoder)).graph

    def _report(self, objective=None):
        """Writes the objective's `Report`, the weights and the quality of the features; returns the `Report`."""
        objective = objective or self.model
        batch = self._batch(objective.preprocess, PICTURES)
        examples = functools.partial(self._batch, objective.preprocess_eval, HISTOGRAM_EXAMPLES)
        report = objective.report(batch, examples, self.splits)
        self._write(report)
        for network in objective.layers:
            for variable in network.trainable_variables:
                flat = tf.reshape(variable.value, [-1])
                # A histogram needs about 270 bytes of memory per value, so large weights are subsampled.
                values = flat[:: 1 + len(flat) // MAX_HISTOGRAM_VALUES]
                tf.summary.histogram(f"weights/{network.name}/{variable.path}", values)
        slow = self.splits.train.tokenizer or self.splits.train.rate
        validation = _some(self.splits.validation, FEW if slow else KNN_VALIDATION)
        features = extract_features(self.embed, validation)
        if not np.isfinite(features).all():
            log.warning("step %d: the features are not finite. Skipping the feature metrics.", int(objective.step))
            return report
        tf.summary.scalar("health/feature_sd", collapse.feature_sd(features))
        tf.summary.scalar("health/uniformity", collapse.uniformity(features))
        tf.summary.scalar("quality/rankme", collapse.rankme(features))
        if "image" in validation.arrays:
            crops = extract_features(self.embed, validation, preprocess=crop_images)
            tf.summary.scalar("health/alignment", collapse.alignment(features, crops))
            self._picture("neighbors", neighbors(validation.column("image"), features))
        if "label" in validation.arrays:
            train = _some(self.splits.train, FEW if slow else KNN_TRAIN)
            accuracy = probes.knn(
                extract_features(self.embed, train), train.column("label"), features, validation.column("label")
            )
            tf.summary.scalar("quality/knn_accuracy", accuracy)
        return report

    def _write(self, report):
        """Writes a `Report` without its embeddings, which are written at the end of the run."""
        for name, text in report.texts.items():
            tf.summary.text(f"texts/{name}", text)
        for name, rows in report.images.items():
            self._picture(name, rows)
        for name, (waveforms, rate) in report.audio.items():
            silenced = tf.where(waveforms > -1, waveforms, 0.0)[..., None]  # -1 is padding
            tf.summary.audio(f"sounds/{name}", silenced, rate, max_outputs=PICTURES)
        for name, values in report.histograms.items():
            tf.summary.histogram(f"health/{name}", values)
        for tag, value in report.scalars.items():
            tf.summary.scalar(tag, value)

    def _picture(self, name, rows):
        grid = picture_grid(rows)[None]
        # Image files are gray or RGB, so only the first one or three channels are shown.
        tf.summary.image(f"pictures/{name}", grid[..., :3] if grid.shape[-1] >= 3 else grid[..., :1])

    def _batch(self, preprocess, count):
        """Returns a batch of `count` validation examples, processed by `preprocess`."""
        source = _some(self.splits.validation, count)
        batch = Batches(source, len(source), shuffle=False).numpy(0)
        tensors = {key: tf.constant(value) for key, value in batch.items()}
        return preprocess(tensors, BatchRandom(self.training.seed, 0, 0, len(batch["weight"])))

    def _project(self, embeddings):
        tokenizer = self.splits.train.tokenizer
        source = _some(self.splits.validation, FEW if tokenizer or self.splits.train.rate else PROJECTED)
        self.folder.mkdir(parents=True, exist_ok=True)
        config = projector.ProjectorConfig()
        columns = {}
        if "label" in source.arrays:
            columns["label"] = [source.classes[label] for label in source.column("label")]
        if "tokens" in source.arrays:
            texts = [tokenizer.decode(row) for row in source.column("tokens")]
            columns["text"] = [text[:SHOWN_CHARACTERS] for text in texts]
        features = extract_features(self.embed, source)
        embedding = self._embedding(config, "validation features", features, columns)
        if "image" in source.arrays:
            _sprite(source.column("image")).save(self.folder / "thumbnails.png")
            embedding.sprite.image_path = "thumbnails.png"
            embedding.sprite.single_image_dim.extend([THUMBNAIL, THUMBNAIL])
        for name, make in embeddings.items():
            vectors, names = make()
            self._embedding(config, name, vectors[:PROJECTED], {"text": names[:PROJECTED]})
        projector.visualize_embeddings(str(self.folder), config)

    def _embedding(self, config, name, vectors, columns):
        """Adds vectors (N, D) to the projector, with columns of N labels."""
        short = name.split()[-1]
        lines = ["\t".join(f"{value:.5g}" for value in row) for row in vectors]
        write(self.folder / f"{short}.tsv", "\n".join(lines) + "\n")
        embedding = config.embeddings.add(tensor_name=name, tensor_path=f"{short}.tsv")
        if columns:
            # The projector's format has a header only for two or more columns.
            rows = [list(columns)] if len(columns) > 1 else []
            rows += zip(*([_one_line(text) for text in column] for column in columns.values()))
            write(self.folder / f"{short}-names.tsv", "\n".join("\t".join(row) for row in rows) + "\n")
            embedding.metadata_path = f"{short}-names.tsv"
        return embedding


def _one_line(text):
    """Escapes text for one cell of a TSV file; an empty text becomes "∅"."""
    return repr(text)[1:-1].replace("\\t", " ") or "∅"


def _tag(key):
    part = "validation" if key.startswith("val_") else "train"
    name = key.removeprefix("val_")
    if name == "loss":
        return f"loss/{part}"
    if name.endswith("_loss"):
        return f"loss/{name}_{part}"
    return f"health/{name}" if name.endswith("gradient_norm") else f"quality/{name}_{part}"


def _some(source, count):
    return source.take(evenly_spaced(len(source), count))


def _sprite(images):
    """Returns the projector's sprite image: a square of thumbnails, row by row."""
    side = math.ceil(math.sqrt(len(images)))
    assert side * THUMBNAIL <= MAX_SPRITE_SIDE
    if images.dtype != np.uint8:
        images = np.rint(images * 255).astype(np.uint8)
    gray = images.shape[-1] < 3
    sheet = Image.new("L" if gray else "RGB", (side * THUMBNAIL,) * 2)
    for index, image in enumerate(images):
        tile = Image.fromarray(np.ascontiguousarray(image[..., 0] if gray else image[..., :3]))
        place = (index % side * THUMBNAIL, index // side * THUMBNAIL)
        sheet.paste(tile.resize((THUMBNAIL, THUMBNAIL)), place)
    return sheet
