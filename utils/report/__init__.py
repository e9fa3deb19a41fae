"""Reports: of a run, and of groups of runs against a baseline, paired by seed."""

from segdistill.utils.report.compare import Caveats, Comparison, Delta, Group, compare_groups
from segdistill.utils.report.read import FinishedRun, read_run
from segdistill.utils.report.render import score_table, write_comparison, write_run_report

__all__ = [
    "Caveats",
    "Comparison",
    "Delta",
    "FinishedRun",
    "Group",
    "compare_groups",
    "read_run",
    "score_table",
    "write_comparison",
    "write_run_report",
]
