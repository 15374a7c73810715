//go:build race

package cluster

// raceEnabled: the race detector costs time and memory that no bound here is about.
const raceEnabled = true
