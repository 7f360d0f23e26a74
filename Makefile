# Slipway: see `make help`.
SHELL := /bin/bash
.DEFAULT_GOAL := help

SLIPWAY := bin/slipway
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# Debian packages that the host needs, by what needs them
BUILD_HOST := runc mmdebstrap
RUN_HOST := qemu-system-x86 qemu-utils ovmf e2fsprogs
BOOT_HOST := $(RUN_HOST) cryptsetup-bin dosfstools erofs-utils gdisk lz4 openssl sbsigntool zstd
TEST_HOST := gcc libc6-dev runc mmdebstrap rpm dnf createrepo-c strace gdisk dosfstools e2fsprogs erofs-utils cryptsetup-bin qemu-system-x86 qemu-utils ovmf sbsigntool openssl opensc softhsm2

# programs that a machine may have from elsewhere
TEST_HOST += $(if $(shell command -v node),,nodejs) $(if $(shell command -v npm),,npm)

# an independent TUF client for the tests of internal/tufrepo, and where it is kept
TUF_JS := internal/tufrepo/testdata/tuf-js
TUF_JS_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/slipway-test/tuf-js

# install-missing: install what is missing of the packages in $(1), and say so
define install-missing
@missing=$$(for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
if [ -n "$$missing" ]; then \
  echo "installing with apt:" $$missing; \
  [ "$$(id -u)" = 0 ] || { echo "not root: run  apt-get install" $$missing >&2; exit 1; }; \
  log=$$(mktemp); \
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$missing; } >$$log 2>&1 || { cat $$log >&2; exit 1; }; \
  rm -f $$log; \
fi
endef

.PHONY: help tool image test kill-test lint boot-test power-cut-test repro-test bench docs run clean

help: ## show this text
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

tool: ## build bin/slipway
	go build -trimpath -o $(SLIPWAY) ./cmd/slipway

image: tool ## build Dinghy's default image from source
	$(call install-missing,$(BUILD_HOST))
	$(SLIPWAY) -C os build

test: ## run the tests
	$(call install-missing,$(TEST_HOST))
	@cmp -s $(TUF_JS)/package-lock.json $(TUF_JS_CACHE)/node_modules/lock || { \
	  mkdir -p $(TUF_JS_CACHE) && cp $(TUF_JS)/package*.json $(TUF_JS_CACHE)/ && \
	  (cd $(TUF_JS_CACHE) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) && cp $(TUF_JS)/package-lock.json $(TUF_JS_CACHE)/node_modules/lock; } || \
	  echo "tuf-js could not be installed: its test is skipped, or fails where CI=true" >&2
	NODE_PATH=$(TUF_JS_CACHE)/node_modules go test -timeout 40m ./...
	cd os/sources && go test ./...

kill-test: ## kill 200 builds at random times and check that the next ones are right
	$(call install-missing,$(TEST_HOST))
	go test ./internal/cli -count=1 -v -run 'TestKills|TestResume|TestConcurrentBuilds' -kills=200 -timeout 120m

# packages that os/ has copies of, since its module stands alone: see docs/decisions/0012
COPIED := update:update image/gpt:internal/gpt image/verity:internal/verity

lint: ## gofmt, vet, golangci-lint, shell syntax, copies that differ
	@bad=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$bad" ] || { echo "gofmt would change:" $$bad >&2; exit 1; }
	go run $(GOLANGCI_LINT) run ./...
	@for p in $(COPIED); do for f in os/sources/$${p#*:}/*.go; do cmp internal/$${p%:*}/$${f##*/} $$f || exit 1; done; done
	cd os/sources && go vet ./...
	for f in $$(git ls-files '*.sh' .ci/run internal/sdk/pack/mktoolchain) $$(git grep -lI '^#!/bin/bash' bench); do bash -n $$f || exit 1; done

E2E := go test -count=1 -timeout 80m -tags e2e ./e2e -slipway "$(abspath $(SLIPWAY))" -workspace "$(abspath os)"

boot-test: image ## boot images in QEMU: what runs in them, updates, tampering
	$(call install-missing,$(BOOT_HOST))
	$(E2E) -parallel 2 -cuts 3

power-cut-test: image ## cut the power at 25 points of an update, and note what boots then
	$(call install-missing,$(BOOT_HOST))
	$(E2E) -run TestPowerCut -v -cut-table "$(abspath docs/power-cuts.md)"

repro-test: image ## build every package and the image again from nothing and compare
	$(SLIPWAY) -C os verify --rebuild --all

bench: image ## run all benchmarks, an hour and a half or so; see bench/README.md
	for b in noop scale early-cutoff sandbox team assembly cold-image; do bench/$$b || exit 1; done

docs: tool ## write the generated pages of docs/
	$(SLIPWAY) docs --output docs

run: image ## boot the default image on this terminal
	$(call install-missing,$(RUN_HOST))
	$(SLIPWAY) -C os run

clean: ## remove bin/ and what builds left in os/build; caches stay
	rm -rf bin os/build
