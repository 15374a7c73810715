package main

import (
	"github.com/spf13/cobra"

	"logbroker/internal/cli"
)

// The types hold the part of Grafana's dashboard model that is used here.
// Source: the Grafana manual, "Dashboard JSON model".
type dashboard struct {
	UID           string         `json:"uid"`
	Title         string         `json:"title"`
	Tags          []string       `json:"tags"`
	Timezone      string         `json:"timezone"`
	Refresh       string         `json:"refresh"`
	SchemaVersion int            `json:"schemaVersion"`
	Editable      bool           `json:"editable"`
	Time          timeRange      `json:"time"`
	Templating    templating     `json:"templating"`
	Annotations   map[string]any `json:"annotations"`
	Panels        []panel        `json:"panels"`
}

type timeRange struct {
	From string `json:"from"`
	To   string `json:"to"`
}

type templating struct {
	List []variable `json:"list"`
}

type variable struct {
	Name       string         `json:"name"`
	Label      string         `json:"label"`
	Type       string         `json:"type"`
	Query      any            `json:"query"`
	Datasource *datasource    `json:"datasource,omitempty"`
	Refresh    int            `json:"refresh"`
	IncludeAll bool           `json:"includeAll"`
	Multi      bool           `json:"multi"`
	AllValue   string         `json:"allValue,omitempty"`
	Current    map[string]any `json:"current"`
}

type datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type panel struct {
	ID          int         `json:"id"`
	Type        string      `json:"type"`
	Title       string      `json:"title"`
	Description string      `json:"description,omitempty"`
	Datasource  *datasource `json:"datasource,omitempty"`
	GridPos     gridPos     `json:"gridPos"`
	FieldConfig fieldConfig `json:"fieldConfig"`
	Targets     []target    `json:"targets"`
}

type gridPos struct {
	H int `json:"h"`
	W int `json:"w"`
	X int `json:"x"`
	Y int `json:"y"`
}

type fieldConfig struct {
	Defaults  fieldDefaults `json:"defaults"`
	Overrides []any         `json:"overrides"`
}

type fieldDefaults struct {
	Unit string `json:"unit"`
	Min  *int   `json:"min,omitempty"`
}

type target struct {
	RefID  string      `json:"refId"`
	Expr   string      `json:"expr"`
	Legend string      `json:"legendFormat"`
	Source *datasource `json:"datasource,omitempty"`
}

// graph is one panel as the table of them says it.
type graph struct {
	kind, title, about, unit string
	queries                  []query
}

type query struct{ expr, legend string }

// section is a row of the dashboard.
type section struct {
	title  string
	graphs []graph
}

// only restricts every query to the variables of the dashboard.
const only = `job=~"$job",instance=~"$instance"`

func sections() []section {
	rate := func(metric, by string) string {
		return "sum by (" + by + ") (rate(logbroker_" + metric + "{" + only + "}[$__rate_interval]))"
	}
	sum := func(metric, by string) string {
		return "sum by (" + by + ") (logbroker_" + metric + "{" + only + "})"
	}
	quantile := func(q, metric, by string) string {
		return "histogram_quantile(" + q + ", " + rate(metric+"_bucket", by+",le") + ")"
	}
	byInstance := func(expr string) []query { return []query{{expr, "{{instance}}"}} }
	return []section{
		{"Overview", []graph{
			{"stat", "Nodes up", "Nodes that answer scrapes.", "short", []query{{`sum(up{` + only + `})`, ""}}},
			{"stat", "Records in", "Records stored per second.", "cps", []query{{`sum(rate(logbroker_produce_records_total{` + only + `}[$__rate_interval]))`, ""}}},
			{"stat", "Records out", "Records handed out per second.", "cps", []query{{`sum(rate(logbroker_fetch_records_total{` + only + `}[$__rate_interval]))`, ""}}},
			{"stat", "Leadership changes", "In the last hour; many of them mean an unsteady cluster.", "short", []query{{`sum(increase(logbroker_leadership_changes_total{` + only + `}[1h]))`, ""}}},
			{"table", "Builds", "What runs where.", "short", byInstance("logbroker_build_info{" + only + "}")},
			{"timeseries", "Partitions by state", "Replicas on each node.", "short", []query{{sum("partitions", "instance,state"), "{{instance}} {{state}}"}}},
		}},
		{"Traffic", []graph{
			{"timeseries", "Records stored by topic", "", "cps", []query{{rate("produce_records_total", "topic"), "{{topic}}"}}},
			{"timeseries", "Bytes stored by topic", "As batches, compressed.", "Bps", []query{{rate("produce_bytes_total", "topic"), "{{topic}}"}}},
			{"timeseries", "Bytes handed out", "", "Bps", byInstance(rate("fetch_bytes_total", "instance"))},
			{"timeseries", "Duplicates recognised", "Batches that a producer sent again and that were stored once.", "cps", []query{{rate("produce_duplicates_total", "topic"), "{{topic}}"}}},
		}},
		{"Requests", []graph{
			{"timeseries", "Request time, 99th percentile", "By request.", "s", []query{{quantile("0.99", "request_duration_seconds", "api"), "{{api}}"}}},
			{"timeseries", "Request time, median", "By request.", "s", []query{{quantile("0.5", "request_duration_seconds", "api"), "{{api}}"}}},
			{"timeseries", "Requests", "By request.", "reqps", []query{{rate("request_duration_seconds_count", "api"), "{{api}}"}}},
			{
				"timeseries", "Refusals", "Requests that were not answered with success, by code.", "reqps",
				[]query{{`sum by (api,code) (rate(logbroker_request_duration_seconds_count{` + only + `,code!="NONE"}[$__rate_interval]))`, "{{api}} {{code}}"}},
			},
			{"timeseries", "Client connections", "", "short", byInstance(sum("client_connections", "instance"))},
			{"timeseries", "Leadership changes", "", "short", byInstance("sum by (instance) (increase(logbroker_leadership_changes_total{" + only + "}[$__rate_interval]))")},
		}},
		{"Storage", []graph{
			{"timeseries", "Raft log sync, 99th percentile", "A slow disk shows here first.", "s", byInstance(quantile("0.99", "raft_log_sync_duration_seconds", "instance"))},
			{"timeseries", "Raft log bytes", "", "bytes", byInstance(sum("raft_log_bytes", "instance"))},
			{"timeseries", "Segment bytes", "", "bytes", byInstance(sum("segment_bytes", "instance"))},
			{"timeseries", "Free disk", "Below storage.min_free_bytes a node refuses records.", "bytes", byInstance("min by (instance) (logbroker_disk_free_bytes{" + only + "})")},
		}},
		{"Consumer groups", []graph{
			{"timeseries", "Lag", "Records that a group has still to read.", "short", []query{{`sum by (group,topic) (logbroker_consumer_group_lag{` + only + `})`, "{{group}} {{topic}}"}}},
			{"timeseries", "Members", "", "short", []query{{`sum by (group) (logbroker_consumer_group_members{` + only + `})`, "{{group}}"}}},
		}},
		{"Partitions (needs the detailed page: generate prometheus-config --detailed)", []graph{
			{
				"timeseries", "Without a leader", "Partitions that no node knows a leader of.", "short",
				[]query{{`count(max by (topic,partition) (logbroker_partition_has_leader) == 0) or vector(0)`, "partitions"}},
			},
			{
				"timeseries", "Growth of the high watermark", "Records per second by topic.", "cps",
				[]query{{`sum by (topic) (max by (topic,partition) (rate(logbroker_partition_high_watermark_offset[$__rate_interval])))`, "{{topic}}"}},
			},
			{
				"timeseries", "Readable records", "High watermark less log start.", "short",
				[]query{{`sum by (topic) (max by (topic,partition) (logbroker_partition_high_watermark_offset) - max by (topic,partition) (logbroker_partition_log_start_offset))`, "{{topic}}"}},
			},
			{"timeseries", "Size", "Segments of all replicas, by topic.", "bytes", []query{{`sum by (topic) (logbroker_partition_size_bytes)`, "{{topic}}"}}},
		}},
	}
}

// Measures of Grafana's grid, which is 24 columns wide.
const (
	gridColumns = 24
	graphWidth  = 12
	graphHeight = 8
	statWidth   = 6
	statHeight  = 4
)

// newDashboard lays the panels out: stats four in a row, graphs two.
func newDashboard() *dashboard {
	source := &datasource{"prometheus", "${datasource}"}
	d := &dashboard{
		UID: "logbroker", Title: "logbroker", Tags: []string{"logbroker"}, Timezone: "browser", Refresh: "30s", SchemaVersion: 39, Editable: true,
		Time:        timeRange{"now-1h", "now"},
		Annotations: map[string]any{"list": []any{}},
		Templating: templating{[]variable{
			{Name: "datasource", Label: "Data source", Type: "datasource", Query: "prometheus", Refresh: 1},
			choice("job", "Job", `label_values(logbroker_build_info, job)`, source),
			choice("instance", "Node", `label_values(logbroker_build_info{job=~"$job"}, instance)`, source),
		}},
	}
	at := gridPos{}
	for _, s := range sections() {
		d.add(panel{Type: "row", Title: s.title, GridPos: gridPos{H: 1, W: gridColumns, Y: at.Y}})
		at = gridPos{Y: at.Y + 1}
		for _, g := range s.graphs {
			w, h := graphWidth, graphHeight
			if g.kind == "stat" {
				w, h = statWidth, statHeight
			}
			if at.X+w > gridColumns {
				at = gridPos{Y: at.Y + at.H}
			}
			at.W, at.H = w, h
			d.add(g.panel(at, source))
			at.X += w
		}
		at = gridPos{Y: at.Y + at.H}
	}
	return d
}

func choice(name, label, query string, source *datasource) variable {
	return variable{
		Name: name, Label: label, Type: "query", Query: query, Datasource: source, Refresh: 2,
		IncludeAll: true, Multi: true, AllValue: ".*", Current: map[string]any{"text": "All", "value": "$__all"},
	}
}

func (d *dashboard) add(p panel) {
	p.ID = len(d.Panels) + 1
	d.Panels = append(d.Panels, p)
}

func (g graph) panel(at gridPos, source *datasource) panel {
	zero := 0
	p := panel{
		Type: g.kind, Title: g.title, Description: g.about, Datasource: source, GridPos: at,
		FieldConfig: fieldConfig{Defaults: fieldDefaults{Unit: g.unit, Min: &zero}, Overrides: []any{}},
	}
	for i, q := range g.queries {
		p.Targets = append(p.Targets, target{RefID: string(rune('A' + i)), Expr: q.expr, Legend: q.legend, Source: source})
	}
	return p
}

func newGenerateDashboard(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "grafana-dashboard", Short: "Print a Grafana dashboard (JSON, to be imported)",
		Example: "  logbroker generate grafana-dashboard > logbroker.json",
		Args:    cli.Args(cobra.NoArgs),
		RunE:    func(*cobra.Command, []string) error { return writeJSON(a.stdout, newDashboard(), "  ") },
	}
}
