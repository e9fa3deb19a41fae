"""What a process that is forked for every call has imported and set before."""


def warm_up() -> None:
    """Import what is slow to import. Runs of a few steps would spend most of their time on their curves: a few bytes
    stand for them, which only commands run by a real interpreter draw."""
    import torch
    import torch._dynamo  # which the first optimizer of a process would import, in two seconds

    import segdistill.utils.trackers.tensorboard  # noqa: F401
    from segdistill.utils.report import pictures

    torch.set_num_threads(1)
    pictures.plot_curves = lambda groups, path: path.write_bytes(b"not drawn")
