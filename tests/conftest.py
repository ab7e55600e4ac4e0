"""What several tests share: the served book and one browser.

One browser for all, because Playwright runs only once at a time.
"""

import signal

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.browser import chromium, served

# A shell that starts the tests in the background has them ignore interrupts, and
# what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def address():
    """The address of the built book's root."""
    with served() as root:
        yield root


@pytest.fixture(scope="session")
def browser():
    with chromium() as running:
        yield running


class ByFile(LoadScopeScheduling):
    """Several processes share the tests: one file goes to one, of the book's pages one.

    So what a file's tests share is made once, and no page is opened by two. (The marks
    of `--dist loadgroup` have no effect: xdist 3.8 writes them where pytest 9.2 does
    not look.)
    """

    def _split_scope(self, nodeid):
        file, _, test = nodeid.partition("::")
        page = test.partition("[")[2]
        return page if page and file.endswith("test_book.py") else file


def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)
