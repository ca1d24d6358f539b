# Postern. `make run` and `make test` do all set-up themselves.

GO        ?= go
PREFIX    ?= /usr/local
VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   := -X main.version=$(VERSION)
# PAM needs the headers of libpam; without them everything else is built and
# the pam-helper says what is missing.
PAM_H     := $(firstword $(wildcard /usr/include/security/pam_appl.h))
TAGS      := $(if $(PAM_H),-tags pam)
FUZZTIME  ?= 20s

.PHONY: help run demo test check build bench fuzz golden deps install clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: demo ## build, start directory, gateway and backend on loopback, send and show a mail

demo: build
	@bin/postern demo

build: ## build bin/postern
	@mkdir -p bin
	$(GO) build $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o bin/postern ./cmd/gateway

deps: ## install what the tests need (slapd, Dovecot, PAM headers, ...) where root or sudo allows
	@deploy/deps.sh

# The headers may arrive with deps, so the tests start in a make of their own.
test: deps ## install what is missing, then run every check and every test
	@$(MAKE) --no-print-directory check

check: ## what CI checks: formatting, vet, staticcheck, generated documents, tests with -race
	@unformatted=$$(gofmt -l $$(git ls-files '*.go' 2>/dev/null || find . -name '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "gofmt these files:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet $(TAGS) ./...
	$(GO) tool staticcheck $(TAGS) ./...
	$(GO) test $(TAGS) -race -shuffle on -timeout 14m ./...

golden: ## rewrite golden files and generated documents; read the difference afterwards
	UPDATE_GOLDEN=1 $(GO) test $(TAGS) ./...

bench: build ## drive our gateway and, where installed, Postfix and Dovecot side by side
	$(GO) run ./internal/bench -postern bin/postern

fuzz: ## fuzz every parser of outside bytes, FUZZTIME each (default 20s)
	@for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "$$pkg $$target"; $(GO) test $$pkg -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) || exit 1; \
	  done; \
	done

install: build ## install the binary, man page, systemd units and PAM service below PREFIX
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) deploy/install.sh bin/postern

clean: ## remove what build and run made
	rm -rf bin .postern
