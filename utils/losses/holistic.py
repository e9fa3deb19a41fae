"""Holistic distillation ("Ho"): a critic learns to tell the student's logits from the teacher's; the student fools it.

Liu et al., Structured Knowledge Distillation for Semantic Segmentation, CVPR 2019, eq. 4-5; the gradient penalty is
that of Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017, eq. 3.
"""

import argparse
import math

import torch
from torch import Tensor, nn

from segdistill.network.discriminator import Discriminator
from segdistill.network.output import SegmentationOutput
from segdistill.utils.distributed import average_gradients
from segdistill.utils.losses.base import DistillationLoss, check_shapes, full_precision, resize

KINDS = ("wgan-gp", "hinge")
CRITIC_SIDE = 65  # logits are brought to at least this many positions a side


@full_precision
def critic_loss(student_score: Tensor, teacher_score: Tensor, kind: str = "wgan-gp") -> Tensor:
    """What the critic minimises: mean(student) - mean(teacher), or the hinge loss with margins -1 and 1.

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
    """What the student minimises: -mean(score), for either kind. Raises ValueError for an unknown kind."""
    _check_kind(kind)
    return -student_score.mean()


@full_precision
def gradient_penalty(
    discriminator: nn.Module, student_logits: Tensor, teacher_logits: Tensor, alpha: Tensor | None = None
) -> Tensor:
    """How far the critic is from slope 1 between the two: mean_n (||grad D(x_n)||_2 - 1)^2.

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
    """The student's side of the game in ``forward``, the critic's in ``step_critic``, once after each student step.

    The discriminator and its optimizer live here and both are in ``state_dict``. The discriminator's parameters
    require gradient inside ``step_critic`` alone, so the student's backward deposits none in them and an optimizer of
    the parameters that do require gradient leaves them out. ``weight`` multiplies the student's term, as for every
    method, and the critic's whole loss.

    The critic sees both logits on the coarser of their two grids, where it judges layout and not edges, enlarged
    (bilinear, corners aligned) until the short side has 65 positions.

    Args:
        num_classes: channels of the logits.
        weight: SKD's lambda_d.
        kind: "wgan-gp" or "hinge".
        lambda_gp: weight of the gradient penalty beside the critic's loss; "wgan-gp" alone has one.
        optimizer: "sgd" (momentum 0.9, ``weight_decay``; SKD) or "adam" (betas 0.9 and 0.99; IFVD, CWD, CIRKD).
        preprocess: see ``Discriminator``.
    """

    name = "holistic"
    flag = "ho"

    def __init__(
        self,
        num_classes: int,
        weight: float = 0.1,
        *,
        kind: str = "wgan-gp",
        lambda_gp: float = 10.0,
        lr: float = 4e-4,
        optimizer: str = "sgd",
        weight_decay: float = 0.0,
        preprocess: int = 1,
    ):
        super().__init__(weight)
        _check_kind(kind)
        self.kind = kind
        self.lambda_gp = lambda_gp
        self.lr = lr
        self.discriminator = Discriminator(num_classes, preprocess).requires_grad_(False)
        parameters = self.discriminator.parameters()
        if optimizer == "sgd":
            self.optimizer = torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=weight_decay)
        elif optimizer == "adam":
            self.optimizer = torch.optim.Adam(parameters, lr, betas=(0.9, 0.99))
        else:
            raise ValueError(f"unknown optimizer {optimizer!r}; known: sgd, adam")

    @classmethod
    def add_arguments(cls, group: argparse._ArgumentGroup) -> None:
        group.add_argument("--lambda-d", type=float, default=0.1, help="weight of both sides of the holistic loss")
        group.add_argument("--adv-loss-type", choices=KINDS, default="wgan-gp", help="kind of adversarial loss")
        group.add_argument("--lambda-gp", type=float, default=10.0, help="weight of the gradient penalty")
        group.add_argument("--lr-d", type=float, default=4e-4, help="learning rate of the critic")
        group.add_argument(
            "--adv-optimizer",
            choices=("sgd", "adam"),
            default="sgd",
            help="the critic's: sgd as SKD, adam as IFVD, CWD and CIRKD",
        )
        group.add_argument(
            "--preprocess-GAN-mode",
            type=int,
            choices=(1, 2, 3),
            default=1,
            help="what the critic does to logits first: 1 BatchNorm, 2 tanh, 3 from 0..255 to -1..1",
        )

    @classmethod
    def from_options(cls, options: argparse.Namespace, student: nn.Module, teacher: nn.Module) -> "Holistic":
        return cls(
            student.num_classes,
            options.lambda_d,
            kind=options.adv_loss_type,
            lambda_gp=options.lambda_gp,
            lr=options.lr_d,
            optimizer=options.adv_optimizer,
            weight_decay=options.weight_decay,
            preprocess=options.preprocess_GAN_mode,
        )

    def forward(self, student: SegmentationOutput, teacher: SegmentationOutput, labels: Tensor) -> Tensor:
        student_logits, _ = _critic_inputs(student.logits, teacher.logits)
        return generator_loss(self._score(student_logits), self.kind)

    def step_critic(self, student: SegmentationOutput, teacher: SegmentationOutput) -> dict[str, Tensor]:
        """One step of the critic on the two outputs, which receive no gradient.

        Returns:
            Unweighted scalars: ``critic`` and, for "wgan-gp", ``penalty``.

        Raises:
            ValueError: batch sizes or class counts that differ.
        """
        student_logits, teacher_logits = _critic_inputs(student.logits.detach(), teacher.logits.detach())
        self.discriminator.requires_grad_(True)
        self.optimizer.zero_grad()
        teacher_score = self._score(teacher_logits)
        terms = {"critic": critic_loss(self._score(student_logits), teacher_score, self.kind)}
        loss = terms["critic"]
        if self.kind == "wgan-gp":
            terms["penalty"] = gradient_penalty(self.discriminator, student_logits, teacher_logits)
            loss = loss + self.lambda_gp * terms["penalty"]
        (self.weight * loss).backward()
        average_gradients(self.discriminator.parameters())
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.discriminator.requires_grad_(False)
        return {name: term.detach() for name, term in terms.items()}

    def set_lr_factor(self, factor: float) -> None:
        """Set the critic's learning rate to ``factor`` times its initial one."""
        for group in self.optimizer.param_groups:
            group["lr"] = factor * self.lr

    def get_extra_state(self) -> dict:
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict) -> None:
        self.optimizer.load_state_dict(state)

    @full_precision
    def _score(self, logits: Tensor) -> Tensor:
        return self.discriminator(logits)


@full_precision
def _critic_inputs(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both logits on the coarser of their grids, scaled up where its short side has fewer than 65 positions."""
    check_shapes(student_logits, teacher_logits, same_channels=True)
    size = min(student_logits.shape[2:], teacher_logits.shape[2:], key=math.prod)
    scale = max(CRITIC_SIDE / min(size), 1)
    size = [round(side * scale) for side in size]
    return resize(student_logits, size), resize(teacher_logits, size)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"unknown adversarial loss {kind!r}; known: {', '.join(KINDS)}")
