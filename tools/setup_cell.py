# @title Set-up: run me first (fetches the course where it is missing)
import subprocess
import sys
from pathlib import Path

REPOSITORY = "https://github.com/OWNER/REPOSITORY"
places = [Path.cwd(), *Path.cwd().parents, Path.cwd() / "bn-measured"]
found = [p for p in places if (p / "data" / "digits.sha256").is_file()]
if not found:
    command = ["git", "clone", "--quiet", "--depth=1", REPOSITORY]
    subprocess.run([*command, str(places[-1])], check=True)
    found = [places[-1]]
sys.path.insert(0, str(found[0]))

from utils import set_up

set_up()
