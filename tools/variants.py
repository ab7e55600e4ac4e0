"""Write homework whose exercises are not public, after trying it.

    make variants SECRET=../secret                  # the chapters that are in it
    make variants SECRET=../secret CHAPTERS="07"

Into _release/variants, a folder and a zip per chapter, to hand out. Nothing is
written unless each solution passes with the hidden cases, and no stub does. Grade
with the same folder: make grade CHAPTER=07 FROM=downloads.zip SECRET=../secret
tools/private.py says what is in it.
"""

import os
import sys
from pathlib import Path

import grade
import homework
import private
from repository import ROOT

VARIANTS = Path("_release") / "variants"


def tried(path: Path, notebook) -> str:
    """What is private in a chapter; exits where an answer or a stub is wrong."""
    set_up = {"limit": 20, "memory": 2000, "jobs": 1}
    with grade.ready(path, notebook, set_up):
        found = private.read(private.secret(), path.name[:2])
    return ", ".join(f"ex-{one.number}" for one in found)


def main(root: Path = ROOT) -> None:
    folder = private.secret()
    if folder is None:
        sys.exit("Where are they? Write: make variants SECRET=../secret")
    inside = sorted(p.name for p in folder.glob("[0-9][0-9]") if p.is_dir())
    chapters = os.environ.get("CHAPTERS", "").split() or inside
    if not chapters:
        sys.exit(f"{folder}: expected a folder for each chapter, such as 07.")
    paths = [homework.chapter_path(number, root) for number in chapters]
    built = {path: homework.build(path, root) for path in paths}
    said = {path: tried(path, notebook) for path, notebook in built.items()}
    for path, notebook in built.items():
        archive = homework.write(path.stem, notebook, root, root / VARIANTS)
        print(f"{archive.relative_to(root)}: {said[path] or 'nothing of its own'}")


if __name__ == "__main__":
    main()
