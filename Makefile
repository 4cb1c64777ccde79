SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# each file of tests in one process; one more process than cores, since many tests wait for a server, but at most four
ON_ALL_CORES := -n $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 4 ? cores + 1 : 4))) --dist loadfile
# else each of many processes would compile what it imports anew
unexport PYTHONDONTWRITEBYTECODE
# what a caller of make may say of images
export ENGINE BASE TAG SOURCE
export DO_NOT_TRACK := true
export BENTOML_DO_NOT_TRACK := True

.PHONY: help install demo test test-long test-fast e2e-monitoring install-kubernetes e2e-kubernetes dashboards check lock images image model-ci bench-fleet bench-experiments bench-canary bench-gate bench-drift bench-monitoring bench-serving bench-serving-overload bench-features clean

help:  ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s:

install: $(VENV)/.installed  ## the environment, from requirements.lock, hashes checked

$(VENV)/.installed: requirements.lock deploy/bootstrap.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r deploy/bootstrap.lock
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: install  ## four months of real flights: training, canary, a bad release, drift, rollback (EXIT=1 stops at the end)
	$(BIN)/mlops demo $(if $(EXIT),--no-stay,--stay)

test: install  ## the tests, with real servers, on as many as four cores
	$(BIN)/python -m pytest $(ON_ALL_CORES) -m "not long and not e2e"

test-long: install  ## the rest: simulations, Ray, an action killed at each of its steps, and the whole stack: a short demo, the death of each of its processes
	$(BIN)/python -m pytest $(ON_ALL_CORES) -m "long and not e2e"
	$(BIN)/python -m pytest -m e2e

test-fast: install  ## the tests that start no server
	$(BIN)/python -m pytest $(ON_ALL_CORES) -m "not long" tests/core tests/assets tests/components

e2e-monitoring: install  ## Prometheus, Alertmanager and a loopback PagerDuty: errors, an alert, a page, a rollback, each with its time
	bash deploy/monitoring_tools.sh
	$(BIN)/python -m pytest -s tests/e2e/test_monitoring.py

install-kubernetes:  ## gateway, access, stores and, as asked for, MLflow and Dagster on the cluster of KUBECONFIG (SERVING_IMAGE=...; deploy/kubernetes/install.sh says what else)
	bash deploy/kubernetes/install.sh

e2e-kubernetes: install  ## the data plane, then the whole platform, on the cluster of KUBECONFIG, under load: releases and faults, each with its cost (SERVING_IMAGE=... and others)
	@for name in KUBECONFIG {SERVING,PLATFORM,ENVOY,SEAWEEDFS,REDIS,POSTGRES}_IMAGE; do \
		[ -n "$${!name:-}" ] || { echo "error: $$name is not set: docs/guides/kubernetes.md says which images it takes, tests/e2e/images.sh builds four" >&2; exit 2; }; \
	done
	$(BIN)/python -m pytest -s tests/e2e/test_kubernetes.py tests/adapters/test_kubernetes.py tests/e2e/test_kubernetes_access.py
	$(BIN)/python -m pytest -s tests/e2e/test_kubernetes_platform.py

dashboards: install  ## deploy/grafana/dashboards anew from mlops_assets/dashboards.py
	$(BIN)/python -m mlops_assets.dashboards

check: install  ## ruff, mypy, layers, definitions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/dg check yaml
	$(BIN)/dg check defs

lock: install  ## requirements.lock anew from pyproject.toml, and the locks of a Bento and of the images with its versions
	$(BIN)/uv pip compile --quiet --extra dev --extra ray --generate-hashes --no-emit-index-url --no-header --python-version 3.11 pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements.lock deploy/serving.in -o deploy/serving.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements.lock deploy/docker/serving.in -o deploy/docker/serving.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements.lock pyproject.toml -o deploy/docker/platform.lock
	$(BIN)/python deploy/bootstrap_lock.py

images: install  ## the images mlops-serving and mlops-platform (ENGINE=docker|podman|buildah, BASE=python:3.11-slim@sha256:..., TAG=...)
	$(BIN)/python -m deploy.docker.build images

image: install  ## one release baked into the serving image: make image MODEL=flight-delay RELEASE=v12 makes models/flight-delay:v12
	@test -n "$(MODEL)" -a -n "$(RELEASE)" || { echo "error: got MODEL='$(MODEL)' RELEASE='$(RELEASE)', expected both, e.g. MODEL=flight-delay RELEASE=v12"; exit 2; }
	$(BIN)/python -m deploy.docker.build release "$(MODEL)" "$(RELEASE)"

model-ci: install  ## from a commit to a staged deployment: MODEL=flight-delay, by default each that the change touches (AGAINST=main, GATE=improve, KEEP=1)
	$(BIN)/python -m mlops_assets.model_ci $(MODEL) $(if $(AGAINST),--against $(AGAINST)) $(if $(GATE),--gate $(GATE)) $(if $(KEEP),--keep)

bench-fleet: install  ## 1,000 models in one code location
	$(BIN)/python -m bench.fleet

bench-experiments: install  ## error rates and coverage of the statistics of experiments
	$(BIN)/python -m bench.experiments

bench-canary: install  ## 10,000 simulated rollouts a scenario: ours beside the rules of Kayenta, Flagger and Argo Rollouts
	$(BIN)/python -m bench.canary

bench-gate: install  ## how often a gate is wrong: false promotions, coverage of intervals, looks at one holdout
	$(BIN)/python -m bench.gate

bench-drift: install  ## drift of Parquet files beside Evidently and DuckDB, and false alarms by policy
	$(BIN)/python -m bench.drift

bench-monitoring: install  ## a day of 10M answers in bounded memory, 1,000 models in one hourly run, what real flights alarm at
	$(BIN)/python -m bench.monitoring

bench-features: install  ## the point-in-time join beside bare DuckDB and Feast's own store; the online read beside bare Redis and Feast's
	$(BIN)/python -m bench.features
	$(BIN)/python -m bench.online

bench-serving: install  ## a release beside bare ASGI, BentoML's @api, MLflow, MLServer and KServe: requests/s, latency, memory
	bash deploy/bench_tools.sh
	$(BIN)/python -m bench.serving

bench-serving-overload: install  ## a release under twice the load it bears; SOAK=3600 for an hour of a steady one instead
	$(BIN)/python -m bench.serving_overload $(if $(SOAK),--soak $(SOAK)) $(if $(SECONDS_OF_LOAD),--seconds $(SECONDS_OF_LOAD))

clean:  ## the environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
