"""Who sees what: mask samplers for every modality, all returning one record of token indices.

A sampler is a pure function of (grid, batch size, generator, settings). Everything stays on the generator's device,
nothing is read back to the host, and the shapes depend on the settings only. Row ``i`` of a batch uses row ``i`` of one
table of uniform numbers and nothing else, so a sample's masks never depend on its batch mates.
"""

from jepa_lab.masks.blocks import block_shapes, context_budget, multi_block, shapes_of_area, single_block
from jepa_lab.masks.cells import bev_cells
from jepa_lab.masks.common import Grid, Masks, Shape
from jepa_lab.masks.published import multi_block_published
from jepa_lab.masks.scattered import columns, random_tokens
from jepa_lab.masks.series import time_blocks
from jepa_lab.masks.windows import local_windows

__all__ = [
    "Grid",
    "Masks",
    "Shape",
    "bev_cells",
    "block_shapes",
    "columns",
    "context_budget",
    "local_windows",
    "multi_block",
    "multi_block_published",
    "random_tokens",
    "shapes_of_area",
    "single_block",
    "time_blocks",
]
