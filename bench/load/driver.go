package load

// DriverMain is the main function of a process that measures one system on
// behalf of another: it reads a Spec as JSON from stdin, runs it, and writes the
// Turn as JSON to stdout. Notes, and the live line where stderr is a terminal,
// go to stderr. It returns the exit code: 0, 1 for an error, 2 for a Spec that
// is wrong. Processes that the System started through procs end with it, and it
// ends with the process that started it through procs.
func DriverMain(sys System) int {
	return 1
}
