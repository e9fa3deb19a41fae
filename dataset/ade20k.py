"""ADE20K, SceneParsing edition: 20,210 training and 2,000 validation images, 150 classes, 0 = void."""

from segdistill.dataset.base import Recipe, SegmentationDataset, Source
from segdistill.dataset.ids import IGNORE_INDEX, bit_color
from segdistill.dataset.pairs import Pair, pair_up

NAMES = """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth,
door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of
drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table,
pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light,
truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land,
bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer,
plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank,
trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic
light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag"""


class Ade20k(SegmentationDataset):
    """``<root>/images/{training,validation}/X.jpg`` with ``<root>/annotations/{training,validation}/X.png``."""

    CLASSES = tuple(" ".join(name.split()) for name in NAMES.split(","))
    PALETTE = tuple(bit_color(i) for i in range(1, 151))
    ID_TO_TRAIN_ID = {0: IGNORE_INDEX, **{i + 1: i for i in range(150)}}
    SPLITS = ("train", "val")
    RECIPE = Recipe(scale_range=(0.5, 2.0), batch_size=16, lr_g=2e-2, weight_decay=1e-4)
    LABEL_HINT = "Labels are ADEChallengeData2016's, 0 (void) and 1..150; the full data set's colour files are others."
    SOURCES = (
        Source("http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip", "ADEChallengeData2016"),
    )

    def find_pairs(self) -> list[Pair]:
        folder = {"train": "training", "val": "validation"}[self.split]
        images, labels = self.list_images(f"images/{folder}"), self.list_images(f"annotations/{folder}")
        return pair_up(images, labels, f"{self.root} {self.split}")
