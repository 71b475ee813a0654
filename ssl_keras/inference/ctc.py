"""Decodes what a network trained with CTC reads off the frames of a clip."""

import numpy as np
import tensorflow as tf

from ssl_keras import encoders
from ssl_keras.data import audio, masking
from ssl_keras.data.batches import Batches
from ssl_keras.data.inputs import network_input
from ssl_keras.data.symbols import END, Symbols
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation.edit_distance import error_rates
from ssl_keras.evaluation.features import alike, at_once
from ssl_keras.networks import waveform

BLANK = END  # symbols are numbered from 1


def frame_logits(encoder, head, x):
    """(logits (B, T, 1 + V), frames (B,) int32) of waveforms (B, L)."""
    features, places = waveform.features(encoder, x)
    logits = head(waveform.context(encoder, features, places))
    return tf.cast(logits, tf.float32), masking.lengths(places)


def greedy(logits, frames):
    """A list of B lists of ids: the likeliest symbol of each frame, without repetitions, then without blanks."""
    path = tf.argmax(logits, -1, tf.int32).numpy()
    made = []
    for row, count in zip(path, np.asarray(frames)):
        row = row[:count]
        kept = row[np.flatnonzero(np.diff(row, prepend=-1))]
        made.append([int(i) for i in kept if i != BLANK])
    return made


def heard(encoder, head, source, batch_size=64):
    """What is heard in every clip of a source: a list of lists of ids."""
    run = tf.function(
        lambda x: frame_logits(encoder, head, x), input_signature=[tf.TensorSpec((None, None), tf.float32)]
    )
    made = [None] * len(source)
    for group in alike(source):
        part, found = source.take(group), []
        batches = Batches(part, min(at_once(part, batch_size), len(part)), shuffle=False)
        for batch in batches.dataset(0, batches.steps_per_epoch):
            found += greedy(*run(network_input(batch)))
        for index, ids in zip(group, found):
            made[index] = ids
    return made


def score(name, source):
    """{"clips", "word error rate", "symbol error rate", "sequence error rate"} of a saved encoder of ctc on
    transcribed clips.

    Raises:
        ValueError: an encoder of another objective; data without transcripts.
    """
    encoder, head, symbols = load(name)
    source.column_spec("target")
    source = audio.drop_long_clips(source, audio.LONGEST, "cut them at pauses")
    source = audio.resample_source(source, waveform.rate_of(encoder))
    right = [" ".join(text.split()) for text in source.column("target")]
    made = [symbols.decode(ids) for ids in heard(encoder, head, source)]

    def rates(cut):
        return error_rates([cut(text) for text in made], [[cut(text)] for text in right])

    of_symbols, of_sequences = rates(symbols.split)
    return {
        "clips": len(source),
        "word error rate": rates(str.split)[0],
        "symbol error rate": of_symbols,
        "sequence error rate": of_sequences,
    }


def load(name):
    """(encoder, head, `Symbols`) of a saved encoder of ctc. Raises ValueError where it is of another objective."""
    encoder, head, card = encoders.load_with_head(name)
    if not cards.is_a(card, "frame_classifier"):
        raise ValueError(f"{card['name']} is not a speech recognizer. Expected what pretraining with ctc saved.")
    decoding = card["decoding"]
    return encoder, head, Symbols(" ".join(decoding["symbols"]), characters=not decoding["words"])
