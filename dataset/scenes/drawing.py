"""Draws the objects of a street on a canvas with a camera: houses, walls, trees, poles, people, vehicles.

Everything goes through ``Canvas.paint``, which gives a pixel its colour and its label at once. Places are in metres
(x right, y up, z ahead of the camera). Classes share their colours on purpose: greys between road, sidewalk and wall,
paint between buildings, vehicles and clothes, greens between trees and grass. Shape, texture and place tell them apart.
"""

import math
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLE = 2  # the image is painted larger and averaged down; the label keeps one sample of each cell

Window = tuple[slice, slice]  # (rows, columns) of the canvas
Points = list[tuple[float, float]]


class Id(IntEnum):
    """The Cityscapes label ids that occur; the first four are void among its 19 classes."""

    EGO_VEHICLE = 1
    STATIC = 4
    GROUND = 6
    PARKING = 9
    ROAD = 7
    SIDEWALK = 8
    BUILDING = 11
    WALL = 12
    FENCE = 13
    POLE = 17
    TRAFFIC_LIGHT = 19
    TRAFFIC_SIGN = 20
    VEGETATION = 21
    TERRAIN = 22
    SKY = 23
    PERSON = 24
    RIDER = 25
    CAR = 26
    TRUCK = 27
    BUS = 28
    TRAIN = 31
    MOTORCYCLE = 32
    BICYCLE = 33


# fmt: off
PAINT = ((.82, .80, .76), (.62, .60, .57), (.36, .36, .38), (.16, .16, .18), (.70, .62, .48), (.55, .32, .25),
         (.60, .16, .14), (.22, .30, .46), (.30, .42, .36), (.78, .66, .34), (.48, .42, .36))
MASONRY = ((.78, .74, .66), (.70, .62, .48), (.55, .32, .25), (.60, .57, .54), (.74, .62, .38), (.48, .42, .36),
           (.60, .22, .18), (.40, .44, .42))
PAVING = ((.28, .30, .32), (.35, .35, .36), (.43, .42, .41), (.52, .50, .47), (.60, .56, .52))
GREENS = ((.20, .27, .12), (.28, .34, .16), (.36, .38, .18), (.24, .30, .20), (.40, .36, .22))
SIGNAL = ((.75, .10, .10), (.10, .25, .65), (.90, .75, .10), (.10, .50, .30), (.85, .85, .85))
SKIN = ((.80, .60, .50), (.55, .38, .28), (.36, .25, .20))
LAMPS = ((.20, .90, .50), (.95, .70, .10), (.95, .15, .10))
GLASS, DARK, WHITE = (.10, .12, .15), (.07, .07, .07), (.80, .80, .78)
BARK, TILES = (.22, .18, .15), (.40, .25, .20)
# fmt: on


def pick(rng: np.random.Generator, palette, shade: float = 0.15, tint: float = 0.02) -> np.ndarray:
    """A colour of the palette with random changes of brightness and hue."""
    color = np.array(palette[rng.integers(len(palette))])
    return np.clip(color * math.exp(rng.normal(0, shade)) + rng.normal(0, tint, 3), 0.03, 0.95)


def fractal_noise(rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """(size, size) float32 in 0..1 with detail at every scale; it tiles."""
    noise = rng.random((size, size), np.float32) * size**-0.4
    for cells in (8, 16, 32, 64, 128):
        grid = Image.fromarray(np.pad(rng.random((cells, cells), np.float32), 3, mode="wrap"))
        smooth = grid.resize((size, size), Image.Resampling.BICUBIC, box=(3, 3, cells + 3, cells + 3))
        noise += np.asarray(smooth) * cells**-0.4
    return np.clip(0.5 + (noise - noise.mean()) / (4 * noise.std()), 0, 1)


class Canvas:
    """Colour, brightness, depth and label of every pixel, with the camera and the light.

    ``depth`` is of an object as a whole, for the haze; ``metres`` of what the ray through a pixel hits, 0 for nothing.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        shape = self.height, self.width = size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE
        self.focal = rng.uniform(0.8, 1.1) * self.width
        self.horizon = rng.uniform(0.38, 0.50) * self.height
        self.center = rng.uniform(0.40, 0.60) * self.width
        self.eye = rng.uniform(1.3, 2.0)
        azimuth, self.sun_slope = rng.uniform(0, 2 * math.pi), math.tan(rng.uniform(0.4, 1.1))
        self.sun = (math.sin(azimuth), math.cos(azimuth))  # towards the sun, in (x, z)
        self.sunshine = rng.uniform(0.6, 1.0) if rng.random() < 0.65 else rng.uniform(0, 0.15)
        self.air = np.array([0.72, 0.76, 0.82]) * rng.uniform(0.9, 1.1) + rng.normal(0, 0.02, 3)
        self.haze = rng.uniform(0.001, 0.007)  # per metre
        self.noise = fractal_noise(rng)
        self.colors: list = []
        self.color = np.zeros(shape, np.uint16)  # index into colors
        self.value = np.ones(shape, np.float32)
        self.depth = np.zeros(shape, np.float32)
        self.metres = np.zeros(shape, np.float32)
        self.label = np.zeros(shape, np.uint8)

    def paint(self, window: Window, mask: np.ndarray, color, label: Id, depth, value=1.0, metres=None):
        """Put a colour and its label on the pixels of a mask. Depth, value (brightness) and metres (None: the depth)
        broadcast to the mask."""
        self.colors.append(color)
        content = (self.color, len(self.colors) - 1), (self.value, value), (self.depth, depth), (self.label, label)
        for plane, new in (*content, (self.metres, depth if metres is None else metres)):
            np.copyto(plane[window], new, where=mask, casting="unsafe")

    def develop(self) -> np.ndarray:
        """(3, height, width) float32: the colours, lit, through the haze of their depth."""
        clear = np.exp(np.float32(-self.haze) * self.depth)
        bright, veil = self.value * clear, 1 - clear
        table = np.array(self.colors, np.float32).T.copy()
        return np.stack(
            [c[self.color] * bright + np.float32(air) * veil for c, air in zip(table, self.air, strict=True)]
        )

    def light(self, x: float, y: float, z: float) -> float:
        """Brightness of a surface by the direction that it faces."""
        toward_sun = (x * self.sun[0] + y * self.sun_slope + z * self.sun[1]) / math.hypot(1, self.sun_slope)
        return 0.9 + 0.1 * y + self.sunshine * (0.5 * max(0.0, toward_sun) - 0.2)

    def texture(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Noise in 0..1 at the integer parts of two coordinates that broadcast."""
        return self.noise[np.floor(a).astype(np.int32) & 255, np.floor(b).astype(np.int32) & 255]

    def project(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) metres to (n, 2) pixels (column, row)."""
        scale = self.focal / np.maximum(points[:, 2:], 0.5)
        return (points[:, :2] - (0, self.eye)) * scale * (1, -1) + (self.center, self.horizon)

    def window(self, pixels: np.ndarray, margin: int = 0) -> Window:
        """The part of the canvas around some pixels; may be empty."""
        (left, top), (right, bottom) = pixels.min(0).tolist(), pixels.max(0).tolist()
        first = max(0, math.floor(top) - margin), max(0, math.floor(left) - margin)
        last = min(self.height, math.ceil(bottom) + margin + 1), min(self.width, math.ceil(right) + margin + 1)
        return slice(first[0], max(first[0], last[0])), slice(first[1], max(first[1], last[1]))

    def outline(self, shapes: list[np.ndarray], width: int = 0) -> tuple[Window, np.ndarray]:
        """Window and mask of the union of some polygons, or with a width polylines, given in pixels."""
        rows, columns = window = self.window(np.concatenate(shapes), margin=width)
        size = (columns.stop - columns.start, rows.stop - rows.start)
        if 0 in size:
            return window, np.zeros(size[::-1], bool)
        mask = Image.new("L", size)
        draw = ImageDraw.Draw(mask)
        for shape in shapes:
            path = (shape - (columns.start, rows.start)).ravel().tolist()
            draw.line(path, 1, width, joint="curve") if width else draw.polygon(path, 1)
        return window, np.asarray(mask).view(bool)

    def polygon(self, points: np.ndarray, color, label: Id, value: float = 1.0):
        """A flat polygon with corners (n, 3) in metres."""
        pixels = self.project(points)
        window, mask = self.outline([pixels])
        metres = self.plane(pixels, points[:, 2], window)
        self.paint(window, mask, color, label, points[:, 2].mean(), value, metres)

    def plane(self, pixels: np.ndarray, z: np.ndarray, window: Window) -> np.ndarray:
        """Metres ahead at the pixels of a window, of the plane through points (n, 2) in pixels with their z.

        1 / z is linear in the pixel's place. Points on a line give no slope across it; nothing is nearer or farther
        than the points.
        """
        z = np.maximum(z, 0.5)  # as in project
        centre = pixels.mean(0)
        slope, *_ = np.linalg.lstsq(pixels - centre, 1 / z - (1 / z).mean(), rcond=1e-9)
        rows, columns = (np.arange(part.start, part.stop, dtype=np.float32) + 0.5 for part in window)
        inverse = (1 / z).mean() + slope[1] * (rows - centre[1])[:, None] + slope[0] * (columns - centre[0])
        return 1 / inverse.clip(1 / z.max(), 1 / z.min())

    def stroke(self, points: np.ndarray, thickness: float, color, label: Id, value: float = 1.0):
        """A line through points (n, 3) in metres, never thinner than a pixel of the final image."""
        depth = points[:, 2].mean()
        width = max(SUPERSAMPLE, round(thickness * self.focal / depth))
        pixels = self.project(points)
        window, mask = self.outline([pixels], width)
        self.paint(window, mask, color, label, depth, value, self.plane(pixels, points[:, 2], window))

    def screen(self, start: tuple[float, float], end: tuple[float, float], top: float):
        """A vertical rectangle standing on the line from (x, z) to (x, z).

        Returns its window and mask, and for the window's pixels the metres along the line (1, w), up (h, w) and
        ahead (1, w): what the rays through the pixels hit.
        """
        (x0, z0), (x1, z1) = start, end
        corners = np.array([(x0, 0, z0), (x1, 0, z1), (x0, top, z0), (x1, top, z1)])
        rows, columns = window = self.window(self.project(corners))
        ray = (np.arange(columns.start, columns.stop) + 0.5 - self.center) / self.focal  # x / z
        slant = ray * (z1 - z0) - (x1 - x0)
        t = (x0 - ray * z0) / np.where(np.abs(slant) < 1e-6, 1e-6, slant)
        hit, t = (t >= 0) & (t <= 1), np.clip(t, 0, 1)[None].astype(np.float32)
        ahead = z0 + t * (z1 - z0)
        rise = (self.horizon - np.arange(rows.start, rows.stop, dtype=np.float32) - 0.5)[:, None] / self.focal
        up = self.eye + rise * ahead
        return window, hit & (up >= 0) & (up <= top), t * math.hypot(x1 - x0, z1 - z0), up, ahead


def upright(points: Points, x: float, z: float, yaw: float = math.pi / 2, height: float = 1.0) -> np.ndarray:
    """Stand a flat drawing of (ahead, up) points at (x, z), heading yaw: 0 is away from the camera, pi / 2 right."""
    ahead, up = np.array(points).T
    return np.stack([x + ahead * math.sin(yaw), up * height, z + ahead * math.cos(yaw)], 1)


def circle(a: float, b: float, radius: float, corners: int = 12, turn: float = 0.0) -> Points:
    """A regular polygon, closed."""
    angles = [turn + 2 * math.pi * i / corners for i in range(corners + 1)]
    return [(a + radius * math.cos(angle), b + radius * math.sin(angle)) for angle in angles]


class House(NamedTuple):
    color: np.ndarray
    sign_color: np.ndarray
    shop: bool
    storey: float  # metres, as the ground floor and the bay
    ground_floor: float
    bay: float
    window_width: float  # fractions of bay and storey
    window_height: float
    roughness: float


def plan_house(rng: np.random.Generator) -> House:
    sizes = rng.uniform((2.7, 3.0, 1.6, 0.3, 0.35, 0.05), (3.6, 4.0, 3.8, 0.75, 0.65, 0.35))
    return House(pick(rng, MASONRY), pick(rng, SIGNAL), rng.random() < 0.4, *sizes.tolist())


def draw_facade(canvas: Canvas, house: House, start, end, height: float, normal: tuple[float, float, float]):
    window, mask, along, up, z = canvas.screen(start, end, height)
    if not mask.any():
        return
    light = canvas.light(*normal)
    column, floor = along / house.bay, (up - house.ground_floor) / house.storey
    rough = 1 - house.roughness * canvas.texture(up * 14, along * 5)
    edges = 1 - 0.25 * ((up < 0.6) | (up > height - 0.45))
    canvas.paint(window, mask, house.color, Id.BUILDING, z, light * rough * edges)

    across = np.abs(column % 1 - 0.5) < house.window_width / 2
    panes = across & (np.abs(floor % 1 - 0.55) < house.window_height / 2) & (floor > 0) & (up < height - 0.7)
    if house.shop:
        panes |= (np.abs(column / 2 % 1 - 0.5) < 0.42) & (up > 0.5) & (up < house.ground_floor - 1.0)
        board = (np.abs(up - house.ground_floor + 0.5) < 0.3) & (column / 4 % 1 < 0.8)
        canvas.paint(window, mask & board, house.sign_color, Id.BUILDING, z, light)
    else:
        panes |= across & (up > 1.0) & (up < house.ground_floor - 0.9)
    reflection = canvas.texture(np.floor(column) * 7, np.floor(floor) * 13) ** 2
    canvas.paint(window, mask & panes, GLASS, Id.BUILDING, z, 0.6 + 5 * reflection)


def draw_building(canvas: Canvas, house: House, start, end, height: float, roof: float, sign: int):
    (near, z0), (far, z1) = start, end
    if roof:
        ridge = sign * 4
        slope = [
            (near, height, z0),
            (far, height, z1),
            (far + ridge, height + roof, z1),
            (near + ridge, height + roof, z0),
        ]
        canvas.polygon(np.array(slope), TILES, Id.BUILDING, canvas.light(-sign * 0.6, 0.8, 0))
        gable = [(near, height, z0), (near + 2 * ridge, height, z0), (near + ridge, height + roof, z0)]
        canvas.polygon(np.array(gable), house.color, Id.BUILDING, canvas.light(0, 0, -1))
    draw_facade(canvas, house, (near, z0), (near + sign * 8, z0), height, (0, 0, -1))
    draw_facade(canvas, house, start, end, height, (-sign, 0, 0))


def draw_wall(canvas: Canvas, color, start, end, height: float, sign: int, block: float):
    window, mask, along, up, z = canvas.screen(start, end, height)
    joint = (up / 0.5 % 1 < 0.10) | ((along / block + 0.5 * np.floor(up / 0.5)) % 1 < 0.06)
    value = 0.75 + 0.35 * canvas.texture(up * 10, along * 10) - 0.2 * joint + 0.2 * (up > height - 0.12)
    canvas.paint(window, mask, color, Id.WALL, z, value * canvas.light(-sign, 0, 0))


def draw_fence(canvas: Canvas, color, start, end, height: float, sign: int, pitch: float):
    """Pickets and rails. As in Cityscapes, what is seen between them belongs to the fence."""
    window, mask, along, up, z = canvas.screen(start, end, height)
    pickets = (along / pitch % 1 < 0.35) | (along / 2.5 % 1 < 0.05)
    rails = (np.abs(up - 0.25) < 0.06) | (np.abs(up - height + 0.15) < 0.06)
    canvas.paint(window, mask & (pickets | rails), color, Id.FENCE, z, canvas.light(-sign, 0, 0))
    canvas.label[window][mask] = Id.FENCE


def draw_foliage(canvas: Canvas, x: float, y: float, z: float, radius: float, half_height: float, color):
    """A ragged ellipse of leaves, lighter on its sunny side."""
    corners = canvas.project(np.array([(x - radius, y - half_height, z), (x + radius, y + half_height, z)]))
    rows, columns = window = canvas.window(corners)
    (left, bottom), (right, top) = corners
    a = (2 * np.arange(columns.start, columns.stop, dtype=np.float32)[None] - left - right) / (right - left)
    b = (2 * np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - top - bottom) / (top - bottom)
    leaves = canvas.texture(b * half_height * 12 + 37 * z, a * radius * 12 + 11 * x)
    value = 0.55 + 0.7 * leaves + 0.15 * b + 0.15 * canvas.sunshine * canvas.sun[0] * a
    canvas.paint(window, a * a + b * b < 0.45 + 0.7 * leaves, color, Id.VEGETATION, z, value)


def draw_tree(canvas: Canvas, x: float, z: float, height: float, radius: float, color, lean: float):
    canvas.stroke(np.array([(x, 0, z), (x + lean, height * 0.6, z)]), 0.05 * height, BARK, Id.VEGETATION)
    for side in (-0.45, 0.45):
        draw_foliage(canvas, x + lean + side * radius, height * 0.62, z, radius * 0.7, height * 0.24, color * 0.85)
    draw_foliage(canvas, x + lean, height * 0.72, z, radius * 0.85, height * 0.30, color)


def draw_pole(canvas: Canvas, x: float, z: float, height: float, color, arm: float):
    canvas.stroke(upright([(0, 0), (0, height), (arm, height + 0.1)], x, z), 0.22, color, Id.POLE)


def draw_traffic_light(canvas: Canvas, x: float, z: float, height: float, lit: int):
    box = [(-0.32, height), (0.32, height), (0.32, height + 1.5), (-0.32, height + 1.5)]
    canvas.polygon(upright(box, x, z), DARK, Id.TRAFFIC_LIGHT)
    for i, color in enumerate(LAMPS):
        lamp = upright(circle(0, height + 0.28 + 0.47 * i, 0.2, 8), x, z)
        canvas.polygon(lamp, color, Id.TRAFFIC_LIGHT, 1.0 if i == lit else 0.2)


def draw_sign(canvas: Canvas, x: float, z: float, height: float, corners: int, rim, face):
    turn = math.pi / 4 if corners == 4 else math.pi / 2
    canvas.polygon(upright(circle(0, height, 0.55, corners, turn), x, z), rim, Id.TRAFFIC_SIGN)
    canvas.polygon(upright(circle(0, height, 0.38, corners, turn), x, z), face, Id.TRAFFIC_SIGN)


def draw_bin(canvas: Canvas, x: float, z: float, color):
    canvas.polygon(upright([(-0.30, 0), (-0.35, 1.1), (0.35, 1.1), (0.30, 0)], x, z), color, Id.STATIC)


def draw_person(canvas: Canvas, x: float, z: float, height: float, stride: float, top, bottom, skin, hair):
    for points, thickness, color, value in (
        ([(-0.08, 0.85), (-0.08 - stride, 0.0)], 0.17, bottom, 1.0),
        ([(0.08, 0.85), (0.08 + stride, 0.0)], 0.17, bottom, 0.8),
        ([(-0.22, 1.40), (-0.27, 0.80)], 0.11, top, 0.85),
        ([(0.22, 1.40), (0.27, 0.80)], 0.11, top, 0.85),
        ([(0.0, 1.48), (0.0, 0.80)], 0.40, top, 1.0),
        ([(0.0, 1.46), (0.0, 1.70)], 0.19, skin, 1.0),
        ([(0.0, 1.65), (0.0, 1.76)], 0.22, hair, 1.0),
    ):
        canvas.stroke(upright(points, x, z, height=height / 1.75), thickness, color, Id.PERSON, value)


def draw_rider(canvas: Canvas, x: float, z: float, yaw: float, top, bottom, skin, hair):
    for points, thickness, color, value in (
        ([(-0.20, 0.95), (0.15, 0.75), (-0.05, 0.30)], 0.17, bottom, 1.0),
        ([(-0.22, 0.90), (0.08, 1.50)], 0.38, top, 1.0),
        ([(0.05, 1.40), (0.38, 1.05)], 0.11, top, 0.85),
        ([(0.12, 1.54), (0.16, 1.74)], 0.20, skin, 1.0),
        ([(0.15, 1.70), (0.16, 1.84)], 0.24, hair, 1.0),
    ):
        canvas.stroke(upright(points, x, z, yaw), thickness, color, Id.RIDER, value)


def draw_bicycle(canvas: Canvas, x: float, z: float, yaw: float, color):
    """As in Cityscapes, what is seen through the wheels and the frame belongs to the bicycle."""
    inside = [
        circle(-0.52, 0.33, 0.32),
        circle(0.52, 0.33, 0.32),
        [(-0.52, 0.33), (-0.2, 0.78), (0.38, 0.8), (-0.1, 0.3)],
    ]
    window, mask = canvas.outline([canvas.project(upright(shape, x, z, yaw)) for shape in inside])
    canvas.label[window][mask] = Id.BICYCLE
    for points, thickness, paint in (
        (circle(-0.52, 0.33, 0.32), 0.07, DARK),
        (circle(0.52, 0.33, 0.32), 0.07, DARK),
        ([(-0.52, 0.33), (-0.10, 0.30), (0.38, 0.80), (-0.20, 0.78), (-0.10, 0.30)], 0.06, color),
        ([(0.52, 0.33), (0.36, 1.00), (0.26, 1.02)], 0.06, color),
        ([(-0.15, 0.60), (-0.22, 0.93), (-0.10, 0.93)], 0.08, DARK),
    ):
        canvas.stroke(upright(points, x, z, yaw), thickness, paint, Id.BICYCLE)


def draw_motorcycle(canvas: Canvas, x: float, z: float, yaw: float, color):
    body = [(-0.85, 0.85), (-0.6, 0.45), (-0.1, 0.25), (0.3, 0.3), (0.55, 0.65), (0.4, 1.0), (0.1, 0.95), (-0.1, 0.8)]
    canvas.polygon(upright(body, x, z, yaw), color, Id.MOTORCYCLE)
    for points, thickness, paint in (
        (circle(-0.68, 0.30, 0.26), 0.16, DARK),
        (circle(0.68, 0.30, 0.26), 0.16, DARK),
        ([(0.0, 0.90), (0.0, 0.30)], 0.45, color),
        ([(0.68, 0.30), (0.42, 1.10)], 0.10, WHITE),
    ):
        canvas.stroke(upright(points, x, z, yaw), thickness, paint, Id.MOTORCYCLE)


class Face(NamedTuple):
    """A flat side of a vehicle, in (across, up, ahead) metres from the middle of its rear."""

    corners: np.ndarray  # (n, 3)
    normal: np.ndarray
    details: list[tuple[np.ndarray, tuple]]  # corners and colour of what is on it


class Body(NamedTuple):
    width: float
    height: float
    front: float
    faces: list[Face]


def extrude(outline: Points, glass: tuple, windows: list[Points], wheels: tuple, radius: float, width: float) -> Body:
    """Stretch a side view across a vehicle.

    Args:
        outline: (ahead, up) from the rear bottom over the roof to the front bottom.
        glass: the edges of the outline that are windows; ``windows`` are those on the sides.
        wheels: where they stand.
    """
    half, faces = width / 2, []
    for edge, ((a0, up0), (a1, up1)) in enumerate(pairwise(outline)):
        corners = np.array([(-half, up0, a0), (half, up0, a0), (half, up1, a1), (-half, up1, a1)])
        details = [(corners.mean(0) + 0.82 * (corners - corners.mean(0)), GLASS)] if edge in glass else []
        if edge in (0, len(outline) - 2):
            color, ahead, bottom = (WHITE, a0, up1 + 0.2) if edge else (SIGNAL[0], a0, up0 + 0.2)
            for left in (-0.8 * half, 0.55 * half):
                square = circle(left + 0.13, bottom + 0.13, 0.18, 4, math.pi / 4)
                details.append((np.array([(across, up, ahead) for across, up in square]), color))
        faces.append(Face(corners, np.array([0, a1 - a0, up0 - up1]) / math.hypot(a1 - a0, up1 - up0), details))
    drawing = [(window, GLASS) for window in windows]
    drawing += [(circle(hub, radius, radius), DARK) for hub in wheels]
    drawing += [(circle(hub, radius, radius / 2, 8), PAINT[1]) for hub in wheels]
    for side in (-1, 1):
        placed = [(np.array([(side * half, up, a) for a, up in points]), color) for points, color in drawing]
        corners = np.array([(side * half, up, a) for a, up in outline])
        faces.append(Face(corners, np.array([side, 0, 0]), placed))
    return Body(width, max(up for _, up in outline), outline[-1][0], faces)


def row(start: float, stop: float, bottom: float, top: float, count: int, share: float = 0.85) -> list[Points]:
    """Windows along a side; with a small share of the length, the ribs of a cargo box."""
    step = (stop - start) / count
    spans = [(start + i * step, start + (i + share) * step) for i in range(count)]
    return [[(a, bottom), (a, top), (b, top), (b, bottom)] for a, b in spans]


# fmt: off
SALOON = extrude([(0, .3), (0, .9), (.5, 1), (1.1, 1.42), (2.5, 1.45), (3.3, 1), (4.4, .8), (4.5, .3)], (2, 4),
                 [[(.9, 1), (1.2, 1.34), (1.75, 1.36), (1.75, 1)], [(1.85, 1), (1.85, 1.36), (2.4, 1.37), (3, 1)]],
                 (.9, 3.6), .33, 1.8)
HATCHBACK = extrude([(0, .3), (0, .95), (.3, 1.45), (2.3, 1.5), (3, 1), (3.8, .8), (3.9, .3)], (1, 3),
                 [[(.4, 1), (.5, 1.38), (1.3, 1.4), (1.3, 1)], [(1.4, 1), (1.4, 1.4), (2.2, 1.4), (2.7, 1)]],
                 (.7, 3.2), .33, 1.75)
VAN = extrude([(0, .35), (0, 1.1), (.05, 1.9), (3.6, 2), (4.3, 1.15), (4.9, .95), (5, .35)], (1, 3),
           [[(3, 1.15), (3, 1.75), (3.5, 1.75), (3.95, 1.15)], [(.4, 1.15), (.4, 1.75), (1.5, 1.75), (1.5, 1.15)]],
           (.9, 4.1), .33, 1.9)
CARGO = extrude([(0, .8), (0, 3.5), (5.8, 3.5), (5.8, .8)], (), row(.3, 5.8, 1, 3.4, 8, .15), (1, 2), .48, 2.4)
CAB = extrude([(6, .5), (6, 2.7), (7.2, 2.7), (7.7, 1.5), (7.8, .5)], (2,),
           [[(6.4, 1.6), (6.4, 2.4), (7.1, 2.4), (7.4, 1.6)]], (6.9,), .48, 2.3)
BUS = extrude([(0, .4), (0, 1.5), (0, 2.7), (.1, 3.1), (11, 3.1), (11.1, 2.7), (11.1, 1.2), (11.1, .4)], (1, 5),
           row(.4, 10.8, 1.3, 2.6, 7), (2.5, 8.8), .48, 2.5)
TRAM = extrude([(0, .25), (0, 1.3), (.5, 2.8), (.9, 3.5), (13.1, 3.5), (13.5, 2.8), (14, 1.3), (14, .25)], (1, 5),
            row(1, 13, 1.5, 2.7, 8), (), 0, 2.4)
# fmt: on
CARS = ((SALOON,), (HATCHBACK,), (VAN,))
LARGE = {Id.TRUCK: (CARGO, CAB), Id.BUS: (BUS,), Id.TRAIN: (TRAM,)}


def draw_vehicle(canvas: Canvas, label: Id, bodies: tuple[Body, ...], colors, x: float, z: float, yaw: float):
    """The middle of the vehicle is over (x, z); yaw is its heading, 0 away from the camera."""
    axes = np.array([(math.cos(yaw), 0, -math.sin(yaw)), (0, 1, 0), (math.sin(yaw), 0, math.cos(yaw))])
    origin = np.array([x, 0, z]) - (0, 0, bodies[-1].front / 2) @ axes
    camera = axes @ ((0, canvas.eye, 0) - origin)  # as seen from the vehicle
    visible = []
    for body, color in zip(bodies, colors, strict=True):
        for face in body.faces:
            if (camera - face.corners[0]) @ face.normal > 0:
                visible.append((face.corners @ axes + origin, color, face))
    for corners, color, face in sorted(visible, key=lambda item: -item[0][:, 2].mean()):
        canvas.polygon(corners, color, label, canvas.light(*(face.normal @ axes)))
        for points, paint in face.details if z < 45 else ():
            canvas.polygon(points @ axes + origin, paint, label)
