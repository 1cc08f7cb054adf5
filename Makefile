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

##@ Guest

.PHONY: guest guest-shell
guest: build $(if $(GUEST_BARE),,plugin) ## Boot a virtual machine with dockerd on layervault and run CMD='...' in it (tests/guest/README.md)
	@tests/guest/run "$$CMD"

guest-shell: build $(if $(GUEST_BARE),,plugin) ## The same with a login
	@tests/guest/run --shell

##@ Show and measure

.PHONY: demo bench
demo: ## Show it: containers on encrypted layers, and the search of the raw disk for what they wrote
	@tests/demo/demo

bench: build plugin ## Measure against plain overlay2, table and docs/benchmarks/DATE.json (ONLY=apply,run,... measures a part)
	@ONLY='$(ONLY)' tests/bench/bench
