"""Spoken digits without a download: `espeak`, made by the speech synthesiser eSpeak NG. **Synthetic**, not recorded.

Formant synthesis has none of the variety of people: what holds here need not hold for them. It is for trying
things out where recordings cannot be had; so its data set is called synthetic wherever it is used.

Clips are named DIGIT_VOICE_TAKE, as those of the Free Spoken Digit Dataset are, so that `espeak[*_f2_*]` holds out a
voice. eSpeak NG is under GPL-3: the package that carries it, `espeakng-loader`, is left to whoever wants it.
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
EDGE, SILENT = 0.02, 200  # seconds of silence that are kept before and after; what is silent, of 32768
# Of espeak-ng/speak_lib.h
SYNCHRONOUS, CHARACTERS, UTF8, SPEED, PITCH, SEED = 2, 1, 1, 1, 3, ctypes.c_long(0)


def load():
    """`Splits` of 960 clips at 8 kHz: ten digits, twelve voices, eight takes of other speed and pitch, in two accents.

    Raises:
        ValueError: the package is not installed.
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise ValueError("The synthetic digits need eSpeak NG, which is under GPL-3: pip install espeakng-loader")
    waveforms, names, label = digits()
    return hold_out(audio.clips(NAME, waveforms, RATE, names, label, [str(digit) for digit in range(10)]))


@functools.cache
def digits():
    """(waveforms, names, labels): lists of (T,) floats, of strings, of ints; the same in each process."""
    waveforms, names, label = [], [], []
    with_voice, rate = _synthesiser()
    for voice in VOICES:
        for index, (speed, pitch) in enumerate(TAKES):
            say = with_voice(f"{ACCENTS[index % 2]}+{voice}", speed, pitch)
            for digit, word in enumerate(WORDS):
                sound = _trimmed(say(word), rate) / -float(audio.PADDING)
                waveforms.append(np.clip(audio.resampled(sound, rate, RATE), -1, 1))
                names.append(f"{digit}_{voice}_{index}")
                label.append(digit)
    return waveforms, names, label


def _synthesiser():
    """(function (voice, speed, pitch) -> function (text) -> (T,) int16; samples per second). Raises RuntimeError."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate <= 0:
        raise RuntimeError(f"eSpeak NG cannot be started with the data of {espeakng_loader.get_data_path()}")
    heard = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def take(samples, count, events):
        if samples and count:
            heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library.espeak_SetSynthCallback(take)

    def with_voice(voice, speed, pitch):
        if library.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"eSpeak NG has no voice {voice}")
        library.espeak_SetParameter(SPEED, speed, 0)
        library.espeak_SetParameter(PITCH, pitch, 0)

        def say(text):
            heard.clear()
            library.espeak_ng_SetRandSeed(SEED)  # or its noise, and what follows from it, would be others each time
            data = text.encode() + b"\0"
            # `take` as user data: so it lives as long as this function does.
            status = library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, CHARACTERS, 0, UTF8, None, take)
            if status or not heard:
                raise RuntimeError(f"eSpeak NG does not say {text!r} (status {status})")
            return np.concatenate(heard)

        return say

    return with_voice, rate


def _trimmed(sound, rate):
    """(T,) int16 without the silence around what is said, but for its edges."""
    loud, edge = np.flatnonzero(np.abs(sound) > SILENT), int(EDGE * rate)
    return sound[max(loud[0] - edge, 0) : loud[-1] + edge]
