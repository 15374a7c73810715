//go:build race

package natsapi

const raceEnabled = true
