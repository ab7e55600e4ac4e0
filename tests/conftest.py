"""What several tests share: the served book and one browser.

One browser for all, because Playwright runs only once at a time.
"""

import pytest

from tests.browser import chromium, served


@pytest.fixture(scope="session")
def address():
    """The address of the built book's root."""
    with served() as root:
        yield root


@pytest.fixture(scope="session")
def browser():
    with chromium() as running:
        yield running
