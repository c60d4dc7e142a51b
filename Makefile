# Two commands matter: `make reproduce` builds the book from nothing, `make test` checks everything.
# Both make .venv on first use. All paths are relative, so a clone may live in a path with spaces.

PYTHON ?= python3
RUN := .venv/bin/python -m
PROFILE ?= mini

# Every kernel and worker would compile all of its imports anew, 8 s of a chapter.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: reproduce test check lock clean

reproduce: .venv/.installed
	$(RUN) mosaic book --profile $(PROFILE)

test: .venv/.installed
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) pytest

# The quick part of `make test`: no notebook, no book.
check: .venv/.installed
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) pytest -m "not book and not slow"

.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python tools/install.py
	touch .venv/.installed

# Writes requirements.lock anew from what is installed in .venv.
lock:
	$(RUN) pip list --format=freeze --exclude mosaic-companion --exclude pip --exclude uv > .venv/freeze.txt
	(grep '^#' requirements.lock; sed 's/+.*//' .venv/freeze.txt | grep '^torch=='; \
	  sed 's/+.*//' .venv/freeze.txt | grep -v '^torch==') > .venv/new.lock
	mv .venv/new.lock requirements.lock

clean:
	rm -rf _build
