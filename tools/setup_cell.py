# @title Set-up: run me first (fetches the course where it is missing)
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = "https://github.com/OWNER/REPOSITORY"
VERSION = "main"
here = Path.cwd()
places = [here, *here.parents, here / f"bn-measured-{VERSION}"]
found = [p for p in places if (p / "data/digits.sha256").is_file()]
if not found:
    clone = ["git", "clone", "--quiet", "--depth=1"]
    with tempfile.TemporaryDirectory(dir=here) as half:
        clone += [f"--branch={VERSION}", REPOSITORY, f"{half}/all"]
        done = subprocess.run(clone, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"Could not fetch version {VERSION} of the course: is "
                f"there a network? Run me again. {done.stderr}"
            )
        found = [Path(half, "all").rename(places[-1])]
sys.path.insert(0, str(found[0]))

from utils import set_up

set_up()
