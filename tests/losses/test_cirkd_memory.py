import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from waves import TEACHER_FEATURE

from segdistill.network import SegmentationOutput
from segdistill.utils.batch import Batch
from segdistill.utils.losses import memory_loss
from segdistill.utils.losses.base import resize_labels, unit_vectors
from segdistill.utils.losses.cirkd_channel import CrossImageChannel
from segdistill.utils.losses.cirkd_memory import CrossImageMemory, Queue, class_pixels, class_regions

BANK = unit_vectors(torch.randn(20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), 1)
VALID = torch.ones(2, 9, 13, dtype=torch.bool)
VALID[:, :, :4] = False


def random_batch(seed):
    """Outputs of student and teacher, and labels 0..4 with void on the left."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        SegmentationOutput(None, {"context": torch.randn(2, channels, 9, 13, generator=generator)})
        for channels in (6, 8)
    )
    labels = torch.randint(0, 5, (2, 36, 52), generator=generator, dtype=torch.uint8)
    labels[:, :, :12] = 255
    return student, teacher, Batch(torch.empty(0), labels, torch.empty(0), (labels != 255).sum(), 0.0)


def make_memory():
    torch.manual_seed(0)
    return CrossImageMemory(6, 8, 5, pixel_queue=40, region_queue=10, pixel_contrast=30, region_contrast=20, pixels=4)


def make_channel():
    torch.manual_seed(0)
    return CrossImageChannel(6, 8, queue=30, contrast=12, channels=7, mse=1.0, void="mask")


def test_loss_is_zero_for_the_teacher_and_its_multiples():
    assert memory_loss(3 * TEACHER_FEATURE, TEACHER_FEATURE, BANK).item() == pytest.approx(0, abs=1e-14)


def test_loss_leaves_masked_positions_out():
    student = TEACHER_FEATURE.flip(0).requires_grad_()
    loss = memory_loss(student, TEACHER_FEATURE, BANK, valid=VALID)
    loss.backward()
    assert (student.grad[..., :4] == 0).all()
    torch.testing.assert_close(loss, memory_loss(student[..., 4:], TEACHER_FEATURE[..., 4:], BANK))


def test_loss_of_a_batch_is_the_mean_of_its_samples():
    student = TEACHER_FEATURE.flip(0)
    parts = [memory_loss(student[n : n + 1], TEACHER_FEATURE[n : n + 1], BANK) for n in range(2)]
    torch.testing.assert_close(memory_loss(student, TEACHER_FEATURE, BANK), sum(parts) / 2)


def test_gradient_is_right():
    student = TEACHER_FEATURE[:, :, 4:6, :3].clone().requires_grad_()
    teacher = TEACHER_FEATURE[:, :, :3, :4]
    assert torch.autograd.gradcheck(lambda x: memory_loss(x, teacher, BANK), student)


def known(vectors, classes):
    """Without the rows that are of no class."""
    return vectors[classes != 255], classes[classes != 255]


def test_pixels_are_of_their_class_and_as_many_as_there_are_up_to_the_count():
    labels = torch.tensor([[0, 0, 0, 1, 255, 255], [2, 2, 1, 255, 0, 2]], dtype=torch.uint8)
    vectors = torch.arange(12.0).view(2, 6, 1)
    chosen, classes = known(*class_pixels(vectors, labels, 3, 2))
    assert torch.equal(labels.flatten()[chosen[:, 0].long()].long(), classes)
    assert len(chosen.unique()) == len(chosen)
    assert classes.bincount().tolist() == [2 + 1, 1 + 1, 0 + 2]


def test_every_pixel_of_a_class_is_chosen_as_often():
    torch.manual_seed(0)
    vectors, labels = torch.arange(8.0).view(1, 8, 1), torch.tensor([[255, 0, 0, 0, 0, 255, 1, 1]], dtype=torch.uint8)
    chosen = torch.cat([known(*class_pixels(vectors, labels, 2, 1))[0] for _ in range(2000)])
    shares = chosen.flatten().long().bincount(minlength=8) / 2000
    torch.testing.assert_close(shares, torch.tensor([0, 1, 1, 1, 1, 0, 2, 2]) / 4, atol=0.05, rtol=0)


def test_regions_are_directions_of_class_means():
    vectors, labels = TEACHER_FEATURE.clone().flatten(2).transpose(1, 2), torch.full((2, 117), 255, dtype=torch.uint8)
    labels[0, 5:9], labels[1, 50:] = 3, 1
    vectors[:, 10:40] = torch.nan  # void
    regions, classes = known(*class_regions(vectors, labels, 5))
    assert classes.tolist() == [3, 1]
    torch.testing.assert_close(
        regions, unit_vectors(torch.stack([vectors[0, 5:9].mean(0), vectors[1, 50:].mean(0)]), 1)
    )


def test_queue_is_a_ring_for_each_class():
    queue = Queue(2, 3)
    for vectors, classes in (([1, 2, 3], [0, 1, 0]), ([4, 5], [0, 0]), ([6, 7, 8, 9], [1, 1, 1, 1])):
        queue.push(torch.tensor(vectors, dtype=torch.float32)[:, None], torch.tensor(classes))
    assert queue.entries[0].flatten().tolist() == [5, 3, 4]
    assert queue.entries[1].flatten().tolist() == [8, 6, 7]


def test_what_is_of_no_class_enters_nowhere():
    queue = Queue(2, 3)
    queue.push(torch.ones(2, 4), torch.tensor([0, 255]))
    before = queue.entries.clone()
    queue.push(torch.full((2, 4), torch.nan), torch.tensor([255, 255]))
    assert torch.equal(queue.entries, before)
    assert queue.heads.tolist() == [1, 0]


def test_entries_come_from_pixels_of_the_class():
    """CIRKD draws among the first positions of the image, whatever their class."""
    loss, (student, teacher, batch) = make_memory(), random_batch(1)
    loss.after_step(student, teacher, batch)
    vectors = unit_vectors(teacher.features["context"], 1).flatten(2).transpose(1, 2).flatten(0, 1)
    labels = resize_labels(batch.labels, (9, 13)).flatten()
    queue = loss.queues["pixel"]
    assert queue.heads.tolist() == [8] * 5
    for class_id in range(5):
        for entry in queue.entries[class_id, :8]:
            nearest = (vectors @ entry).argmax()
            torch.testing.assert_close(vectors[nearest], entry)
            assert labels[nearest] == class_id


def test_unlabelled_images_enter_no_pixel():
    loss, (student, teacher, batch) = make_memory(), random_batch(1)
    loss.after_step(student, teacher, batch._replace(labels=torch.full_like(batch.labels, 255)))
    assert not any(queue.heads.any() for queue in loss.queues.values())


def test_what_is_not_finite_enters_no_queue():
    """The learner takes no step where the term is not finite, and void pixels are not read."""
    loss, (student, teacher, batch) = make_memory(), random_batch(1)
    teacher.features["context"][:, :, :, 0] = torch.nan  # void
    assert loss(student, teacher, batch).isfinite()
    loss.after_step(student, teacher, batch)
    assert all(queue.entries.isfinite().all() for queue in loss.queues.values())
    teacher.features["context"][0, :, 4, 8] = torch.inf
    assert not loss(student, teacher, batch).isfinite()


def test_a_factor_of_zero_leaves_the_queue_out():
    loss = CrossImageMemory(6, 8, 5, pixel=0)
    assert list(loss.queues) == ["region"]
    with pytest.raises(ValueError, match="not both 0"):
        CrossImageMemory(6, 8, 5, pixel=0, region=0)


def process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    states = []
    for make in (make_memory, make_channel):
        loss, (student, teacher, batch) = make(), random_batch(rank)
        if rank:  # one process has fewer entries than the other
            batch = batch._replace(labels=batch.labels.masked_fill(batch.labels > 1, 255))
        torch.manual_seed(rank)
        loss.after_step(student, teacher, batch)
        states.append(loss.get_extra_state())
    torch.save(states, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_processes_keep_equal_queues_with_the_entries_of_both(tmp_path):
    mp.start_processes(process, (str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    memory, channel = first
    assert memory["pixel"]["heads"].tolist() == [16, 16, 8, 8, 8]
    assert memory["region"]["heads"].tolist() == [4, 4, 2, 2, 2]
    assert channel["heads"].tolist() == [8]
