"""Knowledge distillation (KD): softened class probabilities follow the teacher's at every position.

Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2. The formula is ``pixel_wise_loss``.
"""

from typing import Literal

from torch import Tensor

from segdistill.utils.losses.base import Batch, DistillationLoss, SegmentationOutput, resize, upcast
from segdistill.utils.losses.pixel_wise import pixel_wise_loss


class KnowledgeDistillation(DistillationLoss):
    """Knowledge distillation: softened class probabilities follow the teacher's, on the logits' grid or the image's.

    The scale is that of CIRKD and DIST, the temperature's square included. IFVD, CWD, AKD and AICSD divide by the C
    classes as well and leave the square out: their weight w is w / (C * temperature^2) here; AKD and AICSD compare at
    image resolution. mmrazor divides by N alone: its w is w * H * W.

    Args:
        temperature: of the softmax, above 0
        grid: where the two are compared, logits (the teacher's own positions) or image (both enlarged first)
    """

    flag = "kd"
    paper = "Hinton et al., 2015, section 2"
    equal_channels = True
    min_channels = 2

    def __init__(
        self,
        *,
        weight: float = 1.0,
        on: str = "logits",
        temperature: float = 1.0,
        grid: Literal["logits", "image"] = "logits",
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        if grid not in ("logits", "image"):
            raise ValueError(f"unknown grid {grid!r}; known: logits, image")
        self.temperature, self.grid = temperature, grid

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_logits, teacher_logits = self.maps(student, teacher)
        if self.grid == "image":
            teacher_logits = resize(upcast(teacher_logits), batch.labels.shape[1:])
        return pixel_wise_loss(student_logits, teacher_logits, self.temperature, **self.mask(batch, teacher_logits))
