# Every target makes the virtual environment .venv first. Python 3.11+ and make are all that is needed.

PYTHON ?= python3
VENV := .venv
HELM_TOOLS := $(CURDIR)/deploy/helm/.tools
HELM := helm.sh/helm/v3/cmd/helm@v3.22.0
KUBECONFORM := github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0
KUBERNETES := k8s.io/kubernetes@v1.36.3
READY := $(VENV)/.tierstream-ready
RUN := $(VENV)/bin

# Tests and benchmarks start hundreds of processes: without compiled modules each would compile the same ones again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test check chaos outages fuzz bench bench-quick compose-test image-test helm-test contracts-test examples-test lock audit sbom clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## run the main job on the embedded stack and show everything that happens
	@$(RUN)/tierstream demo

test: $(READY) ## run the whole test suite on the embedded stack, four tests at a time (ARGS="..." goes to pytest; -n 0 runs one)
	@$(RUN)/python -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder --durations=10 $(ARGS)

check: $(READY) ## lint, types, layering and contracts
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy --strict schemas agents streams tests bench deploy
	$(RUN)/lint-imports --no-logo
	$(RUN)/python -m streams.cli.contracts --check
	$(RUN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml

chaos: $(READY) ## break everything for 25 minutes, compare with the oracles, keep the result in bench/results/chaos.json (ARGS="--seed N --brokers 3")
	@$(RUN)/python -m tests.faults.chaos $(ARGS)

outages: $(READY) ## PostgreSQL, Loops and Kafka away for a minute each: measure what a service notices, in 10 minutes (ARGS="--seconds 10")
	@$(RUN)/python -m tests.faults.outages --out bench/results/outages.json $(ARGS)

fuzz: $(READY) ## take 100,000 changed bodies through gateway, normalise and classify, one outcome each, in a minute or two (ARGS="--bodies N --seed N")
	@$(RUN)/python -m tests.fuzz.run $(ARGS)

bench: $(READY) ## measure tierstream beside its peers, its stages, growth and latency (ARGS="--parts jobs" runs a part)
	@$(RUN)/python -m bench $(ARGS)

bench-quick: $(READY) ## the comparison with the peers on fewer events, in under 3 minutes
	@$(RUN)/python -m bench --quick $(ARGS)

compose-test: $(READY) ## run docker-compose.yml on a real engine, break it, compare with the oracles; starts an engine where none answers (ARGS="--seed N")
	@$(RUN)/python -m deploy.rehearsal $(ARGS)

image-test: $(READY) ## build the image twice, compare, run it as any user, and stop it, on the engine of compose-test
	@$(RUN)/python -m deploy.rehearsal --image $(ARGS)

helm-test: $(READY) ## render the chart and let Kubernetes judge it; Go builds helm and the rest where they are missing
	@install() { command -v "$$1" >/dev/null || test -x "$(HELM_TOOLS)/$$1" || { needs_go && GOBIN="$(HELM_TOOLS)" go install "$$2"; }; } && \
	needs_go() { command -v go >/dev/null || { echo "helm-test builds its tools with Go 1.26 or newer, and there is no go; install it" >&2; exit 1; }; } && \
	mkdir -p "$(HELM_TOOLS)" && install helm $(HELM) && install kubeconform $(KUBECONFORM) && \
	{ test -d "$(HELM_TOOLS)/schemas" || { needs_go && \
		module=$$(go mod download -json $(KUBERNETES) | $(RUN)/python -c 'import json, sys; print(json.load(sys.stdin)["Dir"])') && \
		$(RUN)/python -m tests.kubernetes_schemas "$$module/api/openapi-spec/swagger.json" "$(HELM_TOOLS)/schemas"; }; } && \
	{ test "$(HELM_TOOLS)/validate" -nt deploy/helm/validate/main.go || { needs_go && cd deploy/helm/validate && go build -o "$(HELM_TOOLS)/validate" .; }; }
	@$(RUN)/python -m pytest -q tests/unit/test_helm*.py $(ARGS)

contracts-test: $(READY) ## judge what tierstream asyncapi prints by AsyncAPI's own parser, which npm installs where it is missing
	@test tests/asyncapi/node_modules/.package-lock.json -nt tests/asyncapi/package-lock.json || { \
		command -v npm >/dev/null || { echo "contracts-test needs node and npm, and there is no npm; install them" >&2; exit 1; }; \
		cd tests/asyncapi && npm ci --ignore-scripts --no-audit --no-fund; }
	@$(RUN)/python -m streams.cli.contracts --check
	@$(RUN)/python -m pytest -q tests/integration/test_asyncapi_parser.py tests/unit/streams/contracts tests/property/test_contracts.py $(ARGS)

examples-test: $(READY) ## build the example consumers in Java and Go, and run all of them against the embedded broker
	@for tool in mvn javac go; do command -v $$tool >/dev/null || { echo "examples-test needs mvn, javac and go, and there is no $$tool; install it" >&2; exit 1; }; done
	@cd examples/consumers/java && mvn --quiet --batch-mode package
	@cd examples/consumers/go && go vet . && go build -o tiers .
	@$(RUN)/python -m pytest -q tests/integration/test_example_consumer.py $(ARGS)

lock: $(READY) ## resolve the packages and Kafka's jars anew
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	$(RUN)/python -m venv "$$tools" && "$$tools/bin/pip" install --quiet uv && \
	compile() { "$$tools/bin/uv" pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
		--custom-compile-command "make lock" --output-file "$$@"; } && \
	compile requirements.lock --upgrade --all-extras pyproject.toml && \
	compile requirements.runtime.lock --constraint requirements.lock pyproject.toml && \
	echo hatchling | compile requirements.build.lock --constraint requirements.lock -
	@$(RUN)/python -m streams.embedded.kafka_jars

audit: $(READY) ## look for known vulnerabilities of the image's packages; says so where no data can be had
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	{ $(RUN)/python -m venv "$$tools" && "$$tools/bin/pip" install --quiet --disable-pip-version-check pip-audit || :; } && \
	$(RUN)/python -m tests.packages.audit --pip-audit "$$tools/bin/pip-audit"

sbom: $(READY) ## write what the image holds to sbom.cdx.json, as CycloneDX
	@$(RUN)/python -m tests.packages.sbom $(ARGS)

clean: ## remove the virtual environment and every cache of this directory
	rm -rf $(VENV) sbom.cdx.json .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	rm -rf deploy/helm/.tools deploy/rehearsal/.engine bench/.venvs bench/data bench/peers/kafka_streams/target
	rm -rf examples/consumers/java/target examples/consumers/go/tiers tests/asyncapi/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml requirements.lock
	@command -v "$(PYTHON)" >/dev/null || { echo "tierstream needs Python 3.11 or newer, and there is no $(PYTHON); say which to use: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" .ci/venv.py
