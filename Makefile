# Postern. `make run` and `make test` do all set-up themselves.

# Where Go's own guide installs it, and where sudo does not look.
export PATH := $(PATH):/usr/local/go/bin

GO        ?= go
go_env     = $(shell PATH='$(PATH)' $(GO) env $(1) 2>/dev/null)
PREFIX    ?= /usr/local
VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   := -X main.version=$(VERSION)
# The version comes from above: go need not ask git, which refuses to speak of
# a checkout that belongs to somebody else.
export GOFLAGS := $(strip $(call go_env,GOFLAGS) -buildvcs=false)
GOFMT      = $(call go_env,GOROOT)/bin/gofmt
# PAM needs the headers of libpam, Kerberos those of libkrb5, both and the race
# detector a C compiler. Without them everything else is built; the auth-helper
# says what is missing.
CGO       := $(filter 1,$(call go_env,CGO_ENABLED))
WITH      := $(if $(wildcard /usr/include/security/pam_appl.h),pam) $(if $(wildcard /usr/include/gssapi/gssapi.h),gssapi)
empty     :=
space     := $(empty) $(empty)
comma     := ,
TAGS      := $(if $(and $(CGO),$(strip $(WITH))),-tags $(subst $(space),$(comma),$(strip $(WITH))))
RACE      := $(if $(CGO),-race)
# vet has run before; the linker leaves out what only debuggers read; the order
# and the seeds (see check) are the same in every run, so that it judges the
# change and not its luck: plain `go test` plays other games.
TESTFLAGS := $(RACE) -vet=off -ldflags=-w -shuffle 1 -parallel 4 -timeout 14m
FUZZTIME  ?= 20s
SIMSEEDS  ?= 10000

# Golden files are what tests compare with, except in `make golden`.
unexport UPDATE_GOLDEN

.PHONY: help run demo test check build bench fuzz golden generate deps install clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: demo ## build, start directory, gateway and backend on loopback, send and show a mail

demo: build
	@bin/postern demo

build: ## build bin/postern
	@mkdir -p bin
	$(GO) build $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o bin/postern ./cmd/gateway
	@$(if $(findstring pam,$(TAGS)),,echo 'built without PAM, which takes a C compiler and libpam0g-dev; all else is there')
	@$(if $(findstring gssapi,$(TAGS)),,echo 'built without Kerberos tickets (GSSAPI), which take a C compiler and libkrb5-dev; all else is there')

deps: ## install what the tests need (slapd, Dovecot, Cyrus, PAM headers, ...) where root or sudo allows
	@deploy/deps.sh

# The headers may arrive with deps, so the tests start in a make of their own.
test: deps ## install what is missing, then run every check and every test
	@$(MAKE) --no-print-directory check

# Whatever is compiled here is compiled with the race detector, so that vet and
# staticcheck leave in the cache what the tests are made of.
# staticcheck spends four tenths of its time on collecting garbage, compilers some:
# memory is cheaper, up to a bound for each process.
check: export GOGC = 400
check: export GOMEMLIMIT = 4GiB
check: export RAPID_SEED = 1
check: export POSTERN_SEED = 1
check: ## what CI checks: formatting, modules, vet, staticcheck, generated documents, tests with -race
	@unformatted=$$($(GOFMT) -l .) || exit 1; \
	  if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	@$(GO) mod tidy -diff || { echo "go.mod or go.sum is not tidy: run go mod tidy"; exit 1; }
	$(GO) mod verify
	@[ -n "$(RACE)" ] || { echo "no C compiler here: the tests run without the race detector, which CI may not"; [ "$$CI" != true ]; }
	$(GO) vet $(TAGS) $(RACE) ./...
	@$(GO) vet $(RACE) ./authn/... # without C, too
	@echo '$(GO) tool staticcheck $(TAGS) ./...'; \
	  staticcheck=$$($(GO) tool -n staticcheck) && GOFLAGS="$(GOFLAGS) $(RACE)" "$$staticcheck" $(TAGS) ./...
	@echo '$(GO) test $(TAGS) $(TESTFLAGS) ./...'; \
	  missing=$$(mktemp); trap 'rm -f "$$missing"' EXIT; \
	  POSTERN_MISSING=$$missing $(GO) test $(TAGS) $(TESTFLAGS) ./...; passed=$$?; \
	  if [ -s "$$missing" ]; then echo "SKIPPED, because this machine does not have it (tests, what they need):"; sort "$$missing" | uniq -c; fi; \
	  exit $$passed

golden: ## rewrite the golden files; read the difference afterwards
	UPDATE_GOLDEN=1 $(GO) test $(TAGS) ./...

generate: ## rewrite the generated documents
	$(GO) generate ./...

bench: build ## drive our gateway and, where installed, Postfix, Dovecot, OpenLDAP and OpenDKIM side by side
	$(GO) run ./internal/bench -postern bin/postern

fuzz: ## fuzz every parser of outside bytes, FUZZTIME each (default 20s); play SIMSEEDS seeds of a pair (default 10000)
	@grep -rH --include='*_test.go' '^func Fuzz' . | sed 's#/[^/]*:func \([A-Za-z0-9_]*\).*# \1#' | sort | while read -r pkg target; do \
	  echo "$$pkg $$target"; $(GO) test $$pkg -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) || exit 1; \
	done
	$(GO) test ./backend/replica/sim -count 1 -timeout 60m -run '^TestSeeds$$' -sim.seeds $(SIMSEEDS)

install: build ## install the binary, man page, systemd units and PAM service below PREFIX
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) SENDMAIL=$(SENDMAIL) deploy/install.sh bin/postern

clean: ## remove what build and run made
	rm -rf bin .postern
