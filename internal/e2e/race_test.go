//go:build race

package e2e

// raceEnabled: the race detector makes this process slow, not the ones that it starts.
const raceEnabled = true
