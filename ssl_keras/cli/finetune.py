"""The command `finetune`."""

import dataclasses
from typing import Annotated

from ssl_keras.cli.flags import EncoderArgument, NetworkFlag, defaults, group, parse
from ssl_keras.cli.runs import print_outcome
from ssl_keras.downstream import finetune as tuning
from ssl_keras.engine.config import Training


def finetune_command(arguments):
    unlabeled = any(argument.partition("=")[0] == "--unlabeled" for argument in arguments)
    flags = dataclasses.make_dataclass(
        "Finetune",
        [
            ("settings", Annotated[tuning.Settings, group("fine-tuning")], tuning.Settings()),
            ("training", Training, defaults(tuning.defaults(unlabeled), arguments)),
        ],
        bases=(EncoderArgument, NetworkFlag),
        frozen=True,
    )
    asked = parse(flags, "finetune", arguments)
    outcome = tuning.finetune(asked.encoder, asked.settings, asked.training, network=asked.network_maker())
    print_outcome(outcome, asked.training)
