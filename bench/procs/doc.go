// Package procs is the bench tool's view of the operating system: child
// processes that end when their parent does, what a process used by /proc, the
// machine, and the logbrokerd binary. It knows nothing of loads or figures.
//
// Start at Start and Child; then Usage.
package procs
