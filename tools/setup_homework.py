# @title Set-up: run me first
import sys
from pathlib import Path

HOMEWORK = "NAME"
places = [Path.cwd(), Path.cwd() / HOMEWORK, *Path.cwd().parents]
found = [p for p in places if (p / "data" / "digits.sha256").is_file()]
if not found:
    raise FileNotFoundError(
        f"The folders utils and data of {HOMEWORK}.zip are missing: unpack all "
        "of it and open the notebook in the folder that it makes. In Colab: "
        f"upload {HOMEWORK}.zip, and run  !unzip -q {HOMEWORK}.zip"
    )
sys.path.insert(0, str(found[0]))

from utils import set_up

set_up()
