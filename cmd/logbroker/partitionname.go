package main

import (
	"strconv"
	"strings"

	"logbroker/internal/cli"
)

// partitionName is TOPIC/PARTITION.
type partitionName struct {
	topic     string
	partition int32
}

// String returns the name as it is typed.
func (p partitionName) String() string {
	return p.topic + "/" + strconv.Itoa(int(p.partition))
}

func parsePartitionName(s string) (partitionName, error) {
	topic, number, ok := strings.Cut(s, "/")
	n, err := strconv.ParseInt(number, 10, 32)
	if !ok || topic == "" || err != nil || n < 0 {
		return partitionName{}, cli.Usage("%q is not TOPIC/PARTITION, like orders/0", s)
	}
	return partitionName{topic, int32(n)}, nil
}
