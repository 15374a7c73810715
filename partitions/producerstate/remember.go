//go:build !broken_dedup

package producerstate

// remembers says that a retry is recognised. It is false only in a build that is
// broken on purpose, to see that the proofs notice.
const remembers = true
