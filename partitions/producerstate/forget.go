//go:build broken_dedup

package producerstate

// remembers is false: every retry is stored again.
const remembers = false
