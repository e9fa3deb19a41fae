import pytest
import torch
import torch.nn.functional as F
from waves import wave

from segdistill.network.discriminator import Discriminator, SelfAttention, SpectralConv2d, rename_original


def build(preprocess: int = 1, channels: int = 3) -> Discriminator:
    """In double precision and with its attention switched on."""
    torch.manual_seed(0)
    discriminator = Discriminator(channels, preprocess, conv_dim=16).double()
    for module in discriminator.modules():
        if isinstance(module, SelfAttention):
            module.gamma.data.fill_(0.5)
    return discriminator


@pytest.mark.parametrize(
    ("size", "scores"),
    [((64, 64), (1, 1)), ((65, 65), (1, 1)), ((64, 128), (1, 5)), ((65, 97), (1, 3)), ((129, 257), (5, 13))],
)
def test_scores_one_per_patch(size, scores):
    assert build()(wave(1, (2, 3, *size), 3)).shape == (2, 1, *scores)


@pytest.mark.parametrize("size", [(63, 65), (65, 45), (33, 33)])
def test_maps_too_small_are_an_error(size):
    with pytest.raises(ValueError, match=rf"at least 64 positions a side, not \(1, 3, {size[0]}, {size[1]}\)"):
        build()(torch.zeros(1, 3, *size))


def test_unknown_preprocess_is_an_error():
    with pytest.raises(ValueError, match="unknown preprocess 4"):
        Discriminator(3, preprocess=4)


@pytest.mark.parametrize(("classes", "count"), [(11, 3_183_513), (13, 3_185_565), (19, 3_191_721), (21, 3_193_773)])
def test_has_the_originals_parameter_count(classes, count):
    assert sum(parameter.numel() for parameter in Discriminator(classes).parameters()) == count


def test_attention_starts_switched_off():
    x = wave(1, (2, 16, 4, 5), 1).float()
    assert torch.equal(SelfAttention(16)(x), x)


def test_attention_rows_sum_to_one_and_follow_the_positions():
    torch.manual_seed(0)
    module = SelfAttention(16).double()
    module.gamma.data.fill_(0.5)
    x = wave(1, (2, 16, 4, 5), 1)
    torch.testing.assert_close(module.attention(x).sum(-1), torch.ones(2, 20, dtype=torch.float64))
    torch.testing.assert_close(module(x.flip(2, 3)), module(x).flip(2, 3))


def test_spectral_norm_converges_to_a_weight_of_largest_singular_value_one():
    torch.manual_seed(0)
    conv = SpectralConv2d(3, 8, 4)
    x = wave(1, (1, 3, 8, 8), 1).float()
    for _ in range(200):
        y = conv(x)
    weight = conv.weight / torch.linalg.matrix_norm(conv.weight.flatten(1), ord=2)
    torch.testing.assert_close(y, F.conv2d(x, weight, conv.bias))


@pytest.mark.parametrize("training", [True, False])
def test_singular_vectors_move_in_train_and_eval_and_are_saved(training):
    discriminator = build().train(training)
    before = {key: value.clone() for key, value in discriminator.state_dict().items() if key.endswith((".u", ".v"))}
    assert len(before) == 8
    discriminator(wave(1, (2, 3, 65, 65), 3))
    after = discriminator.state_dict()
    for key, value in before.items():
        assert not torch.equal(after[key], value)
        assert after[key].norm().item() == pytest.approx(1)


@pytest.mark.parametrize("preprocess", [1, 2, 3])
def test_gradient_of_several_calls_is_the_sum_of_each_calls_own(preprocess):
    """Later calls move the singular vectors before the earlier ones' backward; that must not change gradients."""
    inputs = [wave(k, (2, 3, 65, 65), 3) for k in (1, 2, 3)]
    together = build(preprocess)
    sum(together(x).sum() for x in inputs).backward()
    apart = build(preprocess)
    for x in inputs:
        apart(x).sum().backward()
    for (name, one), two in zip(together.named_parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_gradient_through_the_singular_value_is_right():
    """By finite differences at converged singular vectors, where the largest singular value is what it claims."""
    torch.manual_seed(0)
    conv = SpectralConv2d(2, 3, 2).double()
    x = wave(1, (1, 2, 3, 4), 1)
    for _ in range(500):
        conv(x)

    def run(weight: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weight / torch.linalg.matrix_norm(weight.flatten(1), ord=2), conv.bias)

    weight = conv.weight.detach().clone().requires_grad_()
    run(weight).square().sum().backward()
    conv(x).square().sum().backward()
    torch.testing.assert_close(conv.weight.grad, weight.grad, rtol=1e-6, atol=1e-9)


def test_renames_the_originals_keys_one_to_one():
    discriminator = Discriminator(3)
    original = {}
    for key, value in discriminator.state_dict().items():
        layer, _, rest = key.partition(".")
        if layer.startswith("conv"):
            rest = {"weight": "weight_bar", "u": "weight_u", "v": "weight_v"}.get(rest, rest)
            original[f"l{layer[-1]}.0.module.{rest}"] = value
        elif layer.startswith("attention"):
            part, _, kind = rest.partition(".")
            original[f"attn{layer[-1]}.{part}_conv.{kind}" if kind else f"attn{layer[-1]}.{part}"] = value
        else:
            original[{"last": "last.0.", "preprocess": "preprocess_additional."}[layer] + rest] = value
    renamed = rename_original(original)
    assert renamed.keys() == discriminator.state_dict().keys()
    discriminator.load_state_dict(renamed)
