"""`python -m tools` and make are one; .venv is made where it is missing or stale."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import __main__ as tools
from tools import environment
from tools.__main__ import HELP, LATE, PROGRAMS, SPECIAL, constraints

ROOT = Path(__file__).resolve().parent.parent
THIS = sys.version_info[:2]
# A program of one's own that says it is some Python.
FAKE = """#!/bin/sh
case "$*" in *{missing}*) exit 1;; esac
echo 3 {minor} {path}
"""


@pytest.fixture
def pythons(tmp_path, monkeypatch):
    """Adds to a PATH that has nothing else: pythons(folder, name, minor)."""
    folders = []

    def add(folder, name, minor, missing="nothing", says=""):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(says or FAKE.format(minor=minor, path=path, missing=missing))
        path.chmod(0o755)
        folders.append(str(path.parent))
        monkeypatch.setenv("PATH", os.pathsep.join(folders))
        return str(path)

    monkeypatch.delenv("COURSE_PYTHON", raising=False)
    monkeypatch.setenv("PATH", "")
    return add


def test_make_and_tools_know_the_same_tasks():
    tasks = {*PROGRAMS, *SPECIAL}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    assert set(re.search(r"^TASKS = (.*)$", makefile, re.MULTILINE)[1].split()) == tasks
    told = set(re.findall(r"^([a-z-]+) ", HELP, re.MULTILINE))
    assert told == tasks - {"help", "environment", "tests"}


def test_every_program_is_there():
    for _, command in PROGRAMS.values():
        first = command.split()[0]
        assert first == "-m" or (ROOT / first).is_file()


@pytest.mark.parametrize("words", [["nonsense"], ["book", "test"], ["../book"]])
def test_what_is_no_task_is_refused_with_those_there_are(words):
    command = [sys.executable, "-m", "tools", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("One task at a time") and "weekly" in done.stderr


def test_options_are_words_or_variables(tmp_path):
    """`make homework CHAPTERS=…` puts them into the environment; so do we."""
    for options, env in (["URL=ftp://x"], {}), ([], {"URL": "ftp://x"}):
        command = [sys.executable, "-m", "tools", "repository", *options]
        env = os.environ | {"COURSE_PYTHON": sys.executable} | env
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True)
        assert b"'ftp://x' is not the address of a GitHub or GitLab" in done.stderr
        assert done.returncode == 1


def test_tests_that_passed_are_run_again_when_a_file_changes(tmp_path, monkeypatch):
    ran, result = [], 0

    def fake_run(python, command, **env):
        ran.append(" ".join(command) if isinstance(command, list) else command)
        return result

    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr(tools, "ROOT", tmp_path)
    monkeypatch.setattr(tools, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(tools, "PASSED", tmp_path / "_build" / "passed.json")
    monkeypatch.setattr(tools, "ensure", lambda kind: "python")
    monkeypatch.setattr(tools, "run", fake_run)
    monkeypatch.delenv("FRESH", raising=False)
    (tmp_path / ".gitignore").write_text(".venv\n_build\n")
    (tmp_path / ".venv").mkdir()
    for name in ("pyvenv.cfg", "installed"):
        (tmp_path / ".venv" / name).touch()

    def stages():
        ran.clear()
        tools.test()
        return len(ran)

    assert [stages(), stages()] == [5, 3]  # lint, chapters and book each time
    (tmp_path / "new.py").touch()
    assert [stages(), stages()] == [5, 3]
    (tmp_path / "new.py").write_text("1\n")
    result = 1
    with pytest.raises(SystemExit, match="this stage failed: lint"):
        stages()
    result = 0
    assert stages() == 5
    monkeypatch.setenv("CI", "true" if os.environ.get("CI") is None else "")
    assert stages() == 5
    monkeypatch.setenv("FRESH", "1")
    assert stages() == 5


def test_the_newest_suitable_python_is_taken(pythons):
    pythons("a", "python3", 11)
    pythons("a", "python3.12", 12, missing="ensurepip")  # Debian without its package
    pythons("b", "python3.15", 15)
    pythons("b", "python3.14", 14, says="#!/bin/sh\nexit 127\n")  # a manager's shim
    newest = pythons("b", "python3.13", 13)
    pythons("c", "python3.13", 13)
    assert environment.find_python() == newest


def test_a_python_can_be_named(pythons, monkeypatch):
    pythons("a", "python3.13", 13)
    monkeypatch.setenv("COURSE_PYTHON", pythons("b", "mine", 11))
    assert environment.find_python().endswith("mine")
    monkeypatch.setenv("COURSE_PYTHON", pythons("b", "old", 9))
    with pytest.raises(SystemExit, match=r"COURSE_PYTHON=.*old is Python 3\.9: inst"):
        environment.find_python()
    monkeypatch.setenv("COURSE_PYTHON", "python3.99")
    with pytest.raises(SystemExit, match="COURSE_PYTHON=python3.99 does not run: "):
        environment.find_python()


def test_without_a_suitable_python_it_says_what_it_needs(pythons):
    with pytest.raises(SystemExit, match="3.11 to 3.14, and found no Python 3: inst"):
        environment.find_python()
    pythons("a", "python3", 10)
    with pytest.raises(SystemExit, match="3.11 to 3.14, and found Python 3.10: insta"):
        environment.find_python()
    with pytest.raises(SystemExit, match="for Python 3.13, and found Python 3.10"):
        environment.find_python([(3, 13)])
    pythons("b", "python3", 12, missing="ensurepip")
    with pytest.raises(SystemExit, match="apt-get install python3.12-venv"):
        environment.find_python()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project that needs no package, so that nothing is downloaded."""
    for name in environment.PINS:
        (tmp_path / name).touch()
    place, kinds = tmp_path / ".venv", environment.KINDS
    kinds = {name: (place, *kinds[name][1:]) for name in ("course", "tests")}
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", place)
    monkeypatch.setattr(environment, "KINDS", kinds)
    monkeypatch.setenv("COURSE_PYTHON", sys.executable)
    return tmp_path


@pytest.fixture
def installed(monkeypatch):
    """What pip is asked to install: it is not run, since that takes long."""
    words = []
    monkeypatch.setattr(environment, "pip_install", lambda _, *new: words.append(new))
    return words


def test_an_environment_is_made_once_and_mended(project, installed):
    python = environment.ensure("tests")
    assert environment.asked(python)[0] == THIS
    assert installed == [("-r", "requirements-dev.txt", "-c", "constraints.txt")]
    inside = project / ".venv" / "mine"
    inside.touch()

    environment.ensure("tests")
    environment.ensure("course")  # what serves the tests serves the course
    assert len(installed) == 1

    (project / "constraints.txt").write_text("a==1\n")
    environment.ensure("course")
    environment.ensure("tests")  # the other way round it does not
    assert len(installed) == 3 and inside.exists()

    environment.unfinished(project / ".venv").touch()  # it was interrupted
    environment.ensure("course")
    assert len(installed) == 4 and not inside.exists()
    assert not environment.unfinished(project / ".venv").exists()


def test_what_pip_could_not_finish_is_not_trusted(project, monkeypatch):
    def fail(*words):
        sys.exit("The packages could not be installed")

    monkeypatch.setattr(environment, "make", lambda venv, _: venv.mkdir())
    monkeypatch.setattr(environment, "pip_install", fail)
    with pytest.raises(SystemExit):
        environment.ensure("course")
    assert environment.unfinished(project / ".venv").exists()
    assert not (project / ".venv" / "installed").exists()


def test_what_pip_says_is_explained(project, monkeypatch):
    monkeypatch.setattr(environment, "program", lambda venv: sys.executable)
    with pytest.raises(SystemExit, match="could not be installed .pip says why above"):
        environment.pip_install(project, "--no-index", "./nowhere")


def test_tests_need_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="The tests need git"):
        environment.ensure("tests")


def test_an_old_python_can_start_it(tmp_path):
    """It must find a newer one, so it may not use what is newer than 3.8."""
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=E9,F"]
    files = [ROOT / "tools" / name for name in ("__main__.py", "environment.py")]
    command = [*ruff, "--target-version=py38", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    copy = tmp_path / "bad.py"
    copy.write_text("match 1:\n    case 1:\n        pass\n")
    assert subprocess.run([*command, copy], capture_output=True).returncode


def test_constraints_are_what_is_installed(project, installed, monkeypatch):
    """Without what a build for GPUs brings, and without local versions.

    A raised pin contradicts constraints.txt until it is written anew: nothing
    may be installed with it before, also where there is no environment yet.
    """
    import tools.__main__ as tasks

    (project / "constraints.txt").write_text("# A remark.\nold==1\n")
    monkeypatch.setattr(tasks, "ROOT", project)
    monkeypatch.setattr(tasks, "VENV", project / ".venv")
    frozen = "a==2\nnvidia-cublas==13\ntorch==2.13.0+cpu\ntriton==3.6\n"
    run = subprocess.run

    def freeze(command, **options):
        if command[-1] != "freeze":
            return run(command, **options)
        assert Path(command[0]).is_file()
        return subprocess.CompletedProcess(command, 0, stdout=frozen)

    monkeypatch.setattr(subprocess, "run", freeze)
    constraints()
    text = (project / "constraints.txt").read_text()
    assert text == "# A remark.\na==2\ntorch==2.13.0\n"
    resolved, stamped = installed
    assert "requirements-dev.txt" in resolved and "-c" not in resolved
    assert "requirements-audit.txt" in resolved  # its pin is looked for there, too
    assert "-c" in stamped and environment.works(project / ".venv", [THIS])


def test_the_colab_file_has_versions_and_only_those():
    text = (ROOT / "requirements-colab.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines and all(re.fullmatch(r"[a-z-]+==[\d.]+", line) for line in lines)


def test_what_needs_the_built_book_is_tested_behind_it():
    """A fresh clone has no book while the unit tests run."""
    book = r"^from tests\.browser import .*\bserved\b|^def test_\w+\((.*, )?address[,)]"
    book += r"|\bHTML / "
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if re.search(book, path.read_text(encoding="utf8"), re.MULTILINE):
            assert f"tests/{path.name}" in LATE, path.name


def test_what_a_file_or_a_page_shares_is_made_in_one_process(tmp_path):
    """Two processes that print the same PDF at once read it for ever."""
    noted = 'def test_it(page):\n    print(f"{page} in {os.getpid()}")\n'
    for name in ("test_one.py", "test_two.py", "test_book.py"):
        pages = ["a.html", "b.html"] if name == "test_book.py" else [name] * 8
        each = f'@pytest.mark.parametrize("page", {pages})\n'
        again = each + noted + each + noted.replace("test_it", "test_more")
        (tmp_path / name).write_text(f"import os\nimport pytest\n{again}")
    command = [sys.executable, "-m", "pytest", "-rP", "-n", "2", "-p", "tests.conftest"]
    command += ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tmp_path]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, tmp_path], cwd=ROOT, env=env, capture_output=True, text=True
    )
    where = {}
    for page, pid in re.findall(r"^(\S+) in (\d+)$", done.stdout, re.MULTILINE):
        where.setdefault(page, set()).add(pid)
    assert {page: len(pids) for page, pids in where.items()} == dict.fromkeys(
        ["test_one.py", "test_two.py", "a.html", "b.html"], 1
    )
    assert len(set.union(*where.values())) == 2
