"""Apache Beam writes the bytes that the local engine writes. It is tested in the environment that `make test-all`
builds, or in that of `$BEAM_PYTHON`."""

import os
import pathlib
import subprocess
import sys

import pytest
from test_curate import hashes, run, texts_below

from ssl_keras.curation import engines

ROOT = pathlib.Path(__file__).parents[2]
CODE = """
import pathlib, sys
from ssl_keras.curation import curate, engines, settings
if __name__ == "__main__":
    found = settings.Settings(rules=("off",), parts=(0.6, 0.2, 0.2))
    curate.curate([sys.argv[1]], pathlib.Path(sys.argv[2]), found, engines.Beam(sys.argv[3:]), shard_bytes=9_000)
"""
TWO = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], TWO], ids=["one worker", "two workers"])
def test_beam_writes_the_same_bytes(tmp_path, rng, options):
    """`make test` covers the local engine, whose stages these are."""
    python = os.environ.get("BEAM_PYTHON") or str(pathlib.Path(sys.prefix).with_name(".venv-beam") / "bin" / "python")
    if not pathlib.Path(python).exists():
        pytest.skip("Apache Beam: `make test-all` builds its environment, or set BEAM_PYTHON")
    texts_below(tmp_path / "in", rng)
    run(f"text:{tmp_path}/in", tmp_path / "local", shard_bytes=9_000)
    (tmp_path / "code.py").write_text(CODE)
    command = [python, str(tmp_path / "code.py"), f"text:{tmp_path}/in", str(tmp_path / "beam"), *options]
    for seed in ("0", "1"):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        subprocess.run(command, env=environment, check=True)
        assert hashes(tmp_path / "local") == hashes(tmp_path / "beam")
        (tmp_path / "beam").rename(tmp_path / f"beam{seed}")


def test_a_missing_beam_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ValueError, match="--engine beam needs Apache Beam, .*requirements-beam.txt"):
        engines.Beam()
