"""The workflows are valid, may do no more than they need, and are pinned."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import environment
from repository import student_branch
from tools.__main__ import PROGRAMS, SPECIAL

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
# The jobs that may write, and what: all others may only read.
MAY_WRITE = {
    "publish": {"deploy": {"pages": "write", "id-token": "write"}},
    "student": {"release": {"contents": "write"}},
}

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def check_schema(schema: str, *paths: Path) -> None:
    """Raise unless the files follow a schema that check-jsonschema carries."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    done = subprocess.run([*command, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflows_are_there():
    assert [path.stem for path in WORKFLOWS] == ["ci", "publish", "student", "weekly"]


def test_workflows_follow_the_schema():
    check_schema("vendor.github-workflows", *WORKFLOWS)


def test_every_job_has_a_time_limit():
    check_schema("custom.github-workflows-require-timeout", *WORKFLOWS)


def test_the_citation_follows_the_schema():
    check_schema("vendor.citation-file-format", ROOT / "CITATION.cff")


@each_workflow
def test_actions_are_pinned_by_commit(path):
    """A tag can be moved to other code; a commit cannot."""
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses:\s*(.+)", text)
    assert used
    for action in used:
        assert PINNED.fullmatch(action), action


@each_workflow
def test_only_what_publishes_may_write(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    granted = {
        name: job["permissions"]
        for name, job in workflow["jobs"].items()
        if "permissions" in job
    }
    assert granted == MAY_WRITE.get(path.stem, {})


@each_workflow
def test_the_checkout_leaves_no_credentials(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    for step in steps:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@each_workflow
def test_every_command_runs_on_any_machine(path):
    """A command is a script of ours or a task that make knows, as it stands."""
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    for step in steps:
        if "run" in step:
            program, *arguments = step["run"].split()
            assert "env" not in step
            assert program == "make" or (ROOT / program).is_file()
            assert program != "make" or set(arguments) <= {*PROGRAMS, *SPECIAL}


@each_workflow
def test_no_workflow_downloads_what_only_gpus_need(path):
    """And each says which Python: the newest on the PATH may be the machine's own."""
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["env"]["PIP_EXTRA_INDEX_URL"].endswith("/whl/cpu")
    for job in workflow["jobs"].values():
        python = {**workflow["env"], **job.get("env", {})}["COURSE_PYTHON"]
        for step in job["steps"]:
            if "setup-python" in step.get("uses", ""):
                assert f"python{step['with']['python-version']}" == python


def test_a_terms_students_get_the_branch_that_their_notebooks_fetch():
    text = (ROOT / ".github" / "workflows" / "student.yml").read_text(encoding="utf-8")
    others = re.search(r"'main' && '(\w+)' \|\| format\('(.+)', .*ref_name\)", text)
    assert student_branch("main") == others[1]
    assert student_branch("term-2027a") == others[2].format("term-2027a")


def test_binder_has_the_pins_and_a_python_of_ours():
    """Binder's own choice, Python 3.10, is too old for the pins."""
    pins = (ROOT / "requirements.txt").read_text().splitlines()
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith(("#", "--"))]
    assert packages and set(packages) <= set(pins)
    used = {"torch", "numpy", "scipy", "matplotlib", "joblib", "cloudpickle"}
    assert {line.partition("==")[0] for line in packages} == used
    runtime = (ROOT / "binder" / "runtime.txt").read_text().strip()
    assert runtime in {f"python-3.{minor}" for _, minor in environment.SUPPORTED}


def test_ci_ignores_an_exported_cdpath(tmp_path):
    """It would send a relative `cd` elsewhere, and print where."""
    project, other, fakes = tmp_path / "course", tmp_path / "other", tmp_path / "bin"
    for root in (project, other):
        (root / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", project / ".ci" / "run")
    fakes.mkdir()
    # make says where it runs. The real apt-get must not run where this test fails.
    for name in ("git", "make", "chromium", "python3", "apt-get", "sudo"):
        says = "pwd" if name == "make" else "exit 0"
        (fakes / name).write_text(f"#!/bin/sh\n{says}\n")
        (fakes / name).chmod(0o755)
    paths = {"PATH": f"{fakes}:{os.environ['PATH']}", "CDPATH": str(other)}
    done = subprocess.run(
        ["bash", ".ci/run"],
        cwd=project,
        env=os.environ | paths,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{project}\n", done.stderr
