"""Masks as run lengths, in the three ways that tools write them."""

from collections.abc import Sequence

import numpy as np


def decode_runs(counts: Sequence[int], length: int) -> np.ndarray:
    """bool (length,): runs that alternate, the first of zeros; what is missing at the end is zero.

    Raises:
        ValueError: more pixels than ``length``, or a negative run.
    """
    counts = np.asarray(counts, np.int64)
    # Each by itself too: the sum of large ones overflows.
    if (counts < 0).any() or (counts > length).any() or counts.sum() > length:
        raise ValueError(f"runs of {sum(counts.tolist())} pixels for a mask of {length}")
    mask = np.zeros(length, bool)
    mask[: counts.sum()] = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return mask


def coco_counts(text: str) -> list[int]:
    """The runs of COCO's compressed RLE.

    A number is written five bits at a time, the lowest first, each plus 48 as a character; bit 5 says that more follow,
    bit 4 of the last is the sign. From the fourth on, numbers are differences to the run two before.
    """
    counts, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("a compressed RLE that ends within a number")
    return counts


def coco_mask(rle: dict) -> np.ndarray:
    """bool (H, W) of COCO's {size: [H, W], counts: list or text}; runs go down the columns."""
    height, width = rle["size"]
    counts = coco_counts(rle["counts"]) if isinstance(rle["counts"], str) else rle["counts"]
    return decode_runs(counts, height * width).reshape(width, height).T


def brush_values(data: bytes, length: int) -> np.ndarray:
    """uint8 (length,): the values that Label Studio's brush packs into bytes.

    A stream of bits, the highest first: the number of values (32), the bits of a value less one (5), four widths less
    one (4 each). Then blocks: whether it is a run (1), which width its length has (2), the length less one; a run has
    one value, another block all of its.

    Raises:
        ValueError: another number of values, or too few bits.
    """
    place = 0

    def read(bits: int) -> int:
        nonlocal place
        window = int.from_bytes(data[place >> 3 : (place >> 3) + 8].ljust(8, b"\0"), "big")
        value = window >> 64 - (place & 7) - bits & (1 << bits) - 1
        place += bits
        if place > 8 * len(data):
            raise ValueError("a brush mask that ends too early")
        return value

    total, word, widths = read(32), read(5) + 1, [read(4) + 1 for _ in range(4)]
    if total != length or word > 8:
        raise ValueError(f"a brush mask of {total} values of {word} bits, the image needs {length} of 8")
    values, done = np.zeros(length, np.uint8), 0
    while done < length:
        is_run, end = read(1), done + 1
        end += read(widths[read(2)])
        if end > length:
            raise ValueError("a brush mask that is longer than it says")
        values[done:end] = read(word) if is_run else [read(word) for _ in range(end - done)]
        done = end
    return values
