"""Commands that decode sequences: `translate`, `transcribe`, `score`."""

import dataclasses

import tensorflow as tf

from ssl_keras import encoders, files
from ssl_keras.cli.flags import HeldOut, Positional, RecordFlag, parse
from ssl_keras.data import audio
from ssl_keras.data.readers import audio as audio_reader
from ssl_keras.data.sources import load
from ssl_keras.encoders import card as cards
from ssl_keras.inference import ctc, translation
from ssl_keras.networks import waveform


@dataclasses.dataclass(frozen=True)
class Translate:
    """Writes the targets of texts: pronunciations, translations, what comes next."""

    encoder: Positional[str]
    """A saved encoder's name or path."""
    text: Positional[tuple[str, ...]]
    """One or more texts."""
    beams: int = 5
    """Targets that beam search follows at a time; 1 is greedy."""


def translate_command(arguments):
    asked = parse(Translate, "translate", arguments)
    if not asked.text:
        raise ValueError("Expected one text or more.")
    for line in translation.Translator(asked.encoder, asked.beams)(list(asked.text)):
        print(files.printable(line))


@dataclasses.dataclass(frozen=True)
class Transcribe:
    """Writes what is said in sound files."""

    encoder: Positional[str]
    """The name or path of a saved encoder of ctc."""
    files: Positional[tuple[str, ...]]
    """One or more files: WAV, FLAC, OGG, Opus or MP3, of any rate."""


def transcribe_command(arguments):
    asked = parse(Transcribe, "transcribe", arguments)
    if not asked.files:
        raise ValueError("Expected one file or more.")
    encoder, head, symbols = ctc.load(asked.encoder)
    rate = waveform.rate_of(encoder)
    for file in asked.files:
        x = audio.unit_range(tf.constant(audio_reader.read(file, rate, audio.LONGEST)))[None]
        print(files.printable(f"{file}: {symbols.decode(ctc.greedy(*ctc.frame_logits(encoder, head, x))[0])}"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(RecordFlag):
    """Measures decoded targets against the right ones: the share of wrong symbols and of wrong sequences."""

    encoder: Positional[str]
    """A saved encoder's name or path."""
    data: str
    """With targets: pairs:FILE, cmudict, a translation set of tfds; of sound, transcripts:FILE or connected:DATA."""
    part: HeldOut = "test"
    """validation or test."""
    beams: int = 0
    """Of texts: targets that beam search follows at a time; 1 is greedy, 0 is 5."""


BEAMS = 5


def score_command(arguments):
    asked = parse(Score, "score", arguments)
    card = cards.read(encoders.find(asked.encoder))
    recognizes = cards.is_a(card, "frame_classifier")
    if not recognizes and not cards.is_a(card, "attending_decoder"):
        raise ValueError(f"score is for encoders of ctc, seq2seq. {asked.encoder} is neither.")
    if recognizes and asked.beams:
        raise ValueError(f"{asked.encoder} is of ctc, which decodes greedily. Leave out --beams.")
    source = getattr(load(asked.data), asked.part)
    source.column_spec("target")
    title = source.name
    if recognizes:
        result = ctc.score(asked.encoder, source)
    else:
        beams = asked.beams or BEAMS
        result = translation.score(translation.Translator(asked.encoder, beams), source)
        title += f", {beams} beams"
    for name, value in result.items():
        print(f"{name}: {value:.2%}" if isinstance(value, float) else f"{name}: {value}")
    if asked.record:
        encoders.record(asked.encoder, title, result)
