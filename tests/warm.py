"""What trainings of a few steps have imported and set before, in the tests' process and in those forked from others."""

import os
from functools import partial


def warm_up() -> None:
    """Import what is slow to import. Runs of a few steps would spend most of their time on their curves: a few bytes
    stand for them, which only commands run by a real interpreter draw."""
    import torch
    import torch._dynamo  # which the first optimizer of a process would import, in two seconds

    import segdistill.utils.trackers.tensorboard  # noqa: F401
    from segdistill.utils.losses import holistic
    from segdistill.utils.report import pictures

    torch.set_num_threads(1)
    do_not_sync()
    pictures.plot_curves = lambda groups, path: path.write_bytes(b"not drawn")
    holistic.Discriminator = small_critic()


def do_not_sync() -> None:
    """Processes are killed here, not the machine: what is written need not reach the disk, which takes its time."""
    os.fsync = lambda descriptor: None


def small_critic() -> partial:
    """The critic of ``--ho``, an eighth as wide: of full width it would take most of the time of a small step."""
    from segdistill.network.discriminator import Discriminator

    return partial(Discriminator, conv_dim=8)


def widen_critic() -> None:
    """Give the critic its full width again."""
    from segdistill.network.discriminator import Discriminator
    from segdistill.utils.losses import holistic

    holistic.Discriminator = Discriminator
