"""`make repository` writes one address everywhere, and changes nothing else."""

import nbformat
import pytest
import yaml

import repository
from tests.notebooks import make_project

NEW = "https://github.com/some-one/a.course_2"


@pytest.fixture
def project(tmp_path):
    make_project(tmp_path)
    old = repository.current_address(tmp_path)
    (tmp_path / "README.md").write_text(
        f"git clone {old}.git, {old}/issues, <{old}>. Not {old}-two, {old}.js\n"
    )
    return tmp_path


def contents(root) -> dict[str, bytes]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_every_place_gets_the_address_and_nothing_else_changes(project, capsys):
    before = contents(project)
    old = repository.current_address(project).encode()
    repository.main(NEW, project)
    after, printed = contents(project), capsys.readouterr().out
    assert before.keys() == after.keys()
    for name in before.keys() - {"README.md"}:
        assert after[name] == before[name].replace(old, NEW.encode())
        assert after[name] != before[name]
        assert f"{name}: {NEW}\n" in printed


def test_the_address_is_what_each_reader_reads(project):
    repository.main(NEW, project)
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
    repository.main(NEW, project)
    assert (project / "README.md").read_text() == (
        f"git clone {NEW}.git, {NEW}/issues, <{NEW}>. Not {old}-two, {old}.js\n"
    )


def test_there_and_back_again(project):
    before = contents(project)
    old = repository.current_address(project)
    for address in (NEW, "https://github.com/a/b", old):
        repository.main(address, project)
    assert contents(project) == before


def test_a_second_time_changes_nothing(project, capsys):
    repository.main(NEW, project)
    before = contents(project)
    repository.main(NEW + "/", project)
    assert contents(project) == before
    assert "Nothing to change" in capsys.readouterr().out


def test_a_chapter_with_another_address_is_mended(project):
    path = project / "chapters" / "03_chapter.ipynb"
    old = repository.current_address(project)
    good = path.read_text(encoding="utf-8")
    path.write_text(good.replace(old, "https://github.com/x/y"), encoding="utf-8")
    repository.main(old, project)
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
    repository.main(url, project)
    assert repository.current_address(project) == url
    assert repository.published_address(project, "A test") == url


def test_where_the_address_is_used_the_placeholder_is_refused(project):
    with pytest.raises(SystemExit, match="A test needs the address of your copy"):
        repository.published_address(project, "A test")


@pytest.mark.parametrize("ending", ["/", ".git"])
def test_the_endings_that_people_paste_are_dropped(project, ending):
    repository.main(NEW + ending, project)
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
        repository.main(url, project)
    assert contents(project) == before


def test_a_chapter_without_a_setup_cell_stops_it_before_anything_is_written(project):
    path = project / "chapters" / "04_other.ipynb"
    path.write_text("{}")
    before = contents(project)
    with pytest.raises(SystemExit, match="04_other.ipynb: found no address"):
        repository.main(NEW, project)
    assert contents(project) == before


def test_a_configuration_without_an_address_is_named(project):
    (project / "_config.yml").write_text("title: A\nhtml:\n  url: b\n")
    with pytest.raises(SystemExit, match="_config.yml has no address"):
        repository.main(NEW, project)
