# Everything CI does can be done by hand with these targets.
export GOTOOLCHAIN := local
GO ?= go
TOOL = $(GO) tool -modfile=tools/go.mod

.PHONY: all build vet lint arch test test-peers race tidy check bench bench-compare bench-report bin/bench microbench speed groups-scale groups-history nemesis nemesis-broken overload powerloss powerloss-memory damage proof-binaries failures restart-time sync-time catchup fuzz

all: check

# bench/peers is a module of its own: what logbroker is compared with is none
# of the product's dependencies.
build:
	$(GO) build ./...
	$(GO) build -C bench/peers -o /dev/null ./...

vet:
	$(GO) vet ./...
	$(GO) vet -C bench/peers ./...

# The linter is pinned in tools/go.mod, a module of its own, so that the
# product's dependencies do not grow by it.
lint:
	$(TOOL) golangci-lint run ./...
	cd bench/peers && $(GO) tool -modfile=../../tools/go.mod golangci-lint run ./...

# Layers, sizes, names, and that the documents name code that exists.
arch:
	$(GO) test -count=1 ./internal/archtest

test:
	$(GO) test ./...

# The peers' own smoke tests: each starts three brokers.
test-peers:
	$(GO) test -C bench/peers ./...

race:
	$(GO) test -race ./...

# go.mod and go.sum hold exactly what the code needs.
tidy:
	$(GO) mod tidy -diff
	cd tools && $(GO) mod tidy -diff
	cd bench/peers && $(GO) mod tidy -diff

check: build vet lint arch race tidy

# The standard set, from which docs/PERFORMANCE.md is written, with what
# bench-compare left: nine minutes on two cores. Leave the machine alone
# meanwhile.
bench: bin/bench
	mkdir -p bin/results/standard
	rm -f bin/results/standard/*.json
	for size in 128 1KiB; do for load in "random none" "json zstd"; do \
	  set -- $$load; \
	  bin/bench produce --record-size $$size --payload $$1 --compression $$2 --duration 8s --then latency,alone,consume \
	    --json bin/results/standard/produce-$$size-$$1.json || exit 1; \
	done; done
	bin/bench e2e --target-rate 10000 --duration 8s --json bin/results/standard/e2e.json
	bin/bench sweep partitions --values 6,60 --duration 6s --json bin/results/standard/sweep-partitions.json
	bin/bench compare --rounds 2 --compression none --json bin/results/standard/compare.json
	$(MAKE) bench-report

# logbroker against JetStream, both ways, at the four loads that matter, and
# against raw dragonboat at batches of 64 KiB and as many of them in flight, five
# rounds each: half an hour on two cores, seven minutes a row, three the last.
# Every row writes its file when it is done, so after an interrupt name those
# that are left: make bench-compare ROWS="1KiB-json raw"
ROWS ?= 128-random 128-json 1KiB-random 1KiB-json raw
bench-compare: bin/bench
	mkdir -p bin/results/compare
	for row in $(ROWS); do \
	  case $$row in \
	    128-random|1KiB-random) set -- --record-size $${row%-*} --payload random --compression none ;; \
	    128-json|1KiB-json) set -- --record-size $${row%-*} --payload json --compression zstd ;; \
	    raw) set -- --systems logbroker,raw_dragonboat --phases produce,latency --batch-size 64KiB --max-in-flight 40 --payload random --compression none ;; \
	    *) echo "no row $$row"; exit 2 ;; \
	  esac; \
	  [ $$row = raw ] || set -- --systems logbroker,jetstream_always,jetstream_default "$$@"; \
	  bin/bench compare "$$@" --json bin/results/compare/$$row.json || exit 1; \
	done
	$(MAKE) bench-report

# The page, and the tables of docs/PERFORMANCE.md, from all results there are.
bench-report: bin/bench
	bin/bench report --markdown docs/PERFORMANCE.md --output bin/results/report.html \
	  $(foreach row,128-random 128-json 1KiB-random 1KiB-json raw,$(wildcard bin/results/compare/$(row).json)) $(wildcard bin/results/standard/*.json)

bin/bench:
	$(GO) build -o bin/bench ./bench

# The speed of the layers, each alone.
microbench:
	$(GO) test -run=NONE -bench=. -benchmem ./...

# One producer process against dev, in turn with the raw ceiling (package
# raftnode with a state machine that only appends), five rounds.
speed:
	for round in 1 2 3 4 5; do \
	  $(GO) test -run=NONE -bench='DevProduce' -benchtime=300000x ./internal/e2e | grep Benchmark && \
	  $(GO) test -run=NONE -bench='RawPropose/64KiB' -benchtime=10000x ./internal/raftnode | grep Benchmark || exit 1; \
	done
	$(GO) test -run=NONE -bench='SendAlone' -benchtime=1000x ./internal/e2e | grep Benchmark

# Consumer groups at scale against dev with three processes: 1,000 members in 100
# groups over 60 partitions settle and rest, then commit. Three minutes a round.
groups-scale:
	for round in 1 2 3; do \
	  $(GO) test -run=NONE -bench='GroupsSettle|GroupsCommit' -benchtime=1x ./internal/e2e || exit 1; \
	done

# Consumer groups under random faults, ROUNDS schedules that nobody has seen
# before; the tests play one that is always the same.
ROUNDS ?= 10
groups-history:
	for round in $$(seq $(ROUNDS)); do \
	  $(GO) test -count=1 -run=TestGroupsUnderRandomFaults ./internal/e2e -v -args -history.seed=0 | grep -E 'seed|^(---|ok|FAIL)' || exit 1; \
	done

# What logbroker promises, tried on real processes; see internal/proof. As root
# on Linux every node has its own network and disk; what cannot be done otherwise
# is said in the first lines.
proof-binaries:
	$(GO) build -o bin/ ./cmd/logbrokerd ./internal/proof

# Faults at random for DURATION, the same ones for the same SEED. A run goes on
# from its STATE file after an interruption.
DURATION ?= 20m
SEED ?= 1
STATE ?= bin/nemesis-$(SEED)-$(DURATION).json
nemesis: proof-binaries
	bin/proof nemesis --duration $(DURATION) --seed $(SEED) --state '$(STATE)'

# Loss of power of one, two and all nodes, CYCLES times.
CYCLES ?= 300
powerloss: STATE = bin/powerloss-$(SEED)-$(CYCLES).json
powerloss: proof-binaries
	bin/proof powerloss --cycles $(CYCLES) --seed $(SEED) --state '$(STATE)'

# The same with brokers in one process, whose disks are in memory and forget what
# was not synced; the tests do it a dozen times.
powerloss-memory:
	$(GO) test -count=1 -timeout=2h -run=TestLossOfPowerLosesNothing -v ./internal/failures -args -failures.losses=$(CYCLES) -failures.seed=$(SEED)

# Ten times the load that the disks allow for DURATION, with bounded memory; then
# 10,000 idle connections and 1,000 consumers that do not read.
overload: DURATION = 10m
overload: STATE = bin/overload-$(DURATION).json
overload: proof-binaries
	bin/proof overload --duration $(DURATION) --state '$(STATE)'

# Damage of every file of a node, in every way, on leader and follower: a table.
# A run goes on with the cells that its STATE file does not have.
damage: STATE = bin/damage.json
damage: proof-binaries
	bin/proof damage --state '$(STATE)'

# Brokers that are broken on purpose must be caught.
nemesis-broken:
	PROOF_BROKEN=1 $(GO) test -count=1 -run=TestABrokenBuildIsCaught -v ./internal/proof/nemesis

# How long a node that holds SIZE in twelve partitions takes to be ready again
# after kill -9. Three restarts; the filling takes a minute for 10 GiB.
SIZE ?= 10GiB
restart-time:
	$(GO) test -run=NONE -bench=Restart -benchtime=3x -timeout 30m ./internal/e2e -args -restart.size=$(SIZE)

# A follower that missed SIZE of a partition comes back while a producer goes on at a
# steady rate: what it lacked and fetched, and what the producer had acked before, with
# three complete replicas, and meanwhile. It needs fifteen times SIZE of disk.
catchup: SIZE = 2GiB
catchup:
	$(GO) test -run=NONE -bench=CatchUp -benchtime=1x -timeout 30m ./internal/e2e -args -catchup.size=$(SIZE)

# For how long the syncs of partitions' state hold up their applying while three nodes
# take records at full speed, BYTES of them, in three rounds, and how long the disk
# takes for them beside it.
BYTES ?= 1GiB
sync-time:
	for round in 1 2 3; do \
	  $(GO) test -run=NONE -bench=PartitionSync -benchtime=1x ./internal/e2e -args -sync.size=$(BYTES) | grep ^Benchmark || exit 1; \
	done

# Every decoder against bytes nobody wrote, FUZZTIME each, AT targets at once. The
# corpus of a finding goes into the package's testdata. Targets that the STATE file
# names are skipped, and those that are done are added to it.
FUZZTIME ?= 30s
AT ?= 1
fuzz: STATE = bin/fuzz-$(FUZZTIME).txt
fuzz:
	mkdir -p bin
	grep -rn '^func Fuzz' --include=*_test.go . | sed -E 's,^(.*)/[^/]*:[0-9]+:func (Fuzz[A-Za-z0-9]*).*,\1 \2,' | sort | \
	  xargs -P$(AT) -L1 tools/fuzz $(FUZZTIME) '$(STATE)'

# The seven leader failures, with one batch and 64 in flight, the leader crashing
# and stopping, ROUNDS times each, in parts of ten; the tests play them three times. A line
# of the STATE file is a round that went well, with its commit; a run goes on from there.
failures: STATE = bin/failures-$(ROUNDS).txt
failures:
	mkdir -p bin && touch '$(STATE)'
	while left=$$(($(ROUNDS) - $$(wc -l < '$(STATE)'))) && [ $$left -gt 0 ]; do \
	  n=$$((left < 10 ? left : 10)); \
	  $(GO) test -count=1 -timeout=2h -run=TestSevenLeaderFailures ./internal/failures -args -failures.rounds=$$n || exit 1; \
	  for round in $$(seq $$n); do (git describe --always --dirty --abbrev=12 || echo unknown) >> '$(STATE)'; done; \
	done
	sort '$(STATE)' | uniq -c
