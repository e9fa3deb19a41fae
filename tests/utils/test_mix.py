"""Mixed images without labels: the masks, what is pasted where, and that parts, processes and caches change nothing."""

import pytest
import torch
from test_train import arguments, few_labels  # noqa: F401 - a fixture

import train
from segdistill.dataset import Normalization, Sample
from segdistill.dataset.base import generator_of
from segdistill.dataset.sampler import TrainSampler
from segdistill.network import SegmentationOutput
from segdistill.utils.batch import make_batches
from segdistill.utils.learner import Learner
from segdistill.utils.mix import MIXES, box, half_of_the_classes, mix_batch

PLAIN = Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def test_a_box_has_half_the_area_anywhere_and_of_any_shape():
    boxes = [box(torch.zeros(40, 60), generator_of("test", i)) for i in range(60)]
    for mask in boxes:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns  # a rectangle
        assert abs(mask.float().mean() - 0.5) < 0.02
    anywhere = torch.stack(boxes).any(0)
    assert anywhere.any(0).all()
    assert anywhere.any(1).all()
    assert len({int(mask.any(1).sum()) for mask in boxes}) > 10


def test_whole_classes_are_pasted_half_of_them():
    classes = torch.randint(0, 5, (8, 8), generator=torch.Generator().manual_seed(0))
    chosen = [half_of_the_classes(classes, generator_of("test", i)) for i in range(40)]
    for mask in chosen:
        assert len(classes[mask].unique()) == 2
        assert not set(classes[mask].tolist()) & set(classes[~mask].tolist())
    assert torch.stack(chosen).any(0).all()
    assert not half_of_the_classes(torch.full((8, 8), 3), generator_of("test", 0)).any()


def batch_of(parts=1):
    """Two labelled images, two unlabelled ones 2 and 3, and their partners 5 and 6, in the colours 10, 20 ... 60."""
    images = (torch.arange(6, dtype=torch.uint8)[:, None, None, None] * 10 + 10).expand(6, 3, 32, 48)
    labels = torch.full((6, 32, 48), 255, dtype=torch.uint8)
    labels[:2] = 1
    keys = torch.tensor([[0, 0], [0, 1], [0, 2], [0, 3], [0, 5], [0, 6]])
    return make_batches(Sample(images, labels, "", keys), PLAIN, parts=parts, num_partners=2)


def answer(batch):
    """Maps at strides 1 and 4 that name the image, and logits of two classes, left and right."""
    numbers = batch.keys[:, 1].float()[:, None, None, None]
    logits = torch.zeros(len(batch.keys), 3, 9, 13) + numbers / 100
    logits[:, 0, :, :6] += 5
    logits[:, 1, :, 6:] += 5
    return SegmentationOutput(logits, {"logits": logits, "layer1": numbers.expand(-1, 2, 32, 48)})


@pytest.mark.parametrize("name", MIXES)
def test_images_and_maps_are_pasted_by_one_mask_and_labelled_images_stay(name):
    (batch,) = batch_of()
    unsure = batch.keys[:, 1, None, None].expand(-1, 9, 13) > 4  # of the partners
    whole = answer(batch)
    own, output = mix_batch(batch._replace(unsure=unsure), whole, name, seed=0)
    assert own.keys[:, 1].tolist() == [0, 1, 2, 3]
    assert (own.labels[2:] == 255).all()
    assert (own.num_valid, own.num_kept, own.num_partners) == (2 * 32 * 48, 4 * 32 * 48, 0)
    assert torch.equal(own.images[:2], batch.images[:2])
    assert torch.equal(output.logits[:2], whole.logits[:2])
    for image, layer, logits, doubt, first, partner in zip(
        own.images[2:], output.features["layer1"][2:], output.logits[2:], own.unsure[2:], (2, 3), (5, 6), strict=True
    ):
        mask = layer[0] == partner
        assert torch.equal(mask, layer[0] != first)
        assert 0.3 < mask.float().mean() < 0.7
        assert torch.equal(image, torch.where(mask, batch.images[partner - 1], batch.images[first]))
        rows, columns = torch.linspace(0, 31, 9), torch.linspace(0, 47, 13)
        small = mask[(rows + 0.5).long()][:, (columns + 0.5).long()]
        assert torch.equal(logits, torch.where(small, whole.logits[partner - 1], whole.logits[first]))
        assert torch.equal(doubt, small)
        if name == "classmix":
            assert {bool(mask[:, :20].all()), bool(mask[:, 28:].all())} == {True, False}
            assert {bool(mask[:, :20].any()), bool(mask[:, 28:].any())} == {True, False}


@pytest.mark.parametrize("name", MIXES)
def test_parts_of_a_batch_mix_what_the_whole_mixes(name):
    ((whole, _),) = [mix_batch(batch, answer(batch), name, 0) for batch in batch_of()]
    for batch in batch_of(parts=2):
        assert batch.num_partners == 1
        part, _ = mix_batch(batch, answer(batch), name, 0)
        for key, image in zip(part.keys.tolist(), part.images, strict=True):
            assert torch.equal(image, whole.images[whole.keys.tolist().index(key)])


def samples(world_size, views=None):
    settings = {"unlabelled": (5, 4), "views": views, "mixed": range(3, 8)}
    ranks = [TrainSampler(3, 4, 30, 7, rank=rank, world_size=world_size, **settings) for rank in range(world_size)]
    return [[list(batch) for batch in step] for step in zip(*ranks, strict=True)]


def test_a_partner_is_another_unlabelled_image_whatever_the_number_of_processes():
    one, two = samples(1), samples(2)
    partners = {}
    for (whole,), halves in zip(one, two, strict=True):
        pairs = dict(zip(whole[4:8], whole[8:], strict=True))
        assert all(epoch == other and index != partner for (epoch, index), (other, partner) in pairs.items())
        assert pairs == {host: other for half in halves for host, other in zip(half[2:4], half[4:], strict=True)}
        for (_, index), (_, partner) in pairs.items():
            partners.setdefault(index, set()).add(partner)
    assert partners == {index: set(range(3, 8)) - {index} for index in range(3, 8)}
    (repeated,) = zip(*samples(1, views=1), strict=True)
    assert len({pair for batch in repeated for pair in zip(batch[4:8], batch[8:], strict=True)}) == 5


@pytest.fixture
def seen(tiny, tmp_path, few_labels, monkeypatch):  # noqa: F811
    """What a training of three steps learns from: images and teacher's logits by (step, epoch, index)."""
    accumulate = Learner.accumulate

    def run(name, *more):
        found = {}

        def watch(learner, batch, output):
            step = round(batch.progress * 3)
            for key, image, logits in zip(batch.keys.tolist(), batch.images, output.features["logits"], strict=True):
                found[(step, *key)] = image.clone(), logits.clone()
            return accumulate(learner, batch, output)

        monkeypatch.setattr(Learner, "accumulate", watch)
        counts = ["--batch-size", "8", "--unlabelled-share", "0.5", "--num-steps", "3", "--views", "2"]
        counts += ["--augment", "jitter", "--teacher-view", "weak"]
        train.main(arguments(tiny, tmp_path, name, ["--pi"], *few_labels, *counts, *more))
        return found

    return run


def assert_close(one, other, tolerance):
    assert one.keys() == other.keys()
    for key, maps in one.items():
        for left, right in zip(maps, other[key], strict=True):
            torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_accumulation_workers_and_a_cache_do_not_change_what_is_mixed(seen, tmp_path):
    plain = seen("plain", "--mix", "classmix")
    unmixed = seen("unmixed")
    for key, (image, _) in plain.items():
        assert torch.equal(image, unmixed[key][0]) == (key[2] < 2)
    assert_close(seen("parts", "--mix", "classmix", "--accumulate", "2", "--num-workers", "2"), plain, 1e-4)
    cache = ["--teacher-cache", str(tmp_path / "cache")]
    cold = seen("cold", "--mix", "cutmix", *cache)
    folders = list((tmp_path / "cache").iterdir())
    for name, maps in {"warm": cold, "unmixed_cached": unmixed}.items():
        assert_close(seen(name, *(["--mix", "cutmix"] if name == "warm" else []), *cache), maps, 1e-2)
    assert list((tmp_path / "cache").iterdir()) == folders  # of images that are not mixed


def test_images_alone_are_mixed_at_a_coarser_stride_where_the_teacher_is_sure(tiny, tmp_path, monkeypatch):
    words = ["--dataset", "images", "--data-dir", tiny / "camvid/train", "--T_ckpt_path", tiny / "teacher.pth"]
    words += ["--network", "espnet_c", "--network-options", "p=1", "q=1", "--input-size", "64,64", "--batch-size", "3"]
    words += ["--num-steps", "1", "--num-workers", "0", "--snapshot-dir", tmp_path, "--cwd", "on=layer3"]
    words += ["--teacher-stride", "16", "--min-confidence", "0.2", "--random-scale", "false"]
    seen, accumulate = [], Learner.accumulate
    monkeypatch.setattr(Learner, "accumulate", lambda *given: (seen.append(given[1:]), accumulate(*given)))
    for mix in ([], ["--mix", "classmix"]):
        assert train.main([*map(str, [*words, "--save-name", "-".join(["run", *mix]), *mix])]) == 0
    (plain, _), (batch, output) = seen
    assert torch.equal(batch.keys, plain.keys)
    assert all(
        0 < (one != other).any(0).float().mean() < 1 for one, other in zip(batch.images, plain.images, strict=True)
    )
    assert (batch.labels == 255).all()
    assert batch.unsure.shape == (3, 4, 4)
    assert {x.shape[2:] for x in output.features.values()} == {(4, 4)}
    assert torch.equal(batch.unsure, output.logits.softmax(1).amax(1) < 0.2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mix", "cutmix"], "--mix has no effect without images without labels"),
        (["--mix", "mixup", "--num-labels", "2", "--unlabelled-share", "0.5"], "expected one of classmix, cutmix"),
    ],
)
def test_what_cannot_be_mixed_is_refused(tiny, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit):
        train.main(arguments(tiny, tmp_path, "run", ["--pi"], *words))
    assert message in capsys.readouterr().err


def test_a_single_image_is_refused(tiny, tmp_path):
    single = ["--num-labels", "3", "--unlabelled-share", "0.5", "--mix", "cutmix"]
    with pytest.raises(ValueError, match="a single one"):
        train.main(arguments(tiny, tmp_path, "run", ["--pi"], *single))
