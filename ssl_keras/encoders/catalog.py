"""Catalog of saved encoders, which finds them by name: in `./saved_models`, then in `runs`, then in the package."""

import errno
import functools
import logging
import pathlib

import ssl_keras
from ssl_keras.data.ranges import check
from ssl_keras.encoders import replacing

log = logging.getLogger(__name__)


def find(name):
    """Returns the folder of an encoder, given its name or path. Raises ValueError, with all names, if there is none."""
    check("The name of an encoder", name, str)
    path = pathlib.Path(name)
    paths, named = [path, path / "encoder"], [root / name / inner for root, inner in places()]
    try:
        for rank, folder in enumerate(paths + named):
            # While a writer replaces the encoder, `folder` is missing for a moment. Then its backup exists, or the
            # new encoder has just arrived.
            for place in (folder, replacing.backup(folder), folder):
                if place and (place / "card.json").is_file():
                    others = named[rank + 1 - len(paths) :] if rank >= len(paths) else []
                    _name_others(name, place, tuple(each for each in others if (each / "card.json").is_file()))
                    return place
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    raise ValueError(
        f"Unknown encoder {str(name)!r}. Expected one of {', '.join(sorted(available())) or 'none'}, or the path of a "
        "folder with a card.json."
    )


@functools.cache  # one message, although a command finds an encoder several times
def _name_others(name, place, others):
    if others:
        log.warning("Encoder %s is %s. To use %s, pass its path.", name, place, " or ".join(map(str, others)))


def places():
    """Returns [(root, inner)]: an encoder NAME is in root/NAME/inner. The first place wins.

    In an installed package the shipped encoders are inside the package; in a checkout they are next to it. A run wins
    over them, also in a checkout, where `./saved_models` is theirs.
    """
    package = pathlib.Path(ssl_keras.__file__).parent
    shipped = [(root / "saved_models", "") for root in (package, package.parent)]
    own, runs = (pathlib.Path("saved_models"), ""), (pathlib.Path("runs"), "encoder")
    is_shipped = own[0].resolve() in [root.resolve() for root, _ in shipped]
    return [runs, own, *shipped[:1]] if is_shipped else [own, runs, *shipped]


def available():
    """Returns {name: folder} of the encoders that can be loaded by name."""
    found = {}
    for root, inner in reversed(places()):
        cards = root.glob(str(pathlib.Path("[!.]*", inner, "card.json")))
        found |= {card.relative_to(root).parts[0]: card.parent for card in cards}
    return found
