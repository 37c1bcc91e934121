"""Accuracy of a classifier."""

from pipeline.config.registry import METRICS
from pipeline.task.contract import Metric


@METRICS.register("accuracy")
class Accuracy(Metric):
    """The share of images whose class the model ranks first."""
