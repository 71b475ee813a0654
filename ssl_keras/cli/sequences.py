"""Commands that decode sequences: `translate`, `transcribe`, `score`."""

import dataclasses
from typing import Annotated

import tensorflow as tf

from ssl_keras import encoders, files
from ssl_keras.cli.flags import EncoderArgument, HeldOut, Positional, RecordFlag, one_or_more, parse
from ssl_keras.data import audio
from ssl_keras.data.ranges import Range
from ssl_keras.data.readers import audio as audio_reader
from ssl_keras.data.sources import load
from ssl_keras.encoders import card as cards
from ssl_keras.inference import ctc, translation
from ssl_keras.networks import waveform


@dataclasses.dataclass(frozen=True)
class Translate(EncoderArgument):
    """Target texts for source texts: pronunciations, translations, continuations."""

    text: Annotated[Positional[tuple[str, ...]], one_or_more("TEXT")]
    """Source texts."""
    beams: Annotated[int, Range(1)] = 5
    """Beam size of the beam search. 1 is greedy decoding."""


def translate_command(arguments):
    asked = parse(Translate, "translate", arguments)
    if not asked.text:
        raise ValueError("Expected at least one text. Received: none. Use: ssl-keras translate ENCODER TEXT")
    for line in translation.Translator(asked.encoder, asked.beams)(list(asked.text)):
        print(files.printable(line))


@dataclasses.dataclass(frozen=True)
class Transcribe(EncoderArgument):
    """Transcripts of audio files."""

    files: Annotated[Positional[tuple[str, ...]], one_or_more("FILE")]
    """Audio files (WAV, FLAC, Ogg, Opus, MP3, …) of any sampling rate, at most 60 seconds long."""


def transcribe_command(arguments):
    asked = parse(Transcribe, "transcribe", arguments)
    if not asked.files:
        raise ValueError("Expected at least one file. Received: none. Use: ssl-keras transcribe ENCODER FILE")
    encoder, head, symbols = ctc.load(asked.encoder)
    rate = waveform.rate_of(encoder)
    for file in asked.files:
        x = audio.unit_range(tf.constant(audio_reader.read(file, rate, audio.LONGEST)))[None]
        print(files.printable(f"{file}: {symbols.decode(ctc.greedy(*ctc.frame_logits(encoder, head, x))[0])}"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(EncoderArgument, RecordFlag):
    """Error rates of decoded targets: of symbols, and of whole sequences."""

    data: str
    """Dataset with targets. For a seq2seq encoder: pairs:FILE, cmudict, or a translation dataset as tfds:NAME.
    For a ctc encoder: transcripts:FILE or connected:DATA."""
    part: HeldOut = "test"
    """Held-out split to evaluate on."""
    beams: Annotated[int, Range(0)] = 0
    """Beam size of the beam search of a seq2seq encoder. 1 is greedy decoding; 0 uses 5. Must be 0 for a ctc
    encoder."""


BEAMS = 5


def score_command(arguments):
    asked = parse(Score, "score", arguments)
    card = cards.read(encoders.find(asked.encoder))
    recognizes = cards.is_a(card, "frame_classifier")
    if not recognizes and not cards.is_a(card, "attending_decoder"):
        raise ValueError(f"Expected an encoder of seq2seq or ctc. Received: {asked.encoder}")
    if recognizes and asked.beams:
        raise ValueError(f"{asked.encoder} is an encoder of ctc, which decodes greedily. Remove --beams.")
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
