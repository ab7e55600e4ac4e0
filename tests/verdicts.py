"""What a check says of an answer; shared by the tests of all checks."""

import contextlib
import io


def verdict(check, answer):
    """The check's result and what it printed; nothing on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        passed = check(answer)
    assert err.getvalue() == ""
    return passed, out.getvalue()
