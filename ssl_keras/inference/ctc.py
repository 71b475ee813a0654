"""Greedy CTC decoding (Graves et al. 2006), and the error rates of a saved ctc encoder."""

import numpy as np
import tensorflow as tf

from ssl_keras import encoders
from ssl_keras.data import audio, masking
from ssl_keras.data.batches import Batches
from ssl_keras.data.inputs import network_input
from ssl_keras.data.symbols import END, Symbols
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation.edit_distance import error_rates
from ssl_keras.evaluation.features import batch_size_for, length_groups
from ssl_keras.networks import waveform

BLANK = END  # symbols are numbered from 1


def frame_logits(encoder, head, x):
    """Returns (logits (B, T, 1 + V), numbers of frames (B,) int32) of waveforms (B, L)."""
    features, places = waveform.features(encoder, x)
    logits = head(waveform.context(encoder, features, places))
    return tf.cast(logits, tf.float32), masking.lengths(places)


def greedy(logits, frames):
    """Returns B lists of ids: the most likely symbol of each frame, without repetitions, then without blanks."""
    path = tf.argmax(logits, -1, tf.int32).numpy()
    rows = []
    for row, count in zip(path, np.asarray(frames)):
        row = row[:count]
        kept = row[np.flatnonzero(np.diff(row, prepend=-1))]
        rows.append([int(i) for i in kept if i != BLANK])
    return rows


def transcribe(encoder, head, source, batch_size=64):
    """Returns the decoded symbols of every clip of a source: a list of lists of ids."""
    run = tf.function(
        lambda x: frame_logits(encoder, head, x), input_signature=[tf.TensorSpec((None, None), tf.float32)]
    )
    rows = [None] * len(source)
    for group in length_groups(source):
        part, decoded = source.take(group), []
        batches = Batches(part, min(batch_size_for(part, batch_size), len(part)), shuffle=False)
        for batch in batches.dataset(0, batches.steps_per_epoch):
            decoded += greedy(*run(network_input(batch)))
        for index, ids in zip(group, decoded):
            rows[index] = ids
    return rows


def score(name, source):
    """Measures a saved ctc encoder on clips with transcripts.

    Returns:
        {"clips", "word error rate", "symbol error rate", "sequence error rate"}.

    Raises:
        ValueError: the encoder is of another objective, or the data have no transcripts.
    """
    encoder, head, symbols = load(name)
    source.column_spec("target")
    source = audio.drop_long_clips(source, audio.LONGEST, "cut them at pauses")
    source = audio.resample_source(source, waveform.rate_of(encoder))
    references = [" ".join(text.split()) for text in source.column("target")]
    decoded = [symbols.decode(ids) for ids in transcribe(encoder, head, source)]

    def rates(split):
        return error_rates([split(text) for text in decoded], [[split(text)] for text in references])

    of_symbols, of_sequences = rates(symbols.split)
    return {
        "clips": len(source),
        "word error rate": rates(str.split)[0],
        "symbol error rate": of_symbols,
        "sequence error rate": of_sequences,
    }


def load(name):
    """Returns (encoder, head, `Symbols`) of a saved ctc encoder. Raises ValueError if it is of another objective."""
    encoder, head, card = encoders.load_with_head(name)
    if not cards.is_a(card, "frame_classifier"):
        raise ValueError(f"{card['name']} is not a speech recognizer. Expected an encoder of ctc.")
    decoding = cards.decoding(card)
    return encoder, head, Symbols(" ".join(decoding["symbols"]), characters=not decoding["words"])
