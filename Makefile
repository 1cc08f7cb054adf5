# layervault's commands. `make` alone explains them: a line with `##` after a target's name is its help.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# A command line's `$HOME` in CMD is for the guest's shell, so it is taken unexpanded.
override export CMD := $(value CMD)
export GUEST_BARE GUEST_DISK GUEST_TPM GUEST_ENGINE GUEST_MEM GUEST_CPUS GUEST_ENV GUEST_OUT GUEST_FILES GUEST_TIMEOUT GUEST_UDEV GUEST_ACCEL \
  GUEST_APPEND GUEST_CONSOLE GUEST_DISK_SIZE

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Build

.PHONY: build
build: ## Build bin/layervault (static, without cgo)
	@CGO_ENABLED=0 go build -trimpath -o bin/layervault ./cmd/layervault

.PHONY: plugin plugin-create install uninstall
plugin: ## Build the managed plugin in dist/plugin (with docker, or else with mmdebstrap)
	@packaging/build-plugin

plugin-create: plugin ## docker plugin create layervault from dist/plugin
	@docker plugin create layervault dist/plugin

install: ## Install on this host: KEY=tpm|versatile, DRYRUN=1 only says what it would do
	@packaging/install.sh $(if $(DRYRUN),--dry-run) $(if $(KEY),--key $(KEY))

uninstall: ## Take the plugin off this host; /persist stays
	@packaging/uninstall.sh $(if $(DRYRUN),--dry-run)

.PHONY: cross
cross: ## Build for amd64, arm64 and arm (v7), without cgo
	@for arch in amd64 arm64 arm; do \
	  echo "linux/$$arch"; \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$$arch GOARM=7 go build -trimpath -o bin/cross/layervault-$$arch ./cmd/layervault; \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$$arch GOARM=7 go vet ./...; \
	done

.PHONY: clean
clean: ## Remove what was built here (the guest's cache stays: ~/.cache/layervault)
	@rm -rf bin dist

##@ Test

.PHONY: setup
setup: ## Install the Debian packages that building and testing need
	@tests/guest/setup

.PHONY: test
test: setup build plugin ## Unit tests here, the rest in guests (12 minutes, 40 emulated); SUITES='unit luks2' runs only these
	@tests/guest/run-suites $(SUITES)

.PHONY: test-long
test-long: setup build plugin ## What takes longer: power cuts, kills under load, every session with keys
	@tests/guest/run-suites --long

.PHONY: unit
unit: ## Vet, and run the unit tests here with the race detector; FLAGS are go test's
	@go vet ./...
	@go test -race $(FLAGS) ./...

.PHONY: lint
lint: setup ## gofmt, vet, staticcheck, golangci-lint (with the rule of the layers), shellcheck
	@tests/guest/lint

.PHONY: vuln
vuln: ## Look the dependencies up in Go's vulnerability database (needs its network service)
	@go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

##@ Guest

.PHONY: guest guest-shell
guest: build $(if $(GUEST_BARE),,plugin) ## Boot a virtual machine with dockerd on layervault and run CMD='...' in it (tests/guest/README.md)
	@tests/guest/run "$$CMD"

guest-shell: build $(if $(GUEST_BARE),,plugin) ## The same with a login
	@tests/guest/run --shell

##@ Show and measure

.PHONY: demo demo-persist bench
demo: ## Show it: containers on encrypted layers, and the search of the raw disk for what they wrote
	@tests/demo/demo

demo-persist: ## Show it: a device of EVE's older /persist layout, before and after layervault persist upgrade
	@tests/demo/persist

bench: build $(if $(BASE)$(filter upgrade,$(ONLY)),,plugin) ## Measure against plain overlay2, or with BASE=COMMIT against that commit (ONLY=apply,run,..., TURNS=n)
	@ONLY='$(ONLY)' BASE='$(BASE)' TURNS='$(TURNS)' tests/bench/bench
