"""Commands before and of pretraining: `pretrain`, `plan`."""

import dataclasses
import json

from ssl_keras import files, objectives
from ssl_keras.cli.flags import defaults, parse
from ssl_keras.planning import cost
from ssl_keras.training.pretrain import pretrain


def _objective(command, arguments):
    """(name, its module, the flags that follow); exits where there is no name."""
    if not arguments or arguments[0].startswith("-"):
        print(f"usage: ssl-keras {command} OBJECTIVE [flags]; objectives: {', '.join(objectives.names())}")
        raise SystemExit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    name, *rest = arguments
    return name, objectives.module(name), rest


def pretrain_command(arguments):
    name, module, rest = _objective("pretrain", arguments)
    flags = dataclasses.make_dataclass(
        "Pretrain",
        [
            ("settings", module.Settings, dataclasses.field(default=module.Settings())),
            ("training", type(module.DEFAULTS), dataclasses.field(default=defaults(module.DEFAULTS, rest))),
        ],
    )
    asked = parse(flags, f"pretrain {name}", rest, description=module.__doc__)
    outcome = pretrain(name, asked.settings, asked.training)
    print(json.dumps(files.replace_nonfinite(outcome), indent=2))
    folder = outcome["folder"]
    print(f"Encoder: {folder}/encoder\nLook at it: tensorboard --logdir {asked.training.runs}")


def plan_command(arguments):
    name, module, rest = _objective("plan", arguments)
    words = name in ("causal_lm", "masked_lm")
    length = cost.Tokens() if words else cost.Passes(data=module.DEFAULTS.data)
    flags = dataclasses.make_dataclass(
        "Planned",
        [
            ("settings", module.Settings, dataclasses.field(default=module.Settings())),
            ("plan", cost.Plan, dataclasses.field(default=cost.Plan())),
            ("length", type(length), dataclasses.field(default=length)),
        ],
    )
    asked = parse(flags, f"plan {name}", rest, description=cost.__doc__)
    if words:
        work = cost.of_language(asked.settings.filled(), asked.plan, asked.length.tokens, name == "masked_lm")
    else:
        prepared = module.prepare(asked.settings, asked.length.load())
        work = cost.of_traced(module, *prepared, asked.plan, asked.length)
    print(cost.shown(cost.plan(work, asked.plan), remat=hasattr(asked.settings, "remat")))
