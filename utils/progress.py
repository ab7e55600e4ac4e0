"""A progress line that leaves nothing behind."""

import os
import time
from collections.abc import Iterable, Iterator

from IPython import get_ipython
from IPython.display import display

FIRST_AFTER, EVERY = 2.0, 0.5  # seconds: short work shows nothing


def progress(items: Iterable, what: str, total: int | None = None) -> Iterator:
    """Yield the items; after 2 s show how many are done, then wipe it.

    Nothing is shown outside notebooks, nor with COURSE_PROGRESS=0, which
    the build of the book sets.
    """
    if get_ipython() is None or os.environ.get("COURSE_PROGRESS") == "0":
        yield from items
        return
    total = total or len(items)
    begun = shown = time.monotonic()
    line = None
    try:
        for done, item in enumerate(items):
            now = time.monotonic()
            if now - begun > FIRST_AFTER and now - shown > EVERY:
                left = (now - begun) / max(done, 1) * (total - done)
                text = f"{done} of {total} {what}, about {left:.0f} s to go"
                shown = now
                if line is None:
                    line = display(_plain(text), raw=True, display_id=True)
                else:
                    line.update(_plain(text), raw=True)
            yield item
    finally:
        if line is not None:
            line.update(_plain(""), raw=True)


def _plain(text: str) -> dict[str, str]:
    return {"text/plain": text}
