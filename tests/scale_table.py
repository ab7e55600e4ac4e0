"""A table for tests of `make scale`: runs that train nothing, and say who made them.

A module, so that worker processes can import it. Each run leaves a line in the file
that SCALE_LOG names.
"""

import os
import time

import numpy as np

from utils.scale.findings import Finding


def noted(task):
    """Best at a rate of 0.1, the better the smaller the seed."""
    with open(os.environ["SCALE_LOG"], "a") as file:
        name = task.settings["name"]
        print(f"{os.getpid()} {name} {list(zip(task.seeds, task.rates))}", file=file)
    time.sleep(task.settings.get("sleep", 0))
    away = np.abs(np.log10(task.rates) + 1)
    return {"validation": 90 - 10 * away - np.array(task.seeds), "test": 80 - away}


def fails(task):
    raise RuntimeError("this one cannot be run")


def table(conditions=2, **settings):
    """One finding with a search that has to widen its grid, one with fixed rates."""
    named = {f"c{i}": {"name": f"c{i}", "rate": 0.01} for i in range(conditions)}
    searched = {name: own | settings for name, own in named.items()}
    return {
        "searched": Finding("", noted, searched),
        "fixed": Finding("", noted, {"all": {"name": "all"} | settings}, (0.1, 1.0)),
    }
