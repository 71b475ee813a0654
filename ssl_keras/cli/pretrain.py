"""Commands that take an objective: `pretrain`, `plan`."""

import dataclasses
from typing import Annotated

from ssl_keras import objectives
from ssl_keras.cli import commands
from ssl_keras.cli.flags import defaults, group, parse
from ssl_keras.cli.runs import print_outcome
from ssl_keras.planning import cost
from ssl_keras.training.pretrain import pretrain


def _summary(module):
    """Returns the first line of an objective's docstring."""
    return module.__doc__.partition("\n")[0]


def _objective(command, arguments):
    """Returns (name, its module, the flags that follow); exits if there is no name."""
    if not arguments or arguments[0].startswith("-"):
        lines = [(name, _summary(objectives.module(name))) for name in objectives.names()]
        print(commands.usage_of_objectives(command, lines))
        raise SystemExit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    name, *rest = arguments
    return name, objectives.module(name), rest


def pretrain_command(arguments):
    name, module, rest = _objective("pretrain", arguments)
    flags = dataclasses.make_dataclass(
        "Pretrain",
        [
            ("settings", Annotated[module.Settings, group("objective")], module.Settings()),
            ("training", type(module.DEFAULTS), defaults(module.DEFAULTS, rest)),
        ],
    )
    example = f"pretrain {name} {commands.EXAMPLES[name].pretrain}"
    asked = parse(flags, f"pretrain {name}", rest, _summary(module), example)
    print_outcome(pretrain(name, asked.settings, asked.training), asked.training)


def plan_command(arguments):
    name, module, rest = _objective("plan", arguments)
    is_language_model = name in ("causal_lm", "masked_lm")
    length = cost.Tokens() if is_language_model else cost.Passes(data=module.DEFAULTS.data)
    flags = dataclasses.make_dataclass(
        "Planned",
        [
            ("settings", Annotated[module.Settings, group("objective")], module.Settings()),
            ("plan", Annotated[cost.Plan, group("hardware")], cost.Plan()),
            ("length", type(length), length),
        ],
    )
    summary = f"Estimate the memory, throughput and hours of pretraining {name} on GPUs"
    asked = parse(flags, f"plan {name}", rest, summary, f"plan {name} {commands.EXAMPLES[name].plan}")
    if is_language_model:
        work = cost.of_language(asked.settings.filled(), asked.plan, asked.length.tokens, name == "masked_lm")
    else:
        prepared = module.prepare(asked.settings, asked.length.load())
        work = cost.of_traced(module, *prepared, asked.plan, asked.length)
    print(cost.shown(cost.plan(work, asked.plan), remat=hasattr(asked.settings, "remat")))
