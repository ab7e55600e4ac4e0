"""Progress shows on long work only, and leaves nothing behind."""

import nbformat
import pytest
from nbclient import NotebookClient

SLOW = """
import time
from utils import progress as module
module.FIRST_AFTER, module.EVERY = 0.2, 0.1
print(sum(1 for i in module.progress(range(8), "steps") if not time.sleep(0.1)))
"""
QUICK = SLOW.replace("sleep(0.1)", "sleep(0)")


def outputs(source, seen=None):
    cell = nbformat.v4.new_code_cell(source)
    nb = nbformat.v4.new_notebook(cells=[cell])
    client = NotebookClient(nb)
    if seen is not None:
        keep = client.process_message

        def spy(message, cell, index):
            seen.append((message["msg_type"], message["content"].get("data", {})))
            return keep(message, cell, index)

        client.process_message = spy
    client.execute()
    return cell.outputs


def texts(found):
    return [o["data"]["text/plain"] for o in found if o.output_type == "display_data"]


@pytest.fixture(autouse=True)
def live(monkeypatch):
    monkeypatch.delenv("COURSE_PROGRESS", raising=False)


def test_shows_while_it_works_and_is_wiped():
    seen = []
    found = outputs(SLOW, seen)
    shown = [data["text/plain"] for kind, data in seen if "display" in kind]
    assert any("of 8 steps, about" in text for text in shown)
    assert texts(found) == [""]  # one line, empty in the end
    assert found[-1].text == "8\n"


def test_short_work_shows_nothing():
    assert texts(outputs(QUICK)) == []


def test_silent_in_the_book(monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", "0")
    (printed,) = outputs(SLOW)
    assert printed.text == "8\n"
