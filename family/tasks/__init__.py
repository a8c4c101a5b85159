"""Tasks: data as students, controls and teachers meet it."""

from family.tasks.data_task import DataTask, open_task
from family.tasks.options import DataOptions, Source

__all__ = ["DataOptions", "DataTask", "Source", "open_task"]
