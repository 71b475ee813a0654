"""Decodes what a network trained with CTC reads off the frames of a clip."""


import numpy as np
import tensorflow as tf

from ssl_keras import encoders
from ssl_keras.data import audio
from ssl_keras.data.batches import Batches
from ssl_keras.data.inputs import network_input
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation.edit_distance import error_rates
from ssl_keras.evaluation.features import at_once
from ssl_keras.networks import waveform

BLANK = 0  # symbols are numbered from 1


def frame_logits(encoder, head, x):
    """(logits (B, T, 1 + V), frames (B,) int32) of waveforms (B, L)."""
    features, places = waveform.features(encoder, x)
    logits = head(waveform.context(encoder, features, places))
    return tf.cast(logits, tf.float32), tf.reduce_sum(tf.cast(places >= 0, tf.int32), 1)


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
    batches = Batches(source, min(at_once(source, batch_size), len(source)), shuffle=False)
    made = []
    for batch in batches.dataset(0, batches.steps_per_epoch):
        made += greedy(*run(network_input(batch)))
    return made[: len(source)]


def text_of(settings, ids):
    """The transcript of ids, without padding."""
    return settings.join([settings.symbols[i - 1] for i in ids if i > 0])


def score(name, source):
    """{"clips", "word error rate", "symbol error rate", "sequence error rate"} of a saved encoder of ctc on
    transcribed clips.

    Raises:
        ValueError: an encoder of another objective; data without transcripts.
    """
    encoder, head, settings = load(name)
    source.column_spec("target")
    source = audio.at_rate(source, settings.rate)
    right = [" ".join(text.split()) for text in source.column("target")]
    made = [text_of(settings, ids) for ids in heard(encoder, head, source)]

    def rates(cut):
        return error_rates([cut(text) for text in made], [[cut(text)] for text in right])

    symbols, sequences = rates(settings.cut)
    return {
        "clips": len(source), "word error rate": rates(str.split)[0], "symbol error rate": symbols,
        "sequence error rate": sequences,
    }


def load(name):
    """(encoder, head, settings) of a saved encoder of ctc. Raises ValueError where it is of another objective."""
    encoder, head, card = encoders.load_with_head(name)
    if card["objective"] != "ctc" or card["head"] != "objective":
        raise ValueError(f"{card['name']} recognises nothing. Expected what pretraining with ctc saved.")
    return encoder, head, cards.settings(card)
