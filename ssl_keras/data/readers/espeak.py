"""Synthetic spoken digits: `espeak`, generated offline by the speech synthesizer eSpeak NG. They are not recordings.

Formant synthesis lacks the variety of human speech, so results may not transfer to it. The data is for
trying out audio objectives without a download. Messages and cards call it synthetic.

Clips are named DIGIT_VOICE_TAKE, as in the Free Spoken Digit Dataset, so `espeak[*_f2_*]` holds out a voice.
eSpeak NG is under GPL-3, so its package, `espeakng-loader`, is an optional dependency.
"""

import ctypes
import functools
import importlib.util

import numpy as np

from ssl_keras.data import audio
from ssl_keras.data.splits import hold_out

NAME, RATE = "espeak (synthetic)", 8_000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en")  # American, British
VOICES = ("m1", "m2", "m3", "m4", "m5", "m7", "f1", "f2", "f3", "f4", "f5", "klatt")
TAKES = tuple((speed, pitch) for speed in (120, 150, 180, 210) for pitch in (35, 60))  # words a minute; 0 to 100
EDGE, SILENT = 0.02, 200  # seconds of silence to keep at the ends; largest silent sample, of 32768
# Constants of espeak-ng/speak_lib.h
SYNCHRONOUS, CHARACTERS, UTF8, SPEED, PITCH, SEED = 2, 1, 1, 1, 3, ctypes.c_long(0)


def load():
    """Returns `Splits` of 960 clips at 8 kHz: 10 digits, 12 voices, 8 takes that differ in speed, pitch and accent.

    Raises:
        ValueError: The package is not installed.
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise ValueError("The data espeak needs a package under GPL-3. Run: pip install espeakng-loader")
    waveforms, names, label = digits()
    return hold_out(audio.clips(NAME, waveforms, RATE, names, label, [str(digit) for digit in range(10)]))


@functools.cache
def digits():
    """Returns (waveforms, names, labels): lists of (T,) floats, strings and ints. Deterministic."""
    waveforms, names, label = [], [], []
    with_voice, rate = _synthesizer()
    for voice in VOICES:
        for index, (speed, pitch) in enumerate(TAKES):
            say = with_voice(f"{ACCENTS[index % 2]}+{voice}", speed, pitch)
            for digit, word in enumerate(WORDS):
                sound = _trimmed(say(word), rate) / -float(audio.PADDING)
                waveforms.append(np.clip(audio.resample(sound, rate, RATE), -1, 1))
                names.append(f"{digit}_{voice}_{index}")
                label.append(digit)
    return waveforms, names, label


def _synthesizer():
    """Returns (function (voice, speed, pitch) -> function (text) -> (T,) int16; rate in Hz). Raises RuntimeError."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate <= 0:
        raise RuntimeError(f"eSpeak NG failed to start with the data in {espeakng_loader.get_data_path()}.")
    chunks = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def take(samples, count, events):
        if samples and count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library.espeak_SetSynthCallback(take)

    def with_voice(voice, speed, pitch):
        if library.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"eSpeak NG has no voice {voice}.")
        library.espeak_SetParameter(SPEED, speed, 0)
        library.espeak_SetParameter(PITCH, pitch, 0)

        def say(text):
            chunks.clear()
            library.espeak_ng_SetRandSeed(SEED)  # otherwise its noise would differ each time
            data = text.encode() + b"\0"
            # `take` is also passed as user data, so that this function keeps a reference to the callback.
            status = library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, CHARACTERS, 0, UTF8, None, take)
            if status or not chunks:
                raise RuntimeError(f"eSpeak NG failed to speak {text!r} (status {status}).")
            return np.concatenate(chunks)

        return say

    return with_voice, rate


def _trimmed(sound, rate):
    """Trims silence at both ends, except EDGE seconds: (T,) int16."""
    loud, edge = np.flatnonzero(np.abs(sound) > SILENT), int(EDGE * rate)
    return sound[max(loud[0] - edge, 0) : loud[-1] + edge]
