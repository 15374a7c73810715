// Package testbed is what the proofs stand on: a cluster of real logbrokerd
// processes that can be killed, stopped, cut off, starved of disk and robbed of
// their power, a load of numbered records through the real producer library, and
// the final log as every replica holds it on its own disk. It knows no schedule:
// what is done to the cluster, and when, is decided by its callers.
//
// Start at Cluster (cluster.go) and Load (load.go); Judge (judge.go) brings both
// together. What the machine lets it do is in Powers (isolate.go): as root every
// node has a network namespace (network.go) and a file system (disk.go) of its
// own; else nodes share the loopback device and one disk, and what cannot be done
// is said.
package testbed
