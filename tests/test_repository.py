"""`make repository` and `make version` write one address and one version everywhere."""

import json
import os
import subprocess
import sys

import nbformat
import pytest
import yaml

import lint
import release
import repository
from tests.notebooks import ROOT, make_project

NEW = "https://github.com/some-one/a.course_2"
TERM = "term-2027a"


@pytest.fixture
def project(tmp_path):
    make_project(tmp_path)
    old = repository.current_address(tmp_path)
    (tmp_path / "README.md").write_text(
        f"git clone {old}.git, {old}/issues, <{old}>. Not {old}-two, {old}.js\n"
    )
    return tmp_path


def set_url(url, root):
    repository.write(root, address=repository.checked_address(url))


def set_version(tag, root):
    repository.write(root, version=repository.checked_version(tag))


def contents(root) -> dict[str, bytes]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_every_place_gets_the_address_and_nothing_else_changes(project, capsys):
    before = contents(project)
    old = repository.current_address(project).encode()
    set_url(NEW, project)
    after, printed = contents(project), capsys.readouterr().out
    assert before.keys() == after.keys()
    for name in before.keys() - {"README.md"}:
        assert after[name] == before[name].replace(old, NEW.encode())
        assert after[name] != before[name]
        assert f"{name}: {NEW}, main\n" in printed


def test_the_address_is_what_each_reader_reads(project):
    set_url(NEW, project)
    config = yaml.safe_load((project / "_config.yml").read_text(encoding="utf-8"))
    citation = yaml.safe_load((project / "CITATION.cff").read_text(encoding="utf-8"))
    path = project / "chapters" / "03_chapter.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    setup = next(cell.source for cell in cells if cell.id == "set-up")
    assert config["repository"]["url"] == NEW
    assert citation["repository-code"] == NEW
    assert f'REPOSITORY = "{NEW}"\n' in setup
    assert setup == repository.setup_source(project)


def test_pages_keep_addresses_that_only_begin_alike(project):
    old = repository.current_address(project)
    set_url(NEW, project)
    assert (project / "README.md").read_text() == (
        f"git clone {NEW}.git, {NEW}/issues, <{NEW}>. Not {old}-two, {old}.js\n"
    )


def test_there_and_back_again(project):
    before = contents(project)
    old = repository.current_address(project)
    for address in (NEW, "https://github.com/a/b", old):
        set_url(address, project)
    assert contents(project) == before


def test_a_second_time_changes_nothing(project, capsys):
    set_url(NEW, project)
    before = contents(project)
    set_url(NEW + "/", project)
    assert contents(project) == before
    assert "Nothing to change" in capsys.readouterr().out


def test_a_chapter_with_another_address_is_mended(project):
    path = project / "chapters" / "03_chapter.ipynb"
    old = repository.current_address(project)
    good = path.read_text(encoding="utf-8")
    path.write_text(good.replace(old, "https://github.com/x/y"), encoding="utf-8")
    set_url(old, project)
    assert path.read_text(encoding="utf-8") == good


@pytest.mark.parametrize(
    "url",
    [
        "https://gitlab.com/some-one/a.course_2",
        "https://gitlab.com/a/group/in/groups/course",
        "https://gitlab.example.edu/you/name",
    ],
)
def test_gitlab_is_as_good(project, url):
    set_url(url, project)
    assert repository.current_address(project) == url
    assert repository.published_address(project, "A test") == url


def test_where_the_address_is_used_the_placeholder_is_refused(project):
    with pytest.raises(SystemExit, match="A test needs the address of your copy"):
        repository.published_address(project, "A test")


@pytest.mark.parametrize("ending", ["/", ".git"])
def test_the_endings_that_people_paste_are_dropped(project, ending):
    set_url(NEW + ending, project)
    assert repository.current_address(project) == NEW


@pytest.mark.parametrize(
    "url",
    [
        "",
        "you/name",
        "github.com/you/name",
        "http://github.com/you/name",
        "https://github.com/you",
        "https://github.com/you/name/tree/main",
        "https://example.org/you/name",
        'https://github.com/you/na"me',
        "https://github.com/you/name name",
        "https://github.com/you/.",
        "https://github.com/you/..",
        "https://github.com/you/../",
        "https://github.com/you/.git",
        "https://github.com/you/name.git.git",
        "https://github.com/you-/name",
        "https://github.com/-you/name",
        "https://gitlab.com/name",
        "https://example.org/gitlab/you/name",
        "https://gitlab.com//name",
        "https://gitlab.com/you/name.git.git",
    ],
)
def test_what_is_no_address_is_refused_and_nothing_changes(project, url):
    before = contents(project)
    with pytest.raises(SystemExit, match="is not the address of a GitHub or GitLab"):
        set_url(url, project)
    assert contents(project) == before


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"cells": 1}', '{"cells": [{"id": "set-up"}, 1]}']
)
def test_a_chapter_without_a_setup_cell_stops_it_before_anything_is_written(
    project, text
):
    path = project / "chapters" / "04_other.ipynb"
    path.write_text(text)
    before = contents(project)
    with pytest.raises(SystemExit, match="04_other.ipynb: no cell with the id set-up"):
        set_url(NEW, project)
    assert contents(project) == before


def test_a_configuration_without_an_address_is_named(project):
    (project / "_config.yml").write_text("title: A\nhtml:\n  url: b\n")
    with pytest.raises(SystemExit, match="_config.yml has no branch"):
        set_url(NEW, project)


def set_up_of(root) -> str:
    cells = nbformat.read(root / "chapters" / "03_chapter.ipynb", as_version=4).cells
    return next(cell.source for cell in cells if cell.id == "set-up")


def test_a_term_is_frozen_everywhere(project):
    """The set-up cell, the buttons (they follow _config.yml), links, the students'."""
    set_url(NEW, project)
    (project / "README.md").write_text(f"?repo={NEW}&branch=student&depth=1\n")
    set_version(TERM, project)
    config = yaml.safe_load((project / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"]["branch"] == TERM
    assert f'VERSION = "{TERM}"\n' in set_up_of(project)
    assert f'REPOSITORY = "{NEW}"\n' in set_up_of(project)
    assert lint.lint_notebook(project / "chapters" / "03_chapter.ipynb", project) == []
    text = (project / "README.md").read_text()
    assert text == f"?repo={NEW}&branch=student-{TERM}&depth=1\n"
    (student,) = release.release(project)
    assert f'VERSION = \\"student-{TERM}\\"' in student.read_text(encoding="utf-8")


def test_a_term_and_back_again(project):
    before = contents(project)
    for version in (TERM, "v1.0_2", "main"):
        set_version(version, project)
        assert repository.current_version(project) == version
    assert contents(project) == before


@pytest.mark.parametrize(
    "tag",
    ["", " ", "a b", "-b", "a..b", "a/b", "a.lock", "a.", 'a"', "a~1", "@{u}", "tërm"],
)
def test_what_is_no_version_is_refused_and_nothing_changes(project, tag):
    before = contents(project)
    with pytest.raises(SystemExit, match="cannot be a version: it is the name of a"):
        set_version(tag, project)
    assert contents(project) == before


def test_a_changed_set_up_cell_reaches_every_chapter(project):
    cell = project / "tools" / "setup_cell.py"
    cell.write_text(cell.read_text() + "print('more')\n")
    path = project / "chapters" / "03_chapter.ipynb"
    assert "make setup-cells" in lint.lint_notebook(path, project)[0]
    before = json.loads(path.read_text())
    repository.write(project)
    assert lint.lint_notebook(path, project) == []
    after = json.loads(path.read_text())
    changed = [a["id"] for a, b in zip(after["cells"], before["cells"]) if a != b]
    assert changed == ["set-up"]


def test_the_command_reads_what_make_hands_on(tmp_path):
    """From a place without packages: a fork runs it before anything is installed."""
    make_project(tmp_path)
    code = (
        "import sys, repository; from pathlib import Path;"
        "repository.main(sys.argv[1], Path(sys.argv[2]))"
    )
    for what, options in ("url", {"URL": NEW}), ("version", {"TAG": TERM}):
        command = [sys.executable, "-S", "-c", code, what, tmp_path]
        env = os.environ | options | {"PYTHONPATH": str(ROOT / "tools")}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert repository.current_address(tmp_path) == NEW
    assert repository.current_version(tmp_path) == TERM
