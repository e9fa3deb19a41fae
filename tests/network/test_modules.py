"""Networks that know nothing of this project: modules in a user's file, and files that hold their program."""

import json
import re
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import eval as evaluation
import train
from segdistill.dataset.normalization import IMAGENET
from segdistill.libs.files import sha256_of
from segdistill.network import build_network, load_network, network_class
from segdistill.network.__main__ import main as describe_network
from segdistill.network.external.module import measure_on
from segdistill.network.external.program import kind_of_file
from segdistill.network.settings import parse_settings
from segdistill.network.weights.checkpoint import atomic_save, export_weights
from segdistill.utils.classes import match_classes
from segdistill.utils.options import parse_options
from segdistill.utils.teacher import Teacher

BLOCKS = """
from torch import nn


class Block(nn.Sequential):
    def __init__(self, inputs, outputs):
        super().__init__(nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
"""
NET = """
import torch
from torch import nn

from blocks import Block


class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stages = nn.ModuleList([Block(3, width), Block(width, 2 * width), Block(2 * width, 4 * width)])

    def forward(self, x):
        maps = []
        for stage in self.stages:
            maps.append(stage(maps[-1][:, :, ::2, ::2] if maps else x))
        return maps


class Net(nn.Module):
    \"\"\"A small U.

    Args:
        width: channels of the first stage
    \"\"\"

    def __init__(self, width=6, num_classes=11, norm=nn.BatchNorm2d):
        super().__init__()
        self.encoder = Encoder(width)
        self.merge = Block(6 * width, width)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, pictures):
        from enlarge import twice

        one, two, three = self.encoder(pictures)
        x = self.merge(torch.cat([two, twice(three)], 1))
        return {"out": self.classify(x), "deep": three}
"""
ENLARGE = """
from torch.nn import functional as F


def twice(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")
"""
OTHERS = """
import torch
from torch import nn
from collections import OrderedDict, namedtuple

Both = namedtuple("Both", "first second")


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 4, 1)
        self.head = nn.Conv2d(8, 5, 1)


class Plain(Base):
    def forward(self, x):
        return self.head(self.stem(x))


class Tuple(Base):
    def forward(self, x):
        y = self.stem(x)
        return y.mean((2, 3)), self.head(y), y


class Named(Base):
    def forward(self, x):
        return Both(self.head(self.stem(x)), None)


class Output(OrderedDict):
    def __getattr__(self, name):
        return self[name]


class Model(Base):
    def forward(self, x):
        y = self.stem(x)
        return Output(loss=None, logits=self.head(y), hidden_states=(x, y))


class Maps(Base):
    def forward(self, x):
        return {"res2": self.stem(x), "pooled": self.stem(x).mean((2, 3))}


class Wide(Base):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(8, 512, 1)

    def forward(self, x):
        return self.head(self.stem(x))


class Backbone(Plain):
    num_classes = 0


class Vector(Base):
    def forward(self, x):
        return self.stem(x).mean((2, 3))


class Shared(Base):
    def __init__(self):
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(8), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.head(self.act(self.norm(self.stem(x))))


class DataDependent(Base):
    def forward(self, x):
        y = self.stem(x)
        return self.head(y * 2 if y.sum().item() > 1e9 else y)


class Fixed(Base):
    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 8, 96, 96))

    def forward(self, x):
        return self.head(self.stem(x) + self.place)


class OneByOne(Base):
    def forward(self, x):
        return self.head(self.stem(x).reshape(1, 8, x.shape[2] // 4, x.shape[3] // 4))


class ChannelsLast(Base):
    def __init__(self):
        super().__init__()
        self.turn = Turn()

    def forward(self, x):
        return self.head(self.turn(self.stem(x)).permute(0, 3, 1, 2))


class Turned(Base):
    def forward(self, x):
        return self.stem(x).permute(0, 2, 3, 1)


class Turn(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class Sum(nn.Module):
    def __init__(self, depth, *, kinds, width=4):
        super().__init__()


class Two(Base):
    def forward(self, x, mask):
        return self.head(self.stem(x) * mask)


class Gray(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        return self.stem(x)


class Broken(Base):
    def __init__(self):
        super().__init__()
        self.head = undefined


class Guess(Base):
    def __init__(self, widths=None, kind="a", rate: float = 1, flag=False, many: "list[int]" = ()):
        super().__init__()
        self.given = widths, kind, rate, flag, many

    def forward(self, x):
        return self.head(self.stem(x))


def make(width=8):
    return Plain()


def number():
    return 3
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny):
    """A user's folder: my.py with what it imports, its weights, and CamVid's pictures as its network labels them."""
    folder = tmp_path_factory.mktemp("home")
    for name, text in (("blocks", BLOCKS), ("my", NET), ("enlarge", ENLARGE), ("others", OTHERS)):
        (folder / f"{name}.py").write_text(text)
    torch.manual_seed(0)
    network = build_network(f"{folder}/my.py:Net", 11).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
    torch.save(network.model.state_dict(), folder / "state.pth")
    shutil.copytree(tiny / "camvid", folder / "camvid")
    for path in folder.glob("camvid/*annot/*.png"):
        image = np.array(Image.open(path.parent.with_name(path.parent.name.removesuffix("annot")) / path.name))
        with torch.no_grad():
            logits = network(IMAGENET(torch.from_numpy(image).permute(2, 0, 1)[None])).logits
        label = nn.functional.interpolate(logits, (64, 64), mode="bilinear", align_corners=True).argmax(1)[0]
        Image.fromarray(label.to(torch.uint8).numpy()).save(path)
    return folder


@pytest.fixture(scope="module")
def net(home):
    """The user's network as its author has it."""
    return load_network(home / "state.pth", described={"name": f"{home}/my.py:Net"})[0].model.eval()


@pytest.fixture(scope="module")
def exported(home, net):
    """A function that writes the network in a format, once."""
    image = torch.randn(2, 3, 64, 96)
    made = {}

    def write(kind):
        if kind not in made:
            made[kind] = home / {"TorchScript": "traced.pt", "torch.export": "net.pt2", "ONNX": "net.onnx"}[kind]
            WRITERS[kind](net, image, made[kind])
        return made[kind]

    return write


def write_script(model, image, path):
    torch.jit.trace(model, image, strict=False).save(path)


def write_program(model, image, path):
    sides = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    torch.export.save(torch.export.export(model, (image,), dynamic_shapes=(sides,)), path)


def write_onnx(model, image, path, outputs=("out", "deep"), dynamic=True):
    pytest.importorskip("onnxruntime")
    axes = {"image": {0: "n", 2: "h", 3: "w"}} if dynamic else None
    words = {"input_names": ["image"], "output_names": list(outputs), "dynamic_axes": axes}
    torch.onnx.export(model, (image,), path, dynamo=False, **words)


WRITERS = {"TorchScript": write_script, "torch.export": write_program, "ONNX": write_onnx}
ignore_formats = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning"
)
each_kind = pytest.mark.parametrize("kind", WRITERS)


def arguments(home, folder, name, *more):
    return [
        *("--dataset", "camvid", "--data-dir", str(home / "camvid"), "--input-size", "64,64", "--batch-size", "2"),
        *("--num-steps", "3", "--num-workers", "0", "--log-every", "1", "--snapshot-dir", str(folder)),
        *("--save-name", name, *more),
    ]


SMALL = ["--network", "espnet_c", "--network-options", "p=1", "q=1"]


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------- a module in a file


def test_a_module_of_a_file_teaches_its_logits_and_a_map_by_its_path(home, tmp_path):
    teacher = ["--teacher-network", f"{home}/my.py:Net", "--T_ckpt_path", str(home / "state.pth")]
    terms = ["--pi", "--fitnet", "on=context:encoder.stages.2"]
    assert train.main(arguments(home, tmp_path, "run", *SMALL, *teacher, *terms)) == 0
    rows = [row for row in rows_of(tmp_path / "run") if "loss" in row]
    assert len(rows) == 3
    assert all(row["loss/pi"] > 0 and row["loss/fitnet"] > 0 for row in rows)
    record = json.loads((tmp_path / "run/teacher.json").read_text())
    assert record["sha256"] == sha256_of(home / "state.pth")
    assert (record["num_classes"], record["mean_iou"]) == (11, 1.0)
    with pytest.raises(ValueError, match=r"no feature encoder\.stage\.2; near that: .*encoder\.stages\.2"):
        train.main(arguments(home, tmp_path, "x", *SMALL, *teacher, "--fitnet", "on=context:encoder.stage.2"))


def test_a_module_of_a_file_learns_and_is_evaluated_by_the_same_flag(home, tiny, tmp_path, monkeypatch):
    words = ["--network", f"{home}/my.py:Net", "--network-options", "width=4"]
    terms = ["--T_ckpt_path", str(tiny / "teacher.pth"), "--pi", "--fitnet", "on=encoder.stages.2:layer3"]
    assert train.main(arguments(tiny, tmp_path, "run", *words, *terms)) == 0
    best = max(row.get("val/mean_iou", 0) for row in rows_of(tmp_path / "run"))
    checkpoint = str(tmp_path / "run/best.pth")
    score = ["--dataset", "camvid", "--data-dir", str(tiny / "camvid"), "--checkpoint", checkpoint]
    with pytest.raises(ValueError, match=r"--network \S+my\.py:Net .*--teacher-network"):
        evaluation.main(score)
    # Its file may have moved since, and may be named from another folder.
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("my.py", "blocks.py", "enlarge.py"):
        shutil.copy(home / name, moved)
    monkeypatch.chdir(moved)
    output = tmp_path / "run/evaluation.json"
    assert evaluation.main([*score, "--network", "my.py:Net", "--output", str(output)]) == 0
    figures = json.loads(output.read_text())
    assert figures["mean_iou"] == pytest.approx(best, abs=1e-6)
    assert figures["network"] == {"name": "my.py:Net", "num_classes": 11, "width": 4}
    teacher = ["--teacher-network", "my.py:Net", "--T_ckpt_path", checkpoint, "--fitnet", "on=context:merge", "--check"]
    assert Teacher.from_network("my.py:Net", IMAGENET, checkpoint).network.features["merge"].channels == 4
    with pytest.raises(ValueError, match="no better than a constant"):  # three steps do not make a teacher
        train.main(arguments(home, tmp_path, "next", *SMALL, *teacher))


def test_a_module_answers_as_it_does_on_its_own(home, net):
    network, _ = load_network(home / "state.pth", described={"name": f"{home}/my.py:Net"})
    images = torch.randn(2, 3, 64, 96)
    kept = []
    handle = net.encoder.stages[1].register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        expected = net(images)
        output = network(images, ("encoder.stages.1", "deep", "logits"))
    handle.remove()
    assert torch.equal(output.logits, expected["out"])
    assert torch.equal(output.features["deep"], expected["deep"])
    assert torch.equal(output.features["encoder.stages.1"], kept[0])
    assert not network.model.encoder.stages[1]._forward_hooks
    assert network.features["encoder.stages.2"] == network.features["deep"] == (24, 4)
    assert network.features["logits"] == (11, 2)
    assert network.fit.multiple == 4  # what divides by 2 alone leaves maps of two sizes to be put together
    with torch.no_grad():
        assert network(torch.randn(1, 3, 63, 97)).logits.shape == (1, 11, 32, 48)


def test_the_class_count_is_that_of_the_weights(home, tmp_path):
    name = f"{home}/my.py:Net"
    model = build_network(name, 7).model
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "a.pth"
    )
    network, report = load_network(tmp_path / "a.pth", described={"name": name, "num_classes": 11})
    assert network.num_classes == report.config["num_classes"] == 7


def test_a_state_dict_has_to_fit_in_every_key(home, tmp_path):
    name = f"{home}/my.py:Net"
    state = torch.load(home / "state.pth", weights_only=True)
    torch.save({**state, "extra.weight": torch.zeros(3)}, tmp_path / "more.pth")
    with pytest.raises(ValueError, match=r"extra\.weight: not in the network"):
        load_network(tmp_path / "more.pth", described={"name": name})
    torch.save({key: value for key, value in state.items() if "merge" not in key}, tmp_path / "less.pth")
    with pytest.raises(ValueError, match=r"merge\.0\.weight: missing in the file"):
        load_network(tmp_path / "less.pth", described={"name": name})
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"none of its entries \(a\.weight.*is of a .*my\.py:Net"):
        load_network(tmp_path / "other.pth", described={"name": name})


@pytest.mark.parametrize("root", ["net", "model", "model.net"])
def test_keys_under_a_usual_root_of_the_module_itself_are_found(root, tmp_path):
    """Such roots are removed from a file that a trainer has wrapped."""
    attribute, _, inner = root.partition(".")
    layers = "nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1))"
    layers = f"nn.ModuleDict({{{inner!r}: {layers}}})" if inner else layers
    call = f"self.{attribute}[{inner!r}](x)" if inner else f"self.{attribute}(x)"
    (tmp_path / "rooted.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        self.{attribute} = {layers}\n\n    def forward(self, x):\n        return {call}\n"
    )
    model = build_network(f"{tmp_path}/rooted.py:Net", None).model
    torch.save(model.state_dict(), tmp_path / "state.pth")
    copy, _ = load_network(tmp_path / "state.pth", described={"name": f"{tmp_path}/rooted.py:Net"})
    images = torch.randn(1, 3, 8, 8)
    assert torch.equal(copy(images).logits, model(images))


@pytest.mark.parametrize(
    ("name", "num_classes", "outputs"),
    [
        ("Plain", 5, {"logits": (5, 4)}),
        ("make", 5, {"logits": (5, 4)}),
        ("Tuple", 5, {"logits": (5, 4), "output.2": (8, 4)}),
        ("Named", 5, {"logits": (5, 4)}),
        ("Model", 5, {"logits": (5, 4), "hidden_states.1": (8, 4)}),
        ("Maps", 0, {"res2": (8, 4)}),
        ("Wide", 0, {"output": (512, 4)}),
        ("Backbone", 0, {"output": (5, 4)}),
        ("Vector", 0, {}),
    ],
)
def test_whatever_a_module_returns_is_read(name, num_classes, outputs, home):
    network = build_network(f"{home}/others.py:{name}", None).eval()
    assert network.num_classes == num_classes
    assert ("logits" in network.features) == bool(num_classes)
    assert network.features["stem"] == (8, 4)
    assert outputs.items() <= network.features.items()
    maps = network(torch.randn(2, 3, 64, 96), {*outputs, "stem"}).features
    assert {key: value.shape for key, value in maps.items()} == {
        key: (2, network.features[key].channels, 16, 24) for key in maps
    }


def test_a_map_is_what_its_module_returned_though_the_next_changes_it_in_place(home):
    network = build_network(f"{home}/others.py:Shared", None).eval()
    maps = network(torch.randn(1, 3, 32, 32), ("norm", "act")).features
    assert (maps["norm"] < 0).any()
    assert torch.equal(maps["norm"].relu(), maps["act"])


def test_what_a_module_takes_is_found_by_trying(home):
    fits = {name: build_network(f"{home}/others.py:{name}", None) for name in ("DataDependent", "Fixed", "OneByOne")}
    assert [network.fit for network in fits.values()] == [(None, 1, False), ((384, 384), 1, False), (None, 4, True)]
    images = torch.randn(3, 3, 60, 92)
    with torch.no_grad():
        assert fits["DataDependent"](images).logits.shape == (3, 5, 15, 23)
        assert fits["Fixed"](images).logits.shape == (3, 5, 96, 96)
        together = fits["OneByOne"](images).logits
        assert torch.equal(together[1:2], fits["OneByOne"](images[1:2]).logits)
    # Tokens and maps whose channels come last are no features: theirs would be told wrong.
    turned = build_network(f"{home}/others.py:ChannelsLast", None)
    assert (turned.num_classes, turned.fit.size) == (5, None)
    assert "turn" not in turned.features
    swapped = build_network(f"{home}/others.py:Turned", None)
    assert (swapped.num_classes, swapped.fit.size, swapped.features.keys()) == (0, None, {"stem"})


def test_a_module_that_cannot_be_run_without_values_is_loaded_from_its_checkpoint(home, tmp_path):
    network = build_network(f"{home}/others.py:DataDependent", 5).eval()
    atomic_save(export_weights(network, IMAGENET), tmp_path / "best.pth")
    copy, _ = load_network(tmp_path / "best.pth", trusted=[f"{home}/others.py:DataDependent"])
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(copy(images).logits, network(images).logits)


def test_measuring_a_network_changes_neither_its_weights_nor_its_mode(home):
    network = build_network(f"{home}/others.py:Shared", None)
    assert all(module.training for module in network.modules())
    state = {key: value.clone() for key, value in network.state_dict().items()}
    measure_on(network.model, "cpu", "it")
    assert all(module.training for module in network.modules())
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Sum", r"Sum needs depth, kinds: --network-options depth=VALUE \(of a teacher: --teacher-options\)"),
        ("Two", r"Two does not take images \(1, 3, 256, 256\): TypeError: .*'mask'"),
        ("Gray", r"Gray does not take images .* to have 1 channels, but got 3"),
        ("Broken", r"Broken\(\) cannot be built: NameError: name 'undefined' is not defined"),
        ("number", r"number returns a int, not a torch\.nn\.Module"),
        ("Nobody", r"others\.py has no class Nobody derived from torch\.nn\.Module; it has Base, Plain"),
    ],
)
def test_a_module_that_cannot_be_used_is_told_in_one_line(name, message, home):
    with pytest.raises(ValueError, match=message) as error:
        build_network(f"{home}/others.py:{name}", 11)
    assert "\n" not in str(error.value)


def test_options_are_read_by_annotation_by_default_or_by_their_look(home):
    name = f"{home}/others.py:Guess"
    words = ["widths=8,16", "kind=3", "rate=2", "flag=true", "many=4"]
    settings = parse_settings(network_class(name), words, name)
    assert build_network(name, None, **settings).model.given == ((8, 16), "3", 2.0, True, 4)
    assert parse_settings(network_class(name), ["widths=none"], name) == {"widths": None}
    assert parse_settings(network_class(name), ["widths=wide"], name) == {"widths": "wide"}
    with pytest.raises(ValueError, match="flag"):
        parse_settings(network_class(name), ["flag=3"], name)
    net = network_class(f"{home}/my.py:Net")
    with pytest.raises(ValueError, match=r"width=6 +channels of the first stage"):
        parse_settings(net, ["depth=3"], "my.py:Net")


def test_a_student_of_another_class_count_is_refused(home, tmp_path):
    with pytest.raises(ValueError, match=r"answers with 5 channels, the data set has 11"):
        train.main(arguments(home, tmp_path, "run", "--network", f"{home}/others.py:Plain"))


def test_a_module_without_classes_teaches_a_map_once_its_colours_are_told(home, tmp_path):
    torch.save(build_network(f"{home}/others.py:Backbone", None).model.state_dict(), tmp_path / "weights.pth")
    teacher = ["--teacher-network", f"{home}/others.py:Backbone", "--T_ckpt_path", str(tmp_path / "weights.pth")]
    words = [*SMALL, *teacher, "--fitnet", "on=context:stem", "--task-weight", "0"]
    with pytest.raises(ValueError, match="--teacher-normalization imagenet"):
        train.main(arguments(home, tmp_path, "run", *words))
    assert train.main(arguments(home, tmp_path, "run", *words, "--teacher-normalization", "unit")) == 0
    assert json.loads((tmp_path / "run/teacher.json").read_text())["mean_iou"] is None


def test_a_map_that_has_no_classes_is_told_apart_by_its_class(home):
    from segdistill.dataset import CamVid

    with pytest.raises(ValueError, match=r"--class-map FILE .* no classes: num_classes = 0 in its class says so"):
        match_classes(build_network(f"{home}/others.py:Plain", None), None, "others.py:Plain", CamVid)


def test_files_of_one_name_in_two_folders_import_what_lies_beside_them_whenever_they_do(tmp_path):
    for folder, bias in (("a", 1), ("b", 2)):
        (tmp_path / folder / "parts").mkdir(parents=True)
        (tmp_path / folder / "parts/__init__.py").write_text("")
        (tmp_path / folder / "parts/early.py").write_text(f"from .deep import bias\n\nassert bias == {bias}\n")
        (tmp_path / folder / "parts/deep.py").write_text(f"bias = {bias}\n")
        (tmp_path / folder / "late.py").write_text("import parts.deep\n\nbias = parts.deep.bias\n")
        (tmp_path / folder / "json.py").write_text("own = True\n")  # of a name that is in use
        (tmp_path / folder / "my.py").write_text(
            "from __future__ import annotations\n\nimport dataclasses\nimport json\n\nfrom torch import nn\n\n"
            "from parts import early\n\n\n@dataclasses.dataclass\nclass Setting:\n    value: int = early.bias\n\n\n"
            "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        from parts.deep import bias\n\n"
            "        self.conv, self.bias = nn.Conv2d(3, 5, 1), bias + Setting().value + 100 * json.own\n\n"
            "    def forward(self, x):\n        from late import bias\n\n        return 0 * self.conv(x) + bias\n"
        )
    networks = [build_network(f"{tmp_path}/{folder}/my.py:Net", None).eval() for folder in ("a", "b")]
    assert [network.model.bias for network in networks] == [102, 104]
    assert [network(torch.randn(1, 3, 4, 4)).logits.unique().tolist() for network in networks] == [[1], [2]]
    assert json.dumps({}) == "{}"
    import sys

    assert not {str(tmp_path / "a"), str(tmp_path / "b")} & set(sys.path)


def test_a_file_that_cannot_be_run_says_why_and_runs_when_it_is_mended(tmp_path):
    (tmp_path / "my.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(ValueError, match=r"my\.py cannot be run: ModuleNotFoundError: .*nothing_of_this_name"):
        network_class(f"{tmp_path}/my.py:Net")
    (tmp_path / "nothing_of_this_name.py").write_text("from torch import nn\n\nNet = nn.Identity\n")
    (tmp_path / "my.py").write_text("from nothing_of_this_name import Net  # which is there now\n")
    with pytest.raises(FileNotFoundError, match="no file"):
        network_class(f"{tmp_path}/other.py:Net")
    (tmp_path / "bad.py").write_text("def f(:\n")
    with pytest.raises(ValueError, match=r"bad\.py cannot be run: SyntaxError: .*line 1"):
        network_class(f"{tmp_path}/bad.py:Net")


# ------------------------------------------------------------------------------------- files with their program


@each_kind
@ignore_formats
def test_a_file_with_its_program_answers_as_the_network_that_it_was_made_of(kind, net, exported):
    path = exported(kind)
    assert kind_of_file(path) == kind
    network, report = load_network(path, trusted=[str(path)])
    assert (report.family, report.sha256, network.num_classes) == (kind, sha256_of(path), 11)
    assert report.config == {"name": str(path), "num_classes": 11}
    assert len(report.used) >= 8
    assert (network.features["logits"], network.features["deep"], network.fit.multiple) == ((11, 2), (24, 4), 4)
    images = torch.randn(3, 3, 128, 64)
    with torch.no_grad():
        expected, output = net(images), network(images, ("deep",))
        torch.testing.assert_close(output.logits, expected["out"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(output.features["deep"], expected["deep"], atol=1e-4, rtol=1e-4)
        assert network(torch.randn(1, 3, 63, 97)).logits.shape == (1, 11, 32, 48)


@each_kind
@ignore_formats
def test_a_file_with_its_program_teaches(kind, home, exported, tmp_path):
    path = exported(kind)
    teacher = ["--teacher-network", str(path), "--pi", "--fitnet", "on=context:deep"]
    assert train.main(arguments(home, tmp_path, "run", *SMALL, *teacher)) == 0
    rows = [row for row in rows_of(tmp_path / "run") if "loss" in row]
    assert all(row["loss/pi"] > 0 and row["loss/fitnet"] > 0 for row in rows)
    record = json.loads((tmp_path / "run/teacher.json").read_text())
    assert (record["sha256"], record["family"]) == (sha256_of(path), kind)
    assert record["mean_iou"] > 0.99
    with pytest.raises(ValueError, match="is a program, which cannot be trained: it can be a teacher"):
        train.main(arguments(home, tmp_path, "student", "--network", str(path)))
    file = ["--T_ckpt_path", str(path), "--pi", "--check"]
    if kind == "ONNX":  # which holds numbers and no program of any other kind
        assert train.main(arguments(home, tmp_path, "file", *SMALL, *file)) == 0
    else:
        with pytest.raises(ValueError, match=r"is a program .*--teacher-network \S+, to let it run"):
            train.main(arguments(home, tmp_path, "file", *SMALL, *file))
        assert train.main(arguments(home, tmp_path, "file", *SMALL, "--teacher-network", str(path), *file)) == 0


@ignore_formats
def test_inner_maps_of_a_graph_are_features_by_their_names(net, exported):
    images = torch.randn(1, 3, 64, 64)
    kept = []
    handle = net.merge.register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        net(images)
        handle.remove()
        program, _ = load_network(exported("torch.export"), trusted=[str(exported("torch.export"))])
        torch.testing.assert_close(program(images, ("merge",)).features["merge"], kept[0])
        graph, _ = load_network(exported("ONNX"))
        (name,) = [name for name in graph.features if "merge" in name and name.endswith("Relu_output_0")]
        torch.testing.assert_close(graph(images, (name,)).features[name], kept[0], atol=1e-4, rtol=1e-4)


@ignore_formats
def test_a_fixed_size_and_a_batch_of_one_are_kept_to(net, tmp_path):
    image = torch.randn(1, 3, 64, 96)
    torch.export.save(torch.export.export(net, (image,)), tmp_path / "fixed.pt2")
    write_onnx(net, image, tmp_path / "fixed.onnx", dynamic=False)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = net(images)["out"]
        for name in ("fixed.pt2", "fixed.onnx"):
            path = tmp_path / name
            network, _ = load_network(path, trusted=[str(path)])
            assert network.fit == ((64, 96), 1, True)
            assert network.features["logits"] == (11, 2)
            torch.testing.assert_close(network(images).logits, expected, atol=1e-4, rtol=1e-4)
            assert network(torch.randn(2, 3, 50, 50)).logits.shape == (2, 11, 32, 48)


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x.mean(1, keepdim=True) + y


@ignore_formats
def test_a_program_that_takes_no_images_is_refused_in_one_line(tmp_path):
    pytest.importorskip("onnxruntime")
    image, gray = torch.randn(1, 3, 32, 32), torch.randn(1, 1, 32, 32)
    torch.jit.trace(TwoInputs(), (image, gray)).save(tmp_path / "two.pt")
    torch.export.save(torch.export.export(TwoInputs(), (image, gray)), tmp_path / "two.pt2")
    torch.onnx.export(TwoInputs(), (image, gray), tmp_path / "two.onnx", dynamo=False, input_names=["x", "y"])
    write_onnx(nn.Conv2d(1, 4, 3), gray, tmp_path / "gray.onnx", ["out"], dynamic=False)
    torch.export.save(torch.export.export(nn.Conv2d(1, 4, 3), (gray,)), tmp_path / "gray.pt2")
    torch.jit.trace(nn.Conv2d(1, 4, 3), gray).save(tmp_path / "gray.pt")
    torch.jit.trace(nn.Flatten(), image).save(tmp_path / "flat.pt")
    write_onnx(nn.Conv2d(3, 4, 3), image.repeat(4, 1, 1, 1), tmp_path / "four.onnx", ["out"], dynamic=False)
    messages = {
        "two.pt": "takes x, y: export one that takes images alone",
        "two.pt2": "takes x, y: export one that takes images alone",
        "two.onnx": "takes x, y: export one that takes images alone",
        "gray.onnx": r"takes \(1, 1, 32, 32\), not images \(N, 3, H, W\)",
        "gray.pt2": r"takes \(1, 1, 32, 32\), not images \(N, 3, H, W\)",
        "gray.pt": r"does not take images .*1 channels, but got 3",
        "flat.pt": "makes no map",
        "four.onnx": "takes 4 images at a time",
    }
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message) as error:
            load_network(tmp_path / name, trusted=[str(tmp_path / name)])
        assert "\n" not in str(error.value)
        assert str(tmp_path / name) in str(error.value)


@each_kind
@ignore_formats
def test_a_damaged_file_is_refused_in_one_line(kind, exported, tmp_path):
    content = exported(kind).read_bytes()
    damaged = tmp_path / exported(kind).name
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=str(damaged)) as error:
        load_network(damaged, described={"name": str(damaged)})
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"no file gone"):
        network_class(f"gone{damaged.suffix}")


@ignore_formats
def test_the_network_tool_lists_the_features(home, exported, capsys):
    describe_network([str(exported("torch.export"))])
    assert re.search(r"^encoder\.stages\.2 +24 +4$", capsys.readouterr().out, re.M)
    describe_network([f"{home}/others.py:DataDependent"])
    assert re.search(r"^stem +8 +4$", capsys.readouterr().out, re.M)


def test_weights_alone_are_no_program(home, tmp_path):
    shutil.copy(home / "state.pth", tmp_path / "state.pt")
    assert kind_of_file(tmp_path / "state.pt") is None
    with pytest.raises(ValueError, match=r"holds no program .* --T_ckpt_path .*--teacher-network names their network"):
        network_class(str(tmp_path / "state.pt"))
    with zipfile.ZipFile(tmp_path / "any.zip", "w") as archive:
        archive.writestr("a/b", "c")
    assert kind_of_file(tmp_path / "any.zip") is None
    assert kind_of_file(tmp_path) is None


@ignore_formats
def test_weights_beside_an_onnx_graph_are_in_its_checksum(net, tmp_path):
    onnx = pytest.importorskip("onnx")
    write_onnx(net, torch.randn(1, 3, 64, 96), tmp_path / "one.onnx")
    model = onnx.load(tmp_path / "one.onnx")
    words = {"save_as_external_data": True, "location": "net.bin", "size_threshold": 0}
    onnx.save(model, tmp_path / "net.onnx", **words)
    network, report = load_network(tmp_path / "net.onnx")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(images).logits, net(images)["out"], atol=1e-4, rtol=1e-4)
    data = bytearray((tmp_path / "net.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "net.bin").write_bytes(data)
    assert load_network(tmp_path / "net.onnx")[1].sha256 != report.sha256


@ignore_formats
def test_what_comes_out_of_a_program_can_be_said_to_have_no_classes(exported):
    path = str(exported("ONNX"))
    network, _ = load_network(path, described={"name": path, "has_classes": False})
    assert network.num_classes == 0
    assert network.features["output"] == (11, 2)
    assert network(torch.randn(1, 3, 32, 32), ("output",)).features["output"].shape == (1, 11, 16, 16)
    with pytest.raises(ValueError, match="has no setting"):
        parse_settings(network_class(path), ["depth=3"], path)


@ignore_formats
def test_a_config_gets_no_program_to_run(home, exported, tmp_path, capsys):
    stored = {"dataset": "camvid", "data_dir": str(home / "camvid"), "teacher_network": str(exported("torch.export"))}
    (tmp_path / "options.json").write_text(json.dumps({**stored, "terms": [{"method": "kd"}]}))
    with pytest.raises(SystemExit):
        parse_options(["--config", str(tmp_path / "options.json")])
    assert "name it by --teacher-network on the command line" in capsys.readouterr().err


@ignore_formats
def test_a_teacher_without_onnxruntime_says_what_to_install(exported, monkeypatch):
    path = exported("ONNX")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"pip install segdistill\[onnx\]"):
        load_network(path)
