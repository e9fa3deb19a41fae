"""COCO-Stuff-164k: 118,287 training and 5,000 validation images, 80 things and 91 stuffs that occur, 255 = void."""

from segdistill.dataset.base import Recipe, SegmentationDataset, Source
from segdistill.dataset.ids import IGNORE_INDEX, bit_color
from segdistill.dataset.pairs import Pair, pair_up

# In the order of the values 0..181; "-" are the eleven things that were named but never labelled.
NAMES = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, -, stop
sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, -, backpack, umbrella,
-, -, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, -, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, -, dining table, -, -, toilet, -, tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, -, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush, -, banner, blanket, branch, bridge, building-other, bush, cabinet, cage,
cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt,
door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit,
furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain,
mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad, river,
road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw,
structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other,
wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood"""
VALUES = {value: " ".join(name.split()) for value, name in enumerate(NAMES.split(",")) if name.strip() != "-"}


class CocoStuff(SegmentationDataset):
    """``<root>/images/{train2017,val2017}/X.jpg`` with ``<root>/annotations/{train2017,val2017}/X.png``.

    CIRKD counts 182 classes, of which eleven never occur and score 0; these are the 171 others.
    """

    CLASSES = tuple(VALUES.values())
    PALETTE = tuple(bit_color(i) for i in range(1, 172))
    ID_TO_TRAIN_ID = {**{value: train_id for train_id, value in enumerate(VALUES)}, 255: IGNORE_INDEX}
    SPLITS = ("train", "val")
    RECIPE = Recipe(scale_range=(0.5, 2.0), batch_size=16, num_steps=80_000, lr_g=2e-2, weight_decay=1e-4)
    LABEL_HINT = "Labels are stuffthingmaps_trainval2017's, 0..181 and 255."
    SOURCES = (
        Source("http://images.cocodataset.org/zips/train2017.zip", into="images"),
        Source("http://images.cocodataset.org/zips/val2017.zip", into="images"),
        Source(
            "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
            into="annotations",
        ),
    )

    def find_pairs(self) -> list[Pair]:
        folder = f"{self.split}2017"
        images = self.list_images(f"images/{folder}")
        labels = self.list_images(f"annotations/{folder}", other_endings=("_labelTrainIds",))
        return pair_up(images, labels, f"{self.root} {self.split}")
