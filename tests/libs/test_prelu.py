"""PReLU's own backward pass against PyTorch's."""

import pytest
import torch
from torch import nn

from segdistill.libs.prelu import PReLU


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 5, 7, 9), (1, 3, 1, 1)])
def test_values_and_gradients_are_pytorchs_to_the_bit(memory_format, shape):
    torch.manual_seed(0)
    ours, theirs = PReLU(shape[1]), nn.PReLU(shape[1])
    slopes = torch.randn(shape[1])  # negative ones too
    x = torch.randn(shape).contiguous(memory_format=memory_format)
    x[0, 0, 0, 0] = 0.0
    gradient = torch.randn(shape).contiguous(memory_format=memory_format)
    results = []
    for layer in (ours, theirs):
        layer.weight.data.copy_(slopes)
        images = x.clone().requires_grad_()
        output = layer(images)
        output.backward(gradient)
        results.append((output, images.grad, layer.weight.grad))
    for mine, other in zip(*results, strict=True):
        assert torch.equal(mine, other)


def test_it_can_be_differentiated_twice():
    layer = PReLU(3).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)

    def run(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    assert torch.autograd.gradgradcheck(run, (x, layer.weight))
