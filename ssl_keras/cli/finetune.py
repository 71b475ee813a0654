"""The command `finetune`."""

import dataclasses
import json

from ssl_keras import files
from ssl_keras.cli.flags import NetworkFlag, Positional, defaults, parse
from ssl_keras.downstream import finetune as tuning
from ssl_keras.engine.config import Training


def finetune_command(arguments):
    flags = dataclasses.make_dataclass(
        "Finetune",
        [
            ("encoder", Positional[str]),
            ("settings", tuning.Settings, dataclasses.field(default=tuning.Settings())),
            ("training", Training, dataclasses.field(default=defaults(tuning.DEFAULTS, arguments))),
        ],
        bases=(NetworkFlag,),
        frozen=True,
    )
    asked = parse(flags, "finetune", arguments, description=tuning.__doc__)
    outcome = tuning.finetune(asked.encoder, asked.settings, asked.training, network=asked.network_maker())
    print(json.dumps(files.replace_nonfinite(outcome), indent=2))
