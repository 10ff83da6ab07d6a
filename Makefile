# make demo        set everything up and watch the whole journey
# make test        set everything up, check and test everything
# make test-slow   the tests that take minutes
# make bench       every claim about speed, printed
# make lock        resolve the dependencies again (for maintainers)
# make clean       remove what these made
#
# TOUCHSTONE_GPU=1 takes onnxruntime-gpu in place of onnxruntime.

PROFILE = $(if $(TOUCHSTONE_GPU),gpu,cpu)
BIN = .venv/bin
SILENCE = ORT_DISABLE_TELEMETRY=1 MLFLOW_DISABLE_TELEMETRY=true BENTOML_DO_NOT_TRACK=True DO_NOT_TRACK=1

.PHONY: demo test check test-slow bench lock clean install

install:
	@requirements/install.sh $(PROFILE)

demo: install
	@$(SILENCE) $(BIN)/python -m demo

# Two processes, and a file of tests stays in one: they wait for servers half of their time.
test: check
	@$(SILENCE) $(BIN)/python -m pytest -n 2 --dist loadfile

check:
	@requirements/install.sh dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test-slow:
	@requirements/install.sh dev
	@$(SILENCE) $(BIN)/python -m pytest -m slow

bench:
	@requirements/install.sh dev
	@missed=; for name in binary_coverage cohort comparators coverage detection_coverage families gate inference \
		ladder log multiclass_coverage parts pilot regression_coverage robustness run sandbox \
		segmentation_coverage time_to_event_coverage verify versions; do echo "== bench.$$name"; \
		$(SILENCE) $(BIN)/python -m bench.$$name || missed="$$missed $$name"; done; \
		[ -z "$$missed" ] || { echo "missed:$$missed" >&2; exit 1; }

COMPILE = $(BIN)/uv --quiet pip compile --generate-hashes --no-emit-index-url --no-emit-find-links \
	--no-header --no-annotate --universal --python-version 3.11

lock: $(BIN)/uv
	$(COMPILE) --extra demo pyproject.toml -o requirements/cpu.lock
	$(COMPILE) --extra demo --extra dev -c requirements/cpu.lock pyproject.toml -o requirements/dev.lock
	$(COMPILE) --extra demo-gpu -c requirements/cpu.lock pyproject.toml -o requirements/gpu.lock

$(BIN)/uv:
	@requirements/install.sh $(PROFILE)

clean:
	@# As root PostgreSQL's data may lie elsewhere, where its account can reach it.
	@for place in .touchstone-demo/facility/postgres/data-is-in; do \
		if [ -f $$place ]; then rm -rf "$$(cat $$place)"; fi; done
	rm -rf .venv tests/oidc/node_modules .touchstone-demo .install.lock .mypy_cache .ruff_cache .pytest_cache
