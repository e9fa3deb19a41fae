"""What a network costs, against counting by hand and against a step that is computed."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segdistill.dataset.normalization import CAFFE
from segdistill.network import SegmentationNetwork, build_network, load_network, resize
from segdistill.network.__main__ import main
from segdistill.network.base import Feature
from segdistill.network.cost import SavedBytes, activations_of, cost_of


class Tiny(SegmentationNetwork):
    """Logits by one convolution of stride 2."""

    def __init__(self):
        super().__init__()
        self.num_classes, self.features = 5, {"logits": Feature(5, 2)}
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)

    def maps(self, images, wanted):
        return {"logits": self.conv(images)}


def test_one_convolution_costs_what_counting_by_hand_gives():
    height, width = 8, 12
    with torch.device("meta"):
        cost = cost_of(Tiny(), (height, width))
    assert cost.parameters == 5 * 3 * 9 + 5
    assert cost.macs == 5 * 3 * 9 * (height // 2) * (width // 2)
    assert (dict(cost.strides), dict(cost.sizes)) == ({"logits": 2}, {"logits": (5, 4, 6)})
    # The image, its labels (int64), and log-probabilities at its size; a mean keeps some scalars more.
    kept = height * width * (3 * 4 + 8 + 5 * 4)
    assert kept <= cost.activations <= kept + 16


@pytest.mark.parametrize("options", [{"backbone": "resnet18"}, {"backbone": "resnet18", "checkpoint_blocks": True}])
def test_shapes_alone_keep_what_a_computed_step_keeps(options):
    size, network = (64, 96), build_network("pspnet", 5, **options)
    own = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = network.train()(torch.rand(2, 3, *size), {"logits", "aux_logits"}).features
        labels = torch.zeros(2, *size, dtype=torch.long)
        loss = sum(F.cross_entropy(resize(logits, size), labels) for logits in features.values())
    assert loss > 0
    with torch.device("meta"):
        shadow = build_network("pspnet", 5, **options)
    assert activations_of(shadow, size) == pytest.approx(sum(s.nbytes() for s in kept.values()) / 2, rel=0.01)


def test_recomputed_blocks_keep_less():
    with torch.device("meta"):
        plain, checkpointed = (build_network("pspnet", 5, checkpoint_blocks=value) for value in (False, True))
    costs = [cost_of(network, (128, 128)) for network in (plain, checkpointed)]
    assert costs[1].activations < 0.8 * costs[0].activations
    assert costs[1].macs == costs[0].macs


def test_the_tool_describes_and_lists(capsys):
    assert main(["espnet_c", "p=1", "q=1", "--size", "64", "128", "--classes", "11"]) == 0
    text = capsys.readouterr().out
    assert "espnet_c p=1 q=1, 11 classes, images of 64x128" in text
    assert "MACs" in text
    assert "2 x MACs" in text
    assert "logits                11       8  8x16" in text
    main([])
    listed = capsys.readouterr().out
    assert all(word in listed for word in ("pspnet:", "espnet_c:", "backbone=resnet18_v1s"))
    main(["fetch"])
    assert "espnet_cityscapes_q8" in capsys.readouterr().out


def test_the_tool_makes_our_own_file_of_another(tmp_path, capsys):
    network = build_network("espnet", 12, p=2, q=3, skip="fused").eval()
    torch.save(network.state_dict(), tmp_path / "their.pth")
    names = [f"class {i}" for i in range(12)]
    words = ["convert", str(tmp_path / "their.pth"), str(tmp_path / "ours.pth"), "--classes", ", ".join(names)]
    assert main(words) == 0
    again, report = load_network(tmp_path / "ours.pth")
    assert report.family == "segdistill"
    assert list(report.classes) == names
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(again(images).logits, network(images).logits)


def test_the_tool_reads_a_bare_state_dict_that_is_described(tmp_path):
    network = build_network("pspnet", 5, backbone="mobilenetv2")
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    words = ["convert", str(tmp_path / "bare.pth"), str(tmp_path / "ours.pth"), "--network", "pspnet"]
    words += ["--network-options", "backbone=mobilenetv2"]
    with pytest.raises(ValueError, match="colours"):
        main(words)
    assert main([*words, "--normalization", "caffe"]) == 0
    again, report = load_network(tmp_path / "ours.pth")
    assert (again.num_classes, report.normalization) == (5, CAFFE)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pspnet", "--size", "0", "3"], "1 or more"),
        (["fetch", "--sha", "x"], "unrecognized"),
        (["convert", "a", "b", "--network-options", "q=3"], "needs --network"),
    ],
)
def test_the_tool_says_what_is_wrong(argv, message, capsys):
    with pytest.raises(SystemExit):
        main(argv)
    assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"unknown network 'pspnt'; known: .*espnet"):
        main(["pspnt"])
    with pytest.raises(ValueError, match="has no setting 'back=3'"):
        main(["pspnet", "back=3"])


def test_saved_bytes_are_those_of_distinct_maps_and_counting_them_changes_no_bit():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Tanh(), torch.nn.Conv2d(8, 2, 1))
    images = torch.randn(2, 3, 10, 10)
    network(images).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    with SavedBytes(network) as saved:
        output = network(images)
    output.square().sum().backward()
    # The images, and one map of 8x8x8 that the activation and the next convolution both keep.
    assert saved.total == 4 * (2 * 3 * 10 * 10 + 2 * 8 * 8 * 8)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(network.parameters(), expected, strict=True))


@pytest.mark.parametrize("options", [{"norm": "inplace_abn"}, {"checkpoint_blocks": True}], ids=str)
def test_saved_bytes_are_counted_where_maps_are_overwritten_or_computed_again(options):
    totals, gradients = [], []
    for settings in (options, options, {}):
        torch.manual_seed(0)
        network = build_network("pspnet", 5, backbone="resnet18_v1s", activation="leaky_relu", **settings).train()
        images = torch.randn(2, 3, 64, 64)
        with SavedBytes(network) if gradients else nullcontext() as saved:
            output = network(images)
        output.logits.square().sum().backward()
        totals.append(saved and saved.total)
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert totals[1] < 0.8 * totals[2]
    assert all(torch.equal(*pair) for pair in zip(*gradients[:2], strict=True))
