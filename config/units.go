package config

import "logbroker/internal/units"

// ByteSize is a number of bytes; see units.ByteSize.
type ByteSize = units.ByteSize

// The binary units.
const (
	KiB = units.KiB
	MiB = units.MiB
	GiB = units.GiB
)
