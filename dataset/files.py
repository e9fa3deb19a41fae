"""Image and label files: what they must be, and what is said of one that is something else."""

import io
import stat
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
WHOLE, ENDS = 1 << 20, 1 << 16  # bytes
LABEL_FORMATS = ("PNG", "BMP", "TIFF")  # without loss
# Modes that lose nothing but transparency on the way to 8-bit RGB.
IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


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
    except OSError as error:  # a link that leads in a circle, a disk that fails
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): is it a link to itself, is the disk well?"
        ) from error
    if not data:
        raise ValueError(f"{path} is empty: fetch it again")
    return data


def fingerprint(path: Path | None) -> str:
    """Size and CRC-32 of a file, or what keeps it from being read; "" without a file.

    Of one that is longer than WHOLE, the first and the last ENDS bytes alone are read; a PNG's last ones depend on all
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
    """The image of a file's bytes, upright and in its own mode, and how its samples are stored ("L", "RGB;16B").

    Raises:
        ValueError: damaged, or no image; names ``path``.
    """
    try:
        header = Image.open(io.BytesIO(data), formats=FORMATS)
        if header.format == "PNG":
            header.verify()  # Pillow decodes pixels without looking at their checksums
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        arguments = image.tile[0][3] if image.tile else image.mode  # WebP has no tiles
        storage = arguments if isinstance(arguments, str) else arguments[0]
        pages = getattr(image, "n_frames", 1)
        upright = ImageOps.exif_transpose(image)
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise ValueError(f"{path} cannot be read: {diagnose(data, error)}") from error
    if pages > 1 and image.format != "MPO":  # a camera's JPEG with a preview
        raise ValueError(f"{path} holds {pages} pictures, and which one is meant is not known: save one to a file")
    upright.format = image.format
    return upright, storage or upright.mode


def diagnose(data: bytes, error: Exception) -> str:
    """What is wrong with the bytes that no decoder takes, and the remedy."""
    if isinstance(error, Image.DecompressionBombError):
        return f"{error}; more than any camera's: is it damaged? Cut it into tiles if it is real"
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: git lfs pull fetches the file"
    if data.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page saved under an image's name: fetch it again, logged in if need be"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"it is truncated or no {', '.join(FORMATS)} at all: fetch it again or convert it"
    return f"{error}; it is truncated or damaged: fetch it again"


def read_image(path: Path) -> Tensor:
    """uint8 (3, H, W) RGB, turned as its EXIF orientation says.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole image of 8 bits a channel.
    """
    data = read_bytes(path)
    if is_plain_png(data):
        return read_plain_png(path, data)
    image, storage = open_image(path, data)
    if image.mode not in IMAGE_MODES or ";16" in storage:
        raise ValueError(
            f"{path} stores its pixels as {storage}; an image has 8 bits a channel: scale it to 0..255 and save it so"
        )
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def is_plain_png(data: bytes) -> bool:
    """8-bit RGB, whose fast decoder gives Pillow's pixels; not so large that Pillow would refuse it."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[24:26] != b"\x08\x02":
        return False
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return width * height <= Image.MAX_IMAGE_PIXELS


def read_plain_png(path: Path, data: bytes) -> Tensor:
    from torchvision.io import ImageReadMode, decode_png  # slow to import

    try:
        require_checksums(data)
        content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return decode_png(content, ImageReadMode.RGB, apply_exif_orientation=True).contiguous()
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read: {reason}; it is truncated or damaged: fetch it again") from error


def require_checksums(data: bytes) -> None:
    """Raise ValueError unless every chunk of a PNG is whole: a decoder may stop before it has seen the last one."""
    view, place = memoryview(data), 8
    while True:
        length = int.from_bytes(view[place : place + 4], "big")
        kind, end = bytes(view[place + 4 : place + 8]), place + 8 + length
        if zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4], "big") or end + 4 > len(data):
            raise ValueError(f"chunk {kind!r} is broken")
        if kind == b"IEND":
            return
        place = end + 4


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
            "PNG"
        )
    return image
