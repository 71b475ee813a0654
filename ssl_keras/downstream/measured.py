"""`Measured`: the rows that an evaluation has measured, kept in files, so that a killed evaluation resumes."""

import hashlib
import io
import json
import logging

import numpy as np

from ssl_keras import files
from ssl_keras.data.cache import DAMAGE
from ssl_keras.downstream.columns import WHOLE
from ssl_keras.evaluation.paired import paired_difference

log = logging.getLogger(__name__)
NAME = "progress"  # of the folder


class Measured:
    """Scores of rows and columns, and predictions on the test split, by row.

    Args:
        folder: the folder of the files, created when there is something to write; None keeps all in memory.
        digest: hash of the encoders, the data and the settings; files with another one are not read.
        writes: whether this process writes; with several workers the chief does.

    Attributes:
        rows: {row: {column: [score of each label seed]}}.
        predictions: {row: probabilities (N, Y) float32 of the test examples}, after learning from all labels.
    """

    def __init__(self, folder=None, digest="", writes=True):
        self.folder, self.digest, self.writes = folder, digest, writes
        self.rows, self.predictions, self.done = {}, {}, set()
        if folder and (folder / "rows.json").is_file():
            try:
                self._read()
            except DAMAGE as error:
                log.warning("%s is damaged, so its rows are measured again: %s", folder, error)
                self.rows, self.predictions, self.done = {}, {}, set()

    def add(self, row, part, measure):
        """Measures a part of a row, unless it is known.

        Args:
            row: the row's name.
            part: name of what is measured, such as the number of labels.
            measure: function that returns ({column: scores}, probabilities or None).
        """
        key = f"{row}|{part}"
        if key in self.done:
            return
        columns, probabilities = measure()
        self.rows.setdefault(row, {}).update(columns)
        self.done.add(key)
        if probabilities is not None:
            self.predictions[row] = np.asarray(probabilities, np.float32)
        if self.folder is None or not self.writes:
            return
        files.make_folder(self.folder)
        if probabilities is not None:
            content = io.BytesIO()
            np.save(content, self.predictions[row])
            files.write(self._predictions(row), content.getvalue())
        state = {"digest": self.digest, "rows": self.rows, "done": sorted(self.done)}
        files.write_json(self.folder / "rows.json", state)

    def _read(self):
        found = json.loads((self.folder / "rows.json").read_text("utf-8"))
        if found["digest"] != self.digest:
            return
        self.rows, self.done = found["rows"], set(found["done"])
        paths = {row: self._predictions(row) for row in self.rows}
        self.predictions = {row: np.load(path, allow_pickle=False) for row, path in paths.items() if path.is_file()}

    def table(self, whole_validation=True):
        """Returns {row: {column: (mean, standard deviation over label seeds)}}."""
        return {
            row: {
                column: (float(np.mean(scores)), float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0)
                for column, scores in columns.items()
                if whole_validation or not column.endswith(WHOLE)
            }
            for row, columns in self.rows.items()
        }

    def differences(self, baseline="scratch"):
        """Returns {row: {column: `Difference` to the baseline}} of all rows that were trained or probed.

        Empty without a baseline row. Only columns that both rows have are compared, seed by seed.
        """
        known = self.rows.get(baseline, {})
        shared = {
            row: [column for column in columns if column in known]
            for row, columns in self.rows.items()
            if row != baseline
        }
        return {
            row: {column: paired_difference(self.rows[row][column], known[column]) for column in columns}
            for row, columns in shared.items()
            if columns
        }

    def _predictions(self, row):
        return self.folder / f"{hashlib.sha256(row.encode()).hexdigest()[:16]}.npy"
