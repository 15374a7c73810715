package main

import (
	"context"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"logbroker/internal/cli"
)

func newGenerate(a *app) *cobra.Command {
	return cli.Group("generate", "Write files that help to run a cluster",
		newGenerateDashboard(a), newGeneratePrometheus(a), newGenerateUnit(a))
}

// prometheusConfig is the part of Prometheus's configuration file that scrapes
// a cluster. Source: the Prometheus manual, "Configuration".
type prometheusConfig struct {
	ScrapeConfigs []scrapeConfig `yaml:"scrape_configs"`
}

type scrapeConfig struct {
	Job      string         `yaml:"job_name"`
	Interval string         `yaml:"scrape_interval"`
	Path     string         `yaml:"metrics_path"`
	Scheme   string         `yaml:"scheme,omitempty"`
	Static   []staticConfig `yaml:"static_configs"`
}

type staticConfig struct {
	Targets []string `yaml:"targets,flow"`
}

func newGeneratePrometheus(a *app) *cobra.Command {
	var (
		targets  []string
		job      string
		detailed bool
	)
	cmd := &cobra.Command{
		Use: "prometheus-config", Short: "Print a Prometheus scrape configuration for the cluster's nodes",
		Long: "Print a Prometheus scrape configuration. The nodes come from the cluster, or from --targets,\n" +
			"and then no cluster is asked.",
		Example: "  logbroker generate prometheus-config > prometheus.yml",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(targets) > 0 {
				return writePrometheus(a.stdout, targets, job, detailed)
			}
			return a.ask(cmd, func(ctx context.Context, b backend) error {
				info, err := b.ClusterInfo(ctx)
				if err != nil {
					return err
				}
				for _, n := range info.Nodes {
					if n.HTTP != "" {
						targets = append(targets, n.HTTP)
					}
				}
				if len(targets) == 0 {
					return notFound("no node has an HTTP address; set http.listen, or give --targets HOST:PORT,…")
				}
				return writePrometheus(a.stdout, targets, job, detailed)
			})
		},
	}
	cmd.Flags().StringSliceVar(&targets, "targets", nil, "HTTP addresses of the nodes, `HOST:PORT[,…]` (default: ask the cluster)")
	cmd.Flags().StringVar(&job, "job", "logbroker", "job name")
	cmd.Flags().BoolVar(&detailed, "detailed", false, "scrape the per-partition page too, once a minute")
	return cmd
}

func writePrometheus(w io.Writer, targets []string, job string, detailed bool) error {
	hosts, scheme := make([]string, len(targets)), ""
	for i, t := range targets {
		hosts[i] = t
		if u, err := url.Parse(t); err == nil && u.Host != "" {
			hosts[i] = u.Host
			if u.Scheme == "https" {
				scheme = u.Scheme
			}
		}
	}
	static := []staticConfig{{Targets: hosts}}
	c := prometheusConfig{[]scrapeConfig{{job, "15s", "/metrics", scheme, static}}}
	if detailed {
		c.ScrapeConfigs = append(c.ScrapeConfigs, scrapeConfig{job + "-detailed", "60s", "/metrics/detailed", scheme, static})
	}
	if _, err := io.WriteString(w, "# Prometheus: merge scrape_configs into prometheus.yml.\n"); err != nil {
		return err
	}
	return encodeYAML(w, c)
}

func newGenerateUnit(a *app) *cobra.Command {
	var binary, config, user, data string
	cmd := &cobra.Command{
		Use: "systemd-unit", Short: "Print a hardened systemd unit for a broker node",
		Example: "  logbroker generate systemd-unit | sudo tee /etc/systemd/system/logbrokerd.service",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			for _, path := range []string{binary, config, data} {
				if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " \t\n\"'\\%") {
					return cli.Usage("%q: a unit needs absolute paths without blanks, quotes and percent signs", path)
				}
			}
			if user == "" || strings.ContainsAny(user, " \t\n%") {
				return cli.Usage("--user %q is not a user name", user)
			}
			unit := strings.NewReplacer("{binary}", binary, "{config}", config, "{user}", user, "{data}", data).Replace(systemdUnit)
			_, err := io.WriteString(a.stdout, unit)
			return err
		},
	}
	cmd.Flags().StringVar(&binary, "binary", "/usr/local/bin/logbrokerd", "`path` of logbrokerd")
	cmd.Flags().StringVar(&config, "config", "/etc/logbroker/logbrokerd.yaml", "`path` of the configuration file")
	cmd.Flags().StringVar(&user, "user", "logbroker", "user and group to run as")
	cmd.Flags().StringVar(&data, "data-dir", "/var/lib/logbroker", "`directory` of storage.data_dir, the only one the node may write to")
	return cmd
}

// systemdUnit restarts a node that ends, gives it the time to hand over its
// leaderships, and takes away what a broker does not need. Sources: the manual
// pages systemd.service(5), systemd.exec(5) and systemd.kill(5).
const systemdUnit = `# logbroker node. After installing it: systemctl daemon-reload, then systemctl enable --now logbrokerd
# Create the user first: useradd --system --home-dir {data} --shell /usr/sbin/nologin {user}
[Unit]
Description=logbroker, a replicated log broker
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
Type=simple
User={user}
Group={user}
ExecStartPre={binary} config check -c {config}
ExecStart={binary} start -c {config} --storage.data_dir={data}
Restart=on-failure
RestartSec=2s
# More than shutdown.drain_timeout, so that leaderships are handed over first.
TimeoutStopSec=60s
KillSignal=SIGTERM
LimitNOFILE=1048576
LimitCORE=0
OOMScoreAdjust=-500

ReadWritePaths={data}
UMask=0077
NoNewPrivileges=true
ProtectSystem=strict
ProtectHome=true
PrivateTmp=true
PrivateDevices=true
ProtectClock=true
ProtectControlGroups=true
ProtectHostname=true
ProtectKernelLogs=true
ProtectKernelModules=true
ProtectKernelTunables=true
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
LockPersonality=true
MemoryDenyWriteExecute=true
RemoveIPC=true
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
`
