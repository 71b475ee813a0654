"""Files of a Hugging Face checkpoint: JSON, and weights in one file or in shards."""

import contextlib
import json
import pathlib
import re

import numpy as np
import safetensors

from ssl_keras import files
from ssl_keras.encoders.loading import BUILD_ERRORS

CONFIG_BYTES, INDEX_BYTES = 1 << 20, 16 << 20
MAX_NAME = 255  # bytes of the name of a shard, as file systems allow
WEIGHTS = "model.safetensors"


def read_object(path, what):
    """Reads the JSON object in a file. Raises ValueError if it has none; the message contains `what` it should be."""
    try:
        value = json.loads(path.read_text("utf-8"))
        if not isinstance(value, dict):
            raise TypeError("expected a JSON object")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not a valid {what}: {type(error).__name__} {files.excerpt(error)}") from error
    return value


@contextlib.contextmanager
def naming(path):
    """Puts a path before the message of an error."""
    try:
        yield
    except (ValueError, *BUILD_ERRORS) as error:
        raise ValueError(f"{path}: {files.excerpt(error)}") from error


def read_config(folder):
    """Reads the config.json of a checkpoint. Raises ValueError if there is none, or it is not a model's."""
    folder = pathlib.Path(folder)
    path = folder / "config.json"
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not a folder. Expected a folder with config.json, model.safetensors and, for text, "
            "tokenizer.json. Download the checkpoint first; this command does not."
        )
    if not path.is_file() or path.stat().st_size > CONFIG_BYTES:
        raise ValueError(
            f"{folder} does not contain a checkpoint. Expected config.json, model.safetensors and, for text, "
            "tokenizer.json or, for images, preprocessor_config.json."
        )
    config = read_object(path, "model config")
    if not isinstance(config.get("model_type"), str):
        raise ValueError(f"{path} is not a valid model config. Expected a model_type.")
    return config


def open_weights(folder, prefix):
    """Opens the weights of a checkpoint, in one file or in shards.

    Returns:
        {name without the model's prefix: (the open file, name in the file)}.

    Raises:
        ValueError: there are no weights; shards are missing or outside the folder; a file is damaged; two names mean
            the same tensor.
    """
    if (folder / WEIGHTS).is_file():
        return _open([folder / WEIGHTS], prefix)
    index = folder / f"{WEIGHTS}.index.json"
    if not index.is_file():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:20])
        raise ValueError(
            f"{folder}: expected {WEIGHTS}, or shards with {index.name}. Received a folder with: {there}. "
            "Pickled weights (pytorch_model.bin) are not supported; save the model with safetensors."
        )
    if index.stat().st_size > INDEX_BYTES:
        raise ValueError(f"{index}: expected at most {INDEX_BYTES} bytes. Received: {index.stat().st_size}")
    weight_map = read_object(index, "index of shards").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(map(_is_shard, weight_map.values())):
        raise ValueError(
            f"{index} is not a valid index of shards. Expected a weight_map from tensors to .safetensors files in the "
            "same folder."
        )
    shards = sorted(set(weight_map.values()))
    numbers = [re.fullmatch(r"(.*)-\d+-of-(\d+)(\..*)", shard) for shard in shards]
    total = max((int(number[2]) for number in numbers if number), default=0)
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing or total > len(shards):
        raise ValueError(
            f"{folder}: expected {max(total, len(shards))} shards. "
            + ("Missing: " if missing else f"{index.name} lists ")
            + files.excerpt(", ".join((missing or shards)[:10]))
        )
    return _open([folder / shard for shard in shards], prefix)


def _is_shard(name):
    """Returns whether this is the name of a safetensors file in the same folder."""
    if not isinstance(name, str) or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME:
        return False
    return name.endswith(".safetensors") and pathlib.PurePath(name).name == name


def _open(paths, prefix):
    stored = {}
    for path in paths:
        try:
            file = safetensors.safe_open(path, "numpy")
            names = list(file.keys())
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a complete safetensors file: {files.excerpt(error)}") from error
        for name in names:
            # torch.compile and PyTorch's data-parallel wrappers add prefixes of their own.
            plain = name.replace("_orig_mod.", "").removeprefix("module.").removeprefix(prefix)
            plain = plain.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            if plain in stored:
                raise ValueError(
                    f"{path}: {files.excerpt(name)} and {files.excerpt(stored[plain][1])} are two names of one "
                    "tensor. Expected each tensor once."
                )
            stored[plain] = file, name
    return stored


def write_checkpoint(out, tensors, contents):
    """Writes a checkpoint into the new folder `out`, as a whole or not at all.

    Args:
        out: the folder.
        tensors: {name: array}.
        contents: {name of another file: its JSON object, or its text}.
    """
    with files.new_folder(out) as partial:
        files.make_folder(partial)
        files.write(partial / WEIGHTS, files.tensors_to_bytes(tensors, {"format": "pt"}))
        for name, content in contents.items():
            write = files.write_json if isinstance(content, dict) else files.write
            write(partial / name, content)


def check_floats(stored, name, needed_for):
    """Returns the slice of a tensor of `open_weights`, without reading it.

    Raises:
        ValueError: there is no such tensor, or it does not consist of floats of 16, 32 or 64 bits.
    """
    if name not in stored:
        raise ValueError(f"The checkpoint has no tensor {name!r}, which is needed for {needed_for}.")
    file, theirs = stored[name]
    part = file.get_slice(theirs)
    if part.get_dtype() not in ("F32", "F16", "BF16", "F64"):
        raise ValueError(
            f"{name}: expected floats of 16, 32 or 64 bits. Received: {part.get_dtype()}. Save it as float32."
        )
    return part


def tensor_of(stored, name):
    """Reads a tensor of `open_weights` as float32. Raises ValueError if it cannot be read."""
    file, theirs = stored[name]
    try:
        value = file.get_tensor(theirs)
    except (safetensors.SafetensorError, OSError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} cannot be read: {files.excerpt(error)}. Download the file again.") from error
    with np.errstate(over="ignore"):  # a float64 that is too large becomes infinite, which is an error later
        return value.astype(np.float32)
