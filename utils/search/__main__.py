"""``python -m segdistill.utils.search``: which method, weight, layer, temperature? Many students under one teacher.

    python -m segdistill.utils.search --space "--pi weight=1..10:log | --cwd weight=1..10" --sampler tpe --trials 12 \
        --teaching "--T_ckpt_path FILE" --output DIR -- --dataset scenes --num-steps 200 --val-every 50
"""

import logging
import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from segdistill.libs.files import sha256_of
from segdistill.utils.data import build_train_sets
from segdistill.utils.flags import Parser, count, run_command
from segdistill.utils.options import BOOKKEEPING, Options, parse_options, plain
from segdistill.utils.search.space import Space
from segdistill.utils.search.trainer import Trainer
from segdistill.utils.tasks import task_of

TRAIN = f"{shlex.quote(sys.executable)} -m segdistill.train"


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        import optuna
    except ImportError:
        raise ValueError("a search needs Optuna, which is not installed: pip install segdistill[search]") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    from segdistill.utils.search.report import report_search
    from segdistill.utils.search.study import JOURNAL, Search

    space = Space(options.space)
    num_trials = trials_of(space, options.sampler, options.trials)
    common = [*options.flags, "--snapshot-dir", str(options.output), "--resume"]
    trainer = Trainer(shlex.split(options.train), common, shlex.split(options.teaching))
    examples = {f"example{i}": words for i, words in enumerate(space.examples())}
    student = parse_options(trainer.words(examples, "--check"))
    train_set = next(iter(build_train_sets([student]).values()))
    require_scores([student, *student.also], task_of(train_set).feature)
    if not (options.output / JOURNAL).exists():
        code = trainer.run(examples, "--check")
        if code:
            return code
    identity = identity_of(student, space, options.sampler) | {"images": train_set.digest()}
    search = Search(
        options.output,
        identity,
        trainer,
        space,
        num_trials=num_trials,
        sampler=options.sampler,
        beside=options.beside,
        seed=student.optimisation.seed,
        num_steps=student.optimisation.num_steps,
        val_every=student.run.val_every,
        figure=task_of(train_set).primary,
    )
    has_labels = student.objective.task_weight > 0
    if has_labels:
        search.run_alone(wait=False)
    search.run()
    if has_labels:
        search.run_alone(wait=True)
    print(report_search(search, options.confirm))
    return 0


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = Parser(
        prog="python -m segdistill.utils.search",
        usage="%(prog)s --space SPACE --output DIR [options] -- flags of train.py",
        description="Train students by many settings of distillation methods, several at a time under one teacher, and "
        "rank them by validation. Killed, or started several times at once, the same command continues one search.",
    )
    parser.add_argument(
        "--space",
        required=True,
        help="methods with values: '--pi weight=1..10:log temperature=1,2,4 | --cwd on=logits,context'",
    )
    parser.add_argument(
        "--sampler", choices=["grid", "tpe"], default="grid", help="all settings (grid), or Optuna's TPE draws some"
    )
    parser.add_argument("--trials", type=count, metavar="N", help="settings to try; of grid all")
    parser.add_argument("--beside", type=count, default=4, metavar="N", help="students trained by one process (4)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the study and its runs")
    parser.add_argument(
        "--teaching", default="", metavar="FLAGS", help="flags of train.py for the teacher and images without labels"
    )
    parser.add_argument(
        "--train", default=TRAIN, metavar="COMMAND", help="what starts train.py: 'torchrun ... train.py'"
    )
    parser.add_argument(
        "--confirm",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="settings of experiments/compare.sh, for the report's last command",
    )
    parser.add_argument("flags", nargs="*", help="of train.py, for every student")
    return parser.parse_args(argv)


def trials_of(space: Space, sampler: str, trials: int | None) -> int:
    """The number of trials.

    Raises:
        ValueError: the space does not have so many, or none was given where it is needed.
    """
    grid = space.grid()
    if sampler == "grid" and grid is None:
        raise ValueError("a grid needs values, such as weight=1,3,10; of ranges tpe draws")
    if sampler == "grid" and trials not in (None, len(grid)):
        raise ValueError(f"the grid has {len(grid)} settings, not {trials}: change the values, or let tpe draw")
    if sampler == "tpe" and trials is None:
        raise ValueError("tpe needs a number of trials")
    if grid and len(grid) == 1:
        raise ValueError("the space has a single setting: expected values such as weight=1,3,10")
    if grid and trials and trials > len(grid):
        raise ValueError(f"the space has {len(grid)} settings, fewer than {trials} trials")
    return trials or len(grid)


def require_scores(students: Sequence[Options], scored: str) -> None:
    """Raise ValueError for methods that train no map that is scored, such as "logits"."""
    for student in students:
        terms = student.objective.terms
        if student.objective.task_weight == 0 and not any(
            scored in term.settings["on"].partition(":")[0].split("+") for term in terms
        ):
            raise ValueError(
                f"--{terms[0].method} with --task-weight 0 trains features alone, which have no validation score"
            )


def identity_of(student: Options, space: Space, sampler: str) -> dict:
    """What may not change when a search is continued."""
    options = {key: value for key, value in plain(student).items() if key not in BOOKKEEPING | {"terms"}}
    teacher = student.teacher.T_ckpt_path
    return options | {
        "space": space.lines,
        "sampler": sampler,
        "teacher": sha256_of(teacher) if teacher else student.teacher.teacher_network,
    }


if __name__ == "__main__":
    run_command(main)
