"""One picture of a file as pixels: nothing else opens pictures.

What a file says about how it is to be shown is kept. It is turned upright as EXIF says, laid on white where it is
transparent, converted to sRGB from the color profile that it names, and scaled to 8 bits from the depth that it
states. Of several frames or pages the first is taken.

The format is told by content, and only FORMATS are decoded: Pillow knows forty more, and hands one of them, PostScript,
to another program.

Shapes: `H W C` picture.
"""

import contextlib
import functools
import os
import threading
import typing
import warnings

import numpy as np

from ssl_keras.data.readers.folders import Unreadable

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
# Pictures too, which are not read.
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
DECODING = 2  # another number where a file is decoded otherwise than before: what is cached is then made anew
MAX_PIXELS = 178_956_970  # as many as Pillow decodes
ALONE = 1 << 25  # pixels; a larger picture is decoded while no other such is, so that memory stays bounded
GRAY = {"1", "L", "LA", "La"}
ORIENTED = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
BITS_PER_SAMPLE, MAX_OF_SAMPLES, SAMPLE_FORMAT, ORIENTATION = 258, 281, 339, 274  # TIFF's and EXIF's tags
# What is done to pictures, by what their headers say; for notes.
CONVERSIONS = {
    "transparent": "with an alpha channel, and laid on white",
    "turned": "turned or mirrored, as their EXIF says",
    "deep": "of more than 8 bits, and scaled to 8 from the depth that the file states",
    "profile": "of another color space, and converted to sRGB by their profile",
    "inks": "in CMYK without a profile, and converted to RGB without one",
    "several": "of several frames or pages, of which the first is taken",
}
TOO_LARGE = f"too large (more than {MAX_PIXELS:,} pixels)"
FLOAT = "float pixels, of no known scale (save them as 8 or 16 bits)"
TRUNCATED, EMPTY = "truncated", "empty"

_alone = threading.Lock()


class Header(typing.NamedTuple):
    """What a file says of its picture: its size when upright, whether it is gray, and which of CONVERSIONS it needs."""

    height: int
    width: int
    gray: bool
    conversions: tuple[str, ...] = ()


def header(file):
    """The `Header` of a file, without its pixels. Raises Unreadable."""
    with _opened(file) as image:
        if image.format == "PNG" and "exif" not in image.info and _ends_with_exif(file):
            image.load()
        return _header(image)


def decode(file, shape=None, channels=None):
    """(uint8 (H, W, C), its `Header`) of a file.

    Args:
        shape: (H, W, C), C 1 or 3: what it is resized to, bilinearly with antialiasing. None keeps its own.
        channels: without a shape, C.

    Raises:
        Unreadable: it is no picture of FORMATS, too large, truncated, or of no known scale.
    """
    with _opened(file) as image:
        with _alone if image.width * image.height > ALONE else contextlib.nullcontext():
            image.load()
            about = _header(image)
            height, width, channels = shape or (about.height, about.width, channels or (1 if about.gray else 3))
            mode = "L" if channels == 1 else "RGB"
            image = _flat(image, about.conversions) if about.conversions else image
            image = image if image.mode == mode else image.convert(mode)
            if image.size != (width, height):
                image = image.resize((width, height), _pillow().Resampling.BILINEAR)
            return np.asarray(image).reshape(height, width, channels), about


@functools.cache
def _pillow():
    """`PIL.Image` with all formats registered; imported when the first picture is opened.

    From half of MAX_PIXELS on it would warn of each picture; whoever has made that an error keeps it.
    """
    from PIL import Image

    Image.init()
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)
    return Image


@contextlib.contextmanager
def _opened(file):
    try:
        with _pillow().open(file, formats=FORMATS) as image:
            if image.mode == "F":
                raise Unreadable(FLOAT)
            if image.width * image.height > MAX_PIXELS:
                raise Unreadable(TOO_LARGE)
            yield image
    except Exception as error:  # a decoder may raise anything on a stranger's bytes
        raise Unreadable(_reason(file, error)) from error


def _reason(file, error):
    """Few words on why a file gives no picture."""
    pil, said = _pillow(), " ".join(str(error).split())
    if isinstance(error, Unreadable):
        return said
    if isinstance(error, MemoryError | pil.DecompressionBombError | pil.DecompressionBombWarning):
        return TOO_LARGE
    if isinstance(error, pil.UnidentifiedImageError):
        return _unidentified(file)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, EOFError) or "truncated" in said.lower():
        return TRUNCATED
    return f"damaged ({said[:80]})"


def _unidentified(file):
    """Why no format took a file: what that one says whose first bytes it has."""
    with open(file, "rb") as content:
        start = content.read(16)
        if not start:
            return EMPTY
        for name in FORMATS:
            factory, accepts = _pillow().OPEN[name]
            if accepts(start) is True:
                content.seek(0)
                try:
                    factory(content, os.fspath(file)).close()
                except Exception as error:
                    said = " ".join(str(error).split())[:80]
                    return TRUNCATED if "truncated" in said.lower() else f"a truncated, damaged or rare {name} ({said})"
    return f"no picture of the formats {', '.join(FORMATS)}"


def _ends_with_exif(file):
    """Whether a PNG may have its EXIF after its pixels, where Pillow finds it while it decodes them."""
    with open(file, "rb") as content:
        content.seek(max(0, os.fstat(content.fileno()).st_size - (1 << 16)))
        return b"eXIf" in content.read()


def _header(image):
    (width, height), mode, info = image.size, image.mode, image.info
    conversions, turn = [], _turn(image)
    if turn is not None:
        conversions.append("turned")
        if turn >= _pillow().Transpose.ROTATE_90 and turn != _pillow().Transpose.ROTATE_180:
            width, height = height, width
    if image.has_transparency_data:
        conversions.append("transparent")
    if mode.startswith("I"):
        conversions.append("deep")
    if "icc_profile" in info and _to_srgb(info["icc_profile"], _plain(mode)) is not None:
        conversions.append("profile")
    elif mode == "CMYK":
        conversions.append("inks")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # whose other frames are previews
        conversions.append("several")
    return Header(height, width, mode in GRAY or mode.startswith("I"), tuple(conversions))


def _turn(image):
    """How a picture is turned upright (`PIL.Image.Transpose`), or None; an EXIF that cannot be read says nothing.

    Pillow turns TIFF by itself. Its `exif_transpose` fails on some cameras' tags, which it writes anew.
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


def _flat(image, conversions):
    """The picture in mode 1, L, RGB or another without alpha, upright, in sRGB."""
    turn, profile = _turn(image) if "turned" in conversions else None, image.info.get("icc_profile")
    if "deep" in conversions:
        image = _pillow().fromarray(_eight_bits(image))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if "transparent" in conversions else "RGB")
    if "profile" in conversions:
        from PIL import ImageCms

        alpha = image.convert("RGBA").getchannel("A") if "transparent" in conversions else None
        mode = _plain(image.mode)
        image = ImageCms.applyTransform(image.convert(mode), _to_srgb(profile, mode))
        if alpha is not None:
            image.putalpha(alpha)
    if "transparent" in conversions:
        ground = _pillow().new("RGBA", image.size, "white")
        ground.alpha_composite(image.convert("RGBA"))
        image = ground.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _eight_bits(image):
    """uint8 (H, W) of a gray picture of more bits, by the depth that it states, else 16; white where transparent."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 1 << 16:
        raise Unreadable(f"pixels from {low} to {high}, of no known scale (save them as 8 or 16 bits)")
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0] - (tags.get(SAMPLE_FORMAT, (1,))[0] == 2)  # one is the sign's
    most = int(np.max(tags.get(MAX_OF_SAMPLES, 0)))
    if not 1 << 8 < most < 1 << 16:
        most = (1 << bits) - 1 if 8 < bits < 16 else (1 << 16) - 1
    made = np.minimum(values.astype(np.int32) * 255 // most, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    return np.where(values == transparent, np.uint8(255), made) if isinstance(transparent, int) else made


def _plain(mode):
    """The mode that a profile is of: gray, RGB or CMYK."""
    return "L" if mode in GRAY else "CMYK" if mode == "CMYK" else "RGB"


@functools.lru_cache(maxsize=16)
def _to_srgb(profile, mode):
    """The transform from a profile's color space to sRGB; None where that is its own, or the profile is no use."""
    import io

    from PIL import ImageCms

    with contextlib.suppress(Exception):
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(own):
            return None
        return ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), mode, "RGB")
    return None
