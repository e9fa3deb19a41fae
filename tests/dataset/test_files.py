"""What is read is what was written, or an error says that it is not."""

import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from trees import png, tiff

from segdistill.dataset.files import open_label, read_image, read_size

SIZE = (40, 56)
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


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


COLOR_TYPES = {"L": 0, "RGB": 2, "P": 3}


def rows_of(mode, filter_type=0):
    """The pixels of a PNG before compression: 1 everywhere, a filter type in front of each row."""
    return (bytes([filter_type]) + b"\1" * SIZE[1] * len(mode.strip("LP") or "1")) * SIZE[0]


STREAMS = {
    "ends early": lambda rows: zlib.compress(rows[: len(rows) // 2]),
    "lacks the last byte": lambda rows: zlib.compress(rows[:-1]),
    "is empty": lambda rows: zlib.compress(b""),
    "is cut": lambda rows: zlib.compress(rows)[:10],
    "is noise": lambda rows: b"no stream at all",
    "has an unknown filter": lambda rows: zlib.compress(b"\7" + rows[1:]),
}


@pytest.mark.parametrize("fault", STREAMS)
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("mode", COLOR_TYPES)
def test_a_png_with_right_checksums_and_a_wrong_stream_is_named(mode, interlaced, fault, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(SIZE, STREAMS[fault](rows_of(mode)), COLOR_TYPES[mode], interlaced=interlaced))
    for read in (read_image, open_label):
        with pytest.raises(ValueError, match=r"x\.png cannot be read: .*damaged: fetch it again"):
            read(path)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA"])
def test_a_png_whose_last_row_is_0_is_whole(mode, tmp_path):
    image = Image.new(mode, (13, 7))
    image.save(tmp_path / "x.png")
    assert not read_image(tmp_path / "x.png").any()


@pytest.mark.parametrize(("size", "interlaced"), [((1, 1), 1), ((3, 2), 1), ((8, 5), 1), ((9, 17), 1), ((9, 17), 0)])
@pytest.mark.parametrize("depth", [1, 2, 8])
def test_the_length_of_a_stream_is_known_for_every_size(size, interlaced, depth, tmp_path):
    """A stream of just that many bytes passes, one less does not."""
    height, width = size
    if interlaced:
        passes = [((width - x + a - 1) // a, (height - y + b - 1) // b) for x, y, a, b in ADAM7]
    else:
        passes = [(width, height)]
    length = sum(rows * (1 + (columns * depth + 7) // 8) for columns, rows in passes if columns > 0)
    path = tmp_path / "x.png"
    path.write_bytes(png(size, zlib.compress(bytes(length)), 0, depth, interlaced))
    assert read_image(path).shape == (3, *size)
    path.write_bytes(png(size, zlib.compress(bytes(length - 1)), 0, depth, interlaced))
    with pytest.raises(ValueError, match=r"end after|truncated"):
        read_image(path)


def bands(count, dtype=np.uint8):
    return np.arange(SIZE[0] * SIZE[1] * count).reshape(*SIZE, count).astype(dtype)


@pytest.mark.parametrize(
    ("count", "dtype", "tags"),
    [
        (2, np.uint8, {}),
        (2, np.uint8, {338: [0]}),
        (4, np.uint8, {}),
        (4, np.uint8, {338: [0]}),
        (5, np.uint8, {338: [0, 0]}),
        (5, np.uint8, {338: [2, 0]}),
        (8, np.uint8, {}),
        (5, np.uint16, {}),
    ],
)
def test_bands_beyond_a_picture_s_are_counted_in_the_error(count, dtype, tags, tmp_path):
    (tmp_path / "x.tif").write_bytes(tiff([(bands(count, dtype), tags)]))
    bits = 8 * np.dtype(dtype).itemsize
    with pytest.raises(ValueError, match=rf"x\.tif .*a TIFF of {count} bands of {bits} bits.*as 8-bit RGB"):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize(("count", "tags"), [(1, {}), (3, {}), (4, {338: [2]}), (2, {338: [2]})])
def test_tiffs_with_overviews_and_masks_are_read(count, tags, tmp_path):
    pixels = bands(count)
    pages = [(pixels, tags), (pixels[::2, ::2], {254: [1], **tags}), (pixels[..., 0], {254: [4]})]
    (tmp_path / "x.tif").write_bytes(tiff(pages, tile=16))
    expected = pixels[..., :3] if count > 2 else pixels[..., [0, 0, 0]]
    assert np.array_equal(pixels_of(tmp_path / "x.tif"), expected)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_size_in_the_header_is_that_of_the_image(form, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "x").write_bytes(encoded(picture(), form, **({} if form == "BMP" else {"exif": exif})))
    assert read_size(tmp_path / "x") == read_image(tmp_path / "x").shape[1:]


def test_no_size_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"x\.png cannot be read"):
        read_size(tmp_path / "x.png")
