"""The options of train.py: typed parts, the command line made of them, and options.json."""

from segdistill.utils.options.command import make_parser, parse_options
from segdistill.utils.options.parts import (
    BOOKKEEPING,
    PLACES,
    TEACHING,
    DataOptions,
    ObjectiveOptions,
    OptimisationOptions,
    Options,
    RunOptions,
    StudentOptions,
    TeacherOptions,
)
from segdistill.utils.options.stored import complete, plain
from segdistill.utils.options.terms import name_terms

__all__ = [
    "BOOKKEEPING",
    "PLACES",
    "TEACHING",
    "DataOptions",
    "ObjectiveOptions",
    "OptimisationOptions",
    "Options",
    "RunOptions",
    "StudentOptions",
    "TeacherOptions",
    "complete",
    "make_parser",
    "name_terms",
    "parse_options",
    "plain",
]
