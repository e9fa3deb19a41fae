"""Label values, train ids and their colours."""

from collections.abc import Sequence

import numpy as np

IGNORE_INDEX = 255  # the train id of void: pixels that are neither trained nor scored


def id_table(mapping: dict[int, int]) -> np.ndarray:
    """int16 (256,), raw value -> train id; -1 where ``mapping`` has none."""
    table = np.full(256, -1, dtype=np.int16)
    for raw, train_id in mapping.items():
        table[raw] = train_id
    return table


def encode(id_to_train_id: dict[int, int], train_ids: np.ndarray) -> np.ndarray:
    """Convert train ids (uint8, any shape) to the least raw value of each; other values become void's."""
    values = sorted(id_to_train_id.items(), reverse=True)
    table = np.full(256, min((raw for raw, train_id in values if train_id == IGNORE_INDEX), default=IGNORE_INDEX))
    for raw, train_id in values:
        table[train_id] = raw
    return table.astype(np.uint8)[train_ids]


def ranges(values: Sequence[int]) -> str:
    """Sorted integers as text: "0..11, 255"."""
    starts = [value for value in values if value - 1 not in values]
    ends = [value for value in values if value + 1 not in values]
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in zip(starts, ends, strict=True))


def grey(value: int) -> tuple[int, int, int]:
    return value, value, value


def bit_color(value: int) -> tuple[int, int, int]:
    """The colour of an id in Pascal VOC's colour map: bits 3k, 3k + 1 and 3k + 2 are bit 7 - k of red, green, blue."""
    return tuple(sum((value >> 3 * k + channel & 1) << 7 - k for k in range(3)) for channel in range(3))
