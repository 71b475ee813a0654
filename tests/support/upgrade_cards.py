"""Rewrites the cards of saved encoders in the present format, and shows that their features stay the same to the bit.

    python tests/support/upgrade_cards.py OLD [FOLDER …]

OLD is a checkout that reads the old cards, 247920f for those of format 1. For each encoder (by default those of
`saved_models/`) OLD and this checkout compute features of the same random inputs, each in a process of its own; the
card is rewritten first, and put back where they differ.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
DRAW = """
import sys
import ssl_keras
import numpy as np
from ssl_keras.encoders import load_with_head
encoder, head, _ = load_with_head(sys.argv[1])
random = np.random.default_rng(0)
shape = [8, *(side or 28 for side in encoder.input_shape[1:])]
if encoder.input.dtype == "int32":
    x = random.integers(0, 30, (8, 16)).astype(np.int32)
elif len(shape) == 2:
    x = random.uniform(-0.9, 0.9, (8, 4_000)).astype(np.float32)
else:
    x = random.random(shape, np.float32)
features = {"encoder": np.asarray(encoder(x, training=False))}
if head is not None:
    features |= {f"head/{i}": np.asarray(v) for i, v in enumerate(head.variables)}
np.savez(sys.argv[2], **features)
"""


def features(checkout, encoder, out):
    """Writes what a checkout computes with a saved encoder."""
    environment = dict(os.environ, PYTHONPATH=str(checkout), TF_CPP_MIN_LOG_LEVEL="3")
    command = [sys.executable, "-c", DRAW, str(encoder.resolve()), str(out)]
    subprocess.run(command, cwd=checkout, env=environment, check=True, stderr=subprocess.DEVNULL)


def upgrade(old, folder):
    """Rewrites one card; returns whether the features are equal bit for bit."""
    import numpy as np

    from ssl_keras import files
    from ssl_keras.encoders import card as cards

    path = folder / "card.json"
    before = path.read_text("utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        features(old, folder, scratch / "old.npz")
        files.write_json(path, cards.read(folder))
        features(ROOT, folder, scratch / "new.npz")
        with np.load(scratch / "old.npz") as a, np.load(scratch / "new.npz") as b:
            equal = a.keys() == b.keys() and all(a[key].tobytes() == b[key].tobytes() for key in a)
            sizes = {key: a[key].shape for key in a if key == "encoder"}
    if not equal:
        path.write_text(before, "utf-8")
    old_format, new_format = (json.loads(text)["format"] for text in (before, path.read_text("utf-8")))
    print(
        f"{folder.name:32} format {old_format} → {new_format}, features {sizes['encoder']}: "
        f"{'equal' if equal else 'DIFFERENT'}",
        flush=True,
    )
    return equal


def main():
    sys.path.insert(0, str(ROOT))
    if len(sys.argv) < 2:
        sys.exit(__doc__.strip())
    old, *folders = map(pathlib.Path, sys.argv[1:])
    folders = folders or sorted(path.parent for path in (ROOT / "saved_models").glob("*/card.json"))
    equal = [upgrade(old, folder) for folder in folders]
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
