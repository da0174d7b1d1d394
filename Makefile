# Everything a newcomer needs is `make demo` and `make test`; `make` alone lists the rest.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 30s

# Static programs, the same bytes from the same source.
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
# Kernel tests need a network namespace of their own: root has it, others get one
# inside a user namespace. Building stays outside, where modules can be downloaded.
ISOLATED := $(shell [ "$$(id -u)" = 0 ] || echo "-exec 'unshare --map-root-user --net --mount'")
# Nothing may be skipped, and the programs under test are those of this build.
REQUIRE_ALL := REQUIRE_NETNS=1 REQUIRE_CLUSTER=1 IPMASQ_BIN=$(CURDIR)/bin
# Only root can build images.
REQUIRE_IMAGES := $(shell [ "$$(id -u)" != 0 ] || echo REQUIRE_IMAGES=1)

# iptables lies where only root's PATH looks.
export PATH := $(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help build test netns e2e bench fuzz golden lint demo deps controlplane helm regotools images nodes twonode cluster-up cluster-down clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/webhook, bin/agent and bin/kubectl-masq (static), with its completion for kubectl beside it
	$(GOBUILD) -o bin/ ./webhook ./agent ./kubectl-masq
	@install -m 755 kubectl-masq/kubectl_complete-masq bin/

test: deps controlplane helm regotools build ## run every test: units, rules, kernel, packets, API server, chart, images, two nodes; installs what it needs
	$(REQUIRE_ALL) $(REQUIRE_IMAGES) go test -race -count=1 -timeout 30m $(ISOLATED) ./...
	RELOADS=1000 go test -count=1 -run '^(TestAllocations|TestReloadsDoNotGrow)$$' ./policy ./webhook # which the race detector makes another thing of
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory twonode; \
	else echo 'NOT RUN, since only root can: the tests of the images and of the two-node cluster'; fi

netns: deps ## run the tests that program a kernel, in namespaces of their own
	REQUIRE_NETNS=1 go test -race -count=1 $(ISOLATED) ./agent/... ./e2e/netns

e2e: deps controlplane helm regotools build twonode ## of these, the tests of a real API server, kubectl, kernel and cluster (root)
	$(REQUIRE_ALL) $(REQUIRE_IMAGES) go test -race -count=1 -timeout 20m $(ISOLATED) ./e2e/...

twonode: deps controlplane nodes helm build ## of these, the tests of the two-node cluster alone: five minutes (root)
	@.ci/deps cluster
	@VERSION=$$(sed -n 's/^appVersion: //p' charts/ip-masq-guard/Chart.yaml) e2e/images/build.sh bin/images
	REQUIRE_NODES=1 IPMASQ_BIN=$(CURDIR)/bin IPMASQ_IMAGES=$(CURDIR)/bin/images \
		go test -v -count=1 -p 1 -timeout 20m ./e2e/twonode/...

demo: ## show the main job: a bad edit refused, a good one in a kernel, packets to prove it
	@.ci/deps demo
	@$(MAKE) --no-print-directory build
	@go run $(ISOLATED) ./e2e/demo

bench: deps ## measure; docs/benchmarks.md tells how to read it
	REQUIRE_NETNS=1 go test -run '^$$' -bench . -benchmem -timeout 60m $(ISOLATED) ./...

fuzz: ## fuzz the parser and the decision, FUZZTIME each (30s)
	go test -run '^$$' -fuzz FuzzParse -fuzztime $(FUZZTIME) ./agent/config
	go test -run '^$$' -fuzz FuzzEdit -fuzztime $(FUZZTIME) ./agent/winbridge
	go test -run '^$$' -fuzz FuzzDecide -fuzztime $(FUZZTIME) ./policy

golden: deps controlplane helm regotools build ## rewrite the golden files from what the code does now; read the diff
	$(REQUIRE_ALL) go test -count=1 $(ISOLATED) ./agent/ruleset ./agent/winbridge ./policy ./webhook ./kubectl-masq ./e2e -args -update

lint: ## check the code, the rules and the module files
	go run $(GOLANGCI_LINT) run ./...
	$$(e2e/regotools/build.sh)/opa fmt --fail --list policy docs/examples
	$$(e2e/regotools/build.sh)/opa check --strict --schema policy/schema/input.json --capabilities policy/capabilities.json policy/rules docs/examples/rules
	go mod tidy -diff
	cd e2e/cluster && go mod tidy -diff
	cd e2e/certmanager && go mod tidy -diff
	cd e2e/helm && go mod tidy -diff
	cd e2e/prometheus && go mod tidy -diff
	cd e2e/regotools && go mod tidy -diff

deps: ## install the commands that tests and demo need (Debian: apt-get)
	@.ci/deps

helm: ## build helm once, into the same cache
	@e2e/helm/build.sh

regotools: ## build opa and conftest once, into the same cache
	@e2e/regotools/build.sh

images: ## test the images, and write both to dist/ as docker-archives (root)
	@.ci/deps
	REQUIRE_IMAGES=1 go test -count=1 -timeout 20m ./e2e/images
	VERSION=$(VERSION) e2e/images/build.sh dist

nodes: ## build what clusters with nodes need besides, into the same cache
	@e2e/cluster/build.sh nodes

cluster-up: ## bring up a two-node Kubernetes cluster on this machine (root); prints its KUBECONFIG
	@.ci/deps cluster
	@$(MAKE) --no-print-directory controlplane nodes build
	@e2e/twonode/cluster.sh up

cluster-down: ## end that cluster; nothing of it stays
	@e2e/twonode/cluster.sh down

controlplane: ## build kube-apiserver, etcd, kubectl, cert-manager and Prometheus's parsers once, into a cache outside the checkout
	@e2e/cluster/build.sh
	@e2e/certmanager/build.sh
	@e2e/prometheus/build.sh

clean: ## remove what build left
	rm -rf bin
