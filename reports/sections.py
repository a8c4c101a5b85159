"""The sections of a report, in order: each a function of the run's tables, giving text, tables and figures, or None."""

from __future__ import annotations

from collections.abc import Callable

from reports.answers import show_answers
from reports.blocks import Section
from reports.changes import show_changes, show_control
from reports.checks import show_checks
from reports.fidelity import show_fidelity
from reports.guard import show_guard
from reports.kernels import show_kernels
from reports.method import show_method, show_warnings
from reports.offers import show_targets
from reports.plain import show_plain
from reports.precisions import show_int8
from reports.run_tables import Run
from reports.tried import show_tried

SECTIONS: dict[str, Callable[[Run], Section | None]] = {
    "targets": show_targets,
    "changes": show_changes,
    "control": show_control,
    "answers": show_answers,
    "fidelity": show_fidelity,
    "plain": show_plain,
    "tried": show_tried,
    "int8": show_int8,
    "kernels": show_kernels,
    "guard": show_guard,
    "checks": show_checks,
    "method": show_method,
    "warnings": show_warnings,
}
