"""Checks for the exercises: `checks.name(answer);` prints a verdict.

One module per chapter, and what they share in `framework`.
"""

from utils.checks.chapter_00 import lead, paired_interval
from utils.checks.chapter_01 import drift, noise_drift, sd_lead
from utils.checks.chapter_02 import (
    backward_nodes,
    batch_norm_nd,
    mean_share,
    norm_backward,
)
from utils.checks.chapter_03 import (
    freeze_batch_norm,
    norm_with_memory,
    with_guests,
)
from utils.checks.chapter_04 import decay_groups, dropout_cost, dropout_ratio
from utils.checks.chapter_05 import held_at, highest_usable_rate, rescale
from utils.checks.chapter_06 import epsilon_gain, ghost_forward, images_needed
from utils.checks.chapter_07 import batch_of_two, careful, layer_cost
from utils.checks.chapter_08 import group_cost, group_norm, renorm_r_d
from utils.checks.chapter_09 import merge, sorted_devices
from utils.checks.chapter_10 import adapt, fold, one_by_one
from utils.checks.chapter_11 import (
    averages_all,
    frozen_body,
    longer_memory,
    reads_rows,
    sound_layer,
    synchronised_layer,
)
from utils.checks.chapter_12 import from_zero, tuned, values_per_channel
from utils.checks.framework import NotYet

__all__ = [
    "NotYet",
    "adapt",
    "averages_all",
    "backward_nodes",
    "batch_norm_nd",
    "batch_of_two",
    "careful",
    "decay_groups",
    "drift",
    "dropout_cost",
    "dropout_ratio",
    "epsilon_gain",
    "fold",
    "freeze_batch_norm",
    "from_zero",
    "frozen_body",
    "ghost_forward",
    "group_cost",
    "group_norm",
    "held_at",
    "highest_usable_rate",
    "images_needed",
    "layer_cost",
    "lead",
    "longer_memory",
    "mean_share",
    "merge",
    "noise_drift",
    "norm_backward",
    "norm_with_memory",
    "one_by_one",
    "paired_interval",
    "reads_rows",
    "renorm_r_d",
    "rescale",
    "sd_lead",
    "sorted_devices",
    "sound_layer",
    "synchronised_layer",
    "tuned",
    "values_per_channel",
    "with_guests",
]
