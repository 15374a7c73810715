# Everything CI does can be done by hand with these targets.
export GOTOOLCHAIN := local
GO ?= go
TOOL = $(GO) tool -modfile=tools/go.mod

.PHONY: all build vet lint arch test race tidy check bench

all: check

build:
	$(GO) build ./...

vet:
	$(GO) vet ./...

# The linter is pinned in tools/go.mod, a module of its own, so that the
# product's dependencies do not grow by it.
lint:
	$(TOOL) golangci-lint run ./...

# Layers, sizes, names, and that the documents name code that exists.
arch:
	$(GO) test -count=1 ./internal/archtest

test:
	$(GO) test ./...

race:
	$(GO) test -race ./...

# go.mod and go.sum hold exactly what the code needs.
tidy:
	$(GO) mod tidy -diff
	cd tools && $(GO) mod tidy -diff

check: build vet lint arch race tidy

# The speed of the layers, each alone.
bench:
	$(GO) test -run=NONE -bench=. -benchmem ./...
