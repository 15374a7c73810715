// Package buildinfo says which logbroker this is. It reads what the Go linker
// recorded and nothing else.
package buildinfo

import (
	"runtime"
	"runtime/debug"
)

// version is set by the release build: -ldflags "-X logbroker/internal/buildinfo.version=v1.2.3".
var version = ""

// Info is the identity of the running binary.
type Info struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Read returns the binary's identity. Version is "dev" and Revision "unknown"
// where the build recorded none.
func Read() Info {
	info := Info{Version: version, Revision: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info.Version == "" {
		info.Version = "dev"
	}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	for _, setting := range build.Settings {
		switch setting.Key {
		case "vcs.revision":
			info.Revision = setting.Value
		case "vcs.modified":
			info.Modified = setting.Value == "true"
		}
	}
	return info
}
