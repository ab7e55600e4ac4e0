# Each target makes .venv with the pinned packages when it is missing.
PYTHON = .venv/bin/python
SEEDS ?= 1 2 3 4

# nbval runs every cell of every chapter; serial, since the chapters use the
# cores themselves and one thread per process is fastest on small tensors.
NBVAL = OMP_NUM_THREADS=1 COURSE_PROGRESS=0 $(PYTHON) -m pytest -q --nbval-lax \
	--nbval-current-env --nbval-cell-timeout=180 chapters
# These need the built book, or a clone: they come last.
LATE = tests/test_book.py tests/test_search.py tests/test_colab.py

.DEFAULT_GOAL := help
.PHONY: help book test lab release bench repository constraints reseed clean course tests

help:
	@echo "make book        build the book; the last line is its address"
	@echo "make test        everything that must hold: lint, tests, chapters, book"
	@echo "make lab         open the chapters in JupyterLab"
	@echo "make release     write the students' notebooks, without solutions"
	@echo "make reseed      run the chapters with other seeds (SEEDS=\"$(SEEDS)\")"
	@echo "make bench       time train_many and the chapters"
	@echo "make repository  set the repository's address (URL=https://github.com/you/name)"
	@echo "make constraints write constraints.txt anew from what is installed"
	@echo "make clean       remove what was built (.venv stays)"

course:
	@tools/environment.sh course

tests:
	@tools/environment.sh tests

book: course
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
	$(call stage,built book and Colab,$(PYTHON) -m pytest -q $(LATE))
	@echo "make test: all stages passed"

lab: course
	@$(PYTHON) -m jupyterlab --LabApp.default_url=/lab/tree/chapters

release: course
	@$(PYTHON) tools/release.py

bench: course
	@$(PYTHON) tools/bench.py

repository:
	@python=$$(tools/environment.sh python) && "$$python" tools/repository.py "$$URL"

# Keeps the first line, a comment; drops local versions, such as torch's +cpu.
constraints: tests
	@$(PYTHON) -m pip freeze > .venv/frozen
	@{ head -n 1 constraints.txt; sed 's/+[^ ]*$$//' .venv/frozen; } > .venv/new
	@mv .venv/new constraints.txt

reseed: course
	@for seed in $(SEEDS); do \
		echo "== COURSE_SEED=$$seed"; COURSE_SEED=$$seed $(NBVAL) || exit 1; \
	done

clean:
	rm -rf _build _release .pytest_cache .ruff_cache .hypothesis
