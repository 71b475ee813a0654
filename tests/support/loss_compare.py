"""Compares what two checkouts compute: losses and weights of every contract case, bit for bit.

    python tests/support/loss_compare.py OLD NEW [CASE …]

Each checkout trains every case for three steps in a process of its own, from the same seed, and
evaluates it once. A refactor must change no bit. A case that has another name in 247920f is listed in
`RENAMED`, a metric that has another name in older checkouts in `METRICS`. `--from-old-weights` starts
NEW from OLD's initial weights, for a refactor that creates the same variables in another order.

Exit codes: 0 all equal; 1 a case differs, or is missing.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

RENAMED = {  # name in NEW: name in OLD
    "rotation": "classifier",
    "classifier": "classifier, labels",
    "recurrent_lm": "seq2seq",
    "seq2seq": "seq2seq, pairs",
    "wav2vec2": "speech",
    "wav2vec2, mel": "speech, mel",
    "ctc": "recognizer",
}
METRICS = {"matched": "top1", "penalised_gradient_norm": "penalized_gradient_norm"}
STEPS, BATCH, SEED = 3, 60, 3


def record(out, cases, start):
    """Trains the cases of the checkout that is the working directory; writes `out`/CASE.npz."""
    sys.path[:0] = ["", "tests/support", "tests"]
    import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

    # isort: split
    import contract
    import keras
    import numpy as np
    import tensorflow as tf

    from ssl_keras.data.batches import Batches

    tf.config.experimental.enable_op_determinism()
    for name in cases or contract.CASES:
        case = contract.CASES.get(name)
        if case is None:
            continue
        splits = case.splits()
        keras.utils.set_random_seed(SEED)
        objective = contract.compile_objective(case.build(splits.train.spec()), "adam")
        if start and (start / f"{name}.npz").exists():
            with np.load(start / f"{name}.npz") as saved:
                _assign(objective.variables, [saved[f"initial/{i}"] for i in range(len(objective.variables))])
        made = {f"initial/{i}": v.numpy() for i, v in enumerate(objective.variables)}
        hook = "preprocess" if hasattr(objective, "preprocess") else "views"  # the name of both in older checkouts
        batches = Batches(splits.train, BATCH, seed=SEED, **{hook: getattr(objective, hook)})
        logs = objective.fit(batches.dataset(0), steps_per_epoch=STEPS, epochs=1, verbose=0).history
        evaluated = objective.preprocess_eval if hook == "preprocess" else objective.held_out_views
        held_out = Batches(splits.validation, BATCH, shuffle=False, **{hook: evaluated})
        scores = objective.evaluate(
            held_out.dataset(0, held_out.steps_per_epoch), steps=held_out.steps_per_epoch, verbose=0, return_dict=True
        )
        made |= {f"train/{key}": np.float64(values[-1]) for key, values in logs.items()}
        made |= {f"held out/{key}": np.float64(value) for key, value in scores.items()}
        made |= {f"weights/{i}": v.numpy() for i, v in enumerate(objective.variables)}
        np.savez(out / f"{name}.npz", **made)
        keras.backend.clear_session()


def _assign(variables, values):
    """Gives each variable the next value of its shape: the order of creation may differ."""
    values = list(values)
    for variable in variables:
        place = next(i for i, value in enumerate(values) if value.shape == tuple(variable.shape))
        variable.assign(values.pop(place))


def differences(old, new):
    """Names of the arrays of two .npz files that are missing or differ in any bit."""
    import numpy as np

    with np.load(old) as first, np.load(new) as b:
        a = {}
        for key in first:
            part, _, metric = key.partition("/")
            a[f"{part}/{METRICS.get(metric, metric)}"] = first[key]
        return sorted(a.keys() ^ b.keys()) + [k for k in a if k in b and a[k].tobytes() != b[k].tobytes()]


def run(checkout, out, cases, start=None):
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), "--record", str(out), *cases]
    environment = dict(os.environ, PYTHONPATH=str(checkout), TF_CPP_MIN_LOG_LEVEL="2")
    subprocess.run(command + (["--start", str(start)] if start else []), cwd=checkout, env=environment, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--start", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=pathlib.Path, help="folder with OLD's recordings, made where it is empty")
    parser.add_argument("--from-old-weights", action="store_true", help="start NEW from OLD's initial weights")
    parser.add_argument("rest", nargs="*", metavar="OLD NEW [CASE …]")
    asked = parser.parse_args()
    if asked.record:
        record(asked.record, asked.rest, asked.start)
        return 0
    if len(asked.rest) < 2:
        parser.error("expected two checkouts: OLD NEW")
    old_tree, new_tree, *cases = asked.rest
    if pathlib.Path(old_tree, "ssl_keras", "objectives", "rotation.py").exists():
        RENAMED.clear()
    with tempfile.TemporaryDirectory() as folder:
        old, new = asked.keep or pathlib.Path(folder, "old"), pathlib.Path(folder, "new")
        new.mkdir()
        old.mkdir(parents=True, exist_ok=True)
        if not any(old.iterdir()):
            run(old_tree, old, [RENAMED.get(case, case) for case in cases])
        start = None
        if asked.from_old_weights:
            start = pathlib.Path(folder, "start")
            start.mkdir()
            theirs = {RENAMED.get(case, case): case for case in RENAMED}
            for path in old.glob("*.npz"):
                (start / f"{theirs.get(path.stem, path.stem)}.npz").symlink_to(path.resolve())
        run(new_tree, new, cases, start)
        failed = False
        names = cases or sorted(path.stem for path in new.glob("*.npz"))
        renamed_away = {RENAMED.get(name, name) for name in names}
        for name in names:
            theirs = old / f"{RENAMED.get(name, name)}.npz"
            if not theirs.exists() or not (new / f"{name}.npz").exists():
                print(f"{name:40} missing in {'OLD' if not theirs.exists() else 'NEW'}")
                failed = True
                continue
            found = differences(theirs, new / f"{name}.npz")
            print(f"{name:40} " + (f"{len(found)} arrays differ: {', '.join(found[:6])}" if found else "equal"))
            failed |= bool(found)
        for path in sorted(old.glob("*.npz")):
            if not cases and path.stem not in renamed_away:
                print(f"{path.stem:40} missing in NEW")
                failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
