"""What a run shows in TensorBoard.

Scalars: `loss/train`, `loss/validation` and `loss/learning_rate`; `quality/…`, the other
metrics, kNN accuracy and RankMe of the validation features; `health/…`, the gradient norm
and the features' standard deviation, which is 0 when they collapse, their uniformity and, of
images, the alignment of two crops; `speed/…`, examples and tokens a second and the share of the devices' peak
(MFU). Besides: `pictures/…`, among them validation images
over their nearest neighbors, `sounds/…`, `texts/…`, `weights/…` as histograms, the encoder's graph, the
settings and outcome (HParams), and an embedding projector of validation images with labels and thumbnails, or of texts
and of the token embeddings.
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
from ssl_keras.evaluation.features import compiled, cropped, extract_features, spread
from ssl_keras.files import write
from ssl_keras.pictures import PICTURES, neighbors, picture_grid
from ssl_keras.training import speed

KNN_TRAIN, KNN_VALIDATION = 5_000, 2_000  # examples: enough for a curve, quick enough for every few epochs
FEW = 256  # of text and sound: one takes as long as many images
SHOWN_CHARACTERS = 80  # of a text in the projector
HISTOGRAM_MOST, HISTOGRAM_EXAMPLES = 100_000, 256  # values of a weight; examples whose values are shown
PROJECTED, THUMBNAIL = 1_000, 28  # points in the projector, pixels a side
SPRITE_MOST = 8192  # pixels a side that TensorBoard shows
log = logging.getLogger(__name__)


class TensorBoard(keras.callbacks.Callback):
    """Writes `RUN/tensorboard`; `close` it after training.

    Args:
        folder: the run's.
        splits: `Splits`; pictures and features are those of the validation part.
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
            self.embed = compiled(self.model.encoder)
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
                self._slow()
        self.writer.flush()
        self.training_seconds, self.first_step = 0.0, step

    # Only the steps count as the training's speed, not evaluation or what is written here.
    def on_train_batch_begin(self, batch, logs=None):
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.training_seconds += time.perf_counter() - self.started

    def close(self, objective, outcome):
        """Writes the last pictures, the outcome and the projector."""
        self.embed = self.embed or compiled(objective.encoder)
        with self.writer.as_default(step=outcome["step"]):
            report = self._slow(objective)
            for key, value in outcome.items():
                if isinstance(value, float) and math.isfinite(value):
                    tf.summary.scalar(f"outcome/{key}", value)
        self._project(report.embeddings)
        self.writer.close()

    def _graph(self):
        encoder = self.model.encoder
        return tf.function(lambda x: encoder(x, training=False)).get_concrete_function(signature(encoder)).graph

    def _slow(self, objective=None):
        """Writes and returns the objective's `Report`; writes weights, and the quality of the features."""
        objective = objective or self.model
        batch = self._batch(objective.preprocess, PICTURES)
        examples = functools.partial(self._batch, objective.preprocess_eval, HISTOGRAM_EXAMPLES)
        report = objective.report(batch, examples, self.splits)
        self._write(report)
        for network in objective.layers:
            for variable in network.trainable_variables:
                flat = tf.reshape(variable.value, [-1])
                # A histogram takes some 270 bytes a value, so of a large weight only some are taken.
                some = flat[:: 1 + len(flat) // HISTOGRAM_MOST]
                tf.summary.histogram(f"weights/{network.name}/{variable.path}", some)
        slow = self.splits.train.tokenizer or self.splits.train.rate
        validation = _some(self.splits.validation, FEW if slow else KNN_VALIDATION)
        features = extract_features(self.embed, validation)
        if not np.isfinite(features).all():
            log.warning("step %d: the features are not finite; their quality is not measured.", int(objective.step))
            return report
        tf.summary.scalar("health/feature_sd", collapse.feature_sd(features))
        tf.summary.scalar("health/uniformity", collapse.uniformity(features))
        tf.summary.scalar("quality/rankme", collapse.rankme(features))
        if "image" in validation.arrays:
            crops = extract_features(self.embed, validation, preprocess=cropped)
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
        """All of a `Report` but its embeddings, which wait for the end of the run."""
        for name, text in report.texts.items():
            tf.summary.text(f"texts/{name}", text)
        for name, rows in report.images.items():
            self._picture(name, rows)
        for name, (waveforms, rate) in report.audio.items():
            heard = tf.where(waveforms > -1, waveforms, 0.0)[..., None]  # -1 is padding
            tf.summary.audio(f"sounds/{name}", heard, rate, max_outputs=PICTURES)
        for name, values in report.histograms.items():
            tf.summary.histogram(f"health/{name}", values)
        for tag, value in report.scalars.items():
            tf.summary.scalar(tag, value)

    def _picture(self, name, rows):
        grid = picture_grid(rows)[None]
        # Gray or RGB is what an image file holds; of other channels, the first ones.
        tf.summary.image(f"pictures/{name}", grid[..., :3] if grid.shape[-1] >= 3 else grid[..., :1])

    def _batch(self, preprocess, count):
        """Some validation examples as `preprocess` makes them."""
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
        for name, made in embeddings.items():
            vectors, names = made()
            self._embedding(config, name, vectors[:PROJECTED], {"text": names[:PROJECTED]})
        projector.visualize_embeddings(str(self.folder), config)

    def _embedding(self, config, name, vectors, columns):
        """Adds vectors (N, D) to the projector, with columns of N names."""
        short = name.split()[-1]
        lines = ["\t".join(f"{value:.5g}" for value in row) for row in vectors]
        write(self.folder / f"{short}.tsv", "\n".join(lines) + "\n")
        embedding = config.embeddings.add(tensor_name=name, tensor_path=f"{short}.tsv")
        if columns:
            # One column has no header: that is the projector's format.
            rows = [list(columns)] if len(columns) > 1 else []
            rows += zip(*([_one_line(text) for text in column] for column in columns.values()))
            write(self.folder / f"{short}-names.tsv", "\n".join("\t".join(row) for row in rows) + "\n")
            embedding.metadata_path = f"{short}-names.tsv"
        return embedding


def _one_line(text):
    """Text that a TSV file can hold in one cell; nothing is written as something."""
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
    return source.take(spread(len(source), count))


def _sprite(images):
    """The projector's square sheet of thumbnails, row by row."""
    side = math.ceil(math.sqrt(len(images)))
    assert side * THUMBNAIL <= SPRITE_MOST
    if images.dtype != np.uint8:
        images = np.rint(images * 255).astype(np.uint8)
    gray = images.shape[-1] < 3
    sheet = Image.new("L" if gray else "RGB", (side * THUMBNAIL,) * 2)
    for index, image in enumerate(images):
        tile = Image.fromarray(np.ascontiguousarray(image[..., 0] if gray else image[..., :3]))
        place = (index % side * THUMBNAIL, index // side * THUMBNAIL)
        sheet.paste(tile.resize((THUMBNAIL, THUMBNAIL)), place)
    return sheet
