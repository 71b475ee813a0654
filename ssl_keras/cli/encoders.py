"""Commands on saved encoders: `export`, `import`, `list`."""

import dataclasses
import pathlib

from ssl_keras import encoders, files, objectives
from ssl_keras.cli.flags import EncoderArgument, NetworkFlag, Positional, parse
from ssl_keras.data import inputs, sources
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import hugging_face


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(EncoderArgument, NetworkFlag):
    """A SavedModel of features or logits, a checkpoint in the Hugging Face layout, or an encoder of half the size."""

    out: str = ""
    """Folder to write. By default ENCODER.savedmodel, ENCODER.hugging-face with --hugging-face, or ENCODER.float16 with
    --float16."""
    hugging_face: bool = False
    """Write the Hugging Face layout (config.json, model.safetensors and, for text, tokenizer.json) instead of a
    SavedModel. For language models, vision transformers, and ResNets that were imported."""
    float16: bool = False
    """Write a saved encoder whose weights are rounded to 16 bits, half the size, instead of a SavedModel."""
    classifier: bool = False
    """Export a fine-tuned encoder with its classification head. The SavedModel then returns logits."""


def export_command(arguments):
    asked = parse(Export, "export", arguments)
    if asked.float16 and (asked.hugging_face or asked.classifier):
        raise ValueError(
            "Expected --float16 without --hugging-face and --classifier: it copies a saved encoder with its head. "
            "Received: both. Leave one of them out."
        )
    if asked.hugging_face and asked.classifier:
        raise ValueError(
            "Expected --hugging-face without --classifier: it writes the encoder alone. Received: both. Leave one of "
            "them out."
        )
    if asked.hugging_face:
        print(hugging_face.export(asked.encoder, asked.out or None))
        return
    card = cards.read(encoders.find(asked.encoder))
    if asked.float16:
        out = asked.out or f"{card['name']}.float16"
        encoders.copy_in_float16(asked.encoder, out)
        print(out)
        return
    out = pathlib.Path(asked.out or f"{card['name']}.savedmodel")
    files.check_new(out)
    load = encoders.load_classifier if asked.classifier else encoders.load_encoder
    model = load(asked.encoder, network=asked.network_maker())
    with files.new_folder(out) as partial:
        model.export(partial, verbose=False)
    example = inputs.column(card["input"])
    print(f"{out}: a SavedModel.\n    model = tf.saved_model.load({str(out)!r})\n    model.serve({example})")


@dataclasses.dataclass(frozen=True)
class Import:
    """A checkpoint of a language model, vision transformer or ResNet that becomes a saved encoder."""

    folder: Positional[str]
    """Folder that contains config.json, model.safetensors and, for text, tokenizer.json."""
    out: str = ""
    """Folder to write. By default saved_models/FOLDER."""
    keep_size: bool = False
    """Take images in their own size; a vision transformer then interpolates its positions. Otherwise the encoder
    resizes all images to the size that the checkpoint names (vision transformers and ResNets)."""


def import_command(arguments):
    asked = parse(Import, "import", arguments)
    print(hugging_face.import_encoder(asked.folder, asked.out or None, asked.keep_size))


@dataclasses.dataclass(frozen=True)
class List:
    """The objectives, the kinds of data and the saved encoders."""


def list_command(arguments):
    parse(List, "list", arguments)
    print("objectives:", ", ".join(objectives.names()))
    print("data:", sources.names())
    print("encoders:" if encoders.available() else "encoders: none yet")
    for name, folder in sorted(encoders.available().items()):
        try:
            card = cards.read(folder)
        except ValueError as error:
            print(f"  {name:40} broken: {error}")
            continue
        print(f"  {name:40} {card['features']:5} features, {card['parameters']:,} parameters  {folder}")
