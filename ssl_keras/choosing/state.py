"""The state of a search: a small JSON of what was measured, which is written whole or not at all."""

import copy
import json
import time

from ssl_keras import files

NAME = "search.json"
FORMAT = 1


class State:
    """A dict in a file. `spent` counts the seconds of all sessions, up to what each last saved.

    Args:
        path: the file, or None for a state that is not saved.
        asked: JSON-serializable; a file with another value is of another search.
        empty: the entries at the beginning.
        clock: function that returns the seconds since some time.
        started: its value when the session started; None is now.

    Raises:
        ValueError: the file is damaged, or is of another search.
    """

    def __init__(self, path, asked, empty, clock=time.monotonic, started=None):
        self.path, self.clock, self.started = path, clock, clock() if started is None else started
        asked = json.loads(json.dumps(asked))
        self.values = {"format": FORMAT, "asked": asked, "spent": 0.0, **copy.deepcopy(empty)}
        if path is not None and path.exists():
            self.values = _read(path, asked)
        self.before = self.values["spent"]

    def __getitem__(self, name):
        return self.values[name]

    def __setitem__(self, name, value):
        self.values[name] = value

    def spent(self):
        """Returns the seconds of this session and, up to what they saved, of those before."""
        return self.before + self.clock() - self.started

    def restart(self, entries):
        """Sets these entries, and counts the seconds from the start of this session."""
        self.values |= copy.deepcopy(entries)
        self.before = 0.0

    def save(self):
        self.values["spent"] = self.spent()
        if self.path is not None:
            files.write_json(self.path, self.values)


def _read(path, asked):
    try:
        saved = json.loads(path.read_text("utf-8"))
        before = saved["asked"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged. Add --overwrite to start again, or choose another --out.") from error
    if saved.get("format") != FORMAT:
        raise ValueError(f"{path} is of another version. Add --overwrite to start again, or choose another --out.")
    other = sorted(name for name in before.keys() | asked.keys() if before.get(name) != asked.get(name))
    if other:
        raise ValueError(
            f"{path.parent} has a search that differs in {', '.join(other)}. Add --overwrite to replace it, or choose "
            "another --out."
        )
    return saved
