"""What nbgrader 0.9.6 needs to know for the homework of this course.

`make course` puts this file into the course's folder. Each setting says what
happens without it.
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MADE = json.loads((HERE / "course.json").read_text(encoding="utf-8"))
TOOLS = Path(MADE["clone"]) / "tools"
if not (TOOLS / "nbgrader_plugins.py").is_file():
    sys.exit(
        f"{HERE / 'course.json'} says that the course's repository is in "
        f"{MADE['clone']}, and it is not there: run `make course COURSE={HERE}` "
        "where it is now."
    )
sys.path.insert(0, str(TOOLS))
os.environ["SECRET"] = MADE["secret"]
# nbgrader starts `alembic` by its name: FileNotFoundError where the virtual
# environment is not activated.
os.environ["PATH"] = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
)

import nbgrader_plugins as course  # noqa: E402

c = get_config()  # noqa: F821
c.CourseDirectory.root = str(HERE)

# The solutions must not be in what is handed out. A notebook that has some is
# refused: nbgrader itself would release a chapter as it is.
c.GenerateAssignment.preprocessors = course.preprocessors_of("GenerateAssignment")
# Stubs stay as they are: each would become `raise NotImplementedError()`.
c.ClearSolutions.enabled = False

# Answers are moved into a clean copy of the homework, wherever they are in what
# was handed in. Otherwise a cell that is there twice stops the class, and an
# answer in a new cell, or without its metadata, is 0.
c.Autograde.sanitize_preprocessors = course.preprocessors_of("sanitize")
# They run as `make grade` runs them: in a sandbox, with limits of time and
# memory, with partial credit. In a kernel, an answer can replace its check, one
# that ends Python takes all others with it, and what it prints to stderr is 0.
c.Autograde.autograde_preprocessors = course.preprocessors_of("autograde")
c.Exporter.exclude_input_prompt = True

# Names as Canvas and Moodle write them, for `nbgrader zip_collect`. The default
# is none. `make course FROM=downloads.zip` knows more of them.
c.FileNameCollectorPlugin.named_regexp = course.NAMES

# A total only where there is a mark for everything: the usual one counts what
# nobody has marked yet as 0.
c.ExportApp.plugin_class = course.Marks
