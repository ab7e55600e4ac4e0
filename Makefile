# Every target is a task of tools/__main__.py, which says what it does; where
# there is no make: python -m tools NAME.
TASKS = help book test lab release homework grade variants course nbgrader otter \
	questions slides pdf reseed weekly alone colab scale worker bench repository version \
	setup-cells new-chapter tidy links audit constraints python clean environment tests

# Any Python starts it; one of the right version is looked for then. Each is
# tried: the shim of a version manager can be there and fail.
ANY = $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; \
	do $$python -c 'import subprocess' 2>/dev/null && echo $$python && break; done)

.DEFAULT_GOAL := help
.PHONY: $(TASKS)

$(TASKS):
	@$(or $(ANY),$(error No Python 3 runs here: install Python 3.11 to 3.14 \
		(python.org, pyenv, conda or your system's packages))) -m tools $@
