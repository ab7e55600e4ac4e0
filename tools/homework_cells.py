"""Cells of chapters that homework replaces by a smaller one.

A chapter trains a whole sweep where an exercise compares with one of its nets,
and a student's machine should not. The names are the chapter's, and so are the
numbers: the same seeds, rates and updates.
"""

SMALLER = {
    "06_batch_size": {
        "halves": """
half = {  # test error of the net of batches of 2
    (2, 2): 100
    - train_many(
        partial(mlp, nn.BatchNorm1d),
        digits,
        steps=128,
        batch_size=2,
        lr=rates(-3, -1),
    ).at_best("test")
}
""",
    },
    "07_batch_size_one": {
        "sets": """
# @title Train the net to compare with
# head, positions, images, positions in a set
set_runs = {
    ("mean", 16, 8, 16): train_many(
        partial(conv_net, 16, nn.BatchNorm2d),
        digits,
        steps=80,
        batch_size=8,
        lr=half_decades(-1, 0),
        seeds=SEEDS,
    )
}
""",
        "set-runs": "",
    },
    "08_other_norms": {
        "ways": """
# @title The nets, and their rates at batch size 32
ways = {
    "group norm": partial(mlp, partial(nn.GroupNorm, 4)),
    "layer norm": partial(mlp, nn.LayerNorm),
}
RATES = {32: (-1, 0)}  # as powers of ten


def rates(name, size):
    return half_decades(*RATES[size])
""",
        "sweep-runs": """
# @title Train the net to compare with
UPDATES = 128


def trained_at(size):
    return dict(batch_size=size, steps=UPDATES, checkpoints=[UPDATES])


sweep = {
    ("layer norm", 32): train_many(
        ways["layer norm"],
        digits,
        lr=rates("layer norm", 32),
        **trained_at(32),
    )
}
""",
        "budgets": """
# @title Collect its errors
def error(runs, step=None):
    \"\"\"Test error in %, at the best rate, one value per seed.\"\"\"
    return 100 - runs.at_best("test", step)


errors = {  # (budget, name, size): (seeds,)
    ("equal updates", "layer norm", 32): error(
        sweep["layer norm", 32], UPDATES
    )
}
""",
    },
    "09_many_devices": {
        "split-runs": """
# @title Train the net to compare with
UPDATES = 192
common = dict(data=digits, steps=UPDATES, seeds=SEEDS)
split = {  # images per device, of 32
    8: train_many(
        per_device(8), batch_size=32, lr=half_decades(-1.5, 0), **common
    )
}
accuracy = {  # test accuracy in %, one value per seed
    name: runs.at_best("test") for name, runs in split.items()
}
""",
    },
    "10_deployment": {
        "train": """
# @title Train the nets
with_bn = partial(conv_net, norm=nn.BatchNorm2d)
runs = train_conditions(
    {16: dict(make_model=partial(with_bn, 16))},
    data=digits,
    steps=192,
    batch_size=32,
    lr=0.5,
    splits=[],
)
nets = {  # kind: nets in eval mode, one per seed
    name: [r.module(k).eval() for k in range(SEEDS)]
    for name, r in runs.items()
}
""",
    },
    "12_carry_over": {
        "live": """
FILES = range(SEEDS)  # the seeds of the stored runs
mnist = load_mnist5k(FILES)  # a split of the images for each


def net(norm, start=1.0):
    return nn.Sequential(nn.Unflatten(1, (1, 28, 28)), ResNet(norm, start))


runs = train_conditions(
    {
        "bn": dict(
            make_model=partial(net, nn.BatchNorm2d),
            lr=rate("centring", "bn, 200 updates"),
        )
    },
    data=mnist,
    steps=50,
    batch_size=32,
    momentum=0.9,
    seeds=FILES,
    splits=["test"],
)
early = runs["bn"].scores["test"].accuracy[-1]  # after 50 updates
""",
    },
}
