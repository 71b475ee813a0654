"""Catalog of saved encoders, which finds them by name."""

import errno
import pathlib

import ssl_keras
from ssl_keras.data.ranges import check
from ssl_keras.encoders import replacing


def find(name):
    """Returns the folder of an encoder, given its name or path. Raises ValueError, with all names, if there is none."""
    check("The name of an encoder", name, str)
    path = pathlib.Path(name)
    tries = [path, path / "encoder"] + [root / name for root in roots()] + [pathlib.Path("runs") / name / "encoder"]
    try:
        for folder in tries:
            # While a writer replaces the encoder, `folder` is missing for a moment. Then its backup exists, or the
            # new encoder has just arrived.
            for place in (folder, replacing.backup(folder), folder):
                if place and (place / "card.json").is_file():
                    return place
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    raise ValueError(
        f"Unknown encoder {str(name)!r}. Expected one of {', '.join(sorted(available())) or 'none'}, or the path of a "
        "folder with a card.json."
    )


def roots():
    """Returns the folders that are searched for names: `./saved_models`, then that of the encoders in the package."""
    package = pathlib.Path(ssl_keras.__file__).parent
    # In an installed package the shipped encoders are inside the package; in a checkout they are next to it.
    places = (pathlib.Path(), package, package.parent)
    return [place / "saved_models" for place in places if (place / "saved_models").is_dir()]


def available():
    """Returns {name: folder} of the encoders that can be loaded by name."""
    found = {run.parents[1].name: run.parent for run in pathlib.Path("runs").glob("[!.]*/encoder/card.json")}
    for root in reversed(roots()):
        found |= {card.parent.name: card.parent for card in root.glob("[!.]*/card.json")}
    return found
