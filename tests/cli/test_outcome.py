"""What `pretrain` and `finetune` print at the end."""

import json

import pytest

from ssl_keras.cli.runs import print_outcome
from ssl_keras.engine.config import Training


@pytest.mark.parametrize("tensorboard", [True, False])
def test_tensorboard_is_named_if_there_are_events(tensorboard, capsys):
    print_outcome({"folder": "my runs/one", "loss": float("nan")}, Training(tensorboard=tensorboard, runs="my runs"))
    printed = capsys.readouterr().out
    outcome, _, places = printed.partition("Encoder: ")
    assert json.loads(outcome) == {"folder": "my runs/one", "loss": None}
    assert places.startswith("my runs/one/encoder\n")
    assert ("TensorBoard: tensorboard --logdir my runs" in places) == tensorboard
