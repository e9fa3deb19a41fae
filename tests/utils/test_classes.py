"""Classes of a network in those of a data set."""

import pytest
import torch

from segdistill.dataset import CamVid, Cityscapes
from segdistill.dataset.normalization import IMAGENET
from segdistill.network import LoadReport, SegmentationNetwork, SegmentationOutput, build_network
from segdistill.network.base import CLASS_FEATURES, Feature
from segdistill.utils.batch import Batch
from segdistill.utils.classes import ClassMap, MappedNetwork, match_classes, read_class_map
from segdistill.utils.losses import DISTILLATION_LOSSES, build_losses
from segdistill.utils.options import name_terms

SOURCES, TARGETS = ("road", "car", "truck", "sky"), ("sky", "road", "vehicle", "tree")
MAP = ClassMap((1, 2, 2, 0), 4)  # nothing becomes a tree


def report(classes=None, counts_void=False):
    return LoadReport("segdistill", [], [], [], IMAGENET, None, {}, classes, counts_void=counts_void)


def write(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    return path


def test_a_file_maps_by_name_or_number_many_to_one_or_to_none(tmp_path):
    text = "# a comment\n\nroad -> road  # same\ncar->vehicle\n 2 -> 2\nsky -> none\n"
    assert read_class_map(write(tmp_path, text), SOURCES, TARGETS) == ClassMap((1, 2, 2, None), 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road road", r"classes\.txt:1: expected 'class of the network -> class of the data set', not 'road road'"),
        ("road ->", r"classes\.txt:1: expected"),
        ("\nrod -> road", r"classes\.txt:2: the network has no class 'rod'; did you mean 'road'\?"),
        ("road -> rode", r"classes\.txt:1: the data set has no class 'rode'; did you mean 'road'\?"),
        ("road -> 4", r"no class '4'; known: sky, road, vehicle, tree"),
        ("road -> road\n0 -> sky", r"classes\.txt:2: '0' is mapped a second time"),
        ("road -> road\nsky -> sky", r"classes\.txt leaves out car, truck: map each .* or to none"),
        ("0 -> none\n1 -> none\n2 -> none\n3 -> none", "maps every class to none"),
    ],
)
def test_a_wrong_file_says_where_and_what_would_be_right(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_class_map(write(tmp_path, text), SOURCES, TARGETS)
    with pytest.raises(FileNotFoundError, match="no class map"):
        read_class_map(tmp_path / "missing.txt", SOURCES, TARGETS)


@pytest.mark.parametrize("targets", [(1, 2, 2, 0), (1, 2, 2, None), (0, 0, 0, 0)])
def test_probabilities_of_merged_classes_add_up_and_those_of_none_are_left_out(targets):
    torch.manual_seed(0)
    logits = 5 * torch.randn(2, 4, 3, 5, dtype=torch.float64)
    mapped = ClassMap(targets, 4)(logits)
    expected = torch.zeros_like(logits)
    for source, target in enumerate(targets):
        if target is not None:
            expected[:, target] += logits.softmax(1)[:, source]
    torch.testing.assert_close(mapped.softmax(1), expected / expected.sum(1, keepdim=True))
    assert mapped.isfinite().all()
    assert mapped.half().isfinite().all()


def test_a_class_that_maps_one_to_one_keeps_its_logits():
    logits = torch.randn(1, 4, 2, 2)
    assert torch.equal(MAP(logits)[:, [1, 0]], logits[:, [0, 3]])


def test_a_file_of_a_windows_editor_is_read(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes(b"\xef\xbb\xbfroad -> road\r\ncar -> none\r\ntruck -> none\r\nsky -> sky\r\n")
    assert read_class_map(path, SOURCES, TARGETS) == ClassMap((1, None, None, 0), 4)


def network_of(num_classes):
    return build_network("espnet_c", num_classes, q=1)


@pytest.mark.parametrize(
    ("num_classes", "own", "expected"),
    [
        (11, report(), ClassMap(tuple(range(11)), 11)),
        (11, report(CamVid.CLASSES), ClassMap(tuple(range(11)), 11)),
        (11, None, ClassMap(tuple(range(11)), 11)),
        (12, report(counts_void=True), ClassMap((*range(11), None), 11)),
        (12, report((*CamVid.CLASSES, "void"), counts_void=True), ClassMap((*range(11), None), 11)),
    ],
)
def test_classes_that_fit_need_no_file(num_classes, own, expected):
    assert match_classes(network_of(num_classes), own, "a.pth", CamVid) == expected


@pytest.mark.parametrize(
    ("num_classes", "own", "message"),
    [
        (19, report(), r"a\.pth has 19 classes, CamVid has 11.*--class-map.*\n.*sidewalk.*\n.*pavement"),
        (12, report(), r"a\.pth has 12 classes, CamVid has 11"),
        (11, report(counts_void=True), "and they are not the same"),
        (20, report(counts_void=True), r"a\.pth: road, .*bicycle, void\n"),
        (11, report((*CamVid.CLASSES[:-1], "cyclist")), r"and they are not the same(.|\n)*cyclist\n.*bicyclist"),
        (11, report(("sky", *CamVid.CLASSES[:-1])), "and they are not the same"),
    ],
)
def test_classes_that_do_not_fit_are_an_error_with_both_lists(num_classes, own, message):
    with pytest.raises(ValueError, match=message):
        match_classes(network_of(num_classes), own, "a.pth", CamVid)


@pytest.mark.parametrize(
    ("own", "targets"),
    [
        (CamVid.CLASSES[::-1], tuple(range(11))[::-1]),
        (("Sky ", *CamVid.CLASSES[1:6], "sign-symbol", *CamVid.CLASSES[7:]), tuple(range(11))),
    ],
)
def test_the_same_names_in_another_order_or_spelling_are_mapped_by_name(own, targets, caplog):
    with caplog.at_level("INFO"):
        assert match_classes(network_of(11), report(own), "a.pth", CamVid) == ClassMap(targets, 11)
    moved = targets != tuple(range(11))
    assert [record.message.startswith("a.pth has the classes in another order") for record in caplog.records] == [
        True
    ] * moved


def test_a_mapped_network_still_shows_what_its_library_built():
    network = MappedNetwork(Fixed(4), MAP)
    network.network.model = "its library's"
    assert network.model == "its library's"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        assert network.nothing


def test_a_file_names_the_classes_of_a_network_whose_file_does_not(tmp_path):
    """The names of the data set with so many classes; void is the last of a release that counts it."""
    text = "".join(f"{name} -> {'car' if name == 'truck' else 'none'}\n" for name in Cityscapes.CLASSES)
    mapped = match_classes(network_of(20), report(counts_void=True), "a.pth", CamVid, write(tmp_path, text))
    assert mapped.targets[-1] is None
    assert mapped.known == (CamVid.CLASSES.index("car"),)
    assert mapped.targets.index(mapped.known[0]) == Cityscapes.CLASSES.index("truck")


@pytest.mark.parametrize("name", ["pspnet", "espnet_c"])
def test_every_feature_that_grows_with_the_classes_is_mapped(name):
    few, many = (build_network(name, num_classes).features for num_classes in (23, 29))
    assert {key for key in few if few[key] != many[key]} == CLASS_FEATURES & few.keys()


def test_espnet_s_second_head_is_mapped_too():
    network = MappedNetwork(build_network("espnet", 6, q=1), ClassMap((1, 0, *[None] * 4), 2))
    output = network(torch.rand(1, 3, 32, 32), {"encoder_logits", "context"})
    assert output.features["encoder_logits"].shape[1] == output.logits.shape[1] == 2
    assert output.features["context"].shape[1] == 6


class Fixed(SegmentationNetwork):
    """Answers what it is given."""

    def __init__(self, num_classes, maps=None):
        super().__init__()
        self.num_classes = num_classes
        self.features = {
            "logits": Feature(num_classes, 8),
            "aux_logits": Feature(num_classes, 8),
            "context": Feature(6, 8),
        }
        self.given = maps

    def maps(self, images, wanted):
        return self.given


LOGIT_METHODS = [
    *("pi", "kd", "dkd", "wsld", "hard", "dist", "aicsd", "aicsd similarity=gram", "csd", "cwd", "ho", "ho kind=hinge"),
    *("psd on=logits+aux_logits", "fitnet on=logits", "mgd on=logits", "pkd on=logits", "pa on=logits"),
]


@pytest.mark.parametrize("label", [3, 1, 255], ids=["unknown", "known", "void"])
@pytest.mark.parametrize("words", LOGIT_METHODS)
def test_terms_on_logits_are_finite_and_leave_classes_the_teacher_does_not_know_alone(words, label):
    """However sure the networks are, and what the labels say."""
    torch.manual_seed(0)
    flag, *settings = words.split()
    maps = {name: 60 * torch.randn(2, 4, 9, 9) for name in ("logits", "aux_logits")} | {
        "context": torch.randn(2, 6, 9, 9)
    }
    teacher = MappedNetwork(Fixed(4, maps), MAP)
    student = Fixed(4)
    given = dict(setting.split("=", 1) for setting in settings)
    (loss,) = build_losses(name_terms([(flag, given)]), student, teacher).values()
    teacher_output = teacher(torch.zeros(2, 3, 72, 72), {"logits", "aux_logits", "context"})
    learnt = {name: (10 * torch.randn_like(value)).requires_grad_() for name, value in teacher_output.features.items()}
    labels = torch.full((2, 72, 72), label, dtype=torch.uint8)
    batch = Batch(torch.zeros(2, 3, 72, 72), labels, torch.zeros(2, 2), torch.tensor(1.0), 0.0)
    output = SegmentationOutput(learnt["logits"], learnt)
    term = loss(output, teacher_output, batch)
    (gradient,) = torch.autograd.grad(term, learnt["logits"])
    assert term.isfinite()
    assert gradient.isfinite().all()
    assert gradient[:, MAP.known].abs().sum() > 0
    assert (gradient[:, 3] == 0).all()
    detached = SegmentationOutput(output.logits.detach(), {name: value.detach() for name, value in learnt.items()})
    assert all(value.isfinite() for value in loss.before_step(detached, teacher_output, batch).values())


def test_terms_on_logits_do_not_depend_on_how_a_class_is_split():
    """A teacher that splits vehicles into cars and trucks says what one with vehicles says."""
    torch.manual_seed(0)
    whole = torch.randn(1, 3, 4, 4)
    share = torch.rand(1, 1, 4, 4)
    split = torch.cat([whole[:, :2], whole[:, 2:] + share.log(), whole[:, 2:] + (1 - share).log()], 1)
    torch.testing.assert_close(ClassMap((0, 1, 2, 2), 3)(split), whole)


def test_every_method_on_logits_by_default_is_tested_here():
    tested = {words.split()[0] for words in LOGIT_METHODS}
    assert {flag for flag in DISTILLATION_LOSSES if "logits" in name_terms([(flag, {})])[0].settings["on"]} <= tested
