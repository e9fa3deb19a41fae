"""AKD's overhaul of feature distillation: partial distance, margins, connector."""

import torch
from golden_cases import AKD, LOSSES, Case, Result, hashed_state_dict
from torch import Tensor, nn

from segdistill.utils.losses import negative_mean, overhaul_loss
from segdistill.utils.losses.overhaul import connector


@LOSSES.register(AKD, computes="^dist_loss")
def partial_distance(case: Case, inputs: dict[str, Tensor]) -> Result:
    return Result(overhaul_loss(inputs["student"], inputs["teacher"], reduction="original"))


@LOSSES.register(AKD, computes="get_margin_from_BN")
def margin_relu(case: Case, inputs: dict[str, Tensor]) -> Result:
    norm = nn.BatchNorm2d(inputs["teacher"].shape[1])
    norm.load_state_dict(
        {name: torch.from_numpy(case.array(f"bn_{name}")) for name in ("weight", "bias")}, strict=False
    )
    margin = negative_mean(norm)
    loss = overhaul_loss(inputs["student"], inputs["teacher"], margin, reduction="original")
    return Result(loss, outputs={"margin": margin})


@LOSSES.register(AKD, computes="build_feature_connector", parameters=["s_channel", "t_channel"])
def feature_connector(case: Case, inputs: dict[str, Tensor]) -> Result:
    module = connector(case.parameters["s_channel"], case.parameters["t_channel"])
    entries = [{"key": f"connector.{key}", "shape": value.shape} for key, value in module.state_dict().items()]
    weights = hashed_state_dict(entries)
    module.load_state_dict({key.removeprefix("connector."): value for key, value in weights.items()})
    out = module.to(inputs["student"].dtype).eval()(inputs["student"])
    step = out.shape[1] // case.array("out").shape[1]
    return Result(out.square().mean(), outputs={"out": out[:, ::step]})
