"""Image files: the only module that decodes images from files.

Images are decoded as viewers show them: rotated according to EXIF, composited on white if transparent, converted to
sRGB from their color profile, and scaled to 8 bits from their stated depth. Only the first frame or page is used.

The format is detected from the content, and only FORMATS are decoded. Pillow supports forty more, and runs another
program for one of them, PostScript.

Shapes: `H W C` image.
"""

import contextlib
import functools
import os
import re
import threading
import typing
import warnings

import numpy as np

from ssl_keras.data.readers.file_lists import Unreadable

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
EXTENSIONS = frozenset(
    (
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".bmp",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".avif",
        ".jp2",
        ".j2k",
    )
)
# Image formats that are not supported.
OTHERS = frozenset(
    (
        ".heic",
        ".heif",
        ".hif",
        ".svg",
        ".psd",
        ".tga",
        ".ico",
        ".dds",
        ".exr",
        ".hdr",
        ".jxl",
        ".dcm",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".orf",
        ".raf",
        ".rw2",
        ".raw",
        ".xcf",
        ".pcx",
        ".sgi",
        ".qoi",
        ".pfm",
        ".eps",
        ".fits",
    )
)
DECODING = 3  # increment when decoding changes: cached entries are then rebuilt
MAX_PIXELS = 178_956_970  # Pillow's limit
MAX_WEBP_PIXELS = 1 << 26  # of WebP, whose decoder needs some 20 bytes for a pixel, and a few bytes may promise many
ALONE = 1 << 25  # pixels; larger images are decoded one at a time, to bound memory
GRAY = {"1", "L", "LA", "La"}
ORIENTED = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
# Tags of TIFF and EXIF.
BITS_PER_SAMPLE, MAX_OF_SAMPLES, SAMPLE_FORMAT, ORIENTATION = 258, 281, 339, 274
COMPRESSION, PHOTOMETRIC, SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION = 259, 262, 277, 284
# Conversions that the headers call for, as notes: "3 of 10 images …".
CONVERSIONS = {
    "transparent": "have an alpha channel and are composited on white",
    "rotated": "are rotated or mirrored according to their EXIF data",
    "deep": "have more than 8 bits per channel and are scaled to 8",
    "profile": "have another color profile and are converted to sRGB",
    "cmyk": "are in CMYK without a color profile and are converted to RGB",
    "frames": "have several frames or pages, of which only the first is used",
}
TOO_LARGE = "too large"  # a reason begins with this
PLANAR = "uncompressed 16-bit TIFF with separate planes (save it with interleaved channels, or compress it)"
FLOAT = "float pixels, whose scale is unknown (save them as 8 or 16 bits)"
# First bytes of files that are often named like images, and what they are.
FOREIGN = {
    rb"....ftyp(hei|hev|mif1|msf1)": "HEIC (convert it to JPEG or PNG)",
    rb"version https://git-lfs": "a Git LFS pointer (run git lfs pull)",
    rb"\s*<(!doctype\s+html|html)": "an HTML page (download the image again)",
}
TRUNCATED, EMPTY = "truncated", "the file is empty"

_alone = threading.Lock()


class Header(typing.NamedTuple):
    """The header of an image file: its size when upright, whether it is grayscale, and which CONVERSIONS it needs."""

    height: int
    width: int
    gray: bool
    conversions: tuple[str, ...] = ()


def header(file):
    """Returns the `Header` of a file without decoding its pixels. Raises Unreadable."""
    with _open(file) as (image, deep):
        if image.format == "PNG" and "exif" not in image.info and _ends_with_exif(file):
            image.load()
        return _header(image, deep)


def decode(file, shape=None, channels=None):
    """Decodes a file: returns (uint8 (H, W, C), its `Header`).

    Args:
        shape: (H, W, C) to resize to, with C 1 or 3, bilinearly with antialiasing. None keeps the size.
        channels: C, if there is no `shape`. Defaults to that of the file.

    Raises:
        Unreadable: The file is not an image of FORMATS, is too large or truncated, or has an unknown scale.
    """
    with _open(file) as (image, deep):
        with _alone if image.width * image.height > ALONE else contextlib.nullcontext():
            image.load()
            about = _header(image, deep)
            height, width, channels = shape or (about.height, about.width, channels or (1 if about.gray else 3))
            mode = "L" if channels == 1 else "RGB"
            image = _convert(image, about.conversions) if about.conversions else image
            image = image if image.mode == mode else image.convert(mode)
            if image.size != (width, height):
                image = image.resize((width, height), _pillow().Resampling.BILINEAR)
            return np.asarray(image).reshape(height, width, channels), about


@functools.cache
def _pillow():
    """Imports `PIL.Image` lazily, and registers its formats.

    Also silences Pillow's warning about images of more than half of MAX_PIXELS, unless the user has made it an error.
    """
    from PIL import Image

    Image.init()
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)
    return Image


@contextlib.contextmanager
def _open(file):
    """Yields (an opened image, whether it has more than 8 bits per channel), which only its unread tiles tell."""
    try:
        with _pillow().open(file, formats=FORMATS) as image:
            if image.mode == "F":
                raise Unreadable(FLOAT)
            most = MAX_WEBP_PIXELS if image.format == "WEBP" else MAX_PIXELS
            if image.width * image.height > most:
                raise Unreadable(f"{TOO_LARGE} (more than {most:,} pixels)")
            if _is_scrambled(image):
                raise Unreadable(PLANAR)
            in_color = image.format in ("PNG", "TIFF") and any(";16" in str(tile[3]) for tile in image.tile)
            yield image, in_color or image.mode.startswith("I")
    except Exception as error:  # decoders may raise anything on malformed data
        raise Unreadable(_reason(file, error)) from error


def _is_scrambled(image):
    """Returns whether an image has 16-bit planes, which Pillow reads as 8-bit ones unless they are compressed."""
    tags = getattr(image, "tag_v2", {})
    return (
        tags.get(PLANAR_CONFIGURATION) == 2
        and tags.get(SAMPLES_PER_PIXEL, 1) > 1
        and max(tags.get(BITS_PER_SAMPLE, (1,))) > 8
        and tags.get(COMPRESSION, 1) == 1
    )


def _reason(file, error):
    """Returns a short reason why a file cannot be decoded."""
    pil, message = _pillow(), " ".join(str(error).split())
    if isinstance(error, Unreadable):
        return message
    if isinstance(error, MemoryError | pil.DecompressionBombError | pil.DecompressionBombWarning):
        return f"{TOO_LARGE} (more than {MAX_PIXELS:,} pixels)"
    if isinstance(error, pil.UnidentifiedImageError):
        return _unidentified(file)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, EOFError) or "truncated" in message.lower():
        return TRUNCATED
    return f"damaged ({message[:80]})"


def _unidentified(file):
    """Returns why no decoder accepted a file: the error of the format whose signature it has."""
    with open(file, "rb") as content:
        start = content.read(64)
        if not start:
            return EMPTY
        for name in FORMATS:
            factory, accepts = _pillow().OPEN[name]
            if accepts(start) is True:
                content.seek(0)
                try:
                    factory(content, os.fspath(file)).close()
                except Exception as error:
                    message = " ".join(str(error).split())[:80]
                    damaged = f"truncated, damaged or unsupported {name} ({message})"
                    return TRUNCATED if "truncated" in message.lower() else damaged
    is_named = (f"{what}, " for begins, what in FOREIGN.items() if re.match(begins, start, re.IGNORECASE | re.DOTALL))
    return f"{next(is_named, '')}not one of the formats {', '.join(FORMATS)}"


def _ends_with_exif(file):
    """Returns whether a PNG may have its EXIF after its pixels, where Pillow finds it only while decoding."""
    with open(file, "rb") as content:
        content.seek(max(0, os.fstat(content.fileno()).st_size - (1 << 16)))
        return b"eXIf" in content.read()


def _header(image, deep):
    (width, height), mode, info = image.size, image.mode, image.info
    conversions, turn = [], _transpose(image)
    if turn is not None:
        conversions.append("rotated")
        if turn >= _pillow().Transpose.ROTATE_90 and turn != _pillow().Transpose.ROTATE_180:
            width, height = height, width
    if image.has_transparency_data:
        conversions.append("transparent")
    if deep:
        conversions.append("deep")
    if "icc_profile" in info and _to_srgb(info["icc_profile"], _profile_mode(mode)) is not None:
        conversions.append("profile")
    elif mode == "CMYK":
        conversions.append("cmyk")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # whose other frames are previews
        conversions.append("frames")
    return Header(height, width, mode in GRAY or mode.startswith("I"), tuple(conversions))


def _transpose(image):
    """Returns the `PIL.Image.Transpose` that makes an image upright, or None; unreadable EXIF is ignored.

    Pillow rotates TIFF itself. Its `exif_transpose` is not used, because it rewrites the tags, which fails for some
    cameras.
    """
    if image.format == "TIFF" or not any(key in image.info for key in ORIENTED):
        return None
    way = _pillow().Transpose
    turns = {
        2: way.FLIP_LEFT_RIGHT,
        3: way.ROTATE_180,
        4: way.FLIP_TOP_BOTTOM,
        5: way.TRANSPOSE,
        6: way.ROTATE_270,
        7: way.TRANSVERSE,
        8: way.ROTATE_90,
    }
    with contextlib.suppress(Exception):
        return turns.get(image.getexif().get(ORIENTATION))
    return None


def _convert(image, conversions):
    """Returns the image upright, in sRGB, and in a mode without alpha such as 1, L or RGB."""
    turn, profile = _transpose(image) if "rotated" in conversions else None, image.info.get("icc_profile")
    if image.mode.startswith("I"):
        image = _pillow().fromarray(_eight_bits(image))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if "transparent" in conversions else "RGB")
    if "profile" in conversions:
        from PIL import ImageCms

        alpha = image.convert("RGBA").getchannel("A") if "transparent" in conversions else None
        mode = _profile_mode(image.mode)
        image = ImageCms.applyTransform(image.convert(mode), _to_srgb(profile, mode))
        if alpha is not None:
            image.putalpha(alpha)
    if "transparent" in conversions:
        ground = _pillow().new("RGBA", image.size, "white")
        ground.alpha_composite(image.convert("RGBA"))
        image = ground.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _eight_bits(image):
    """Scales a deep grayscale image to uint8 (H, W), from its stated depth or 16 bits. Transparent pixels are white."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 1 << 16:
        raise Unreadable(f"pixels from {low} to {high}, whose scale is unknown (save them as 8 or 16 bits)")
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0] - (tags.get(SAMPLE_FORMAT, (1,))[0] == 2)  # one bit is the sign
    most = int(np.max(tags.get(MAX_OF_SAMPLES, 0)))
    if not 1 << 8 < most < 1 << 16:
        most = (1 << bits) - 1 if 8 < bits < 16 else (1 << 16) - 1
    made = np.minimum(values.astype(np.int32) * 255 // most, 255).astype(np.uint8)
    made = 255 - made if tags.get(PHOTOMETRIC) == 0 else made  # 0 is white; Pillow inverts only 8 bits
    transparent = image.info.get("transparency")
    return np.where(values == transparent, np.uint8(255), made) if isinstance(transparent, int) else made


def _profile_mode(mode):
    """Returns the mode of a color profile: L, RGB or CMYK."""
    return "L" if mode in GRAY else "CMYK" if mode == "CMYK" else "RGB"


@functools.lru_cache(maxsize=16)
def _to_srgb(profile, mode):
    """Returns the transform from a profile's color space to sRGB; None if it is sRGB already, or cannot be used."""
    import io

    from PIL import ImageCms

    with contextlib.suppress(Exception):
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(own):
            return None
        return ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), mode, "RGB")
    return None
