"""Finds saved encoders by name."""

import errno
import pathlib

import ssl_keras
from ssl_keras.encoders import replacing


def find(name):
    """The folder of an encoder, by name or path; nothing is changed there. Raises ValueError saying which there are."""
    path = pathlib.Path(name)
    tries = [path, path / "encoder"] + [root / name for root in roots()] + [pathlib.Path("runs") / name / "encoder"]
    try:
        for folder in tries:
            # While it is replaced there is none for a moment: it is where it was before, or there again.
            for place in (folder, replacing.predecessor(folder), folder):
                if place and (place / "card.json").is_file():
                    return place
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    raise ValueError(
        f"Unknown encoder {str(name)!r}. There are: {', '.join(sorted(available())) or 'none'}; "
        "or give the path of a folder with a card.json."
    )


def roots():
    """Where encoders are looked up by name: `./saved_models`, then those that ship with the package."""
    package = pathlib.Path(ssl_keras.__file__).parent
    # Installed, the shipped encoders lie inside the package; in a checkout, beside it.
    places = (pathlib.Path(), package, package.parent)
    return [place / "saved_models" for place in places if (place / "saved_models").is_dir()]


def available():
    """{name: folder} of the encoders that `load_encoder` knows by name."""
    found = {run.parents[1].name: run.parent for run in pathlib.Path("runs").glob("[!.]*/encoder/card.json")}
    for root in reversed(roots()):
        found |= {card.parent.name: card.parent for card in root.glob("[!.]*/card.json")}
    return found
