# JEPA Lab. Everything happens in .venv and _build; delete the two to start over.
PRESET ?= laptop
PORT ?= 8000
JOBS ?= 2
PY = .venv/bin/python
READY = .venv/.ready
# .venv holds all that is needed; what a shell sets for another Python would hide it.
unexport PYTHONHOME PYTHONPATH PYTHONOPTIMIZE PYTHONWARNINGS

.PHONY: help env book test serve clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile

book: $(READY) ## run what changed and build _build/html (PRESET=smoke for a quick look)
	@$(PY) -m jepa_lab data fetch
	@$(PY) -m jepa_lab book --preset $(PRESET) --jobs $(JOBS)

# The last line of a passing `make test` is pytest's own.
test: $(READY) ## every check: notebooks at smoke, the book without warnings, unit, property and browser tests
	@failed=0; \
	$(PY) -m jepa_lab data fetch || failed=1; \
	$(PY) -m jepa_lab.publish.browser || echo "no browser: its tests will be skipped (an error with CI=true)"; \
	$(PY) -m jepa_lab book --preset smoke --jobs $(JOBS) || failed=1; \
	$(PY) -m pytest -n $(JOBS) --dist loadfile || failed=1; \
	exit $$failed

serve: $(READY) ## open the built book in a browser (PORT=8000)
	@test -f _build/html/index.html || { echo "there is no book yet: run  make book"; exit 1; }
	@echo "http://localhost:$(PORT)/  (Ctrl-C ends)"
	@($(PY) -c "import time, webbrowser; time.sleep(1); webbrowser.open('http://localhost:$(PORT)/')" >/dev/null 2>&1 &)
	@exec $(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

clean: ## remove everything that was built (keeps .venv and the data cache)
	rm -rf _build

env: $(READY) ## set up .venv only

# The stamp comes last, so an interrupted installation is done again.
$(READY): requirements.txt pyproject.toml
	@.ci/environment
	@touch $(READY)
