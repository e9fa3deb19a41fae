"""The total loss (Objective) and one optimisation step (Learner)."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segdistill.network import SegmentationNetwork, SegmentationOutput
from segdistill.network.base import freeze_unused
from segdistill.network.cost import SavedBytes
from segdistill.utils.batch import Batch, join_batches
from segdistill.utils.compile import Compiled
from segdistill.utils.distributed import world_size
from segdistill.utils.losses import DistillationLoss, Needs
from segdistill.utils.precision import autocast


class Objective(nn.Module):
    """The total loss as one module: student, task loss and distillation terms.

    Parameters of the student that none of them depends on are frozen. Without a task loss the student learns from the
    terms alone and needs no labels.

    Args:
        compiled: the student and each term, forward and backward, by torch.compile; with the same dropout as without.

    Raises:
        ValueError: a term asks for a feature that the student does not have.
    """

    def __init__(
        self,
        student: SegmentationNetwork,
        task_loss: nn.Module | None,
        losses: Mapping[str, DistillationLoss],
        compiled: bool = False,
    ):
        super().__init__()
        self.student, self.task_loss, self.losses = student, task_loss, nn.ModuleDict(losses)
        wanted = task_loss.wanted if task_loss else frozenset()
        self.needs = Needs(
            wanted.union(*(loss.needs.student for loss in losses.values())),
            frozenset().union(*(loss.needs.teacher for loss in losses.values())),
        )
        student.check_features(self.needs.student)
        freeze_unused(student, self.needs.student)
        self.calls = {"the student": student.extract, "the task loss": task_loss, **losses}
        if compiled:
            # A whole graph or none: a part that had run before another failed would update BatchNorm twice.
            options = {"fullgraph": True, "options": {"fallback_random": True}}
            self.calls = {name: call and Compiled(call, name, **options) for name, call in self.calls.items()}

    def forward(
        self, batch: Batch, teacher_output: SegmentationOutput | None
    ) -> tuple[SegmentationOutput, dict[str, Tensor]]:
        """The student's output, with the needed features only, and the unweighted terms by name."""
        output = self.calls["the student"](batch.images, self.needs.student)
        terms = {self.task_loss.name: self.calls["the task loss"](output, batch)} if self.task_loss else {}
        return output, terms | {name: self.calls[name](output, teacher_output, batch) for name in self.losses}

    def weights_at(self, progress: float) -> dict[str, float]:
        """The weight of each term at ``progress`` (0..1) of the training."""
        weights = {name: loss.weight_at(progress) for name, loss in self.losses.items()}
        return ({self.task_loss.name: self.task_loss.weight} if self.task_loss else {}) | weights


class Learner:
    """One optimisation step of an objective: autocast, clipping, optimizer, moving average.

        for batch in batches:                       # equal parts of the step's samples
            learner.accumulate(batch, teacher(batch, learner.wanted))
        values = learner.update()

    Learning rates follow ``schedule(progress)`` times those that the optimizer was built with, group by group; those
    of groups with ``constant`` stay.

    Args:
        objective: on its device.
        optimizer: of the objective's parameters that require a gradient.
        schedule: progress (0..1) to a factor.
        frozen: a module of the student and the progress before which it stays as it is, in evaluation mode.
        precision: "float32", or "bf16" or "fp16" autocast; losses are float32 in any case.
        clip_norm: the gradient's greatest norm; None does not clip.
        ema: decay of an exponential moving average of the student's weights, 0..1; None keeps none.
        parts: batches that make a step.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        schedule: Callable[[float], float] = lambda progress: 1.0,
        frozen: tuple[nn.Module, float] | None = None,
        precision: str = "float32",
        clip_norm: float | None = None,
        ema: float | None = None,
        parts: int = 1,
    ):
        self.objective, self.optimizer, self.schedule = objective, optimizer, schedule
        self.parameters = {name: p for name, p in objective.named_parameters() if p.requires_grad}
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        self.device_type = next(objective.parameters()).device.type
        self.precision = precision
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=precision == "fp16")
        self.clip_norm, self.parts = clip_norm, parts
        self.saved_bytes: int | None = None  # what the first forward pass kept for its backward pass
        self.average = None
        if ema is not None:
            self.average = MovingAverage(objective.student, ema)
        self.seen: list[tuple[SegmentationOutput, SegmentationOutput | None, Batch]] = []
        self.terms: list[dict[str, Tensor]] = []
        objective.train()
        self.frozen, self.thaws_at = frozen or (None, 0.0)
        self.waiting = [p for p in self.frozen.parameters() if p.requires_grad] if self.frozen else []
        self._require_gradients(self.frozen is None)

    @property
    def wanted(self) -> frozenset[str]:
        """The teacher features that the terms read."""
        return self.objective.needs.teacher

    @property
    def network(self) -> SegmentationNetwork:
        """The student to evaluate and to save: the moving average if there is one."""
        return self.objective.student if self.average is None else self.average.module

    @property
    def rate(self) -> float:
        """The learning rate of the first group at the last step."""
        return self.optimizer.param_groups[0]["lr"]

    def accumulate(self, batch: Batch, teacher_output: SegmentationOutput | None) -> None:
        """Add the gradient of one part of the step."""
        if self.frozen:
            self._keep_frozen(batch.progress)
        last = len(self.seen) + 1 == self.parts
        with nullcontext() if last or self.model is self.objective else self.model.no_sync():
            counting = SavedBytes(self.objective) if self.saved_bytes is None else nullcontext()
            with autocast(self.device_type, self.precision), counting:
                output, terms = self.model(batch, teacher_output)
            if self.saved_bytes is None:
                self.saved_bytes = counting.total
            weights = self.objective.weights_at(batch.progress)
            total = sum(weights[name] * term for name, term in terms.items())
            self.scaler.scale(total / self.parts).backward()
        self.seen.append((detached(output), teacher_output, batch))
        self.terms.append({"loss": total.detach(), **{name: term.detach() for name, term in terms.items()}})

    def update(self) -> dict[str, float]:
        """Optimizer step with the accumulated gradient, and the methods' own; returns numbers to log.

        They are read from the device together, and a step does not wait for it elsewhere (the scaler of fp16 does).

        Raises:
            FloatingPointError: a term, the gradient or a scalar of a method is not finite; weights and what methods
                keep are unchanged then.
        """
        (outputs, teacher_outputs, batches), parts = zip(*self.seen, strict=True), self.terms
        self.seen, self.terms = [], []
        progress = batches[0].progress
        self.weights = self.objective.weights_at(progress)
        terms = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])
        scalars = {"loss": terms["loss"], **{f"loss/{name}": terms[name] for name in self.weights}, "grad_norm": norm}
        if self.objective.losses:
            whole = join_outputs(outputs), join_outputs(teacher_outputs), join_batches(list(batches))
            for name, loss in self.objective.losses.items():
                scalars |= {f"{name}/{key}": value for key, value in loss.before_step(*whole).items()}
        values = torch.stack([scalar.detach().float() for scalar in scalars.values()]).cpu()  # the one wait
        numbers = dict(zip(scalars, values.tolist(), strict=True))
        self._refuse_what_is_not_finite(numbers)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.clip_norm, norm)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate if group.get("constant") else rate * self.schedule(progress)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.objective.student)
        for loss in self.objective.losses.values():
            loss.after_step(*whole)
        return numbers

    def _require_gradients(self, required: bool) -> None:
        for parameter in self.waiting:
            parameter.requires_grad_(required)
        # It notes which parameters have a gradient when it is made.
        self.model = DistributedDataParallel(self.objective) if world_size() > 1 else self.objective

    def _keep_frozen(self, progress: float) -> None:
        """Evaluation mode, which a validation ends, for the frozen module; or its end."""
        if progress < self.thaws_at:
            self.frozen.eval()
            return
        self.frozen.train()
        self.frozen = None
        self._require_gradients(True)

    def shares(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each weighted term's share of the last step's total, of the values that ``update`` returned, as numbers."""
        sizes = {name: abs(weight * values[f"loss/{name}"]) for name, weight in self.weights.items()}
        whole = sum(sizes.values()) or 1.0
        return {f"share/{name}": size / whole for name, size in sizes.items()}

    def _refuse_what_is_not_finite(self, numbers: Mapping[str, float]) -> None:
        wrong = [name.rpartition("/") for name, number in numbers.items() if not math.isfinite(number)]
        if not wrong:
            return
        losses = self.objective.losses
        causes = [name for owner, _, name in wrong if owner == "loss"]
        causes = causes or [f"{owner}/{name} ({losses[owner].remedy})" for owner, _, name in wrong if owner in losses]
        if not causes:
            if self.scaler.is_enabled() and self.scaler.get_scale() > 1:
                return  # float16 overflow: the scaler skips this step and lowers the scale
            causes = [f"gradient of {name}" for name, p in self.parameters.items() if not finite(p.grad)][:3]
        self.optimizer.zero_grad()
        raise FloatingPointError(f"{', '.join(causes) or 'the total'} not finite")

    def state_dict(self) -> dict:
        return {
            "student": self.objective.student.state_dict(),
            "losses": self.objective.losses.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        self.objective.student.load_state_dict(state["student"])
        self.objective.losses.load_state_dict(state["losses"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


class MovingAverage(AveragedModel):
    """Of the parameters and buffers of a network; torch's own update waits for the device, to copy its count there."""

    def __init__(self, network: nn.Module, decay: float):
        super().__init__(network, use_buffers=True)
        self.average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update_parameters(self, network: nn.Module) -> None:
        pairs = [*zip(self.module.parameters(), network.parameters(), strict=True)]
        pairs += zip(self.module.buffers(), network.buffers(), strict=True)
        for floating in (True, False):
            own, new = ([pair[i] for pair in pairs if pair[0].is_floating_point() == floating] for i in range(2))
            if own and self.n_averaged == 0:
                torch._foreach_copy_(own, new)
            elif own:
                self.average(own, new, None)
        self.n_averaged += 1


def poly(power: float) -> Callable[[float], float]:
    """The schedule (1 - progress)^power."""
    return lambda progress: math.pow(1 - progress, power)


def finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())


def detached(output: SegmentationOutput) -> SegmentationOutput:
    logits = None if output.logits is None else output.logits.detach()
    return SegmentationOutput(logits, {name: x.detach() for name, x in output.features.items()})


def join_outputs(outputs: tuple[SegmentationOutput | None, ...]) -> SegmentationOutput | None:
    """Concatenate the outputs of a batch's parts."""
    first = outputs[0]
    if first is None or len(outputs) == 1:
        return first
    logits = None if first.logits is None else torch.cat([output.logits for output in outputs])
    names = first.features
    return SegmentationOutput(logits, {name: torch.cat([o.features[name] for o in outputs]) for name in names})
