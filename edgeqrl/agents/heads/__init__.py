"""Action heads: how a model's float outputs become the environment's actions, and the same in integers."""

from edgeqrl.agents.heads.base import Head, Outputs, Scale
from edgeqrl.agents.heads.continuous import BoxHead, GaussianHead, ValueHead, value_edge
from edgeqrl.agents.heads.discrete import DiscreteHead, MultiBinaryHead
from edgeqrl.agents.heads.infer import HEAD_NAMES, infer_head, stated_head
from edgeqrl.agents.heads.json_form import head_from_json, head_to_json

__all__ = [
    "HEAD_NAMES",
    "BoxHead",
    "DiscreteHead",
    "GaussianHead",
    "Head",
    "MultiBinaryHead",
    "Outputs",
    "Scale",
    "ValueHead",
    "head_from_json",
    "head_to_json",
    "infer_head",
    "stated_head",
    "value_edge",
]
