"""Reading image and label files; a file that is damaged or of another kind is an error that names it."""

import io
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, TiffImagePlugin
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
WHOLE, ENDS = 1 << 20, 1 << 16  # bytes
LABEL_FORMATS = ("PNG", "BMP", "TIFF")  # without loss
# Modes that lose nothing but transparency on the way to 8-bit RGB.
IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
SAVE_THREE = "save the three that the network is to see as 8-bit RGB"
# TIFF and EXIF tags.
NEW_SUBFILE_TYPE, BITS_PER_SAMPLE, ORIENTATION, SAMPLES_PER_PIXEL, EXTRA_SAMPLES = 254, 258, 274, 277, 338
# Passes of an interlaced PNG: first column and row, steps between columns and rows.
ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is a folder, a pipe, empty or may not be read.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
            raise ValueError(f"{path} is {kind}, not a file: move it out of the data set")
        data = path.read_bytes()
    except PermissionError as error:
        raise ValueError(f"{path} may not be read (permission denied): chmod u+r it, or ask its owner") from error
    except FileNotFoundError:
        raise
    except OSError as error:  # a circular link, a failing disk
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): is it a link to itself, is the disk well?"
        ) from error
    if not data:
        raise ValueError(f"{path} is empty: fetch it again")
    return data


def fingerprint(path: Path | None) -> str:
    """Size and CRC-32 of a file, or the error of reading it; "" without a file.

    For a file longer than WHOLE, only the first and the last ENDS bytes are read; a PNG's last ones depend on all
    of its pixels.
    """
    if path is None:
        return ""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
            return "no file"
        with path.open("rb") as file:
            content = file.read(status.st_size if status.st_size <= WHOLE else ENDS)
            file.seek(max(status.st_size - ENDS, len(content)))
            return f"{status.st_size} {zlib.crc32(file.read(), zlib.crc32(content))}"
    except OSError as error:
        return str(error.strerror)


def open_image(path: Path, data: bytes) -> tuple[Image.Image, str]:
    """Decode a file's bytes: the image, upright and in its own mode, and how its samples are stored ("L", "RGB;16B").

    Raises:
        ValueError: damaged, no image, several pictures or more bands than a picture has; names ``path``.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.format == "PNG":
            image.verify()  # Pillow decodes pixels without looking at their checksums
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        arguments = image.tile[0][3] if image.tile else image.mode  # WebP has no tiles
        storage = arguments if isinstance(arguments, str) else arguments[0]
        pictures, surplus = count_pictures(image), has_surplus_bands(image)
        image.load()
        # Pillow leaves rows that the stream does not hold at 0.
        if image.format == "PNG" and not np.asarray(image.crop((0, image.height - 1, *image.size))).any():
            require_whole_stream(data)
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise ValueError(f"{path} cannot be read: {diagnose(data, error)}") from error
    if pictures > 1:
        raise ValueError(f"{path} holds {pictures} pictures, and which one is meant is not known: save one to a file")
    if surplus:
        raise ValueError(
            f"{path} is {describe_tiff(data)}; an image has 1 or 3, and alpha that is marked so: {SAVE_THREE}"
        )
    return image, storage or image.mode


def count_pictures(image: Image.Image) -> int:
    """The pictures in a file, without a TIFF's smaller copies (overviews) and masks, and a camera's previews."""
    if image.format == "MPO":
        return 1
    count = getattr(image, "n_frames", 1)
    if image.format == "TIFF" and count > 1:
        kinds = []
        for index in range(count):
            image.seek(index)
            kinds.append(image.tag_v2.get(NEW_SUBFILE_TYPE, 0))
        image.seek(0)
        return sum(not kind & 5 for kind in kinds)  # bit 0: a smaller copy, bit 2: a mask
    return count


def has_surplus_bands(image: Image.Image) -> bool:
    """Whether a TIFF has bands that Pillow ignores, or treats as alpha without being declared so."""
    if image.format != "TIFF":
        return False
    tags, bands = image.tag_v2, image.getbands()
    return tags.get(SAMPLES_PER_PIXEL, 1) > len(bands) or (bands[-1] == "A" and EXTRA_SAMPLES not in tags)


def describe_tiff(data: bytes) -> str:
    """Bands and bits of a TIFF, from its first directory."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
    stream = io.BytesIO(data)
    stream.seek(directory.next)
    directory.load(stream)
    bits = {*directory.get(BITS_PER_SAMPLE, (1,))}
    return f"a TIFF of {directory[SAMPLES_PER_PIXEL]} bands of {' or '.join(map(str, sorted(bits)))} bits"


def require_whole_stream(data: bytes) -> None:
    """Raise ValueError unless the compressed stream of a PNG holds every row."""
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    expected = 0
    for x, y, step_x, step_y in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-max(width - x, 0) // step_x), -(-max(height - y, 0) // step_y)
        expected += rows * (1 + -(-columns * bits // 8)) * (columns > 0)
    stream, place = [], 8
    while data[place + 4 : place + 8] not in (b"IEND", b""):
        length = int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] == b"IDAT":
            stream.append(data[place + 8 : place + 8 + length])
        place += 12 + length
    found = len(zlib.decompressobj().decompress(b"".join(stream), expected))
    if found < expected:
        raise ValueError(f"its pixels end after {found:,} of {expected:,} bytes")


def diagnose(data: bytes, error: Exception) -> str:
    """Describe bytes that no decoder reads, and the remedy."""
    if isinstance(error, Image.DecompressionBombError):
        return f"{error}; more than any camera's: is it damaged? Cut it into tiles if it is real"
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: git lfs pull fetches the file"
    if data.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page saved under an image's name: fetch it again, logged in if need be"
    if isinstance(error, Image.UnidentifiedImageError):
        if data[:4] in (b"II*\0", b"MM\0*"):
            try:
                return f"{describe_tiff(data)}, which is none of the kinds that are read: {SAVE_THREE}"
            except Exception:  # its directory is damaged
                pass
        return f"it is truncated or no {', '.join(FORMATS)} at all: fetch it again or convert it"
    return f"{error}; it is truncated or damaged: fetch it again"


def read_image(path: Path) -> Tensor:
    """Read an image: uint8 (3, H, W) RGB, EXIF orientation applied.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole image of 8 bits a channel.
    """
    image, storage = open_image(path, read_bytes(path))
    if image.mode not in IMAGE_MODES or ";16" in storage:
        raise ValueError(
            f"{path} stores its pixels as {storage}; an image has 8 bits a channel: scale it to 0..255 and save it so"
        )
    image = image if image.mode == "RGB" else image.convert("RGB")
    return torch.from_numpy(np.stack([np.asarray(image.getchannel(channel)) for channel in range(3)]))


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file with EXIF orientation applied, read from its header.

    Raises:
        FileNotFoundError, ValueError: as ``read_image``.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            # Pillow turns the size of a TIFF itself.
            turned = image.format != "TIFF" and image.getexif().get(ORIENTATION, 1) >= 5
            return image.size if turned else image.size[::-1]
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise ValueError(f"{path} cannot be read: {diagnose(read_bytes(path), error)}") from error


def open_label(path: Path) -> Image.Image:
    """A label file: mode L (ids), P (ids with colours) or RGB (colours), 8 bits, nothing lost in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, compressed with loss, or not of 8 bits a channel.
    """
    image, storage = open_image(path, read_bytes(path))
    if image.format not in LABEL_FORMATS or image.info.get("compression") in ("jpeg", "webp"):
        raise ValueError(
            f"{path} is a label in {image.format}, which changes values: write labels as PNG from their source, "
            "not from this file"
        )
    if image.mode == "RGBA" and image.getextrema()[3] == (255, 255):
        image = image.convert("RGB")
    # Pillow stretches grey values of 1, 2 and 4 bits to 0..255: they are no ids any more.
    if image.mode not in ("L", "P", "RGB") or (image.mode == "L" and storage != "L") or ";16" in storage:
        raise ValueError(
            f"{path}: a label map has one 8-bit channel, this is stored as {storage}: save its ids as 8-bit greyscale "
            "PNG, or, if it is a mask, let `python -m segdistill.dataset convert EXPORT DIR` do so"
        )
    return image
