"""What several tests share: the served book and one browser.

One browser for all, because Playwright runs only once at a time.
"""

import signal

import pytest

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


def pytest_collection_modifyitems(items):
    """Several processes share the tests: one file goes to one, of the book's pages one.

    So what a file's tests share is made once, and no page is opened by two.
    """
    for item in items:
        group = item.path.name
        if group == "test_book.py" and "[" in item.name:
            group = item.name.partition("[")[2]
        item.add_marker(pytest.mark.xdist_group(group))
