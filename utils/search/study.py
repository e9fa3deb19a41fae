"""The trials of a search, kept by Optuna in a file. Several processes may work on them, any may be killed.

A trial is a student's run in a folder that is named for its settings. Processes claim trials by file locks, which end
with the process and with the train.py that it started: trials that are running and not claimed were left by a process
that was killed, and are taken up where they stopped.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from segdistill.dataset.base import seed_of
from segdistill.libs.locks import lock
from segdistill.utils.flags import NOT_FINITE
from segdistill.utils.report.read import read_metrics
from segdistill.utils.search.space import Space
from segdistill.utils.search.trainer import Trainer
from segdistill.utils.tasks import Figure

logger = logging.getLogger(__name__)
JOURNAL, ALONE = "study.journal", "alone"


class Search:
    """Trains the trials of a study.

    Args:
        folder: of the study, and of the runs.
        identity: what all trials have in common, plain data; a study of another one is an error.
        trainer: trains them.
        num_trials: different settings to be tried.
        sampler: "grid" takes one after the other of a space without ranges, "tpe" draws.
        beside: trials that are trained by one process.
        seed: of the draws.
        num_steps, val_every: of every training; trials are pruned at validations.
        figure: the score of a trial, where metrics.jsonl has it: its key begins with "val/".

    Raises:
        ValueError: the folder has a study of another ``identity``.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping,
        trainer: Trainer,
        space: Space,
        *,
        num_trials: int,
        sampler: str,
        beside: int,
        seed: int,
        num_steps: int,
        val_every: int,
        figure: Figure,
    ):
        self.folder, self.trainer, self.space = folder, trainer, space
        self.num_trials, self.sampler, self.beside, self.seed = num_trials, sampler, beside, seed
        self.num_steps, self.stops, self.figure = num_steps, range(val_every, num_steps, val_every), figure
        self.claims: dict[str, IO] = {}
        with self.locked("study"):
            self.study = open_study(folder, identity, figure.greater_is_better)
        # Until so many are finished, none is pruned.
        self.study.pruner = optuna.pruners.MedianPruner(n_startup_trials=beside)

    def run(self) -> None:
        """Train until every trial is finished, here or by other processes."""
        while True:
            if trials := self.take():
                self.train(trials)
                self.release(str(trial.number) for trial in trials)
            elif running := self.study.get_trials(states=(TrialState.RUNNING,)):
                logger.info("waiting for another process to finish trial %d", running[0].number)
                self.claim(str(running[0].number), wait=True)
                self.release([str(running[0].number)])
            else:
                return

    def run_alone(self, wait: bool) -> None:
        """Train the student alone, unless another process does; if so, wait for it or leave it."""
        if self.claim(ALONE, wait):
            folder = self.folder / ALONE
            # Its report is the last thing that train.py writes.
            if not (folder / "report.md").exists() or self.num_steps not in self.validations(ALONE):
                self.launch({ALONE: []}, self.num_steps)
            self.release([ALONE])

    # ------------------------------------------------------------------------------------------------------- claims

    def claim(self, name: str, wait: bool = False) -> bool:
        """Lock a trial, by its number, or something else, by its name; False if another process has."""
        path = self.folder / ".locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
        try:
            locked = lock(file, wait)
        except BlockingIOError:
            file.close()
            return False
        if not locked:
            raise OSError(f"{self.folder}: a search needs file locks, which this file system lacks: another --output")
        self.claims[name] = file
        return True

    def release(self, names: Iterable[str]) -> None:
        for name in names:
            self.claims.pop(name).close()

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        self.claim(name, wait=True)
        try:
            yield
        finally:
            self.release([name])

    # ------------------------------------------------------------------------------------------------- which trials

    def asked(self) -> list[FrozenTrial]:
        """All trials so far; without the one that may be enqueued."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]

    def take(self) -> list[Trial]:
        """Claim trials to be trained together: those that were left, or new ones; [] if there is none to be had.

        Trials are asked for in blocks of ``beside``, so that a search that was killed meets the same ones again.
        """
        with self.locked("study"):
            asked, block, taken = self.asked(), None, []
            for trial in asked:
                fits = trial.state == TrialState.RUNNING and block in (None, trial.number // self.beside)
                if fits and self.claim(str(trial.number)):
                    block = trial.number // self.beside
                    taken.append(Trial(self.study, trial._trial_id))  # Optuna has no public way to go on with one
                    self.space.draw(taken[-1])  # what it lacks, if the process was killed while it drew
            if block is None:
                block = len(asked) // self.beside
            while len(self.asked()) // self.beside == block and (trial := self.ask()):
                self.claim(str(trial.number))
                taken.append(trial)
        return taken

    def ask(self) -> Trial | None:
        """A trial with settings that no other has; None if there are enough."""
        trials = self.study.get_trials(deepcopy=False)
        if not any(trial.state == TrialState.WAITING for trial in trials):
            names = {self.name(trial) for trial in trials}
            if len(names) >= self.num_trials:
                return None
            self.study.enqueue_trial(self.propose(trials, names))
        # The settings are in the study before the trial is, so a kill cannot leave one with half of them.
        trial = self.study.ask()
        self.space.draw(trial)
        return trial

    def propose(self, trials: Sequence[FrozenTrial], names: Collection[str]) -> dict:
        """The parameters of the next trial: a function of the trials before it, whatever was killed when.

        Raises:
            ValueError: there are no more, since numbers are rounded to three digits.
        """
        untried = next((one for name, one in (self.space.grid() or {}).items() if name not in names), None)
        if self.sampler == "grid":
            return untried
        for attempt in range(100):
            seed = seed_of("search", self.seed, len(trials), attempt) % 2**32
            memory = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), direction=self.study.direction)
            memory.add_trials(trials)
            trial = memory.ask()
            self.space.draw(trial)
            if self.name(trial) not in names:
                return trial.params
            if untried:
                return untried
        raise ValueError(f"the ranges hold {len(names)} settings that differ in three digits: widen them")

    # ----------------------------------------------------------------------------------------------------- training

    def train(self, trials: list[Trial]) -> None:
        """Train to the end, or to the validation at which a trial is pruned."""
        finished = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        for stop in (*(self.stops if len(finished) >= self.beside else ()), self.num_steps):
            trials = self.advance(trials, stop)
            for trial in trials:
                self.report(trial, stop)
            if stop == self.num_steps:
                for trial in trials:
                    self.study.tell(trial, best_of(self.validations(self.name(trial)), self.figure)[1])
            else:
                # One that has more validations passed this one before the search was killed.
                pruned = [
                    trial for trial in trials if max(self.reported(trial), default=0) == stop and trial.should_prune()
                ]
                for trial in pruned:
                    logger.info("%s is stopped at step %d", self.name(trial), stop)
                    self.study.tell(trial, state=TrialState.PRUNED)
                trials = [trial for trial in trials if trial not in pruned]
            if not trials:
                return

    def advance(self, trials: list[Trial], stop: int) -> list[Trial]:
        """Train to a step; returns the trials whose loss stayed finite."""
        if stop < self.num_steps and all(stop in self.validations(self.name(trial)) for trial in trials):
            return trials  # done before the search was killed
        students = {self.name(trial): self.space.words(trial.params) for trial in trials}
        if self.launch(students, stop) != NOT_FINITE:
            return trials
        if len(trials) > 1:  # whose loss it was is seen when each is trained by itself
            return [trial for one in trials for trial in self.advance([one], stop)]
        self.study.tell(trials[0], state=TrialState.FAIL)
        return []

    def launch(self, students: Mapping[str, list[str]], stop: int) -> int:
        """Run train.py; returns 0 or ``NOT_FINITE``, and ends this process for everything else."""
        more = ["--stop-at", str(stop)] if stop < self.num_steps else []
        logger.info("== %s, to step %d", ", ".join(students), stop)
        code = self.trainer.run(students, *more, locks=self.claims.values())
        if code not in (0, NOT_FINITE):
            logger.error("train.py ended with %d; the same command continues the search", code)
            raise SystemExit(code)
        return code

    def name(self, trial: Trial | FrozenTrial) -> str:
        """Of a trial's folder."""
        return self.space.name(trial.params)

    def validations(self, name: str) -> dict[int, float]:
        """The scores of a run by step; {} before it has begun."""
        folder, key = self.folder / name, f"val/{self.figure.key}"
        rows = read_metrics(folder) if (folder / "metrics.jsonl").exists() else []
        return {row["step"]: row[key] for row in rows if key in row}

    def report(self, trial: Trial, stop: int) -> None:
        """Tell Optuna the validations up to a step."""
        known = self.reported(trial)
        for step, score in self.validations(self.name(trial)).items():
            if step <= stop and step not in known:
                trial.report(score, step)

    def reported(self, trial: Trial) -> dict[int, float]:
        """The validations that Optuna knows."""
        return self.study.get_trials(deepcopy=False)[trial.number].intermediate_values


def best_of(validations: Mapping[int, float], figure: Figure) -> tuple[int, float]:
    """Step and score of the best validation, the one that best.pth is of."""
    step = (max if figure.greater_is_better else min)(validations, key=validations.get)
    return step, validations[step]


def open_study(folder: Path, identity: Mapping, maximize: bool) -> optuna.Study:
    """The study in ``folder``, made if there is none.

    Raises:
        ValueError: it is of another ``identity``; says in what.
    """
    path = (folder / JOURNAL).resolve()  # Optuna waits for ever for the lock of a relative path that a kill has left
    if path.exists():
        drop_half_row(path)
    storage = JournalStorage(JournalFileBackend(str(path)))
    direction = "maximize" if maximize else "minimize"
    study = optuna.create_study(storage=storage, study_name="search", direction=direction, load_if_exists=True)
    stored = study.user_attrs.get("identity")
    if stored is None:
        study.set_user_attr("identity", identity)
    elif stored != identity:
        keys = sorted(key for key in stored.keys() | identity.keys() if stored.get(key) != identity.get(key))
        changed = ", ".join(f"{key} {stored.get(key)!r}, now {identity.get(key)!r}" for key in keys)
        raise ValueError(f"{folder} holds another search: {changed}; another folder starts a new one")
    return study


def drop_half_row(journal: Path) -> None:
    """Cut off an incomplete last row, which a full disk leaves: Optuna would append to it."""
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        with journal.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()
