# overlay-cni: the verbs of this project, the same by hand and in CI.
# Go, make and git are all that `make build`, `make test` and `make demo` need.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-builtin-rules

# GOOS and GOARCH as in the environment: make build GOARCH=arm64.
BIN      ?= bin
FUZZTIME ?= 10s
# Four times what the slowest package takes on two cores.
TIMEOUT  ?= 10m
PACKAGES ?= ./...

VERSION := $(shell git describe --tags --dirty 2>/dev/null || echo devel)

# The version is stamped by -X. Go's own stamp is turned off, for it fails the
# build where git refuses the work tree, as it does under sudo.
GOFLAGS := $(strip $(filter-out -buildvcs%,$(shell go env GOFLAGS)) -buildvcs=false)
export GOFLAGS
# go.work is for editors. Each module is built with the versions of its own go.mod.
export GOWORK := off

# Programs that run here, whatever GOARCH the build is for.
HERE    := env -u GOOS -u GOARCH
# Those with code of their own. What users run is in the first one.
MODULES := . test/e2e tools
TOOL    := $(HERE) go tool -modfile=$(CURDIR)/tools/go.mod
LINT    := $(TOOL) golangci-lint
# It runs a command that ends in go test -json, and counts.
COUNT   := $(TOOL) gotestsum --format standard-quiet --format-hide-empty-pkg --post-run-command $(CURDIR)/hack/no-skips --raw-command --
# -count=1: the kernel is an input of these tests that Go's cache cannot see.
GOTEST  := $(COUNT) env CGO_ENABLED=0 go test
TEST    := -json -count=1 -timeout $(TIMEOUT)

comma := ,
space := $() $()

.DEFAULT_GOAL := help

.PHONY: help
help:
	@awk -F ':.*## ' '/^##@ / { printf "%s\n%s\n", sep, substr($$0, 5); sep = "" } /^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

##@ Build and test: Go, make and git are enough. Go downloads its modules; verbs that need Debian packages install them.

# FAST_START=0 builds a plugin that starts as any Go program does, for a version of
# Go that refuses the plugin's own entry: see cmd/overlay-cni/entry.go.
FAST_START ?= 1
FAST        = $(and $(filter 1,$(FAST_START)),$(filter amd64 arm64,$(or $(GOARCH),$(shell go env GOARCH))))

.PHONY: build
build: ## bin/overlay-cni and bin/overlayd, static (GOARCH=arm64 for another machine, FAST_START=0 without assembly).
	@mkdir -p $(BIN)
	CGO_ENABLED=0 go build -trimpath $(if $(FAST),-tags faststart) -ldflags '-s -w -X main.version=$(VERSION)$(if $(FAST), -E main.entry)' -o $(BIN)/ ./cmd/overlay-cni
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN)/ ./cmd/overlayd

# The server for the tests of the registry "etcd". The first build takes a minute,
# on two cores.
ETCD := $(BIN)/etcd
$(ETCD): tools/go.mod
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(HERE) go build -C tools -trimpath -ldflags '-s -w' -o $(abspath $@) go.etcd.io/etcd/server/v3
	@touch $@

# The Debian packages that a verb takes: packages-test.
packages-%:
	@hack/packages $*

.PHONY: test
test: packages-test build $(ETCD) ## All tests of the product: as root, or where users may make namespaces. Needs iptables, nftables, ping.
	$(GOTEST) $(TEST) $(PACKAGES)

# The packages that start goroutines or share memory between them, and tests of
# hosts that lead through all of the daemon's.
RACE_PACKAGES ?= $(shell grep -rlE '^\s*go |\bsync\.|\.Go[^a-zA-Z]' cmd internal pkg --include='*.go' --exclude='*_test.go' | xargs -n1 dirname | sort -u | sed 's,^,./,')
RACE_HOSTS    ?= Soak|Heals|Follows|Edits|Etcd|Kubernetes|Running

.PHONY: test-race
test-race: packages-test packages-test-race $(ETCD) ## Packages with goroutines, and tests of hosts, with the race detector. Needs gcc.
	$(COUNT) env CGO_ENABLED=1 go test -race $(TEST) $(RACE_PACKAGES)
	$(COUNT) env CGO_ENABLED=1 go test -race $(TEST) -run '$(RACE_HOSTS)' ./test/hosts

.PHONY: fuzz
fuzz: $(ETCD) ## Every fuzz test, each for FUZZTIME (10s).
	hack/fuzz $(FUZZTIME)

.PHONY: soak
# SOAK: how long; SOAKFLAGS='-soak-seed 1' makes the same choices again.
SOAK ?= 5m
soak: packages-test-race $(ETCD) ## Do to hosts at random what operators, runtimes and accidents do, for SOAK (5m). Needs gcc.
	CGO_ENABLED=1 go test -count=1 -timeout 0 -race -v -run TestSoak ./test/hosts -soak $(SOAK) $(SOAKFLAGS)

.PHONY: demo
demo: build ## Three hosts in network namespaces, pods on them, and a table of who reaches whom.
	$(BIN)/overlayd demo

.PHONY: lint
lint: ## Check format, vet, golangci-lint, and what the plugin links. Downloads golangci-lint's 200 modules.
	$(LINT) fmt --diff
	@for module in $(MODULES); do \
		echo "lint $$module" && (cd $$module && go vet ./... && $(LINT) run) || exit 1; done
	hack/plugin-deps

.PHONY: tidy
tidy: ## Fail if a go.mod is not what go mod tidy makes of it.
	@for module in $(MODULES) test/e2e/kubernetes; do go -C $$module mod tidy -diff || exit 1; done

.PHONY: fmt
fmt: ## Format all Go files and sort their imports.
	$(LINT) fmt

.PHONY: clean
clean: ## Remove bin.
	rm -rf $(BIN)

##@ Measure.

.PHONY: bench
# BENCH: flags, see bin/bench --help; as BENCH='--set mine=/opt/cni/bin,/etc/cni/net.d/10-mine.conflist'.
bench: build ## What connecting a pod costs, beside the kernel's part of it and other plugins.
	CGO_ENABLED=0 go build -trimpath -o $(BIN)/bench ./test/bench
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o $(BIN)/bench-empty ./test/bench/empty
	$(BIN)/bench --dir $(BIN) $(BENCH)

.PHONY: bench-path
# BENCH_PATH: flags, see bin/bench-path --help; as BENCH_PATH='--rounds 20 --json /tmp/path.json', BENCH_PATH=--quick.
bench-path: build ## How fast pods talk to each other, beside their hosts, a plain VXLAN and flannel's set-up.
	CGO_ENABLED=0 go build -trimpath -o $(BIN)/bench-path ./test/bench-path
	$(BIN)/bench-path --dir $(BIN) $(BENCH_PATH)

.PHONY: bench-scale
# SCALE: flags, see bin/bench-scale --help; as SCALE='--kube 5000 --file 0 --starts 3'.
bench-scale: build e2e-bin ## What a network of 10 to 20,000 nodes costs a host's overlayd. Builds Kubernetes.
	CGO_ENABLED=0 go build -C test/e2e -trimpath -o $(abspath $(BIN))/bench-scale ./bench-scale
	$(BIN)/bench-scale --dir $(BIN) $(SCALE)

##@ Images and manifests.
# The image has the release's name and, as tag, this version.
IMAGE   ?= overlay-cni.io/overlay-cni
TAG     ?= $(VERSION)
ARCHES  ?= amd64 arm64
ARCHIVE ?= $(BIN)/overlay-cni-image.tar
# What is in it has the time of the commit, so that it can be built again.
CREATED  = $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

.PHONY: image
image: ## bin/overlay-cni-image.tar, an OCI archive for ARCHES (amd64 arm64), without Docker.
	@for arch in $(ARCHES); do $(MAKE) --no-print-directory build GOARCH=$$arch BIN=$(BIN)/image/$$arch; done
	@$(HERE) CGO_ENABLED=0 go run -C tools ./image --dir $(abspath $(BIN))/image --arch $(subst $(space),$(comma),$(strip $(ARCHES))) \
		--name $(IMAGE):$(TAG) --version $(VERSION) --revision "$$(git rev-parse HEAD 2>/dev/null || echo unknown)" --created $(CREATED) \
		--license $(abspath LICENSE) --out $(abspath $(ARCHIVE))

.PHONY: test-image
test-image: ## Test how the image is packed.
	$(GOTEST) -C tools $(TEST) ./image

.PHONY: manifests
manifests: ## Render conf/kubernetes/overlay-cni.yaml from the base for kustomize.
	CGO_ENABLED=0 $(HERE) go run -C test/e2e ./manifests/render > conf/kubernetes/overlay-cni.yaml.next
	mv conf/kubernetes/overlay-cni.yaml.next conf/kubernetes/overlay-cni.yaml

.PHONY: test-manifests
test-manifests: ## Compare what kustomize and Helm render, and check it against Kubernetes' types.
	$(GOTEST) -C test/e2e $(TEST) ./manifests/...

# The tag that the manifests ask for.
RELEASE = $(shell awk '$$1 == "newTag:" { print $$2 }' conf/kubernetes/kustomization.yaml)

.PHONY: kind
kind: ## Try the network in a cluster by kind: needs Docker, kind, kubectl and their downloads.
	$(MAKE) --no-print-directory image TAG=$(RELEASE)
	hack/kind $(ARCHIVE)

##@ With other programs: root. Debian packages are installed; Kubernetes is built from its Go modules (10 minutes the first time).

.PHONY: test-runtimes
test-runtimes: packages-test-runtimes build ## The plugin with containerd, podman and cnitool; both programs beside dockerd. Needs their packages.
	OVERLAY_CNI=$(abspath $(BIN))/overlay-cni $(GOTEST) -C test/e2e $(TEST) ./runtimes

# Kubernetes and etcd as the programs of one binary, in a module of their own.
E2E_BIN     := $(BIN)/e2e
KUBERNETES   = $(shell GOWORK=off go list -C test/e2e/kubernetes -m -f '{{.Version}}' k8s.io/kubernetes)
VERSION_PKG := k8s.io/component-base/version

.PHONY: test-kube
test-kube: e2e-bin ## The registry "kube" with a real API server, with the role of conf/kubernetes/rbac.yaml.
	$(GOTEST) -C test/e2e $(TEST) ./internal/... ./registry ./cluster

.PHONY: e2e-bin
# Five minutes the first time, on two cores. It says what version it is, or
# clients would take it for v0.0.0.
e2e-bin: ## Build Kubernetes and etcd into bin/e2e.
	@mkdir -p $(E2E_BIN)
	CGO_ENABLED=0 nice -n 5 go build -C test/e2e/kubernetes -p 2 -trimpath -o $(abspath $(E2E_BIN))/hyperkube \
		-ldflags '-s -w -X $(VERSION_PKG).gitVersion=$(KUBERNETES) -X $(VERSION_PKG).gitMajor=1 -X $(VERSION_PKG).gitMinor=$(word 2,$(subst ., ,$(KUBERNETES))) -X $(VERSION_PKG).gitTreeState=clean' ./hyperkube
	@for name in etcd kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet; do \
		ln -sf hyperkube $(E2E_BIN)/$$name; done

# A cluster of three nodes on this machine, each of them a set of namespaces.
CLUSTER_DIR ?= /tmp/overlay-e2e
MANIFEST    := conf/kubernetes/overlay-cni.yaml
E2E_IMAGE   := $(E2E_BIN)/overlay-cni
CLUSTER      = $(E2E_BIN)/cluster --dir $(CLUSTER_DIR) --bin $(BIN) --manifest $(MANIFEST) --image $(E2E_IMAGE).tar --image $(E2E_IMAGE)-next.tar \
	--families $(FAMILIES) --proxy $(PROXY)
# Of make e2e-up: FAMILIES=ipv6, FAMILIES=ipv4,ipv6; PROXY=iptables.
FAMILIES    ?= ipv4
PROXY       ?= nftables
# Kubernetes' own tests ask for that version of their helper.
AGNHOST_VERSION = $(shell cat $$(GOWORK=off go list -C test/e2e/kubernetes -m -f '{{.Dir}}' k8s.io/kubernetes)/test/images/agnhost/VERSION)
E2E_BUILD  := CGO_ENABLED=0 nice -n 5 go

.PHONY: e2e-tools
# Four minutes the first time, on two cores.
e2e-tools: e2e-bin ## Build what a cluster runs beside Kubernetes, and Kubernetes' tests of networks, into bin/e2e.
	$(E2E_BUILD) build -C test/e2e -trimpath -o $(abspath $(E2E_BIN))/ ./cluster ./pause
	$(E2E_BUILD) build -C test/e2e -p 2 -trimpath -ldflags '-s -w' -o $(abspath $(E2E_BIN))/coredns ./coredns
	$(E2E_BUILD) build -C test/e2e/kubernetes -p 2 -trimpath -ldflags '-s -w -X main.Version=$(AGNHOST_VERSION)' -o $(abspath $(E2E_BIN))/agnhost k8s.io/kubernetes/test/images/agnhost
	$(E2E_BUILD) build -C test/e2e/kubernetes -p 2 -trimpath -ldflags '-s -w' -o $(abspath $(E2E_BIN))/ k8s.io/kubernetes/test/images/regression-issue-74839
	$(E2E_BUILD) build -C test/e2e/kubernetes -p 2 -trimpath -ldflags '-s -w' -o $(abspath $(E2E_BIN))/ginkgo github.com/onsi/ginkgo/v2/ginkgo
	$(E2E_BUILD) test -C test/e2e/kubernetes -c -vet=off -p 2 -trimpath -ldflags '-s -w' -o $(abspath $(E2E_BIN))/e2e.test ./suite
	$(E2E_BUILD) test -C test/e2e -c -trimpath -ldflags '-s -w' -o $(abspath $(E2E_BIN))/network.test ./network
	$(E2E_BUILD) build -C tools -trimpath -o $(abspath $(E2E_BIN))/ gotest.tools/gotestsum
	$(E2E_BIN)/cluster --bin $(BIN) images

.PHONY: e2e-image
# The manifest is applied as it is: so the image has the tag that it names, and as
# people's it has all architectures. The second one is what tests update to: the
# same programs, of another version.
e2e-image:
	@$(MAKE) --no-print-directory image ARCHIVE=$(E2E_IMAGE).tar TAG=$(RELEASE)
	@$(MAKE) --no-print-directory image ARCHES=$$(go env GOARCH) ARCHIVE=$(E2E_IMAGE)-next.tar TAG=e2e-next VERSION=e2e-next

.PHONY: e2e-up
e2e-up: packages-e2e e2e-tools e2e-image ## Such a cluster to try things in: then bin/e2e/cluster kubectl get pods -A
	$(CLUSTER) up

.PHONY: e2e-down
e2e-down: ## Remove that cluster.
	$(CLUSTER) down

.PHONY: e2e
# E2E_MODES: dual,ipv4,ipv6 or some of them. E2E_PODS: how many pods are made and
# deleted in turn (600).
e2e: packages-e2e e2e-tools e2e-image ## Our tests and Kubernetes' own on clusters of three nodes: IPv4, IPv6, both. Needs the nodes' packages.
	$(CLUSTER) --modes '$(E2E_MODES)' test

.PHONY: e2e-wide
# test/e2e/README.md has the figures of the last run.
e2e-wide: packages-e2e e2e-tools e2e-image ## More of Kubernetes' own tests of networks, on four nodes. CI doesn't run them.
	$(CLUSTER) --modes wide test

.PHONY: e2e-vm
# The packages are unpacked into bin/vm, and not installed.
e2e-vm: build ## Two virtual machines with Debian's kernel, emulated. Downloads 120 MB of packages with apt-get.
	CGO_ENABLED=0 $(HERE) go build -trimpath -ldflags '-s -w' -o $(BIN)/e2e-vm ./test/vm
	$(BIN)/e2e-vm --bin $(BIN) --dir $(BIN)/vm
