"""The task: a model, its data, their split, and the baseline that is to be won back."""

from pipeline.task.contract import Task
from pipeline.task.data_check import check
from pipeline.task.metrics.accuracy import count_correct, wilson
from pipeline.task.parts import DatasetPart, Part, TensorPart, as_part
from pipeline.task.prepare import prepare, rebuild

__all__ = [
    "DatasetPart",
    "Part",
    "Task",
    "TensorPart",
    "as_part",
    "check",
    "count_correct",
    "prepare",
    "rebuild",
    "wilson",
]
