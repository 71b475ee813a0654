"""Import and export of checkpoints in the Hugging Face layout: language models, and vision transformers.

`hugging_face_text.py` has the families of GPT-2, BERT and Llama, `hugging_face_vision.py` those of vision transformers.
The networks here compute the same as those models; only the names and layouts of weights differ. Tensors that a network
does not use are logged and kept in the card. Nothing in a checkpoint is executed.
"""

import logging
import pathlib

from ssl_keras import files
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import hugging_face_text, hugging_face_vision, text_layouts
from ssl_keras.encoders.catalog import find
from ssl_keras.encoders.checkpoint_files import read_config
from ssl_keras.encoders.saving import save_encoder

log = logging.getLogger(__name__)


def import_encoder(folder, out=None, keep_size=False):
    """Imports a checkpoint as a saved encoder; returns the encoder's folder.

    Args:
        folder: the checkpoint.
        out: the encoder's folder; by default saved_models/FOLDER.
        keep_size: whether an image encoder takes images in their own size, instead of resizing them to its own.

    Raises:
        ValueError: as in `load` of the two modules, or the encoder's folder exists.
    """
    out = pathlib.Path(out or pathlib.Path("saved_models") / cards.safe_name(pathlib.Path(folder).resolve().name))
    files.check_new(out)
    config = read_config(folder)
    if hugging_face_vision.is_vision(config):
        encoder, head, unused = hugging_face_vision.load(folder, config, keep_size)
        spec, tokenizer = hugging_face_vision.spec_of(encoder), None
    elif config["model_type"] not in text_layouts.FAMILIES:
        known = ", ".join((*text_layouts.FAMILIES, *hugging_face_vision.MODEL_TYPES))
        raise ValueError(f"Expected a model_type in config.json of {known}. Received: {config['model_type']!r}")
    else:
        if keep_size:
            raise ValueError(f"keep_size is for images. Received: a {config['model_type']} model. Leave it out.")
        encoder, head, tokenizer, unused = hugging_face_text.load(folder)
        spec = hugging_face_text.SPEC
    trained_by = {"imported": True, "family": config["model_type"], "left over": unused}
    save_encoder(out, encoder, spec=spec, head=head, tokenizer=tokenizer, trained_by=trained_by)
    return out


def export(name, out=None):
    """Writes a saved encoder in the Hugging Face layout; returns the folder.

    Raises:
        ValueError: no supported family has such a network, or the folder exists.
    """
    card = cards.read(find(name))
    out = pathlib.Path(out or f"{card['name']}.hugging-face")
    files.check_new(out)
    module = hugging_face_vision if cards.is_a(card, "vit") else hugging_face_text
    module.export(name, out)
    return out
