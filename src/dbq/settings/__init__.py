"""What params.yaml may say, and what it means for one training.

plan = settings.plan(settings.read("params.yaml"))
plan.row("resnet20-cifar10-dbq-2t").training.learning_rate
"""

from dbq.settings.entries import DatasetSettings, Row, Start
from dbq.settings.plan import Plan, Planned, plan
from dbq.settings.source import read
from dbq.settings.values import Faults

__all__ = ["DatasetSettings", "Faults", "Plan", "Planned", "Row", "Start", "plan", "read"]
