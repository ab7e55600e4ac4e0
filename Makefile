# Each target makes .venv with the pinned packages when it is missing.
PYTHON = .venv/bin/python

# nbval runs every cell of every chapter; serial, since the chapters use the
# cores themselves and one thread per process is fastest on small tensors.
NBVAL = OMP_NUM_THREADS=1 COURSE_PROGRESS=0 $(PYTHON) -m pytest -q --nbval-lax \
	-p tests.nbval_chapter --nbval-current-env --nbval-cell-timeout=180 chapters
# These need what nbval recorded, the built book, or a clone: they come last.
LATE = tests/test_margins.py tests/test_book.py tests/test_weight.py \
	tests/test_search.py tests/test_slides.py tests/test_colab.py

.DEFAULT_GOAL := help
.PHONY: help book test lab release bench repository constraints reseed weekly scale worker \
	clean environment tests homework grade course nbgrader otter variants slides

help:
	@echo "make book        build the book; the last line is its address"
	@echo "                 (SOLUTIONS=no make book: without the solutions)"
	@echo "make test        everything that must hold: lint, tests, chapters, book"
	@echo "make lab         open the chapters in JupyterLab"
	@echo "make release     write the students' notebooks, without solutions"
	@echo "make homework    write a chapter's exercises to hand out (CHAPTERS=\"07 09\")"
	@echo "make grade       grade what came back (CHAPTER=07 FROM=downloads.zip)"
	@echo "make variants    homework with exercises of your own (SECRET=folder)"
	@echo "make course      a course for nbgrader (CHAPTERS=\"07 09\" COURSE=folder)"
	@echo "make nbgrader    install nbgrader beside the course, and try it"
	@echo "make otter       assignments for otter (CHAPTERS=\"07 09\")"
	@echo "make slides      write a deck of slides per chapter, from the book's run"
	@echo "make reseed      run the chapters with other seeds, for the claims' margins"
	@echo "                 (SEEDS=\"11 12\" CPU=\"native default\" CHAPTERS=\"04 07\")"
	@echo "make weekly      run the chapters with four fresh seeds; how many claims fail"
	@echo "make scale       make the long run of chapter 12: about an hour on two cores"
	@echo "                 (ONLY=shift DATA=fashion-mnist SCHEDULER=tcp://host:8786)"
	@echo "make worker      work for such a SCHEDULER, one process per core"
	@echo "make bench       time train_many and the chapters"
	@echo "make repository  set the repository's address (URL=https://github.com/you/name)"
	@echo "make constraints write constraints.txt anew from what is installed"
	@echo "make clean       remove what was built and run (.venv stays)"

environment:
	@tools/environment.sh course

tests:
	@tools/environment.sh tests

book: environment
	@$(PYTHON) tools/build.py

# $(call stage,NAME,COMMAND): run it; say which stage failed, and stop.
define stage
@echo "== $(1)"
@$(2) || { echo "make test: stopped, because this stage failed: $(1)" >&2; exit 1; }
endef

test: tests
	$(call stage,lint,$(PYTHON) tools/lint.py)
	$(call stage,unit tests,$(PYTHON) -m pytest -q tests $(LATE:%=--ignore=%))
	$(call stage,chapters (nbval),$(NBVAL))
	$(call stage,book build,$(PYTHON) tools/build.py)
	$(call stage,margins and built book,$(PYTHON) -m pytest -q $(LATE))
	@echo "make test: all stages passed"

lab: environment
	@$(PYTHON) -m jupyterlab --LabApp.default_url=/lab/tree/chapters

release: environment
	@$(PYTHON) tools/release.py

# It reads CHAPTERS and FETCH: see tools/homework.py.
homework: environment
	@$(PYTHON) tools/homework.py

# It reads CHAPTER, FROM, LIMIT, MEMORY, JOBS and SECRET: see tools/grade.py.
grade: environment
	@$(PYTHON) tools/grade.py

# It reads SECRET and CHAPTERS: see tools/variants.py.
variants: environment
	@$(PYTHON) tools/variants.py

# It reads CHAPTERS, COURSE, FROM and SECRET: see tools/course.py.
course: environment
	@$(PYTHON) tools/course.py

# In a folder of its own, with constraints of its own: the course needs neither.
nbgrader:
	@tools/environment.sh nbgrader
	@OMP_NUM_THREADS=1 .venv-nbgrader/bin/python -m pytest -q --noconftest \
		tests/test_nbgrader.py

# It reads CHAPTERS and SECRET: see tools/otter_export.py.
otter: environment
	@$(PYTHON) tools/otter_export.py

# It reads CHAPTERS; the slides show the run of the book, so the book comes first.
slides: book
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check \
		-r requirements-slides.txt -c constraints.txt
	@$(PYTHON) tools/slides.py

bench: environment
	@$(PYTHON) tools/bench.py

repository:
	@python=$$(tools/environment.sh python) && "$$python" tools/repository.py "$$URL"

# Keeps the first line, a comment; drops local versions, such as torch's +cpu.
constraints: tests
	@$(PYTHON) -m pip freeze > .venv/frozen
	@{ head -n 1 constraints.txt; sed 's/+[^ ]*$$//' .venv/frozen; } > .venv/new
	@mv .venv/new constraints.txt

# It reads SEEDS, CPU, CHAPTERS, JOBS, FRESH and KEEP: see tools/reseed.py.
reseed: environment
	@$(PYTHON) tools/reseed.py

weekly: environment
	@$(PYTHON) tools/reseed.py weekly

# What a Dask cluster or a download needs is installed when one is asked for.
EXTRA = $(PYTHON) -m pip install --quiet --disable-pip-version-check \
	-r requirements-scale.txt -c constraints.txt

# It reads ONLY, DATA, SCHEDULER, SEEDS, JOBS, FRESH and KEEP: see tools/scale.py.
scale: environment
	@$(if $(DATA)$(SCHEDULER),$(EXTRA))
	@OMP_NUM_THREADS=1 PYTHONPATH=. $(PYTHON) tools/scale.py

worker: environment
	@$(EXTRA)
	@OMP_NUM_THREADS=1 PYTHONPATH=.:tools $(PYTHON) -m distributed.cli.dask_worker \
		$(SCHEDULER) --nworkers -1 --nthreads 1

clean:
	rm -rf _build _release .pytest_cache .ruff_cache .hypothesis
