"""Relations between the variables of a network and the tensors of a checkpoint, in both directions.

PyTorch stores matrices transposed, and most models query, key and value separately.
"""

import logging
import typing

import numpy as np
import tensorflow as tf

from ssl_keras.encoders.checkpoint_files import check_floats, naming, tensor_of
from ssl_keras.encoders.loading import named_variables
from ssl_keras.files import excerpt

log = logging.getLogger(__name__)


class Rule(typing.NamedTuple):
    """A relation between variables here and tensors there.

    Attributes:
        ours, theirs: names of variables, and of tensors.
        read: function from their arrays to a list of ours.
        write: function from our arrays to a list of theirs.
        shapes: function from our shapes to a list of theirs, if `write` would allocate; None applies it to zeros.
    """

    ours: tuple
    theirs: tuple
    read: typing.Callable
    write: typing.Callable
    shapes: typing.Callable | None = None


def joined(ours, *theirs):
    """Returns the rule of a variable that is a concatenation of tensors along the last axis."""
    return Rule(
        (ours,), theirs, lambda *x: [np.concatenate(x, -1)], lambda x: np.split(np.asarray(x), len(theirs), axis=-1)
    )


def transposed(ours, *theirs):
    """Returns the rule of a matrix that is a concatenation of transposed tensors."""
    return Rule(
        (ours,),
        theirs,
        lambda *x: [np.concatenate([part.T for part in x], -1)],
        lambda x: [part.T for part in np.split(np.asarray(x), len(theirs), axis=-1)],
    )


def build_and_assign(folder, stored, make, rules_of):
    """Builds networks and assigns the tensors of a checkpoint to them.

    A config may ask for any size, so shapes are checked first where nothing is allocated.

    Args:
        folder: the checkpoint.
        stored: tensors of `checkpoint_files.open_weights`.
        make: function that builds the networks, a list, some of which may be None.
        rules_of: function from these to [(network, its `Rule`s)].

    Returns:
        (the networks, the set of names of tensors that were not used).

    Raises:
        ValueError: as `check_shapes` and `assign`.
    """
    with tf.Graph().as_default(), naming(folder):
        for graph, rules in rules_of(*make()):
            check_shapes(stored, rules, named_variables(graph))
    networks, unused = make(), set(stored)
    with naming(folder):
        for graph, rules in rules_of(*networks):
            unused -= assign(stored, rules, named_variables(graph))
    return networks, unused


def leftovers(folder, unused, constants):
    """Returns the sorted names of unused tensors, without those that end in one of `constants`, and logs them."""
    unused = sorted(name for name in unused if not name.endswith(constants))
    if unused:
        log.warning(
            "%s: tensors that the network does not use were not imported: %s", folder, excerpt(", ".join(unused))
        )
    return unused


def check_shapes(stored, rules, variables):
    """Compares the headers of the files with the shapes that the network needs, before any tensor is read.

    Args:
        stored: tensors of `checkpoint_files.open_weights`.
        rules: the `Rule`s of the network.
        variables: {name: variable} of the network.

    Raises:
        ValueError: a tensor is missing, has another shape, or does not consist of floats.
    """
    for rule in rules:
        ours = [tuple(variables[name].shape) for name in rule.ours]
        expected = (
            rule.shapes(*ours)
            if rule.shapes
            else [value.shape for value in rule.write(*(np.broadcast_to(np.float32(0), shape) for shape in ours))]
        )
        for name, shape in zip(rule.theirs, expected, strict=True):
            received = tuple(check_floats(stored, name, ", ".join(rule.ours)).get_shape())
            if received != shape:
                raise ValueError(f"{name}: expected the shape {shape}. Received: {received}")


def check_depth(folder, unused, block, layers, parts="blocks"):
    """Raises ValueError if tensors that are not used belong to further blocks, whose names begin like `block`.

    Args:
        folder: the checkpoint.
        unused: names of tensors.
        block: pattern of the beginning of a block's names.
        layers: number of blocks of the network.
        parts: what the blocks are called in the message.
    """
    beginning = block.format(layers)
    further = sorted(name for name in unused if name.startswith(beginning))
    if further:
        raise ValueError(
            f"{folder}: expected {layers} {parts}, as config.json says. Received the weights of more: "
            f"{excerpt(', '.join(further))}. Get the config.json of these weights."
        )


def assign(stored, rules, variables):
    """Assigns the tensors of a checkpoint to the variables of a network; returns the names of the tensors.

    Raises:
        ValueError: a tensor cannot be read, or is not finite.
    """
    for rule in rules:
        values = rule.read(*(tensor_of(stored, name) for name in rule.theirs))
        if not all(np.isfinite(value).all() for value in values):
            raise ValueError(
                f"{', '.join(rule.theirs)}: expected finite numbers. Received: NaN or infinity. Get the file again."
            )
        for name, value in zip(rule.ours, values, strict=True):
            variables[name].assign(value)
    return {name for rule in rules for name in rule.theirs}


def written(rules, variables):
    """Returns {name there: array} for the variables of a network."""
    tensors = {}
    for rule in rules:
        values = rule.write(*(np.asarray(variables[name]) for name in rule.ours))
        tensors |= dict(zip(rule.theirs, values, strict=True))
    return tensors
