// Package e2e tests the two binaries as a user meets them: built, started as
// processes, killed, restarted, and talked to through the command line and the
// public client libraries. It holds nothing but tests, and it is no place for
// claims that a package can prove alone.
//
// Start at main_test.go (what is built), process_test.go (one process and what
// it said) and cluster_test.go (three nodes with configuration files); every
// other file holds one group of claims.
package e2e
