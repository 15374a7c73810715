//go:build !linux

package storage

// WritePieces writes pieces at f's position, one behind the other, as Write would
// write them joined. After an error any number of leading bytes may have been
// written.
func WritePieces(f File, pieces [][]byte) error { return writeJoined(f, pieces) }
