"""Files that nobody imports and that rot unseen: forms, settings, the changelog."""

import re
from pathlib import Path

import yaml

from tests.notebooks import ROOT
from tests.test_workflows import check_schema

GITHUB = ROOT / ".github"


def test_forms_and_dependabot_follow_their_schemas():
    check_schema("vendor.dependabot", GITHUB / "dependabot.yml")
    forms = [p for p in GITHUB.glob("ISSUE_TEMPLATE/*.yml") if p.stem != "config"]
    check_schema("vendor.github-issue-forms", *forms)


def test_pre_commit_runs_what_make_tidy_does():
    settings = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = settings["repos"]
    (hook,) = repository["hooks"]
    assert repository["repo"] == "local" and hook["entry"].endswith("-m tools tidy")


# What a package is called where it is used, if not by its own name.
USED_AS = {
    "cloudpickle": "joblib",  # carries code to workers; 3.1.3 loses its source
    "pytest-timeout": "--timeout-method",
    "pytest-xdist": "xdist.scheduler",
    "scikit-learn": "sklearn",
    "sphinx-notfound-page": "notfound",
    "sphinx-book-theme": "sphinx_book_theme",
}


def pins(path: Path) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def test_every_pin_is_used_and_agrees_with_the_whole_set():
    """A pinned package that nothing names is one more to update for nobody."""
    resolved = pins(ROOT / "constraints.txt")
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("chapters", "data", "theme", "tests", "tools", "utils")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".py", ".ipynb", ".html")
        and "_build" not in path.parts
        and path != Path(__file__)  # which names them all
    )
    code += (ROOT / "_config.yml").read_text()
    plain = re.sub(r"[-_.]", "", code).lower()
    for file in ROOT.glob("requirements*.txt"):
        if file.stem == "requirements-colab":
            continue  # Colab's versions, not ours
        for name, version in pins(file).items():
            assert resolved.get(name) == version, f"{file.name}: {name}"
            word = re.sub(r"[-_.]", "", USED_AS.get(name, name))
            assert word in plain, f"{file.name}: nothing uses {name}"


def test_the_documents_name_only_what_is_there():
    """Commands and files in README and CONTRIBUTING exist."""
    tasks = (ROOT / "Makefile").read_text()
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for task in re.findall(r"`make ([a-z-]+)", text):
            assert re.search(rf"\b{task}\b", tasks), f"{name}: make {task}"
        files = re.findall(r"`((?:[\w.-]+/)+[\w.-]*\.\w+)`", text)
        for file in files:
            if not file.startswith(("_build/", "_release/")):
                assert (ROOT / file).exists(), f"{name}: {file}"
