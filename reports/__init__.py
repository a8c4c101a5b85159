"""Scores, intervals and choice over plain arrays and tables, and the report drawn from a run's tables."""

from reports.choice import Choice, choose, frontier
from reports.intervals import Difference, Interval, difference, holm, score_interval, verdict
from reports.page import draw_report
from reports.scores import SCORES, Score, calibration_error

__all__ = [
    "SCORES",
    "Choice",
    "Difference",
    "Interval",
    "Score",
    "calibration_error",
    "choose",
    "difference",
    "draw_report",
    "frontier",
    "holm",
    "score_interval",
    "verdict",
]
