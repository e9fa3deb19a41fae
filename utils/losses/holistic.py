"""Holistic distillation ("Ho"): a critic learns to tell the student's logits from the teacher's; the student fools it.

Liu et al., Structured Knowledge Distillation for Semantic Segmentation, CVPR 2019, eq. 4-5; the gradient penalty is
that of Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017, eq. 3.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.network.discriminator import Discriminator
from segdistill.utils.distributed import average_gradients
from segdistill.utils.losses.base import (
    Batch,
    DistillationLoss,
    SegmentationNetwork,
    SegmentationOutput,
    check_shapes,
    full_precision,
    resize,
)

KINDS = ("wgan-gp", "hinge")
CRITIC_SIDE = 65  # logits are resized to at least this many positions a side


@full_precision
def critic_loss(student_score: Tensor, teacher_score: Tensor, kind: str = "wgan-gp") -> Tensor:
    """The critic's loss: mean(student) - mean(teacher), or the hinge loss with margins -1 and 1.

    Args:
        student_score, teacher_score: scores of any shape. Gradients flow to both, for both are the critic's.
        kind: "wgan-gp" (without its gradient penalty) or "hinge".

    Raises:
        ValueError: an unknown kind.
    """
    _check_kind(kind)
    if kind == "hinge":
        return (1 - teacher_score).relu().mean() + (1 + student_score).relu().mean()
    return student_score.mean() - teacher_score.mean()


@full_precision
def generator_loss(student_score: Tensor, kind: str = "wgan-gp") -> Tensor:
    """The student's adversarial loss: -mean(score), for either kind. Raises ValueError for an unknown kind."""
    _check_kind(kind)
    return -student_score.mean()


@full_precision
def gradient_penalty(
    discriminator: nn.Module, student_logits: Tensor, teacher_logits: Tensor, alpha: Tensor | None = None
) -> Tensor:
    """Gradient penalty at interpolated inputs: mean_n (||grad D(x_n)||_2 - 1)^2.

    Args:
        student_logits, teacher_logits: (N, C, H, W) each; they receive no gradient, the discriminator does.
        alpha: (N,) in 0..1 with x_n = alpha_n * teacher_n + (1 - alpha_n) * student_n; None draws it.

    Raises:
        ValueError: shapes that differ.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"student {tuple(student_logits.shape)} and teacher {tuple(teacher_logits.shape)} differ")
    if alpha is None:
        alpha = torch.rand(len(student_logits), device=student_logits.device)
    mixed = torch.lerp(student_logits.detach(), teacher_logits.detach(), alpha.to(student_logits)[:, None, None, None])
    mixed.requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(mixed).sum(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


class Holistic(DistillationLoss):
    """Holistic (adversarial) distillation: a critic learns to tell the two logits apart, the student fools it.

    The student's side is in ``forward``, the critic's in ``before_step`` and ``after_step``, once a step. The critic's
    parameters require gradient inside ``before_step`` alone, so the student's backward deposits none in them and the
    student's optimizer leaves them out. ``weight`` multiplies both sides. The critic sees both maps on the coarser of
    their grids, where it judges layout and not edges, enlarged until the short side has 65 positions; BatchNorm before
    it (preprocess=1) takes its statistics from each process's batch.

    Args:
        kind: of adversarial loss
        lambda_gp: weight of the gradient penalty in the critic's loss, 0 or more; for wgan-gp only, default 10
        lr: learning rate of the critic; it follows lr * (1 - progress)^power
        power: of that schedule, 0 or more; 0 for a constant rate, as CIRKD's
        optimizer: the critic's, sgd (momentum 0.9) as SKD, adam (betas 0.9, 0.99) as IFVD, CWD and CIRKD
        weight_decay: of the critic, with sgd
        preprocess: what the critic does to logits first, 1 BatchNorm, 2 tanh, 3 from 0..255 to -1..1
    """

    flag = "ho"
    remedy = "lower the critic's learning rate, --ho lr="
    paper = "Liu et al., CVPR 2019, eq. 4-5"
    equal_channels = True

    def __init__(
        self,
        num_classes: int,
        *,
        weight: float = 0.1,
        on: str = "logits",
        kind: Literal["wgan-gp", "hinge"] = "wgan-gp",
        lambda_gp: float | None = None,
        lr: float = 4e-4,
        power: float = 0.9,
        optimizer: Literal["sgd", "adam"] = "sgd",
        weight_decay: float = 5e-4,
        preprocess: Literal[1, 2, 3] = 1,
        **settings,
    ):
        super().__init__(weight=weight, on=on, **settings)
        _check_kind(kind)
        if kind == "hinge" and lambda_gp is not None:
            raise ValueError("--ho lambda_gp has no effect with kind=hinge, which has no gradient penalty")
        lambda_gp = 10.0 if lambda_gp is None else lambda_gp
        if min(lr, power, lambda_gp, weight_decay) < 0:
            raise ValueError(
                f"--ho lr={lr} power={power} lambda_gp={lambda_gp} weight_decay={weight_decay}: each is 0 or more"
            )
        self.kind, self.lambda_gp, self.lr, self.power = kind, lambda_gp, lr, power
        self.discriminator = Discriminator(num_classes, preprocess).requires_grad_(False)
        parameters = self.discriminator.parameters()
        if optimizer == "sgd":
            self.optimizer = torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=weight_decay)
        elif optimizer == "adam":
            self.optimizer = torch.optim.Adam(parameters, lr, betas=(0.9, 0.99))
        else:
            raise ValueError(f"unknown optimizer {optimizer!r}; known: sgd, adam")

    @classmethod
    def between(cls, student: SegmentationNetwork, teacher: SegmentationNetwork, **settings) -> "Holistic":
        num_classes, _ = cls.channels_of(student, teacher, settings)
        return cls(num_classes, **settings)

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> Tensor:
        student_logits, _ = self._critic_inputs(student, teacher, batch)
        return generator_loss(self._score(student_logits), self.kind)

    def before_step(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> dict[str, Tensor]:
        """The critic's gradient; returns its loss, for "wgan-gp" the gradient penalty, and the gradient's norm."""
        self.optimizer.zero_grad()  # of a step that was refused
        student_logits, teacher_logits = self._critic_inputs(student, teacher, batch)
        self.discriminator.requires_grad_(True)
        teacher_score = self._score(teacher_logits)
        terms = {"critic": critic_loss(self._score(student_logits), teacher_score, self.kind)}
        total = terms["critic"]
        if self.kind == "wgan-gp":
            terms["penalty"] = gradient_penalty(self.discriminator, student_logits, teacher_logits)
            total = total + self.lambda_gp * terms["penalty"]
        (self.weight_at(batch.progress) * total).backward()
        average_gradients(self.discriminator.parameters())
        self.discriminator.requires_grad_(False)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.discriminator.parameters() if p.grad is not None])
        return {name: term.detach() for name, term in terms.items()} | {"critic_grad_norm": norm}

    def after_step(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch) -> None:
        """One step of the critic."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * (1 - batch.progress) ** self.power
        self.optimizer.step()
        self.optimizer.zero_grad()

    def get_extra_state(self) -> dict:
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict) -> None:
        self.optimizer.load_state_dict(state)

    def _critic_inputs(self, student: SegmentationOutput, teacher: SegmentationOutput, batch: Batch):
        return critic_inputs(*self.maps(student, teacher), **self.mask(batch, student.features[self.student_feature]))

    @full_precision
    def _score(self, logits: Tensor) -> Tensor:
        return self.discriminator(logits)


@full_precision
def critic_inputs(
    student_logits: Tensor, teacher_logits: Tensor, valid: Tensor | None = None, num_valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Both logits on the coarser of their grids, scaled up where its short side has fewer than 65 positions.

    Args:
        valid: (N, h, w) bool, positions of the student's map; the others are 0 in both.
        num_valid: not needed.
    """
    check_shapes(student_logits, teacher_logits, same_channels=True)
    size = min(student_logits.shape[2:], teacher_logits.shape[2:], key=math.prod)
    student_logits, teacher_logits = resize(student_logits, size), resize(teacher_logits, size)
    if valid is not None:
        keep = resize(valid[:, None].to(student_logits), size) == 1
        student_logits, teacher_logits = (x.masked_fill(~keep, 0) for x in (student_logits, teacher_logits))
    scale = max(CRITIC_SIDE / min(size), 1)
    size = [round(side * scale) for side in size]
    return resize(student_logits, size), resize(teacher_logits, size)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"unknown adversarial loss {kind!r}; known: {', '.join(KINDS)}")
