"""Plans a street, fills it and paints it far to near: ``image, label, depth = render_scene(seed, index)``."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from segdistill.dataset.scenes.drawing import (
    CARS,
    DARK,
    GREENS,
    LARGE,
    MASONRY,
    PAINT,
    PAVING,
    SIGNAL,
    SKIN,
    SUPERSAMPLE,
    WHITE,
    Canvas,
    Id,
    draw_bicycle,
    draw_bin,
    draw_building,
    draw_facade,
    draw_fence,
    draw_foliage,
    draw_motorcycle,
    draw_person,
    draw_pole,
    draw_rider,
    draw_sign,
    draw_traffic_light,
    draw_tree,
    draw_vehicle,
    draw_wall,
    pick,
    plan_house,
)

FAR = 100.0  # metres; where the street ends

# Scene i is sure to be offered RARE[i % 7], so that a split of some length holds every class.
RARE = (Id.TRAIN, Id.TRUCK, Id.BUS, Id.MOTORCYCLE, Id.BICYCLE, Id.FENCE, Id.WALL)


@dataclass
class Side:
    """One side of the street: distances from the centre line, growing outwards."""

    sign: int  # -1 left, +1 right
    curb: float
    sidewalk: tuple[float, float]
    front: float  # the building line
    strips: list[tuple[float, Id]]  # outer border and label of each strip of ground, from the lanes on
    heights: np.ndarray  # of the buildings, by metre of z


@dataclass
class Street:
    offset: float  # x of the centre line beside the camera
    bend: float
    lanes: list[float]  # distance of each driving lane to the right of the centre line
    half_width: float  # of the driving lanes together
    sides: tuple[Side, Side]
    crossing: tuple[float, float]  # a side street from z to z; beyond FAR when there is none
    rails: float | None  # where the tram runs

    def x(self, lateral, z):
        """x of a point at a distance to the right of the centre line; the bend is a parabola, straight after 50 m."""
        near = np.minimum(z, 50.0)
        return self.offset + lateral + self.bend * near * (2 * z - near)


def plan_side(rng: np.random.Generator, sign: int, half_width: float) -> Side:
    curb, strips = half_width, []
    if rng.random() < 0.5:
        curb += 2.2
        strips.append((curb, Id.ROAD if rng.random() < 0.7 else Id.PARKING))
    inner = curb
    if rng.random() < 0.35:
        inner += rng.uniform(1.0, 2.5)
        strips.append((inner, Id.TERRAIN))
    outer = front = inner + rng.uniform(1.8, 4.5)
    strips.append((outer, Id.SIDEWALK))
    if rng.random() < 0.4:
        front += rng.uniform(1.0, 5.0)
        strips.append((front, Id.TERRAIN))
    strips.append((math.inf, Id.TERRAIN if rng.random() < 0.7 else Id.GROUND))
    return Side(sign, curb, (inner, outer), front, strips, np.zeros(int(FAR) + 1, np.float32))


def plan_street(rng: np.random.Generator, rare: Id) -> Street:
    count = int(rng.integers(2, 5))
    half_width = count * 1.55
    lanes = [3.1 * (i + 0.5) - half_width for i in range(count)]
    offset = rng.normal(0, 0.3) - lanes[rng.integers(count // 2, count)]
    sides = (plan_side(rng, -1, half_width), plan_side(rng, 1, half_width))
    start = rng.uniform(14, 40) if rng.random() < 0.4 else 2 * FAR
    rails = lanes[0] if rng.random() < 0.08 or rare == Id.TRAIN else None
    return Street(offset, rng.normal(0, 0.0012), lanes, half_width, sides, (start, start + rng.uniform(7, 10)), rails)


def draw_sky(canvas: Canvas, rng: np.random.Generator):
    """Blue seen through air, which is thick at the horizon and in the clouds."""
    rows = int(canvas.horizon) + 2
    rise = np.clip(1 - np.arange(rows, dtype=np.float32) / canvas.horizon, 0.01, 1)[:, None]
    first = rng.integers(0, 128)
    part = Image.fromarray(canvas.noise[first : first + 100, :160])
    clouds = np.asarray(part.resize((canvas.width, rows), Image.Resampling.BICUBIC))
    cover = np.clip(2.2 * clouds - 0.6 - 1.4 * canvas.sunshine * rng.uniform(0.3, 1), 0, 0.97)
    clear = rise**0.7 * (1 - cover)
    blue = canvas.air * (0.55, 0.76, 1.08) * rng.uniform(0.75, 1.05)
    window = slice(0, rows), slice(0, canvas.width)
    canvas.paint(window, np.ones_like(clear, bool), blue, Id.SKY, -np.log(clear) / canvas.haze, metres=0.0)


def draw_skyline(canvas: Canvas, rng: np.random.Generator):
    """The skyline at the end of the street."""
    x, z = -90.0, FAR + 10
    while x < 90:
        width, height, house, leaves = rng.uniform(15, 40), rng.uniform(4, 20), plan_house(rng), pick(rng, GREENS)
        if rng.random() < 0.55:
            draw_facade(canvas, house, (x, z), (x + width, z), height, (0, 0, -1))
        else:
            draw_foliage(canvas, x + width / 2, height * 0.3, z, width * 0.7, height * 0.5, leaves)
        x += width * rng.uniform(0.7, 1.1)


def draw_ground(canvas: Canvas, street: Street, rng: np.random.Generator):
    """The strips of ground with kerbs, markings and rails, and the shadows that the houses throw on them."""
    top = int(canvas.horizon) + 1
    window = slice(top, canvas.height), slice(0, canvas.width)
    z = canvas.eye * canvas.focal / (np.arange(top, canvas.height, dtype=np.float32) + 0.5 - canvas.horizon)[:, None]
    x = (np.arange(canvas.width, dtype=np.float32) + 0.5 - canvas.center) / canvas.focal * z
    lateral = (x - street.x(0.0, z)).astype(np.float32)
    fine, coarse = canvas.texture(lateral * 25, z * 12), canvas.texture(lateral * 3, z * 2)
    sunlit = canvas.light(0, 1, 0) * (1 - 0.5 * canvas.sunshine * house_shadow(canvas, street, lateral, z))
    value = (0.80 + 0.22 * fine + 0.18 * coarse) * sunlit
    slab = rng.uniform(0.5, 1.5)
    paved = value * (1 - 0.25 * ((lateral / slab % 1 < 0.08) | (z / slab % 1 < 0.08)))
    values = {Id.SIDEWALK: paved, Id.PARKING: paved, Id.TERRAIN: value * (0.6 + 0.8 * fine)}
    asphalt, concrete = pick(rng, PAVING[:3]), pick(rng, PAVING[2:])
    colors = {Id.SIDEWALK: concrete, Id.PARKING: pick(rng, PAVING), Id.TERRAIN: pick(rng, GREENS), Id.GROUND: concrete}

    canvas.paint(window, np.ones_like(lateral, bool), asphalt, Id.ROAD, z, value)
    beside = (z < street.crossing[0]) | (z > street.crossing[1])  # not in the side street
    for side in street.sides:
        outward, inner = lateral * side.sign, street.half_width
        for outer, label in side.strips:
            if label != Id.ROAD:
                mask = (outward > inner) & (outward <= outer) & beside
                canvas.paint(window, mask, colors[label], label, z, values.get(label, value))
            inner = outer
        kerb = (np.abs(outward - side.curb) < 0.12) & beside
        canvas.paint(window, kerb, concrete * 1.25, Id.SIDEWALK, z, sunlit)
    marks = lane_markings(street, lateral, z, dashed=rng.random() < 0.8) & beside
    worn = rng.uniform(0.4, 0.9)
    canvas.paint(window, marks, worn * asphalt + (1 - worn) * np.array(WHITE), Id.ROAD, z, value)
    if street.rails is not None:
        rail = np.abs(np.abs(lateral - street.rails) - 0.72) < 0.07
        canvas.paint(window, rail, DARK, Id.ROAD, z, 2.5 * sunlit)


def lane_markings(street: Street, lateral: np.ndarray, z: np.ndarray, dashed: bool) -> np.ndarray:
    marks = np.abs(np.abs(lateral) - street.half_width) < 0.08
    for lane in street.lanes[1:]:
        line = np.abs(lateral - lane + 1.55) < 0.08
        marks |= line & (z / 6 % 1 < 0.5) if dashed else line
    before = street.crossing[0] - z
    zebra = (before > 0.8) & (before < 3.6) & (lateral % 1 < 0.5)
    stop = (before > 4.4) & (before < 4.9) & (lateral > 0)
    return marks & ((before > 5) | (before < 0)) | (zebra | stop) & (np.abs(lateral) < street.half_width)


def house_shadow(canvas: Canvas, street: Street, lateral: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Mask of the shadow of a house at the building line on the sunny side."""
    side = street.sides[int(canvas.sun[0] > 0)]
    distance = (side.front - side.sign * lateral) / max(abs(canvas.sun[0]), 0.05)
    meets = np.clip(z + distance * canvas.sun[1], 0, FAR).astype(np.int32)
    return (distance > 0) & (side.heights[meets] > distance * canvas.sun_slope)


class Thing(NamedTuple):
    """An object on the ground: ``draw(canvas, *arguments)``, called far to near."""

    depth: float
    draw: Callable
    arguments: tuple
    footprint: tuple[float, float, float, float, float] | None = None  # x, z, half width, half length, height


def put_plots(street: Street, side: Side, rare: Id, rng: np.random.Generator) -> Iterator[Thing]:
    """Along the building line: houses, walls and fences with trees or houses behind them, and trees."""
    z = 2.0
    while z < FAR:
        end = min(z + rng.uniform(8, 20), FAR)
        if z < street.crossing[1] and end > street.crossing[0]:
            end = street.crossing[0]
            if end - z < 3:
                z = street.crossing[1]
                continue
        kind = rng.choice([Id.BUILDING, Id.WALL, Id.FENCE, Id.VEGETATION], p=[0.54, 0.16, 0.16, 0.14])
        if rare in (Id.WALL, Id.FENCE) and rng.random() < 0.5:
            kind = rare
        setback = 0.0 if kind == Id.BUILDING else rng.uniform(4, 8)
        line, back = ([(street.x(side.sign * (side.front + s), at), at) for at in (z, end)] for s in (0.0, setback))
        if kind == Id.BUILDING or (kind != Id.VEGETATION and rng.random() < 0.4):
            height, roof = rng.uniform(5, 19), rng.choice([0.0, rng.uniform(1.5, 4)])
            yield Thing(end + 0.2, draw_building, (plan_house(rng), *back, height, roof, side.sign))
            side.heights[int(z) : int(end)] = height
        else:
            for at in np.arange(z + 1, end, rng.uniform(4, 7)):
                yield put_tree(street.x(side.sign * (side.front + setback), at), at, rng)._replace(depth=end + 0.2)
        if kind == Id.WALL:
            color = pick(rng, PAVING if rng.random() < 0.6 else MASONRY)
            yield Thing(end, draw_wall, (color, *line, rng.uniform(1.8, 3.2), side.sign, rng.uniform(0.6, 1.4)))
        elif kind == Id.FENCE:
            pitch = rng.choice([0.2, 0.35, 0.6])
            yield Thing(end, draw_fence, (pick(rng, PAINT), *line, rng.uniform(1.4, 2.4), side.sign, pitch))
        z = end


def put_tree(x: float, z: float, rng: np.random.Generator) -> Thing:
    height = rng.uniform(4, 10)
    radius = height * rng.uniform(0.25, 0.4)
    drawing = (x, z, height, radius, pick(rng, GREENS), rng.normal(0, 0.2))
    return Thing(z, draw_tree, drawing, (x, z, radius * 0.7, radius * 0.5, height))


def put_furniture(street: Street, side: Side, rng: np.random.Generator) -> Iterator[Thing]:
    """At the kerb: trees, bins, lamp posts and signs; traffic lights, mostly at the crossing."""
    green, steel, lit = rng.random() < 0.4, pick(rng, PAINT[1:4]), int(rng.integers(3))
    for z in np.arange(rng.uniform(5, 12), 75, rng.uniform(7, 14)):
        x, kind = street.x(side.sign * (side.curb + 0.5), z), rng.random()
        if street.crossing[0] - 1 < z < street.crossing[1] + 1:
            continue
        if green and kind < 0.6:
            yield put_tree(x, z, rng)
        elif kind < 0.9:
            yield from put_pole(x, z, side.sign, steel, lit if rng.random() < 0.15 else None, rng)
        else:
            yield Thing(z, draw_bin, (x, z, pick(rng, PAINT)), (x, z, 0.3, 0.3, 1.1))
    z = street.crossing[0] - 0.7
    if z < FAR and rng.random() < 0.8:
        yield from put_pole(street.x(side.sign * (side.curb + 0.4), z), z, side.sign, steel, lit, rng)


def put_pole(x, z, sign: int, color, lit: int | None, rng: np.random.Generator) -> Iterator[Thing]:
    """A pole with a lamp, a sign or both; with a traffic light where ``lit`` names its lamp."""
    lamp, corners, height = rng.random() < 0.4, int(rng.choice([3, 4, 16])), rng.uniform(2.2, 3.0)
    top = 3.6 if lit is not None else rng.uniform(5, 7) if lamp else height + 0.3
    yield Thing(z, draw_pole, (x, z, top, color, -sign * 1.5 * lamp), (x, z, 0.1, 0.1, top))
    if lit is not None:
        yield Thing(z - 0.1, draw_traffic_light, (x, z - 0.1, 2.5, lit))
    elif not lamp or rng.random() < 0.4:
        yield Thing(z - 0.1, draw_sign, (x, z - 0.1, height, corners, pick(rng, SIGNAL), pick(rng, SIGNAL)))


def put_two_wheeler(kind: Id, x, z, yaw: float, ridden: bool, rng: np.random.Generator) -> Iterator[Thing]:
    draw = draw_motorcycle if kind == Id.MOTORCYCLE else draw_bicycle
    yield Thing(z, draw, (x, z, yaw, pick(rng, PAINT)), (x, z, 0.4, 0.5, 1.6 if ridden else 0.9))
    if ridden:
        yield Thing(z, draw_rider, (x, z, yaw, *pick_clothes(rng)))


def put_vehicle(kind: Id, x, z, yaw: float, rng: np.random.Generator) -> Thing:
    """A vehicle with its near end at z."""
    bodies = LARGE.get(kind) or CARS[rng.integers(len(CARS))]
    length, width = bodies[-1].front, bodies[0].width
    half_length = (length * abs(math.cos(yaw)) + width * abs(math.sin(yaw))) / 2
    half_width = (length * abs(math.sin(yaw)) + width * abs(math.cos(yaw))) / 2
    drawing = (kind, bodies, [pick(rng, PAINT, tint=0.04) for _ in bodies], x, z + half_length, yaw)
    return Thing(z, draw_vehicle, drawing, (x, z + half_length, half_width, half_length, bodies[0].height))


def put_lane(street: Street, lateral, yaw, start, gap: float, first: Id | None, rng) -> Iterator[Thing]:
    """A queue of vehicles of random kinds, none of which stops on the crossing; ``first`` may name the first one."""
    z, kinds = start, [Id.CAR, Id.TRUCK, Id.BUS, Id.MOTORCYCLE, Id.BICYCLE]
    while z < 60:
        kind = first or Id(rng.choice(kinds, p=[0.78, 0.06, 0.05, 0.05, 0.06]))
        x, turn = street.x(lateral, z) + rng.normal(0, 0.2), rng.uniform(-0.7, 0.7)
        if kind in (Id.MOTORCYCLE, Id.BICYCLE):
            yield from put_two_wheeler(kind, x, z, yaw + turn, True, rng)
            z += 2.0
        else:
            thing = put_vehicle(kind, x, z, yaw + 0.05 * turn, rng)
            length = 2 * thing.footprint[3]
            if first or not street.crossing[0] - length < z < street.crossing[1]:
                yield thing
            z += length
        z, first = z + 1.5 + rng.exponential(gap), None


def put_traffic(street: Street, rare: Id, rng: np.random.Generator) -> Iterator[Thing]:
    """Moving traffic, parked cars, and sometimes a vehicle that crosses."""
    chosen = 0 if rare == Id.TRAIN else rng.integers(len(street.lanes))
    wanted = None if rare in (Id.WALL, Id.FENCE) else rare
    for lane, lateral in enumerate(street.lanes):
        first, start = (wanted, rng.uniform(7, 15)) if lane == chosen else (None, rng.uniform(6, 45))
        yield from put_lane(street, lateral, 0.0 if lateral > 0 else math.pi, start, 14.0, first, rng)
    for side in street.sides:
        if side.curb > street.half_width:
            lateral, yaw = side.sign * (side.curb - 1.1), rng.choice([0.0, math.pi])
            yield from put_lane(street, lateral, yaw, rng.uniform(4, 20), rng.choice([1.0, 8.0]), Id.CAR, rng)
    if rng.random() < 0.6 and street.crossing[0] < FAR:
        kind, yaw = Id(rng.choice([Id.CAR, Id.TRUCK, Id.BUS], p=[0.7, 0.15, 0.15])), rng.choice([-1, 1]) * math.pi / 2
        yield put_vehicle(kind, rng.uniform(-8, 8), street.crossing[0] + 2, yaw, rng)


def pick_clothes(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Top, bottom, skin, hair."""
    return pick(rng, PAINT, tint=0.04), pick(rng, PAINT[1:8]), pick(rng, SKIN), pick(rng, PAINT[2:6])


def put_person(x, z, rng: np.random.Generator) -> Thing:
    height = rng.uniform(1.5, 1.95)
    return Thing(z, draw_person, (x, z, height, rng.uniform(0, 0.3), *pick_clothes(rng)), (x, z, 0.25, 0.15, height))


def put_people(street: Street, rng: np.random.Generator) -> Iterator[Thing]:
    """On the sidewalks and the zebra crossing; and bicycles and motorcycles left by their riders."""
    for side in street.sides:
        for _ in range(rng.poisson(2.5)):
            z, lateral = 4.5 + rng.exponential(9), side.sign * rng.uniform(*side.sidewalk)
            for member in range(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1])):
                yield put_person(street.x(lateral, z) + 0.6 * member, z + rng.uniform(-0.3, 0.3), rng)
        if rng.random() < 0.4:
            kind = Id.BICYCLE if rng.random() < 0.75 else Id.MOTORCYCLE
            z, yaw, lateral = rng.uniform(6, 25), rng.uniform(0.3, 2.8), side.sign * (side.sidewalk[0] + 0.9)
            for at in z + 0.8 * np.arange(rng.integers(1, 5)):
                yield from put_two_wheeler(kind, street.x(lateral, at), at, yaw, False, rng)
    if street.crossing[0] < FAR:
        for _ in range(rng.poisson(1.5)):
            z = street.crossing[0] - rng.uniform(1, 3.4)
            yield put_person(street.x(rng.uniform(-1, 1) * street.half_width, z), z, rng)


def draw_shadow(canvas: Canvas, x, z, half_width: float, half_length: float, height: float):
    """The ground under an object, and its shadow."""
    foot = np.array([(x - half_width, 0, z - half_length), (x + half_width, 0, z - half_length),
                     (x + half_width, 0, z + half_length), (x - half_width, 0, z + half_length)])  # fmt: skip
    tip = foot - np.array([canvas.sun[0], 0, canvas.sun[1]]) * (height / canvas.sun_slope)
    tip[:, 2] = np.maximum(tip[:, 2], 1.5)  # stay before the camera
    foot, tip = canvas.project(foot), canvas.project(tip)
    sweep = [np.stack([foot[i], foot[i - 1], tip[i - 1], tip[i]]) for i in range(4)]
    for shapes, value in (([foot], 0.6), ([foot, tip, *sweep], 1 - 0.45 * canvas.sunshine)):
        window, mask = canvas.outline(shapes)
        canvas.value[window][mask] *= value


def draw_hood(canvas: Canvas, rise: float, color):
    """The car that carries the camera."""
    across = np.linspace(-1, 1, 17)
    edge = np.stack([(0.5 + 0.5 * across) * canvas.width, (1 - rise * (1 - 0.6 * across**4)) * canvas.height], 1)
    corners = np.array([(canvas.width, canvas.height), (0, canvas.height)])
    canvas.paint(*canvas.outline([np.concatenate([edge, corners])]), color, Id.EGO_VEHICLE, 0.0)


def expose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Simulate a camera sensor on (3, H, W): exposure, colour cast, vignetting, contrast and noise. (H, W, 3) uint8."""
    gain = math.exp(rng.normal(0.05, 0.12)) * (1 + rng.normal(0, 0.03, (3, 1, 1)))
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) ** 2 for n in image.shape[1:])
    vignette = 1 - np.float32(rng.uniform(0, 0.15)) * (rows[:, None] + columns)
    contrast, grain = np.float32(rng.uniform(0.85, 1.2)), np.float32(rng.uniform(0.005, 0.02))
    image = np.maximum(image * gain.astype(np.float32) * vignette, 0) ** contrast
    image += grain * rng.standard_normal(image.shape, np.float32)
    return np.ascontiguousarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))


class Scene(NamedTuple):
    """image (H, W, 3) uint8 RGB; label (H, W) uint8 of ``Id`` values; depth (H, W) float32, metres along the optical
    axis to what is seen, 0 of the sky and of the camera's own car."""

    image: np.ndarray
    label: np.ndarray
    depth: np.ndarray


def render_scene(seed: int, index: int, size: tuple[int, int] = (128, 256)) -> Scene:
    """Draw one scene: a pure function of its arguments.

    Args:
        seed, index: non-negative; each pair is another scene.
        size: (height, width), at least 64 x 128. A scene shows the same things at every size.

    Raises:
        ValueError: the size is too small.
    """
    if size[0] < 64 or size[1] < 128:
        raise ValueError(f"a scene needs at least 64 x 128 pixels (height x width), not {size[0]} x {size[1]}")
    rng, rare = np.random.default_rng((seed, index)), RARE[index % len(RARE)]
    canvas, street = Canvas(rng, size), plan_street(rng, rare)
    things = [*put_traffic(street, rare, rng), *put_people(street, rng)]
    for side in street.sides:
        things += [*put_plots(street, side, rare, rng), *put_furniture(street, side, rng)]
    draw_sky(canvas, rng)
    draw_skyline(canvas, rng)
    draw_ground(canvas, street, rng)
    for thing in things:
        if thing.footprint and thing.depth < 40:
            draw_shadow(canvas, *thing.footprint)
    for thing in sorted(things, key=lambda thing: -thing.depth):
        thing.draw(canvas, *thing.arguments)
    if rng.random() < 0.7:
        draw_hood(canvas, rng.uniform(0.03, 0.09), pick(rng, PAINT))
    image, n = canvas.develop(), SUPERSAMPLE
    image = sum(image[:, i::n, j::n] for i in range(n) for j in range(n)) / n**2
    return Scene(expose(image, rng), canvas.label[::n, ::n].copy(), canvas.metres[::n, ::n].copy())
