# `make help` lists the targets. Nothing here depends on what happens to be
# installed: tools come from go.mod's tool lines and internal/tools/go.mod.
SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-print-directory

GO        ?= go
TAGS      := grpcnotrace
BUILD     := CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags "-s -w"
BUF       := $(CURDIR)/bin/buf
VULNCHECK := $(CURDIR)/bin/govulncheck
PROGRAMS  := ./cmd/host-ctl ./cmd/guest-agent
FUZZTIME  ?= 5s
SOAKTIME  ?= 5m

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: build
build: ## build bin/host-ctl and bin/guest-agent, static and stripped
	$(BUILD) -o bin/ $(PROGRAMS)

.PHONY: test
test: build lint check-generate supply unit fuzz cross soak-short lab bench-smoke ## run everything that CI runs
	@echo "make test: all passed"

.PHONY: unit
unit: ## unit tests, with -race where a C compiler can be had, in random order
	@.ci/need-grpcio >/dev/null 2>&1 || echo "SKIP: a gRPC client in Python (no grpcio)"
	@if .ci/need-cc; then race=-race; else race=; echo "SKIP: -race (no C compiler)"; fi; \
	set -x; $(GO) test $$race -shuffle=on -timeout 15m ./...
	$(GO) -C internal/bench test -short ./...
	$(GO) -C internal/rpctest/interop test ./...
	$(GO) -C internal/mutate test ./...

.PHONY: lint
lint: $(BUF) ## gofmt, vet, staticcheck, buf lint, buf breaking
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not gofmt-ed: $$out" >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(BUF) lint
	@if tag=$$(git describe --tags --abbrev=0 2>/dev/null); then set -x; $(BUF) breaking --against ".git#tag=$$tag"; \
	else echo "SKIP: buf breaking (no release to compare with)"; fi

.PHONY: generate
generate: $(BUF) ## generate the protobuf code
	$(BUF) generate

.PHONY: check-generate
check-generate: generate ## fail if the committed generated code is not current
	@git diff --exit-code --stat -- proto || { echo "generated code is not current: run 'make generate' and commit" >&2; exit 1; }

# buf is a module of its own: it would raise the main module's requirements.
$(BUF): internal/tools/go.mod internal/tools/go.sum
	$(GO) -C internal/tools build -o $@ github.com/bufbuild/buf/cmd/buf

.PHONY: supply
supply: licenses reproducible vulncheck ## what we ship: its licenses, that two builds are equal, known vulnerabilities

.PHONY: licenses
licenses: ## fail if a module that is linked in has a license not in the list
	$(GO) -C internal/tools test ./licenses
	$(GO) -C internal/tools run ./licenses -C $(CURDIR) -tags $(TAGS) $(PROGRAMS)

.PHONY: reproducible
reproducible: ## build the programs twice and compare (FULL=1: nothing from a cache)
	.ci/reproducible

.PHONY: vulncheck
vulncheck: $(VULNCHECK) ## govulncheck, where its database can be reached
	.ci/vulncheck $(VULNCHECK) $(PROGRAMS)

$(VULNCHECK): internal/tools/go.mod internal/tools/go.sum
	$(GO) -C internal/tools build -o $@ golang.org/x/vuln/cmd/govulncheck

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (5s)
	.ci/fuzz $(FUZZTIME)

.PHONY: cross
cross: ## compile for the other systems
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 $(GO) build -tags $(TAGS) ./...
	GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 $(GO) build -tags $(TAGS) ./transport/... ./rpc/... ./guest/... ./cmd/host-ctl
	GOOS=windows CGO_ENABLED=0 $(GO) build -tags $(TAGS) ./transport/... ./rpc/... ./guest/... ./cmd/host-ctl

.PHONY: lab
lab: ## tests on real AF_VSOCK, in kernels of their own
	$(GO) run ./internal/vmtest/lab

.PHONY: soak
soak: build ## clients at work for SOAKTIME (5m) while faults are injected; SEED=N repeats a run
	$(GO) run ./internal/soak -agent bin/guest-agent -host-ctl bin/host-ctl -time $(SOAKTIME) $(if $(SEED),-seed $(SEED))

.PHONY: soak-short
soak-short: ## the same for half a minute
	@$(MAKE) soak SOAKTIME=30s

# What `make mutate` looks at if PKG does not say: the packages whose bugs lose data,
# rights or the connection.
MUTATED := ./rpc ./agent/process ./agent/policy ./agent/access ./agent/file ./internal/archive ./guest ./transport

.PHONY: mutate
mutate: ## change lines of PKG (such as ./rpc) and see whether its tests (or TESTS, those that match RUN) notice; N=40 of them, SEED=1
	$(GO) -C internal/mutate run . -n $(or $(N),40) -seed $(or $(SEED),1) -tests "$(TESTS)" -run "$(RUN)" $(or $(PKG),$(MUTATED))

.PHONY: bench
bench: ## dialing, exec, forwarding and copies beside raw sockets, ssh, rsync and local processes
	$(GO) test -run '^$$' -bench . -benchtime 2s ./guest ./agent/process ./rpc

.PHONY: stress
stress: ## the tests with loads in full (half an hour)
	VSOCKRPC_STRESS=1 $(GO) test -count=1 -timeout 60m ./...

.PHONY: bench-smoke
bench-smoke: ## the comparison with peers, too short for figures
	$(GO) -C internal/bench run . -quick

.PHONY: bench-peers
bench-peers: ## rpc beside grpc-go, ttrpc, drpc, connect-go (about 10 minutes)
	@mkdir -p bin
	$(GO) -C internal/bench run . -o $(CURDIR)/bin/bench-peers.md

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
