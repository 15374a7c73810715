// Package archtest keeps the house in order: which package may import which,
// how large files and functions may be, that every package says what it is,
// and that the documents name code that exists. It holds tests and the tables
// they read, nothing that the product runs.
//
// Start at Layers: a package that is not in the table fails the test, so a new
// package is a decision.
package archtest

import "maps"

// Module is the module path.
const Module = "logbroker"

// anywhere may be imported by every package.
var anywhere = []string{"internal/errcode", "internal/invariants", "internal/metrics", "internal/buildinfo", "internal/units", "internal/murmur2"}

// Rule says what a package may import directly beside the standard library and
// the packages that are allowed anywhere. Own are package paths of this module,
// Third module paths (a prefix of the import path). Never is checked over all
// dependencies, not only direct imports.
type Rule struct {
	Own   []string
	Third []string
	Never []string
	// NoStd are standard packages it must not import directly.
	NoStd []string
}

var (
	dragonboat   = "github.com/lni/dragonboat/v4"
	stateMachine = "github.com/lni/dragonboat/v4/statemachine"
	vfs          = "github.com/lni/vfs"
	nats         = "github.com/nats-io/nats.go"
	natsServer   = "github.com/nats-io/nats-server/v2"
	cobra        = "github.com/spf13/cobra"
	prometheus   = "github.com/prometheus"
	hdrHistogram = "github.com/HdrHistogram/hdrhistogram-go"
)

// neverInClients is what an application must not drag in with the client libraries.
var neverInClients = []string{dragonboat, natsServer, "github.com/spf13/viper", "logbroker/broker", "logbroker/partitions"}

// neverInLoad is what the measuring code must not reach: it knows no system.
var neverInLoad = append([]string{nats, "logbroker/producer", "logbroker/consumer"}, neverInClients...)

// clockless is forbidden where everything must be a function of the input.
var clockless = []string{"math/rand", "math/rand/v2", "crypto/rand", "net"}

// Layers is the table: imports point down.
func Layers() map[string]Rule {
	all := productLayers()
	maps.Copy(all, toolLayers())
	return all
}

func productLayers() map[string]Rule {
	return map[string]Rule{
		"internal/errcode":             {},
		"internal/buildinfo":           {},
		"internal/archtest":            {},
		"internal/units":               {},
		"internal/murmur2":             {},
		"internal/e2e":                 {},
		"internal/history":             {},
		"internal/stall":               {},
		"internal/metrics":             {Third: []string{prometheus, "github.com/VictoriaMetrics/metrics"}},
		"internal/storage":             {Third: []string{vfs, "golang.org/x/sys"}},
		"internal/storage/storagetest": {Own: []string{"internal/storage"}},
		"internal/recordbatch": {
			Third: []string{"github.com/klauspost/compress", "github.com/pierrec/lz4/v4"},
			NoStd: []string{"net", "os", "time"},
		},
		"internal/protocol": {Own: []string{"internal/recordbatch"}, Never: []string{nats, natsServer}},
		"internal/raftnode": {
			Own: []string{"internal/storage", "internal/raftnode/tanfiles"}, Third: []string{dragonboat, vfs, "golang.org/x/sys", "github.com/VictoriaMetrics/metrics"},
			Never: []string{nats, natsServer, "logbroker/partitions"},
		},
		"internal/raftnode/tanfiles":      {Third: []string{"github.com/lni/dragonboat/v4/raftpb", vfs, "github.com/cespare/xxhash/v2"}},
		"internal/raftnode/chantransport": {Own: []string{"internal/raftnode"}, Third: []string{dragonboat}},
		"internal/client":                 {Own: []string{"internal/protocol"}, Third: []string{nats, "github.com/nats-io/nuid"}, Never: neverInClients},
		"internal/client/clienttest":      {Own: []string{"internal/protocol", "internal/recordbatch", "partitions/producerstate"}, Third: []string{nats, natsServer}},
		"producer":                        {Own: []string{"internal/client", "internal/protocol", "internal/recordbatch"}, Third: []string{nats}, Never: neverInClients},
		"consumer":                        {Own: []string{"internal/client", "internal/protocol", "internal/recordbatch"}, Third: []string{nats}, Never: neverInClients},
		"partitions/commitlog":            {Own: []string{"internal/recordbatch", "internal/storage"}, Third: []string{"golang.org/x/sys"}, Never: []string{dragonboat, nats}},
		"partitions/producerstate":        {Own: []string{"internal/recordbatch"}, NoStd: append([]string{"os"}, clockless...)},
		"partitions/fsm": {
			Own:   []string{"partitions/commitlog", "partitions/producerstate", "internal/recordbatch", "internal/storage"},
			Third: []string{stateMachine}, NoStd: clockless, Never: []string{nats, natsServer},
		},
		"partitions": {
			Own:   []string{"partitions/fsm", "partitions/commitlog", "internal/raftnode", "internal/recordbatch", "internal/storage"},
			Third: []string{stateMachine, vfs}, Never: []string{nats, natsServer, "github.com/spf13/viper", "logbroker/broker"},
		},
		"broker/placement": {},
		"broker/metadata":  {Own: []string{"broker/placement", "internal/raftnode", "internal/protocol"}, Third: []string{stateMachine}, Never: []string{nats, natsServer, "logbroker/partitions"}},
		"broker/groups":    {Own: []string{"broker/metadata", "internal/protocol", "internal/raftnode"}, Third: []string{stateMachine}, Never: []string{nats, natsServer, "logbroker/partitions"}},
		"broker/handler":   {Own: []string{"partitions", "broker/metadata", "broker/groups", "internal/protocol", "internal/recordbatch"}, Never: []string{nats, natsServer}},
		"broker/natsapi":   {Own: []string{"broker/handler", "internal/protocol"}, Third: []string{nats, natsServer, "github.com/nats-io/nuid"}},
		"broker/httpadmin": {Own: []string{"broker/handler", "internal/protocol"}, Third: []string{prometheus, "github.com/VictoriaMetrics/metrics"}},
		"broker": {Own: []string{
			"config", "partitions", "broker/handler", "broker/natsapi", "broker/metadata", "broker/groups", "broker/placement", "broker/httpadmin",
			"internal/raftnode", "internal/storage", "internal/protocol",
		}, Third: []string{"github.com/google/uuid", vfs}},
		"config":       {Third: []string{"github.com/spf13/viper", "github.com/go-viper/mapstructure/v2", "gopkg.in/yaml.v3"}},
		"internal/cli": {Third: []string{cobra, "golang.org/x/term"}},
		// Part of the product by logbrokerd demo: with what it stands on, above the broker.
		"internal/failures": {Own: []string{
			"broker", "config", "producer", "partitions", "partitions/fsm", "internal/client", "internal/protocol", "internal/recordbatch",
			"internal/history", "internal/storage", "internal/raftnode", "internal/raftnode/chantransport",
		}, Third: []string{vfs}},
		"internal/cluster": {Own: []string{"broker", "config", "internal/client", "internal/protocol"}},
		"cmd/logbrokerd": {
			Own:   []string{"broker", "internal/cli", "config", "partitions/commitlog", "partitions/fsm", "internal/storage", "internal/failures"},
			Third: []string{cobra, "github.com/spf13/pflag", "golang.org/x/term"},
		},
		"cmd/logbroker": {
			Own:   []string{"internal/cli", "producer", "consumer", "internal/client", "internal/protocol"},
			Third: []string{cobra, "github.com/spf13/pflag", "golang.org/x/term", "gopkg.in/yaml.v3"}, Never: neverInClients,
		},
	}
}

// toolLayers are the tools that look at the product from outside.
func toolLayers() map[string]Rule {
	return map[string]Rule{
		"bench": {
			Own:   []string{"bench/load", "bench/procs", "bench/ceiling", "bench/compare", "bench/report", "internal/cli", "producer", "consumer", "internal/client", "internal/protocol"},
			Third: []string{cobra, "github.com/spf13/pflag", hdrHistogram}, Never: neverInClients,
		},
		"internal/testlog": {},
		"bench/procs":      {Never: neverInLoad},
		"bench/ceiling":    {Own: []string{"bench/load"}, Third: []string{"github.com/klauspost/compress"}, Never: neverInLoad},
		"bench/compare":    {Own: []string{"bench/load", "bench/procs"}, Never: neverInLoad},
		"bench/report":     {Own: []string{"bench/load", "bench/compare", "bench/procs"}, Third: []string{hdrHistogram}, Never: neverInLoad},
		"bench/load":       {Own: []string{"bench/procs", "internal/cli"}, Third: []string{hdrHistogram}, Never: neverInLoad},
		"internal/proof": {
			Own:   []string{"internal/proof/damage", "internal/proof/nemesis", "internal/proof/overload", "internal/proof/powerloss", "internal/proof/testbed", "internal/cli", "internal/units", "bench/procs"},
			Third: []string{cobra},
		},
		"internal/proof/damage":    {Own: []string{"internal/history", "internal/proof/testbed", "internal/stall"}},
		"internal/proof/nemesis":   {Own: []string{"internal/proof/testbed", "internal/stall"}},
		"internal/proof/overload":  {Own: []string{"bench/procs", "consumer", "internal/errcode", "internal/proof/testbed", "internal/protocol", "internal/stall"}, Third: []string{"golang.org/x/sys"}},
		"internal/proof/powerloss": {Own: []string{"internal/proof/testbed", "internal/stall"}, Third: []string{"golang.org/x/sys"}},
		"internal/proof/testbed": {
			Own: []string{
				"internal/history", "internal/stall", "bench/procs", "producer", "consumer", "internal/client", "internal/protocol",
				"internal/recordbatch", "internal/storage", "partitions/fsm",
			},
			Third: []string{"golang.org/x/sys"},
		},
	}
}
