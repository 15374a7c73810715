package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/spf13/cobra"

	"logbroker/internal/cli"
)

// natsServerCommand runs one nats-server of the module this binary was built
// with. It ends on SIGTERM, as nats-server does.
func natsServerCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "nats-server -c FILE", Short: "One nats-server process", Hidden: true, Args: cli.Args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return runNATSServer(file) },
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration file")
	return cmd
}

func runNATSServer(file string) error {
	options, err := server.ProcessConfigFile(file)
	if err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	s, err := server.NewServer(options)
	if err != nil {
		return fmt.Errorf("making the nats-server: %w", err)
	}
	s.ConfigureLogger()
	if err := server.Run(s); err != nil {
		return fmt.Errorf("running the nats-server: %w", err)
	}
	s.WaitForShutdown()
	return nil
}

// natsNode is one node of a JetStream cluster.
type natsNode struct {
	Name, Client, Cluster, Dir, Log string
	Routes                          []string // every node's cluster address
	SyncAlways                      bool
}

// natsConfig has what a cluster needs to run and sync_interval; all else is the
// server's default.
var natsConfig = template.Must(template.New("nats").Parse(`server_name: {{.Name}}
listen: "{{.Client}}"
log_file: "{{.Log}}"
jetstream {
  store_dir: "{{.Dir}}"
{{- if .SyncAlways}}
  sync_interval: always
{{- end}}
}
cluster {
  name: bench
  listen: "{{.Cluster}}"
  routes: [{{range .Routes}}
    "nats-route://{{.}}"{{end}}
  ]
}
`))

// write writes the node's configuration beside its directory and returns the
// file's name.
func (n natsNode) write() (string, error) {
	if err := os.MkdirAll(n.Dir, 0o755); err != nil {
		return "", fmt.Errorf("making the directory of %s: %w", n.Name, err)
	}
	var text strings.Builder
	if err := natsConfig.Execute(&text, n); err != nil {
		return "", fmt.Errorf("writing the configuration of %s: %w", n.Name, err)
	}
	file := filepath.Clean(n.Dir) + ".conf"
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return "", fmt.Errorf("writing the configuration of %s: %w", n.Name, err)
	}
	return file, nil
}
