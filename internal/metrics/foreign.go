package metrics

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Foreign makes a prometheus.Gatherer of metrics that another library writes as
// text (dragonboat does, through VictoriaMetrics/metrics). Parsing them, rather
// than appending the text, keeps the page valid whatever is in it.
type Foreign func(io.Writer)

// Gather parses what the library writes, sorted by name.
func (f Foreign) Gather() ([]*dto.MetricFamily, error) {
	var text bytes.Buffer
	f(&text)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(&text)
	if err != nil {
		return nil, fmt.Errorf("parsing foreign metrics: %w", err)
	}
	out := make([]*dto.MetricFamily, 0, len(families))
	for _, family := range families {
		out = append(out, family)
	}
	slices.SortFunc(out, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out, nil
}
