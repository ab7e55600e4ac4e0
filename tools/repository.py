"""Write the repository's address wherever it stands (`make repository URL=…`).

`_config.yml` is the place that says it; the set-up cells, the citation and the
pages repeat it. Files are changed as text, so that comments and the stored form
of the notebooks stay as they are.
"""

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

# Each matches what stands before the address; the address ends at a quote,
# a backslash (a quote in a notebook's JSON) or a space.
IN_CONFIG = r"^repository:[^\n]*\n(?:[ \t#][^\n]*\n|\n)*?[ \t]+url:[ \t]*[\"']?"
IN_CODE = r"^[ \t]*\"?REPOSITORY = \\?\""
IN_CITATION = r"^repository-code:[ \t]*[\"']?"
REST = r"[^\s\"'\\]+"


def checked(url: str) -> str:
    """The address without a trailing `/` or `.git`; exits when it is none."""
    address = url.strip().removesuffix("/").removesuffix(".git")
    if not ADDRESS.fullmatch(address):
        sys.exit(
            f"{url!r} is not the address of a GitHub or GitLab repository. "
            "Write: make repository URL=https://github.com/you/name"
        )
    return address


def current_address(root: Path) -> str:
    """What `_config.yml` says under `repository:`, `url:`."""
    text = (root / "_config.yml").read_text(encoding="utf-8")
    found = re.search(f"{IN_CONFIG}({REST})", text, re.MULTILINE)
    if found is None:
        sys.exit("_config.yml has no address under repository: url:")
    return found[1]


def published_address(root: Path, purpose: str) -> str:
    """The same, where somebody will use it; exits where nobody has set it."""
    address = current_address(root)
    if address == PLACEHOLDER:
        sys.exit(
            f"{purpose} needs the address of your copy, and _config.yml still has "
            f"{PLACEHOLDER}. First: make repository URL=https://github.com/you/name"
        )
    return address


def setup_source(root: Path, address: str = "", branch: str = "") -> str:
    """The source of every chapter's set-up cell.

    branch: a branch or tag that it fetches instead of the default branch.
    """
    text = (root / "tools" / "setup_cell.py").read_text(encoding="utf-8")
    source = replaced(text, IN_CODE, address or current_address(root)).rstrip("\n")
    if branch:
        depth = '"--depth=1"'
        source = source.replace(depth, f'{depth}, "--branch={branch}"')
    return source


def replaced(text: str, before: str, address: str) -> str:
    """The text with the address put in after the pattern `before`."""
    return re.sub(f"({before}){REST}", rf"\g<1>{address}", text, flags=re.MULTILINE)


def new_texts(root: Path, address: str) -> dict[Path, str]:
    """The files that change, each with its new text. Nothing is written here."""
    old = re.escape(current_address(root))
    mention = rf"(?<![\w./-]){old}(?![\w-]|\.(?!git\b)\w)"
    notebooks = sorted((root / "chapters").glob("*.ipynb"))
    notebooks += sorted((root / "instructors").glob("*.ipynb"))
    patterns = {
        root / "_config.yml": IN_CONFIG,
        root / "CITATION.cff": IN_CITATION,
        root / "tools" / "setup_cell.py": IN_CODE,
        **dict.fromkeys(notebooks, IN_CODE),
    }
    pages = [*root.glob("*.md"), *(root / "chapters").glob("*.md")]
    changed = {}
    for path in [*patterns, *sorted(pages)]:
        text = path.read_bytes().decode("utf-8")
        new = re.sub(mention, address, text)
        if path in patterns:
            new = replaced(new, patterns[path], address)
            if address not in new:
                sys.exit(f"{path.relative_to(root)}: found no address to replace")
        if new != text:
            changed[path] = new
    return changed


def main(url: str, root: Path = ROOT) -> None:
    """Check the address first, then write all files, and print which."""
    address = checked(url)
    changed = new_texts(root, address)
    for path, text in changed.items():
        path.write_bytes(text.encode("utf-8"))
        print(f"{path.relative_to(root)}: {address}")
    if not changed:
        print(f"Nothing to change: the address is {address} already.")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
