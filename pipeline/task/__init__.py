"""The task: a model, its data, their split, and the baseline that is to be restored."""

from pipeline.task.contract import Task
from pipeline.task.data_check import check_task
from pipeline.task.metrics.accuracy import count_correct
from pipeline.task.parts import DatasetPart, Part, TensorPart, as_part
from pipeline.task.prepare import baseline_epochs, prepare, rebuild

__all__ = [
    "DatasetPart",
    "Part",
    "Task",
    "TensorPart",
    "as_part",
    "baseline_epochs",
    "check_task",
    "count_correct",
    "prepare",
    "rebuild",
]
