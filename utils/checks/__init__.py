"""Checks for the exercises: `checks.name(answer);` prints a verdict.

One module per chapter, and what they share in `framework`.
"""

from utils.checks.chapter_00 import (
    channel_means,
    init_share,
    lead,
    paired_interval,
)
from utils.checks.chapter_01 import (
    drift,
    noise_drift,
    sd_lead,
    shift_of,
)
from utils.checks.chapter_02 import (
    backward_nodes,
    batch_norm_nd,
    mean_share,
    norm_backward,
    revealing_batch,
)
from utils.checks.chapter_03 import (
    diagnosis,
    freeze_batch_norm,
    largest_momentum,
    norm_with_memory,
    with_guests,
)
from utils.checks.chapter_04 import (
    decay_groups,
    dropout_cost,
    dropout_ratio,
    quiet_block,
    stream_variance,
)
from utils.checks.chapter_05 import (
    degrees_per_update,
    held_at,
    highest_usable_rate,
    rescale,
)
from utils.checks.chapter_06 import (
    budgets,
    epsilon_gain,
    ghost_forward,
    images_needed,
)
from utils.checks.chapter_07 import (
    batch_of_one,
    batch_of_two,
    careful,
    layer_cost,
    refuses,
)
from utils.checks.chapter_08 import (
    group_cost,
    group_norm,
    renorm_r_d,
    two_halves,
    values_averaged,
)
from utils.checks.chapter_09 import merge, sorted_devices
from utils.checks.chapter_10 import (
    adapt,
    fold,
    one_by_one,
    overflowing,
)
from utils.checks.chapter_11 import (
    averages_all,
    frozen_body,
    innocent,
    longer_memory,
    reads_rows,
    sound_layer,
    synchronised_layer,
)
from utils.checks.chapter_12 import (
    follow_up,
    from_zero,
    tuned,
    values_per_channel,
)
from utils.checks.framework import NotYet

__all__ = [
    "NotYet",
    "adapt",
    "averages_all",
    "backward_nodes",
    "batch_norm_nd",
    "batch_of_one",
    "batch_of_two",
    "budgets",
    "careful",
    "channel_means",
    "decay_groups",
    "degrees_per_update",
    "diagnosis",
    "drift",
    "dropout_cost",
    "dropout_ratio",
    "epsilon_gain",
    "fold",
    "follow_up",
    "freeze_batch_norm",
    "from_zero",
    "frozen_body",
    "ghost_forward",
    "group_cost",
    "group_norm",
    "held_at",
    "highest_usable_rate",
    "images_needed",
    "init_share",
    "innocent",
    "largest_momentum",
    "layer_cost",
    "lead",
    "longer_memory",
    "mean_share",
    "merge",
    "noise_drift",
    "norm_backward",
    "norm_with_memory",
    "one_by_one",
    "overflowing",
    "paired_interval",
    "quiet_block",
    "reads_rows",
    "refuses",
    "renorm_r_d",
    "rescale",
    "revealing_batch",
    "sd_lead",
    "shift_of",
    "sorted_devices",
    "sound_layer",
    "stream_variance",
    "synchronised_layer",
    "tuned",
    "two_halves",
    "values_averaged",
    "values_per_channel",
    "with_guests",
]
