"""Factor transfer (FT): the student translates its feature into factors that a paraphraser finds in the teacher's.

Kim et al., Paraphrasing Complex Network, NeurIPS 2018; for dense prediction He et al., Knowledge Adaptation for
Efficient Semantic Segmentation, CVPR 2019, section 3.1.
"""

import torch
from torch import Tensor, nn

from segdistill.utils.distributed import average_gradients
from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationOutput,
    full_precision,
)
from segdistill.utils.losses.mimic import mimic_loss


def two_convolutions(in_channels: int, width: int, out_channels: int) -> nn.Sequential:
    first, second = nn.Conv2d(in_channels, width, 3, padding=1), nn.Conv2d(width, out_channels, 3, padding=1)
    return nn.Sequential(first, nn.LeakyReLU(0.1), second)


class FactorTransfer(DistillationLoss):
    """Factor transfer: the student translates its feature into the factors of an auto-encoder of the teacher's.

    The distance is the normalized l1 of ``mimic_loss``. The auto-encoder, trained beforehand in the originals, learns
    with the student, one step after each of its steps (``warmup`` lets it learn first). The originals' weights are
    those of a mean over unit vectors: w is w / sqrt(K) here, K the factors of an image, 50 / 1024 = 0.05 for 256 of
    64x64. With void=mask void positions are 0 before every convolution.

    Args:
        rate: factors per channel of the teacher, above 0
        lr: learning rate of the auto-encoder (Adam), 0 or more; it follows lr * (1 - progress)^0.9
    """

    flag = "ft"
    remedy = "lower the auto-encoder's learning rate, --ft lr="
    paper = "Kim et al., NeurIPS 2018; He et al., CVPR 2019"

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        weight: float = 1.0,
        on: str = "context",
        rate: float = 0.5,
        lr: float = 1e-3,
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        if rate <= 0 or lr < 0:
            raise ValueError(f"--ft rate={rate} lr={lr}: a rate is above 0, a learning rate 0 or more")
        self.lr = lr
        factors = max(int(teacher_channels * rate), 1)
        self.translator = two_convolutions(student_channels, factors, factors)
        self.encoder = two_convolutions(teacher_channels, factors, factors).requires_grad_(False)
        self.decoder = two_convolutions(factors, factors, teacher_channels).requires_grad_(False)
        self.optimizer = torch.optim.Adam([*self.encoder.parameters(), *self.decoder.parameters()], lr)

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_map, teacher_map = (self.without_void(batch, x) for x in self.maps(student, teacher))
        options = {"distance": "l1", "normalize": True, **self.mask(batch, teacher_map)}
        return mimic_loss(self.translator(student_map), self.encoder(teacher_map), **options)

    def before_step(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> dict[str, Tensor]:
        """The auto-encoder's gradient; returns its mean squared error over the teacher's mean square, and the norm."""
        self.optimizer.zero_grad()  # of a step that was refused
        parameters = self.optimizer.param_groups[0]["params"]
        for parameter in parameters:
            parameter.requires_grad_(True)
        error = self._error(self.without_void(batch, self.maps(student, teacher)[1]))
        error.backward()
        average_gradients(parameters)
        for parameter in parameters:
            parameter.requires_grad_(False)
        return {"error": error.detach(), "grad_norm": torch.nn.utils.get_total_norm([p.grad for p in parameters])}

    def after_step(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> None:
        """One step of the auto-encoder."""
        self.optimizer.param_groups[0]["lr"] = self.lr * (1 - batch.progress) ** 0.9
        self.optimizer.step()
        self.optimizer.zero_grad()

    def get_extra_state(self) -> dict:
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict) -> None:
        self.optimizer.load_state_dict(state)

    @full_precision
    def _error(self, teacher_map: Tensor) -> Tensor:
        restored = self.decoder(self.encoder(teacher_map))
        return (restored - teacher_map).square().mean() / teacher_map.square().mean().clamp(min=1e-12)
