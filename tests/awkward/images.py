"""Awkward images: one scene, stored in every way that readers get wrong, and files that are not images.

The scene is upright: white above; red beside blue, or two grays, in the middle; black below.
"""

import io
import os
import struct
import zlib

import numpy as np
from PIL import Image

SIDES = 24, 16  # height, width
EXIF = 0x0112  # the tag of the orientation


def scene():
    """uint8 (24, 16, 3)."""
    image = np.zeros((*SIDES, 3), np.uint8)
    image[:8], image[8:16, :8], image[8:16, 8:] = 255, (220, 20, 20), (20, 20, 220)
    return image


def gray_scene():
    """uint8 (24, 16)."""
    image = np.zeros(SIDES, np.uint8)
    image[:8], image[8:16, :8], image[8:16, 8:] = 255, 60, 190
    return image


# The transformations of the upright scene that each orientation undoes.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


def turned(orientation, ending, **options):
    """Returns the scene as bytes, rotated, with the EXIF orientation that undoes it."""
    exif = Image.Exif()
    exif[EXIF] = orientation
    return encoded(Image.fromarray(np.ascontiguousarray(STORED[orientation](scene()))), ending, exif=exif, **options)


def encoded(image, kind, **options):
    """Returns an image as bytes in one of Pillow's formats."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def exif_at_the_end(content):
    """Moves the EXIF of a PNG after its pixels, where ImageMagick writes it."""
    start = content.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(content[start : start + 4], "big")
    return content[:start] + content[stop:-12] + content[start:stop] + content[-12:]


def see_through(image):
    """Returns an RGBA or LA image in which white pixels become transparent black."""
    white = (image == 255).all(-1, keepdims=True) if image.ndim == 3 else image[..., None] == 255
    image = image if image.ndim == 3 else image[..., None]
    return Image.fromarray(np.concatenate([np.where(white, 0, image), np.where(white, 0, 255)], -1).astype(np.uint8))


def swapped_profile():
    """An ICC profile of a color space whose first channel is blue and whose last is red."""

    def fixed(*values):
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    red, green, blue = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139)  # at D50
    curve = b"curv\0\0\0\0\0\0\0\1" + struct.pack(">Hxx", round(2.2 * 256))
    text = b"desc\0\0\0\0" + struct.pack(">I", 8) + b"swapped\0" + bytes(79)
    tags = {
        b"desc": text,
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249),
        **{name: b"XYZ \0\0\0\0" + fixed(*each) for name, each in ((b"rXYZ", blue), (b"gXYZ", green), (b"bXYZ", red))},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, data, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content
    head = struct.pack(">I4sI4s4s4s", start + len(data), b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return head + bytes(128 - len(head)) + table + data


def png(width, height, bits=8, pixels=None):
    """Returns the bytes of an RGB PNG whose header states this size, with these pixels (H, W, 3) or few others."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    rows = bytes(100) if pixels is None else b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in pixels)
    chunks = [head, b"IDAT" + zlib.compress(rows), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def tiff(pixels, photometric, order="<", planes=False, compressed=False):
    """Returns pixels (H, W) or (H, W, 3) as a TIFF in bytes: 0 white is zero, 1 black is zero, 2 RGB."""
    height, width, samples = (*pixels.shape, 1)[:3]
    size = pixels.dtype.itemsize
    parts = np.moveaxis(pixels, 2, 0) if planes else [pixels]
    parts = [np.ascontiguousarray(part).astype(f"{order}u{size}").tobytes() for part in parts]
    parts = [zlib.compress(part) for part in parts] if compressed else parts
    starts = [8 + sum(map(len, parts[:number])) for number in range(len(parts))]
    entries = {
        256: [width],
        257: [height],
        258: [8 * size] * samples,
        259: [8 if compressed else 1],
        262: [photometric],
        273: starts,
        277: [samples],
        278: [height],
        279: [*map(len, parts)],
        284: [2 if planes else 1],
    }
    data = b"".join(parts)
    directory, more, start = struct.pack(f"{order}H", len(entries)), b"", 8 + len(data)
    for tag, values in entries.items():
        content = struct.pack(f"{order}{len(values)}I", *values)
        place = content if len(values) == 1 else struct.pack(f"{order}I", start + 2 + 12 * len(entries) + 4 + len(more))
        directory += struct.pack(f"{order}HHI", tag, 4, len(values)) + place
        more += content if len(values) > 1 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + data + directory + bytes(4) + more


def in_color():
    """Returns {file name: bytes} of images that show the scene."""
    image, sixteen = Image.fromarray(scene()), scene().astype(np.uint16) * 257
    black = Image.new("RGB", SIDES[::-1])
    swapped = np.ascontiguousarray(scene()[..., ::-1])
    keyed = scene()
    keyed[:8] = 7, 255, 7  # the transparent color of the PNG
    lossless = {"quality": 100, "subsampling": 0}
    palette = see_through(scene()).quantize(8)
    return {
        **{f"turned_{way}.jpg": turned(way, "JPEG", **lossless) for way in STORED},
        "turned.png": turned(6, "PNG"),
        "late.png": exif_at_the_end(turned(6, "PNG")),
        "turned.webp": turned(8, "WEBP", lossless=True),
        "turned.tif": turned(6, "TIFF"),
        "turned.avif": turned(6, "AVIF", quality=100),
        "see_through.png": encoded(see_through(scene()), "PNG"),
        "see_through.webp": encoded(see_through(scene()), "WEBP", lossless=True),
        "see_through.tiff": encoded(see_through(scene()), "TIFF"),
        "see_through_palette.png": encoded(palette, "PNG"),
        "see_through.gif": encoded(see_through(scene()), "GIF"),
        "color_key.png": encoded(Image.fromarray(keyed), "PNG", transparency=(7, 255, 7)),
        "inks.jpg": encoded(image.convert("CMYK"), "JPEG", **lossless),
        "inks.tif": encoded(image.convert("CMYK"), "TIFF"),
        "profile.png": encoded(Image.fromarray(swapped), "PNG", icc_profile=swapped_profile()),
        "profile.jpg": encoded(Image.fromarray(swapped), "JPEG", icc_profile=swapped_profile(), **lossless),
        "profile_see_through.png": encoded(see_through(swapped), "PNG", icc_profile=swapped_profile()),
        "frames.gif": encoded(image, "GIF", save_all=True, append_images=[black]),
        "frames.png": encoded(image, "PNG", save_all=True, append_images=[black]),
        "frames.webp": encoded(image, "WEBP", save_all=True, append_images=[black], lossless=True),
        "pages.tif": encoded(image, "TIFF", save_all=True, append_images=[black]),
        "UPPER.JPG": encoded(image, "JPEG", **lossless),
        "windows.jfif": encoded(image, "JPEG", **lossless),
        "progressive.jpeg": encoded(image, "JPEG", progressive=True, **lossless),
        "a.ppm": encoded(image, "PPM"),
        "a.bmp": encoded(image, "BMP"),
        "sixteen.tif": tiff(sixteen, 2),
        "sixteen_big_endian.tif": tiff(sixteen, 2, order=">"),
        "one_plane.tif": tiff(sixteen, 2, compressed=True, planes=True),
        "eight_planes.tif": tiff(scene(), 2, planes=True),
        "sixteen.png": png(*SIDES[::-1], 16, sixteen),
        "a.jp2": encoded(image, "JPEG2000"),
        "a.avif": encoded(image, "AVIF", quality=100),
        "jpeg_called.png": encoded(image, "JPEG", **lossless),
        "palette.png": encoded(image.quantize(8), "PNG"),
        "a name\twith\x1b[31m tricks é.png": encoded(image, "PNG"),
    }


def in_gray():
    """Returns {file name: bytes} of images that show the gray scene."""
    gray = gray_scene()
    sixteen, twelve = gray.astype(np.uint16) * 257, np.rint(gray / 255 * 4095).astype(np.uint16)
    return {
        "a.png": encoded(Image.fromarray(gray), "PNG"),
        "see_through.png": encoded(see_through(gray), "PNG"),
        "sixteen.png": encoded(Image.fromarray(sixteen), "PNG"),
        "sixteen.tif": encoded(Image.fromarray(sixteen), "TIFF"),
        "thirty_two.tif": encoded(Image.fromarray(sixteen.astype(np.int32)), "TIFF"),
        "sixteen.pgm": b"P5 16 24 65535\n" + sixteen.astype(">u2").tobytes(),
        "twelve.pgm": b"P5 16 24 4095\n" + twelve.astype(">u2").tobytes(),
        "twelve.tif": encoded(Image.fromarray(twelve), "TIFF", tiffinfo={281: 4095}),
        "packed_twelve.tif": packed_tiff(twelve),
        "white_is_zero.tif": tiff(65535 - sixteen, 0),
        "sixteen_key.png": encoded(
            Image.fromarray(np.where(gray == 255, 5, sixteen).astype(np.uint16)), "PNG", transparency=5
        ),
    }


def packed_tiff(values):
    """Returns a TIFF as bytes that packs two 12-bit pixels into three bytes."""
    pairs = values.reshape(-1, 2).astype(np.uint32)
    joined = (pairs[:, 0] << 12) | pairs[:, 1]
    data = np.stack([joined >> 16, joined >> 8 & 255, joined & 255], 1).astype(np.uint8).tobytes()
    height, width = values.shape
    entries = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 12),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(data)),
    ]
    directory = struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        directory += struct.pack("<HHI", tag, kind, 1) + struct.pack("<I" if kind == 4 else "<Hxx", value)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4)


def wide_webp(image, width):
    """Returns an animated WebP of a few bytes whose header states this width."""
    moving = encoded(image, "WEBP", save_all=True, append_images=[image.rotate(90)])
    return moving[:24] + (width - 1).to_bytes(3, "little") + moving[27:]


def broken():
    """Returns {file name: (bytes, reason)} of files that cannot be read."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    jpeg, whole = encoded(noise, "JPEG"), encoded(noise, "PNG")
    floats, signed = np.linspace(0, 1, 384, dtype=np.float32), np.arange(-192, 192, dtype=np.int32) * 30
    return {
        "empty.png": (b"", "empty"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut.png": (whole[: len(whole) // 2], "truncated"),
        "cut_head.png": (whole[:40], "truncated"),
        "head.jpg": (jpeg[:10], "truncated"),
        "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n", "not one of the formats"),
        "page.jpg": (b"<!DOCTYPE html><title>404</title>", "an HTML page .*, not one of the formats"),
        "pointer.jpg": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a Git LFS pointer .*, not one of",
        ),
        "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "HEIC .*, not one of the formats"),
        "planes.tif": (tiff(scene().astype(np.uint16) * 257, 2, planes=True), "16-bit TIFF with separate planes"),
        "windows.png": (encoded(noise, "ICO", sizes=[(16, 16)]), "not one of the formats"),
        "floats.tif": (encoded(Image.fromarray(floats.reshape(SIDES)), "TIFF"), "float pixels"),
        "floats.png": (encoded(Image.fromarray(floats.reshape(SIDES)), "TIFF"), "float pixels"),
        "signed.tif": (encoded(Image.fromarray(signed.reshape(SIDES)), "TIFF"), "whose scale is unknown"),
        "bomb.png": (png(60_000, 60_000), "too large"),
        "gigabyte.png": (png(18_000, 18_000), "too large"),
        "wide.webp": (wide_webp(noise, 1_500_000), "too large"),
    }


def write(folder, files):
    """Writes {name: bytes} below a folder."""
    os.makedirs(folder, exist_ok=True)
    for name, content in files.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
