package config

import (
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"logbroker/internal/units"
)

// Print writes c as a commented YAML file that Load reads back to the same
// configuration.
func Print(w io.Writer, c Config) error {
	p := &printer{w: w}
	p.printf("# logbrokerd configuration. Precedence: flags > environment (%s_<KEY>) > file > defaults.\n", EnvPrefix)
	p.printf("# A duration needs a unit (30s); a size is 64KiB, 1GiB, 1GB or a plain number.\n")
	walk(reflect.ValueOf(c), "", p.leaf, p.section)
	return p.err
}

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

func (p *printer) section(key, doc string) {
	p.printf("\n# %s\n%s:\n", doc, key)
}

func (p *printer) leaf(key, doc string, value reflect.Value) {
	indent, name := "", key
	if at := strings.LastIndexByte(key, '.'); at >= 0 {
		indent, name = "  ", key[at+1:]
	} else {
		p.printf("\n")
	}
	p.printf("%s# %s\n%s%s: %s\n", indent, doc, indent, name, yamlScalar(value.Interface()))
}

func yamlScalar(value any) string {
	switch v := value.(type) {
	case string:
		return strconv.Quote(v)
	case []string:
		quoted := make([]string, len(v))
		for i, s := range v {
			quoted[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	case time.Duration:
		return units.FormatDuration(v)
	default:
		return fmt.Sprint(v)
	}
}
