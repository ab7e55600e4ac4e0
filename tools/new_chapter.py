"""Begin a chapter: `make new-chapter NAME=13_my_topic`.

Copies chapters/template/99_template.ipynb and its check, tools/chapter_99.py, and adds
the chapter to the contents (_toc.yml). The new chapter passes lint and runs; what
stands in it says what goes where.
"""

import os
import re
import sys
from pathlib import Path

from repository import ROOT

NAME = re.compile(r"(\d\d)_([a-z][a-z0-9_]*)")
CHAPTER = re.compile(r"^(\s*- file: chapters/)(\d\d)_\w+$", re.MULTILINE)


def new_chapter(name: str, root: Path) -> list[Path]:
    """Write the chapter's files; return those that are new or changed."""
    found = NAME.fullmatch(name)
    if not found:
        sys.exit(
            f"{name!r} is no chapter's name: two digits and words, in small letters. "
            "Write: make new-chapter NAME=13_my_topic"
        )
    number, topic = found.groups()
    taken = sorted((root / "chapters").glob(f"{number}_*.ipynb"))
    if taken:
        sys.exit(f"There is a chapter {number}: {taken[0].name}. Take another number.")
    for path in sorted((root / "utils" / "checks").glob("*.py")):
        if f"\ndef {topic}(" in path.read_text(encoding="utf-8"):
            sys.exit(
                f"{path.name} has a {topic}, and the new check is named so, too: "
                "take another word. Nothing is written."
            )
    # The template's number, and the name of its check.
    new = {"template_99": topic, "99": number}
    targets = {
        "chapters/template/99_template.ipynb": f"chapters/{name}.ipynb",
        "tools/chapter_99.py": f"utils/checks/chapter_{number}.py",
    }
    texts = {}
    for source, target in targets.items():
        text = (root / source).read_text(encoding="utf-8")
        texts[root / target] = re.sub("|".join(new), lambda old: new[old[0]], text)
    contents = root / "_toc.yml"
    text = contents.read_text(encoding="utf-8")
    entries = [e for e in CHAPTER.finditer(text) if e[2] < number]
    if not entries:
        sys.exit("_toc.yml lists no chapter with a smaller number. Nothing is written.")
    end = entries[-1].end()
    texts[contents] = f"{text[:end]}\n{entries[-1][1]}{name}{text[end:]}"
    for target, text in texts.items():
        target.write_text(text, encoding="utf-8")
    return list(texts)


if __name__ == "__main__":
    for path in new_chapter(os.environ.get("NAME", ""), ROOT):
        print(path.relative_to(ROOT))
    print("Now: write it (make lab), then what CONTRIBUTING says.")
