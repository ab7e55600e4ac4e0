"""The repository's address and version, written wherever they stand.

    make repository URL=https://github.com/you/name   # a fork
    make version TAG=term-2027a                        # a branch or tag, frozen
    make setup-cells                                   # only the set-up cells

`_config.yml` is the place that says both; the buttons of the book follow it.
The set-up cells, the citation and the pages repeat them. All but the set-up
cells is changed as text, so that comments stay as they are. Nothing is written
where anything is wrong. It needs no package: a fork runs it first.
"""

import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACEHOLDER = "https://github.com/OWNER/REPOSITORY"
OWNER = r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*"
NAME = r"(?!\.{1,2}$)[A-Za-z0-9._-]+(?<!\.git)"
GITHUB = f"https://github\\.com/{OWNER}/{NAME}"
# gitlab.com, or a university's own; groups may be nested.
GITLAB = r"https://(?=[^/]*gitlab)[a-z0-9.-]+(/[A-Za-z0-9_][\w.-]*)+/" + NAME
ADDRESS = re.compile(f"{GITHUB}|{GITLAB}", re.ASCII)
# Part of a folder's name, so fewer than git allows: no slash.
VERSION = re.compile(r"(?!.*(\.\.|\.lock$|\.$))[A-Za-z0-9][\w.-]*", re.ASCII)
MAIN = "main"  # the version that goes on

# Each matches what stands before; the value ends at a quote or a space.
IN_CONFIG = r"^repository:[^\n]*\n(?:[ \t#][^\n]*\n|\n)*?[ \t]+{}:[ \t]*[\"']?"
IN_CITATION = r"^repository-code:[ \t]*[\"']?"
IN_CODE = r"^{} = \""
REST = r"[^\s\"']+"


def checked_address(url: str) -> str:
    """The address without a trailing `/` or `.git`; exits when it is none."""
    address = url.strip().removesuffix("/").removesuffix(".git")
    if not ADDRESS.fullmatch(address):
        sys.exit(
            f"{url!r} is not the address of a GitHub or GitLab repository. "
            "Write: make repository URL=https://github.com/you/name"
        )
    return address


def checked_version(tag: str) -> str:
    """The branch or tag; exits when git, or a folder's name, could not be that."""
    version = tag.strip()
    if not VERSION.fullmatch(version):
        sys.exit(
            f"{tag!r} cannot be a version: it is the name of a branch or tag, of "
            "letters, digits, dots, - and _, such as term-2027a."
        )
    return version


def configured(root: Path, key: str) -> str:
    """What `_config.yml` says under `repository:`, `key:`."""
    text = (root / "_config.yml").read_text(encoding="utf-8")
    found = re.search(f"{IN_CONFIG.format(key)}({REST})", text, re.MULTILINE)
    if found is None:
        sys.exit(f"_config.yml has no {key} under repository: {key}:")
    return found[1]


def current_address(root: Path) -> str:
    return configured(root, "url")


def current_version(root: Path) -> str:
    """The branch or tag that the set-up cells fetch and the buttons open."""
    return configured(root, "branch")


def student_branch(version: str) -> str:
    """The branch with the notebooks without solutions of a version."""
    return "student" if version == MAIN else f"student-{version}"


def published_address(root: Path, purpose: str) -> str:
    """The address, where somebody will use it; exits where nobody has set it."""
    address = current_address(root)
    if address == PLACEHOLDER:
        sys.exit(
            f"{purpose} needs the address of your copy, and _config.yml still has "
            f"{PLACEHOLDER}. First: make repository URL=https://github.com/you/name"
        )
    return address


def setup_source(root: Path, address: str = "", version: str = "") -> str:
    """The source of every chapter's set-up cell; by default with what is set."""
    text = (root / "tools" / "setup_cell.py").read_text(encoding="utf-8")
    text = replaced(
        text, IN_CODE.format("REPOSITORY"), address or current_address(root)
    )
    text = replaced(text, IN_CODE.format("VERSION"), version or current_version(root))
    return text.rstrip("\n")


def replaced(text: str, before: str, value: str) -> str:
    """The text with the value put in after the pattern `before`."""
    return re.sub(f"({before}){REST}", rf"\g<1>{value}", text, flags=re.MULTILINE)


def with_setup(path: Path, source: str, root: Path) -> str:
    """A chapter's text with this source in its set-up cell."""
    text = path.read_text(encoding="utf-8")
    try:
        notebook = json.loads(text)
        cells = [cell for cell in notebook["cells"] if cell.get("id") == "set-up"]
    except (ValueError, KeyError, TypeError, AttributeError):
        cells = []
    if len(cells) != 1:
        sys.exit(f"{path.relative_to(root)}: no cell with the id set-up, or several")
    cells[0]["source"] = source.splitlines(keepends=True)
    # As nbformat stores it.
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def new_texts(root: Path, address: str, version: str) -> dict[Path, str]:
    """The files that change, each with its new text. Nothing is written here."""
    source = setup_source(root, address, version)
    new = {root / "tools" / "setup_cell.py": source + "\n"}
    notebooks = sorted((root / "chapters").glob("*.ipynb"))
    for path in [*notebooks, *sorted((root / "instructors").glob("*/*.ipynb"))]:
        new[path] = with_setup(path, source, root)
    config = root / "_config.yml"
    text = config.read_text(encoding="utf-8")
    text = replaced(text, IN_CONFIG.format("url"), address)
    new[config] = replaced(text, IN_CONFIG.format("branch"), version)
    citation = root / "CITATION.cff"
    new[citation] = replaced(citation.read_text(encoding="utf-8"), IN_CITATION, address)
    old = re.escape(current_address(root))
    mention = rf"(?<![\w./-]){old}(?![\w-]|\.(?!git\b)\w)"
    students = f"({re.escape(address)}&branch=)student[\\w.-]*"
    for folder in (root, root / "chapters", root / "instructors"):
        for path in sorted(folder.glob("*.md")):
            text = re.sub(mention, address, path.read_bytes().decode("utf-8"))
            new[path] = re.sub(students, rf"\g<1>{student_branch(version)}", text)
    changed = {p: t for p, t in new.items() if p.read_bytes().decode("utf-8") != t}
    for path, text in changed.items():
        if path in (config, citation) and address not in text:
            sys.exit(f"{path.relative_to(root)}: found no address to replace")
    return changed


def write(root: Path, address: str = "", version: str = "") -> None:
    """Write both, what is left out as it is; print which files changed."""
    address = address or current_address(root)
    version = version or current_version(root)
    changed = new_texts(root, address, version)
    for path, text in changed.items():
        path.write_bytes(text.encode("utf-8"))
        print(f"{path.relative_to(root).as_posix()}: {address}, {version}")
    if not changed:
        print(f"Nothing to change: everywhere it is {address}, {version} already.")


def main(what: str, root: Path = ROOT) -> None:
    if what == "url":
        write(root, address=checked_address(os.environ.get("URL", "")))
    elif what == "version":
        write(root, version=checked_version(os.environ.get("TAG", "")))
    else:
        write(root)


if __name__ == "__main__":
    main(*sys.argv[1:])
