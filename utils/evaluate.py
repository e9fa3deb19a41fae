"""Whole-image prediction and evaluation."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from segdistill.dataset import Normalization, SegmentationDataset
from segdistill.utils.distributed import rank, world_size
from segdistill.utils.metrics import ConfusionMatrix


def upsample_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (N, C, h, w) at ``size``, bilinear with align_corners=True: what every supported family evaluates with."""
    if tuple(logits.shape[2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


@torch.no_grad()
def predict(
    network: nn.Module, images: Tensor, normalization: Normalization, size: tuple[int, int] | None = None
) -> Tensor:
    """Class ids (N, H, W) uint8, on the CPU, of whole images (N, 3, H, W) uint8 RGB.

    The network is run in eval mode on its own device and put back into the mode it was in. ``size`` is that of the
    answer, if not that of the images.
    """
    mode = network.training
    network.eval()
    device = next(network.parameters()).device
    batch = normalization(images.to(device)).contiguous(memory_format=torch.channels_last)
    logits = network(batch, aux=False).logits.float()
    network.train(mode)
    return upsample_logits(logits, size or images.shape[2:]).argmax(1).to(torch.uint8).cpu()


def evaluate(
    network: nn.Module,
    dataset: SegmentationDataset,
    normalization: Normalization,
    indices: Iterable[int] | None = None,
    num_workers: int = 0,
    description: str | None = None,
) -> ConfusionMatrix:
    """The confusion matrix over ``dataset`` (or its ``indices``), one whole image at a time.

    Several processes share the images, each counted exactly once. ``description`` shows a progress bar under that name.
    """
    indices = list(indices if indices is not None else range(len(dataset)))[rank() :: world_size()]
    loader = torch.utils.data.DataLoader(dataset, batch_size=1, sampler=indices, num_workers=num_workers)
    confusion = ConfusionMatrix(len(dataset.CLASSES))
    for sample in tqdm(loader, desc=description, unit="image", disable=description is None or rank() > 0, leave=False):
        confusion.update(predict(network, sample.image, normalization, sample.label.shape[1:]), sample.label)
    confusion.reduce(next(network.parameters()).device)
    return confusion
