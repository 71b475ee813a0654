"""Files of a checkpoint in the Hugging Face layout: JSON, and weights in one file or in shards."""

import json
import pathlib
import re

import numpy as np
import safetensors

INDEX_BYTES = 16 << 20
WEIGHTS = "model.safetensors"


def read_object(path, what):
    """The JSON object in a file. Raises ValueError where there is none; `what` it should be is for the message."""
    try:
        value = json.loads(path.read_text("utf-8"))
        if not isinstance(value, dict):
            raise TypeError("no object")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no {what}: {type(error).__name__} {error}") from error
    return value


def open_weights(folder, prefix):
    """{name without the model's prefix: (the open file, name in the file)}, of one file of weights or of its shards.

    Raises:
        ValueError: no weights, or shards that are not complete, or not files of the folder; a damaged file; two names
            of one tensor.
    """
    if (folder / WEIGHTS).is_file():
        return _renamed([folder / WEIGHTS], prefix)
    index = folder / f"{WEIGHTS}.index.json"
    if not index.is_file():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:20])
        raise ValueError(
            f"{folder}: expected {WEIGHTS}, or shards with {index.name}. Pickled weights (pytorch_model.bin) are not "
            f"read. There are: {there}"
        )
    if index.stat().st_size > INDEX_BYTES:
        raise ValueError(f"{index} has {index.stat().st_size} bytes. Expected at most {INDEX_BYTES}.")
    places = read_object(index, "index of shards").get("weight_map")
    if not isinstance(places, dict) or not places or not all(map(_is_shard, places.values())):
        raise ValueError(f"{index} is no index of shards: expected a weight_map, from tensors to files beside it.")
    shards = sorted(set(places.values()))
    numbers = [re.fullmatch(r"(.*)-\d+-of-(\d+)(\..*)", shard) for shard in shards]
    most = max((int(number[2]) for number in numbers if number), default=0)
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing or most > len(shards):
        raise ValueError(
            f"{folder}: its shards are not complete: expected {max(most, len(shards))}. "
            + (f"Missing: {', '.join(missing[:10])}" if missing else f"{index.name} names {', '.join(shards[:10])}")
        )
    return _renamed([folder / shard for shard in shards], prefix)


def _is_shard(name):
    """Whether it names a file of weights in the same folder."""
    return isinstance(name, str) and name.endswith(".safetensors") and pathlib.PurePath(name).name == name


def _renamed(paths, prefix):
    stored = {}
    for path in paths:
        try:
            file = safetensors.safe_open(path, "numpy")
            names = list(file.keys())
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
        for name in names:
            # torch.compile and its parallel wrappers put themselves in front.
            plain = name.replace("_orig_mod.", "").removeprefix("module.").removeprefix(prefix)
            plain = plain.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            if plain in stored:
                raise ValueError(f"{path}: {name} and {stored[plain][1]} are one tensor. Expected each once.")
            stored[plain] = file, name
    return stored


def tensor_of(stored, name):
    """A tensor of `open_weights`, as float32. Raises ValueError where it cannot be read."""
    file, theirs = stored[name]
    try:
        value = file.get_tensor(theirs)
    except (safetensors.SafetensorError, OSError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} cannot be read: {error}. Get the file again.") from error
    with np.errstate(over="ignore"):  # of 64 bits, what is too large becomes infinite, which is refused
        return value.astype(np.float32)
