"""What is read is what was written, or an error says that it is not."""

import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from segdistill.dataset.files import open_label, read_image

SIZE = (40, 56)


def picture(seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC)


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_images_are_turned_as_their_exif_orientation_says(form, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "x").write_bytes(encoded(picture(), form, exif=exif))
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "x").convert("RGB"))
    assert np.array_equal(read_image(tmp_path / "x").permute(1, 2, 0), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_images_of_8_bits_become_rgb(mode, form, tmp_path):
    image = picture().convert(mode)
    (tmp_path / "x").write_bytes(encoded(image, form))
    read = read_image(tmp_path / "x")
    assert read.is_contiguous()
    assert read.dtype == torch.uint8
    assert np.array_equal(read.permute(1, 2, 0), image.convert("RGB"))


def test_interlaced_images_are_read(tmp_path):
    """Pillow writes none; one pixel is the same either way."""
    image = Image.new("RGB", (1, 1), (3, 2, 1))
    data = bytearray(encoded(image, "PNG"))
    data[28] = 1
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "x.png").write_bytes(data)
    assert read_image(tmp_path / "x.png").flatten().tolist() == [3, 2, 1]


def pixels_of(path):
    return read_image(path).permute(1, 2, 0).numpy()


def mutate(data, rng):
    """One of: bytes changed, a piece cut out, the end cut off, a piece doubled, noise in the middle."""
    data, kind = bytearray(data), rng.integers(5)
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
    if kind == 0:
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del data[at : at + length]
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        data[at:at] = data[at : at + length]
    else:
        data[at : at + length] = rng.bytes(length)
    return bytes(data)


@pytest.mark.parametrize("part", range(5))
def test_mutated_files_are_refused_or_hold_what_they_held(part, tmp_path):
    """500 files. A JPEG has no checksum: damage to its coefficients shows only where it breaks their code."""
    rng = np.random.default_rng(part)
    refused = []
    for index in range(100):
        image, ids = picture(index), Image.fromarray(np.asarray(picture(index))[..., 0] // 20)
        form, original, read = [
            ("PNG", image, pixels_of),
            ("JPEG", image, pixels_of),
            ("PNG", ids, open_label),
            ("PNG", image.quantize(16), pixels_of),
        ][index % 4]
        data = encoded(original, form)
        path = tmp_path / f"{index}.{form.lower()}"
        path.write_bytes(data)
        expected = np.asarray(read(path))
        damaged = mutate(data, rng)
        path.write_bytes(damaged)
        try:
            found = np.asarray(read(path))
        except ValueError as error:
            refused.append((path.name, str(error)))
            continue
        if form == "PNG":
            assert np.array_equal(found, expected), f"{path} {part}"
    assert len(refused) > 60
    assert all(name in message and len(message) < 500 for name, message in refused)
