import pytest
from runs import PI, write_run


@pytest.fixture
def make_run(tiny, tmp_path):
    """Makes the folder of a run, student alone unless it is given terms."""

    def make(name, terms=(), seed=0, mean_iou=0.5, **options):
        return write_run(tmp_path / name, tiny, list(terms), seed, mean_iou, options)

    return make


@pytest.fixture
def alone(make_run):
    return make_run("alone")


@pytest.fixture
def distilled(make_run):
    return make_run("distilled", [PI], mean_iou=0.6)
