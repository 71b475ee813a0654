"""Writes small, awkward audio files: each function fills a folder."""

import os

import numpy as np
import soundfile

RATE = 16_000
FORMATS = {  # ending: soundfile's format and how samples are stored
    ".wav": ("WAV", "PCM_16"),
    ".wave": ("WAVEX", "PCM_16"),
    ".rf64": ("RF64", "PCM_16"),
    ".w64": ("W64", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".oga": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aiff": ("AIFF", "PCM_16"),
    ".aif": ("AIFF", "ULAW"),
    ".aifc": ("AIFF", "FLOAT"),
    ".au": ("AU", "PCM_16"),
    ".snd": ("AU", "ALAW"),
    ".caf": ("CAF", "PCM_16"),
    ".sph": ("NIST", "PCM_16"),
}
SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM")


def tone(seconds=0.2, rate=RATE, pitch=300):
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)


def write(folder, name, waveform=None, rate=RATE, **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(rate=rate) if waveform is None else waveform, rate, **options)
    return path


def formats(folder):
    """One clip in each supported format, and some with uppercase extensions."""
    for ending, (kind, subtype) in FORMATS.items():
        write(folder, f"a{ending}", format=kind, subtype=subtype)
    for ending in (".WAV", ".Flac"):
        write(folder, f"b{ending}", format=ending[1:].upper())


def depths(folder):
    """One clip for each sample format, from 8 to 64 bits, and compressed ones."""
    for subtype in SUBTYPES:
        write(folder, f"{subtype}.wav", subtype=subtype)


def mixed(folder):
    """Most at 16 kHz; the first one at 8 kHz and with two channels, another at 44.1 kHz with six."""
    write(folder, "a.wav", np.stack([tone(rate=8_000)] * 2, 1), 8_000)
    write(folder, "b.flac", np.stack([tone(rate=44_100)] * 6, 1), 44_100)
    for name in "cdef":
        write(folder, f"{name}.wav")


def one_long(folder, seconds=90, count=20):
    """Clips of a fifth of a second, and a recording of a minute and a half."""
    for index in range(count):
        write(folder, f"{index:02}.wav")
    write(folder, "zz.wav", tone(seconds))


def cut(folder, name, share=0.6, seconds=1.0, **options):
    """A truncated file, as after an interrupted transfer."""
    path = write(folder, name, np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * RATE)), **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def lying_flac(folder, name="lie.flac"):
    """A FLAC file whose header states 68,719,476,735 samples: 137 GB."""
    path = write(folder, name)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)
    return path


def lying_wav(folder, name="lie.wav"):
    """A WAV file whose header states two gigabytes, as an interrupted recorder leaves it."""
    path = write(folder, name)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = (0x7FFFFFFE).to_bytes(4, "little")
    path.write_bytes(content)
    return path


def absurd_rate(folder, name="rate.wav"):
    """A WAV file with a rate of two gigahertz: a filter to resample it would have billions of taps."""
    path = write(folder, name)
    content = bytearray(path.read_bytes())
    content[24:28] = (2_000_000_011).to_bytes(4, "little")
    path.write_bytes(content)
    return path


def silent_hours(folder, name="hours.flac"):
    """A FLAC file of silence: valid, with very few bytes per sample."""
    return write(folder, name, np.zeros(60 * RATE))


def matrix(folder, name="matrix.wav"):
    """A matrix of GNU Octave with the extension of a WAV file."""
    return write(folder, name, format="MAT4", subtype="PCM_16")


def tagged_matrix(folder, name="matrix.mp3"):
    """The same matrix after an ID3 tag, which decoders skip."""
    path = matrix(folder, name)
    path.write_bytes(b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10) + path.read_bytes())
    return path


def video(folder, name="clip.wav"):
    """The start of an MPEG-4 file with the extension of a WAV file."""
    path = folder / name
    path.write_bytes(b"\x00\x00\x00\x20ftypM4A " + bytes(100))
    return path


def aac(folder, name="song.mp3"):
    """An AAC stream (ADTS) with the name of an MP3."""
    (folder / name).write_bytes(b"\xff\xf1\x50\x80" + bytes(range(256)) * 9)
    return folder / name


def click(folder, name="click.wav"):
    return write(folder, name, tone(0.01))


def empty(folder, name="empty.wav"):
    path = folder / name
    path.touch()
    return path


def pipe(folder, name="pipe.wav"):
    """A named pipe: opening it blocks forever."""
    path = folder / name
    os.mkfifo(path)
    return path


def no_samples(folder, name="none.wav"):
    return write(folder, name, np.zeros(0))


def loud(folder, name="loud.wav"):
    """Floats that are far out of range."""
    return write(folder, name, np.full(3_200, 900.0), subtype="FLOAT")


def odd_name(folder, name="odd\udcff.wav"):
    """A valid file whose name is not UTF-8."""
    plain = write(folder, "odd.wav")
    return plain.rename(folder / name)
