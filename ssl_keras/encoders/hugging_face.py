"""Import and export of checkpoints in the Hugging Face layout: language models, vision transformers, residual networks.

`hugging_face_text.py` has the families of GPT-2, BERT and Llama, `hugging_face_vision.py` those of vision transformers,
and `hugging_face_resnet.py` residual networks. The networks here compute the same as those models; only the names and
layouts of weights differ. Tensors that a network does not use are logged and kept in the card. Nothing in a checkpoint
is executed.
"""

import logging
import pathlib

import tensorflow as tf

from ssl_keras import files
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import hugging_face_resnet, hugging_face_text, hugging_face_vision, text_layouts
from ssl_keras.encoders.catalog import find
from ssl_keras.encoders.checkpoint_files import read_config
from ssl_keras.encoders.saving import save_encoder
from ssl_keras.networks import description

READERS = dict.fromkeys(hugging_face_vision.MODEL_TYPES, hugging_face_vision)  # of image models, by model_type
READERS[hugging_face_resnet.MODEL_TYPE] = hugging_face_resnet
WRITERS = dict.fromkeys(hugging_face_resnet.NETWORKS, hugging_face_resnet)  # likewise, by builder
WRITERS["vit"] = hugging_face_vision
log = logging.getLogger(__name__)


def import_encoder(folder, out=None, keep_size=False):
    """Imports a checkpoint as a saved encoder; returns the encoder's folder.

    Args:
        folder: the checkpoint.
        out: the encoder's folder; by default saved_models/FOLDER.
        keep_size: whether an image encoder takes images in their own size, instead of resizing them to its own.

    Raises:
        ValueError: as in `load` of the module, or the encoder's folder exists.
    """
    out = pathlib.Path(out or pathlib.Path("saved_models") / cards.safe_name(pathlib.Path(folder).resolve().name))
    files.check_new(out)
    config = read_config(folder)
    family = config["model_type"]
    if family in READERS:
        encoder, head, unused = READERS[family].load(folder, config, keep_size)
        spec, tokenizer = _image_spec(encoder), None
    elif family not in text_layouts.FAMILIES:
        known = ", ".join((*text_layouts.FAMILIES, *READERS))
        raise ValueError(f"Expected a model_type in config.json of {known}. Received: {family!r}")
    else:
        if keep_size:
            raise ValueError(f"keep_size is for images. Received: a {family} model. Leave it out.")
        encoder, head, tokenizer, unused = hugging_face_text.load(folder)
        spec = hugging_face_text.SPEC
    trained_by = {"imported": True, "family": family, "left over": unused}
    save_encoder(out, encoder, spec=spec, head=head, tokenizer=tokenizer, trained_by=trained_by)
    return out


def _image_spec(encoder):
    """Returns the spec of the images that an imported encoder takes."""
    keywords = description(encoder).keywords
    height, width, channels = keywords["image_shape"]
    side = keywords["resize"]
    return {"image": ((side or height, side or width, channels), tf.uint8)}


def export(name, out=None):
    """Writes a saved encoder in the Hugging Face layout; returns the folder.

    Raises:
        ValueError: no supported family has such a network, or the folder exists.
    """
    card = cards.read(find(name))
    out = pathlib.Path(out or f"{card['name']}.hugging-face")
    files.check_new(out)
    builder = (card["network"] or {}).get("builder")
    WRITERS.get(builder, hugging_face_text).export(name, out)
    return out
