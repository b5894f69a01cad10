"""The model variants of chapter 11: which model, with which memory, embeddings and objective."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jepa_lab.papers.reversal_curse import objectives
from jepa_lab.papers.reversal_curse.objectives import concept_objective, spelling_objective
from jepa_lab.tasks import Objective


@dataclass(frozen=True)
class Variant:
    """One model and its objective."""

    kind: str  # "jepa" or "ar"
    objective: Objective
    memory: bool = False  # in place of the recognition layers
    tied: bool = True  # AR: one embedding for input and output; JEPA: one recognition module for input and target
    concept_level: bool = False  # every entity is one token of its own
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the config


_squared = partial(concept_objective, distance=objectives.squared_distance)
_squared_stopped = partial(concept_objective, distance=objectives.squared_distance, stop_gradient=True)
_duplicates = partial(concept_objective, distance=objectives.contrast_with_duplicates)

VARIANTS = {
    "JEPA": Variant("jepa", concept_objective),
    "AR": Variant("ar", spelling_objective),
    "JEPA + memory": Variant("jepa", concept_objective, memory=True, changes={"layer_norm": True}),
    "AR + memory": Variant("ar", spelling_objective, memory=True),
    "AR, concepts": Variant("ar", spelling_objective, concept_level=True),
    "AR, concepts, untied": Variant("ar", spelling_objective, concept_level=True, tied=False),
    "JEPA, stop-gradient": Variant("jepa", partial(concept_objective, stop_gradient=True)),
    "JEPA, squared distance": Variant("jepa", _squared),
    "JEPA, distance and stop-gradient": Variant("jepa", _squared_stopped),
    "JEPA, untied": Variant("jepa", concept_objective, tied=False),
    "JEPA, duplicates compete": Variant("jepa", _duplicates),
    "JEPA, no LayerNorm": Variant("jepa", concept_objective, changes={"layer_norm": False}),
    "JEPA + memory, equal weights": Variant(  # as many as JEPA at preset laptop
        "jepa", concept_objective, memory=True, changes={"layer_norm": True, "semantic_hidden": 8}
    ),
}
