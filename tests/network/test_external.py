"""One contract for the networks of other libraries, built from their configurations: nothing is downloaded."""

import json
import sys

import pytest
import torch

from segdistill.dataset import DATASETS
from segdistill.dataset.normalization import IMAGENET
from segdistill.network import build_network, network_class
from segdistill.network.base import freeze_unused
from segdistill.network.external import LIBRARIES
from segdistill.network.weights.checkpoint import atomic_save, describe, export_weights, load_network
from segdistill.utils.classes import match_classes

NUM_CLASSES = 5
SEGFORMER = {
    "model_type": "segformer",
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 16, 24, 32],
    "num_attention_heads": [1, 1, 2, 4],
    "decoder_hidden_size": 16,
    "num_labels": 7,
}
DINOV2 = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
VIT = {**DINOV2, "model_type": "vit", "intermediate_size": 64, "image_size": 64}
MY_NET = '''
from torch import nn
from segdistill.network import Feature, SegmentationNetwork


class MyNet(SegmentationNetwork):
    """One convolution.

    Args:
        width: channels
    """

    def __init__(self, num_classes, *, width: int = 4):
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Conv2d(3, width, 3, 4, 1)
        self.head = nn.Conv2d(width, num_classes, 1)
        self.features = {"layer1": Feature(width, 4), "context": Feature(width, 4), "logits": Feature(num_classes, 4)}

    def maps(self, images, wanted):
        x = self.stem(images)
        return {"layer1": x, "context": x} | ({"logits": self.head(x)} if "logits" in wanted else {})
'''
BERT = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 8}
CONFIGS = {"segformer": SEGFORMER, "dinov2": DINOV2, "vit": VIT, "bert": BERT, "empty": {}}
FILES = {f"{name}.json": json.dumps(config) for name, config in CONFIGS.items()}
STAGES = {"layer1", "layer2", "layer3", "layer4", "context"}
# Name, options, the features that it has at least, the grid that it brings images to.
CASES = [
    ("torchvision:deeplabv3_mobilenet_v3_large", {}, {*STAGES, "logits", "aux_logits"}, 1),
    ("torchvision:lraspp_mobilenet_v3_large", {}, {*STAGES, "logits"}, 1),
    ("timm:resnet10t", {}, STAGES, 1),
    ("timm:test_vit", {}, STAGES, 16),
    ("timm:test_convnext", {}, STAGES, 1),
    ("smp:unet", {"encoder_name": "resnet18"}, {*STAGES, "logits"}, 1),
    ("smp:fpn", {"encoder_name": "tu-resnet10t"}, {*STAGES, "logits"}, 32),
    ("hf:FOLDER/segformer.json", {}, {*STAGES, "logits"}, 1),
    ("hf:FOLDER/dinov2.json", {}, STAGES, 14),
    ("hf:FOLDER/vit.json", {}, STAGES, 16),
    ("FOLDER/my_net.py:MyNet", {"width": 6}, {"layer1", "context", "logits"}, 1),
]
each_case = pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    for name, text in {**FILES, "my_net.py": MY_NET}.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def built(folder):
    """A function that builds the network of a case, once."""
    networks = {}

    def build(name, options):
        library = name.partition(":")[0]
        if library in LIBRARIES:
            pytest.importorskip(LIBRARIES[library][0])
        if name not in networks:
            torch.manual_seed(0)
            networks[name] = build_network(name.replace("FOLDER", str(folder)), NUM_CLASSES, **options)
        return networks[name].eval()

    return build


@each_case
@pytest.mark.parametrize("size", [(128, 128), (129, 161)])
def test_features_have_the_declared_channels_and_strides_at_any_size(case, size, built):
    name, options, features, grid = case
    network = built(name, options)
    with torch.no_grad():
        output = network(torch.randn(2, 3, *size), network.features)
    assert output.features.keys() == network.features.keys() >= features
    assert network.num_classes == (NUM_CLASSES if "logits" in features else 0)
    assert (output.logits is None) == ("logits" not in features)
    for key, (channels, stride) in network.features.items():
        assert output.features[key].shape[:2] == (2, channels), key
        slack = 1 + grid / 2 / stride
        assert all(abs(a - b / stride) <= slack for a, b in zip(output.features[key].shape[2:], size, strict=True)), key
        assert output.features[key].isfinite().all()


@each_case
def test_what_nothing_asks_for_is_not_run(case, built):
    name, options, _, _ = case
    network = built(name, options)
    ran = []
    for key, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module.out_channels == NUM_CLASSES:
            module.register_forward_hook(lambda *_, key=key: ran.append(key))
    with torch.no_grad():
        assert network.extract(torch.randn(2, 3, 64, 64), frozenset({"layer1"})).features.keys() == {"layer1"}
        assert not ran
        if "aux_logits" in network.features:
            network(torch.randn(2, 3, 64, 64))
            assert not any("aux" in key for key in ran)


@each_case
def test_the_logits_and_the_deepest_stage_depend_on_the_image_and_train(case, built):
    name, options, features, _ = case
    network = built(name, options).train()
    wanted = frozenset({"logits"} if "logits" in features else {"context"})
    unused = set(freeze_unused(network, wanted))
    try:
        maps = network.extract(torch.randn(2, 3, 64, 64), wanted).features
        sum(value.square().mean() for value in maps.values()).backward()
        silent = {key for key, value in network.named_parameters() if value.grad is None}
        assert silent == unused
    finally:
        network.zero_grad()
        network.requires_grad_(True)


@each_case
def test_an_unknown_feature_is_an_error_that_lists_the_known_ones(case, built):
    with pytest.raises(ValueError, match=r"no feature layer9; known: .*layer1"):
        built(*case[:2])(torch.randn(1, 3, 64, 64), ("layer9",))


@each_case
def test_a_checkpoint_rebuilds_the_network_from_its_config_alone(case, built, tmp_path, monkeypatch):
    network = built(*case[:2])
    json.dumps(network.config)
    atomic_save(export_weights(network, IMAGENET), tmp_path / "best.pth")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("nothing may be fetched"))
    copy, report = load_network(tmp_path / "best.pth", trusted=[network.config["name"]])
    assert report.config == network.config
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(copy(images, ("context",))[1]["context"], network(images, ("context",))[1]["context"])


def test_a_config_of_hugging_face_is_not_needed_again(built, folder, tmp_path):
    """The checkpoint carries it, so the file may be gone."""
    network = built("hf:FOLDER/segformer.json", {})
    assert {**network.config, "name": "hf:gone"}["hf_config"]["hidden_sizes"] == [8, 16, 24, 32]
    copy = build_network(**{**network.config, "name": "hf:gone"})
    assert copy.features == network.features
    assert copy.state_dict().keys() == network.state_dict().keys()


def test_a_folder_of_hugging_face_brings_weights_classes_and_convention(tmp_path):
    transformers = pytest.importorskip("transformers")
    settings = {key: value for key, value in SEGFORMER.items() if key != "model_type"}
    model = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**settings)).eval()
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    model.float()
    convention = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    convention |= {"image_mean": [0.5, 0.25, 0.125], "image_std": [0.5, 0.5, 0.25]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(convention))
    network = build_network(f"hf:{tmp_path}", None, pretrained=True).eval()
    assert network.num_classes == 7
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    assert network.normalization.mean == (127.5, 63.75, 31.875)
    assert network.normalization.std == (127.5, 127.5, 63.75)
    assert "pretrained" not in network.config
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(network(images).logits, model(images).logits)
    other = build_network(f"hf:{tmp_path}", 3, pretrained=True).eval()
    assert other.num_classes == other.features["logits"].channels == 3
    with torch.no_grad():
        context = [x(images, ("context",)).features["context"] for x in (network, other)]
    assert torch.equal(*context)


def test_patch_tokens_of_a_vit_are_a_map_in_the_order_of_the_image(built):
    """A change in one corner of the image changes the tokens of the patch embedding there alone."""
    network = built("timm:test_vit", {})
    images = torch.zeros(1, 3, 160, 160)
    changed = images.clone()
    changed[..., :16, -16:] = 1
    with torch.no_grad():
        embedded = [network.model.patch_embed(x) for x in (images, changed)]
        moved = (embedded[0] != embedded[1]).any(-1)
        final = [network(x, ("context",)).features["context"] for x in (images, changed)]
    assert moved.nonzero().tolist() == [[0, 0, 9]]
    difference = (final[0] - final[1]).norm(dim=1)[0]
    assert difference.flatten().argmax() == 9


def test_a_vit_of_timm_answers_as_timm_does(built):
    network = built("timm:test_vit", {})
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        tokens = network.model.forward_features(images)[:, network.model.num_prefix_tokens :]
        context = network(images, ("context",)).features["context"]
    torch.testing.assert_close(context.flatten(2).mT, tokens)


@pytest.mark.parametrize("num_registers", [0, 4])
def test_tokens_that_are_no_patches_are_left_out(num_registers, tmp_path):
    pytest.importorskip("transformers")
    kind = (
        {"model_type": "dinov2_with_registers", "num_register_tokens": num_registers, "patch_size": 14}
        if num_registers
        else {}
    )
    (tmp_path / "config.json").write_text(json.dumps({**DINOV2, **kind}))
    network = build_network(f"hf:{tmp_path / 'config.json'}", 0).eval()
    images = torch.randn(2, 3, 56, 84)
    with torch.no_grad():
        tokens = network.model(images).last_hidden_state
        context = network(images, ("context",)).features["context"]
    assert tokens.shape[1] == 1 + num_registers + 4 * 6
    assert torch.equal(context.flatten(2).mT, tokens[:, 1 + num_registers :])


def test_smp_logits_are_the_library_s_before_it_enlarges_them(built):
    network = built("smp:fpn", {"encoder_name": "tu-resnet10t"})
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        logits = network(images).logits
        torch.testing.assert_close(network.model.segmentation_head[1](logits), network.model(images))


def test_conventions_come_from_the_library(built):
    assert built("timm:resnet10t", {}).normalization == IMAGENET
    assert built("torchvision:lraspp_mobilenet_v3_large", {}).normalization == IMAGENET
    assert built("timm:test_vit", {}).normalization.mean == (127.5, 127.5, 127.5)
    assert built("smp:unet", {"encoder_name": "resnet18"}).normalization is None  # in a file that is not fetched
    assert built("smp:fpn", {"encoder_name": "tu-resnet10t"}).normalization == IMAGENET
    assert built("hf:FOLDER/segformer.json", {}).normalization is None


@pytest.mark.parametrize(
    ("processor", "channels", "mean", "std"),
    [
        ({"image_processor_type": "BeitImageProcessor"}, "RGB", 127.5, 127.5),  # the class's own
        ({"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "RGB", 0, 255),
        ({"do_flip_channel_order": True, "do_normalize": False}, "BGR", 0, 255),
        ({"do_rescale": False, "image_mean": [9] * 3, "image_std": [2] * 3}, "RGB", 9, 2),
    ],
)
def test_the_image_processor_beside_a_config_tells_the_convention_of_an_untrained_network(
    processor, channels, mean, std, tmp_path
):
    pytest.importorskip("transformers")
    (tmp_path / "vit.json").write_text(json.dumps(VIT))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    colours = build_network(f"hf:{tmp_path / 'vit.json'}", 0).normalization
    assert (colours.channels, colours.mean, colours.std, colours.scale) == (channels, (mean,) * 3, (std,) * 3, 1)


def test_classes_are_named_as_the_model_s_config_names_them(tmp_path):
    pytest.importorskip("transformers")
    names = {str(index): f"class {index}" for index in range(3)}
    (tmp_path / "named.json").write_text(json.dumps({**SEGFORMER, "num_labels": 3, "id2label": names}))
    (tmp_path / "unnamed.json").write_text(json.dumps(SEGFORMER))
    named = build_network(f"hf:{tmp_path / 'named.json'}", 3)
    assert named.classes == ("class 0", "class 1", "class 2")
    assert describe(named).classes == named.classes
    assert build_network(f"hf:{tmp_path / 'named.json'}", 4).classes is None  # of another head
    assert build_network(f"hf:{tmp_path / 'unnamed.json'}", 7).classes is None


def test_torchvision_names_the_classes_of_its_published_weights(monkeypatch):
    import torchvision

    weights = torchvision.models.get_model_weights("lraspp_mobilenet_v3_large").DEFAULT
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: {})
    name = "torchvision:lraspp_mobilenet_v3_large"
    published = build_network(name, None, pretrained=True)
    assert match_classes(published, describe(published), name, DATASETS["voc2012"]).is_identity
    assert build_network(name, 5, pretrained=True).classes is None
    assert build_network(name, 21).classes is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision:unet", {}, "no segmentation model 'unet'; known: deeplabv3_mobilenet"),
        ("timm:resnet_10t", {}, "no model 'resnet_10t'; it has .*resnet10t"),
        ("smp:unett", {}, "no architecture 'unett'.*unet"),
        ("smp:unet", {"encoder_name": "nope"}, "encoder_name=nope"),
        ("smp:unet", {"layers": 3}, "no option layers; known: .*encoder_name"),
        ("timm:resnet10t", {"norm": "inplace_abn"}, "norm inplace_abn has no effect"),
        ("timm:resnet10t.magic", {}, r"cannot build resnet10t\.magic.*magic"),
        ("timm:test_vit", {"output_stride": 8}, "cannot build test_vit with {'output_stride': 8}"),
        ("hf:FOLDER/bert.json", {}, "reads input_ids, not images"),
        ("hf:FOLDER/empty.json", {}, r"empty\.json is no configuration"),
        ("keras:unet", {}, "unknown network 'keras:unet'; known: .*timm:NAME.*FILE.py:CLASS"),
        ("FOLDER/my_net.py:YourNet", {}, "no class YourNet derived from"),
        ("FOLDER/my_net.py:nn", {}, "no class nn derived from"),
    ],
)
def test_a_wrong_name_is_an_error_that_names_what_would_be_right(name, options, message, folder):
    with pytest.raises(ValueError, match=message):
        build_network(name.replace("FOLDER", str(folder)), NUM_CLASSES, **options)


def test_a_file_that_is_gone_is_an_error_that_names_it():
    with pytest.raises(FileNotFoundError, match=r"nowhere/my_net\.py:MyNet: no file .*nowhere/my_net\.py"):
        build_network("nowhere/my_net.py:MyNet", NUM_CLASSES)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_missing_library_is_an_error_that_says_how_to_install_it(library, monkeypatch):
    monkeypatch.setitem(sys.modules, LIBRARIES[library][0], None)
    with pytest.raises(ValueError, match=rf"pip install segdistill\[{library}\]"):
        network_class(f"{library}:anything")


@pytest.mark.parametrize("name", ["torchvision:lraspp_mobilenet_v3_large", "timm:mobilenetv3_large_100", "smp:unet"])
def test_what_is_left_out_when_maps_are_measured_changes_none(name, monkeypatch):
    pytest.importorskip(LIBRARIES[name.partition(":")[0]][0])
    quick = build_network(name, 7)
    monkeypatch.setattr("segdistill.network.external.base.OnlyShapes.LEFT_OUT", ())
    whole = build_network(name, 7)
    assert quick.features == whole.features
    assert (quick.multiple, quick.only_side) == (whole.multiple, whole.only_side)
