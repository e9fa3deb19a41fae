"""Monocular depth: the distance of every pixel along the optical axis, scored by the share within 25 % of the truth."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from segdistill.dataset import SegmentationDataset
from segdistill.dataset.base import is_labelled
from segdistill.dataset.depth import DepthRange, encode_depth
from segdistill.network import LoadReport, SegmentationNetwork, SegmentationOutput, resize
from segdistill.utils.batch import Batch
from segdistill.utils.distributed import sum_over_processes
from segdistill.utils.losses.depth import LEAST, LOSSES, Kind
from segdistill.utils.tasks.base import Figure, Task

ALIGNMENTS = ("none", "median", "lstsq")
# Rows and columns that are scored, as shares of the height and the width: of NYU's 480x640 45..471 and 41..601.
CROPS = {
    "none": (0.0, 1.0, 0.0, 1.0),
    "nyu": (45 / 480, 471 / 480, 41 / 640, 601 / 640),
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
}
# Matplotlib's viridis at equal steps, far to near.
# fmt: off
COLORS = np.array(((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129),
                   (92, 200, 99), (170, 220, 50), (253, 231, 37)))
# fmt: on
MOST_ERROR = 0.5  # of the depth, in pictures of errors
ERRORS = {"no error": (255, 255, 255), "half the depth wrong, or more": (200, 0, 0)}
BINS_PER_STEP = 64  # of the histogram of depths, in a factor of 1.25


class DepthLoss(nn.Module):
    """A loss of ``segdistill.utils.losses.depth`` on labels, at their size; for ssi the gradients weigh 1/2."""

    wanted = frozenset({"depth"})

    def __init__(self, kind: Kind, weight: float):
        super().__init__()
        self.name, self.weight = kind, weight

    def forward(self, output: SegmentationOutput, batch: Batch) -> Tensor:
        depth = resize(output.features["depth"].float(), batch.labels.shape[1:])[:, 0]
        return LOSSES[self.name](depth, batch.labels, is_labelled(batch.labels), batch.num_valid)


class DepthScores:
    """The scores of Eigen et al. (NIPS 2014) and KITTI's, of each image over its labelled pixels, mean over the images.

    Predictions are aligned, if so asked, and then brought into ``limits``; labels outside of these do not count.

    Args:
        align: none; median: times the ratio of the medians (Zhou et al., CVPR 2017); lstsq: scale and shift of the
            inverse by least squares (Ranftl et al., TPAMI 2022), for relative depth.
        crop: one of ``CROPS``.
    """

    NAMES = ("delta1", "delta2", "delta3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog")

    def __init__(self, limits: DepthRange, align: str = "none", crop: str = "none"):
        self.limits, self.align, self.crop = limits, align, crop
        steps = math.log(limits.high / limits.low) / math.log(1.25)
        self.totals = torch.zeros(len(self.NAMES), dtype=torch.float64)
        self.counts = torch.zeros(2, dtype=torch.float64)  # images, pixels
        self.histogram = torch.zeros(math.ceil(steps * BINS_PER_STEP) + 1, dtype=torch.float64)
        self.of_medians = torch.zeros(1, dtype=torch.float64)  # delta1 of each image's own median

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count predictions (N, H, W) against labels (N, H, W), NaN for void. Raises: ValueError, shapes differ."""
        if predictions.shape != labels.shape:
            raise ValueError(f"predictions {tuple(predictions.shape)} and labels {tuple(labels.shape)} differ in shape")
        top, bottom, left, right = CROPS[self.crop]
        height, width = labels.shape[1:]
        rows = slice(round(top * height), round(bottom * height))
        columns = slice(round(left * width), round(right * width))
        for prediction, label in zip(predictions.cpu(), labels.cpu(), strict=True):
            prediction, label = prediction[rows, columns].double(), label[rows, columns].double()
            known = is_labelled(label) & (label >= self.limits.low) & (label <= self.limits.high)
            if known.any():
                self._count(prediction[known], label[known])

    def _count(self, prediction: Tensor, label: Tensor) -> None:
        prediction = aligned(prediction.clamp(min=LEAST), label, self.align, self.limits)
        prediction = prediction.clamp(self.limits.low, self.limits.high)
        self.totals += torch.stack([*errors_of(prediction, label).values()])
        self.counts += torch.tensor([1, len(label)])
        places = (label / self.limits.low).log() / math.log(1.25) * BINS_PER_STEP
        self.histogram += torch.bincount(places.long(), minlength=len(self.histogram)) / len(label)
        self.of_medians += errors_of(label.median().expand_as(label), label)["delta1"]

    def reduce(self, device: torch.device | str) -> None:
        for name in ("totals", "counts", "histogram", "of_medians"):
            setattr(self, name, sum_over_processes(getattr(self, name).to(device)).cpu())

    def num_labelled(self) -> int:
        return int(self.counts[1])

    def figures(self) -> dict[str, float]:
        return dict(zip(self.NAMES, (self.totals / self.counts[0]).tolist(), strict=True))

    def best_constant(self) -> float:
        """delta1 of the best constant, to a 64th of the step; with an alignment, of each image's own median."""
        if self.align != "none":
            return (self.of_medians / self.counts[0]).item()
        window = 2 * BINS_PER_STEP  # from c / 1.25 to 1.25 c
        sums = torch.nn.functional.pad(self.histogram.cumsum(0), (window, 0))
        return ((self.histogram.cumsum(0) - sums[: len(self.histogram)]).max() / self.counts[0]).item()


def aligned(prediction: Tensor, label: Tensor, align: str, limits: DepthRange) -> Tensor:
    """Predictions (n,) brought to the scale, or scale and shift, of labels (n,)."""
    if align == "median":
        return prediction * (label.median() / prediction.median())
    if align == "lstsq":
        scale, shift = fit(1 / prediction, 1 / label)
        return 1 / (scale / prediction + shift).clamp(min=1 / limits.high)
    return prediction


def fit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and the shift with the least squares of ``scale * x + shift - y``; scale 0 of a constant x."""
    centred = x - x.mean()
    scale = (centred * (y - y.mean())).sum() / centred.square().sum().clamp(min=torch.finfo(x.dtype).tiny)
    return scale, y.mean() - scale * x.mean()


def errors_of(prediction: Tensor, label: Tensor) -> dict[str, Tensor]:
    """The scores of one image's labelled pixels (n,), all above 0."""
    ratio = torch.maximum(prediction / label, label / prediction)
    difference, logs = prediction - label, prediction.log() - label.log()
    return {
        **{f"delta{power}": (ratio < 1.25**power).double().mean() for power in (1, 2, 3)},
        "abs_rel": (difference.abs() / label).mean(),
        "sq_rel": (difference.square() / label).mean(),
        "rmse": difference.square().mean().sqrt(),
        "rmse_log": logs.square().mean().sqrt(),
        "log10": logs.abs().mean() / math.log(10),
        "silog": (logs - logs.mean()).square().mean().sqrt(),
    }


class Depth(Task):
    """Labels are metres, float32, NaN for void; predictions are read from the map ``depth``."""

    name = feature = method = "depth"
    scale_labels = True
    figures = (
        Figure("delta1", "δ1"),
        Figure("delta2", "δ2"),
        Figure("delta3", "δ3"),
        Figure("abs_rel", "AbsRel", unit="", greater_is_better=False),
        Figure("sq_rel", "SqRel", unit="m", greater_is_better=False),
        Figure("rmse", "RMSE", unit="m", greater_is_better=False),
        Figure("rmse_log", "RMSE log", unit="", greater_is_better=False),
        Figure("log10", "log10", unit="", greater_is_better=False),
        Figure("silog", "SILog", greater_is_better=False),
    )

    def num_channels(self, dataset: SegmentationDataset) -> int:
        return 1

    def head(self, dataset: SegmentationDataset) -> dict:
        return {"depth": list(dataset.DEPTH_RANGE)}

    def adopt(self, dataset: SegmentationDataset, network: SegmentationNetwork, report: LoadReport | None) -> None:
        if network.depth is None:
            raise ValueError(f"--task depth: {network.config['name']} does not answer in depth, so it cannot teach it")
        dataset.DEPTH_RANGE = network.depth

    def limits(self, network: SegmentationNetwork) -> tuple[float, float] | None:
        """Of relative depth none: ssi asks for no scale."""
        return network.depth[:2] if network.depth and network.depth.metric else None

    def loss(self, network: SegmentationNetwork, *, weight: float, depth_loss: Kind = "silog") -> DepthLoss:
        """``depth_loss``: silog, l1, berhu or ssi, see ``segdistill.utils.losses.depth``."""
        if network.depth is None:
            raise ValueError(f"{network.config['name']} has no depth to learn from labels")
        if depth_loss != "ssi" and not network.depth.metric:
            raise ValueError(
                f"--depth-loss {depth_loss} compares metres, and {network.config['name']}'s depth is relative: "
                "--depth-loss ssi"
            )
        return DepthLoss(depth_loss, weight)

    def protocol(
        self,
        dataset: SegmentationDataset,
        network: SegmentationNetwork,
        *,
        align: Literal["none", "median", "lstsq"] | None = None,
        crop: Literal["none", "nyu", "garg"] = "none",
        depth_range: tuple[float, float] | None = None,
    ) -> dict:
        """align: None: none of a network of metres, lstsq of one of relative depth; depth_range: the data set's."""
        metric = network.depth is None or network.depth.metric
        limits = list(depth_range or dataset.DEPTH_RANGE[:2])
        return {"align": align or ("none" if metric else "lstsq"), "crop": crop, "depth_range": limits}

    def scores(self, dataset: SegmentationDataset, protocol: Mapping | None = None) -> DepthScores:
        given = {"depth_range": dataset.DEPTH_RANGE[:2], **(protocol or {})}
        align = given.get("align", "none" if dataset.DEPTH_RANGE.metric else "lstsq")
        return DepthScores(DepthRange(*given["depth_range"]), align, given.get("crop", "none"))

    def read(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        return resize(maps.float(), size)[:, 0].cpu()

    def picture(self, prediction: np.ndarray, dataset: SegmentationDataset) -> np.ndarray:
        return colors_of(prediction, dataset.DEPTH_RANGE)

    def scale(self, dataset: SegmentationDataset) -> dict[str, Sequence[int]]:
        low, high, metric = dataset.DEPTH_RANGE
        ticks = np.geomspace(low, high, 6)
        colors = colors_of(ticks[None], dataset.DEPTH_RANGE)[0].tolist()
        return dict(zip((f"{tick:.3g} m" if metric else f"{tick:.3g}" for tick in ticks), colors, strict=True))

    def legend(self, predictions: Sequence[np.ndarray], dataset: SegmentationDataset) -> dict[str, Sequence[int]]:
        void = any(np.isnan(prediction).any() for prediction in predictions)
        return self.scale(dataset) | ERRORS | ({"void": (0, 0, 0)} if void else {})

    def error(self, prediction: np.ndarray, label: np.ndarray, dataset: SegmentationDataset) -> np.ndarray:
        """|prediction - label| / label, white at 0 to red at MOST_ERROR; black where void."""
        known = np.isfinite(label)
        truth = np.where(known, label, 1)
        share = (np.abs(prediction - truth) / truth / MOST_ERROR).clip(0, 1)[..., None]
        white, red = (np.array(color) for color in ERRORS.values())
        return (((1 - share) * white + share * red) * known[..., None]).round().astype(np.uint8)

    def encode(self, prediction: np.ndarray, dataset: SegmentationDataset) -> np.ndarray:
        return encode_depth(prediction)


def colors_of(depth: np.ndarray, limits: DepthRange) -> np.ndarray:
    """Depth (H, W) as colours (H, W, 3) uint8 at equal steps of its logarithm, near bright; black where not finite."""
    known = np.isfinite(depth)
    far = np.log(np.where(known, depth, 1).clip(limits.low, limits.high) / limits.low)
    place = (1 - far / math.log(limits.high / limits.low)) * (len(COLORS) - 1)
    steps = np.arange(len(COLORS))
    colors = np.stack([np.interp(place, steps, channel) for channel in COLORS.T], axis=-1)
    return (colors.round() * known[..., None]).astype(np.uint8)
