package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"gopkg.in/yaml.v3"

	"logbroker/internal/units"
)

// EnvPrefix begins every environment variable: LOGBROKER_STORAGE_DATA_DIR is
// the key storage.data_dir.
const EnvPrefix = "LOGBROKER"

// FileName is the configuration file's name in a search directory.
const FileName = "logbrokerd.yaml"

// SearchDir is where FileName is looked for when no file is named.
const SearchDir = "/etc/logbroker"

// LoadOptions says where to load from. Precedence: Flags > environment > file
// > defaults.
type LoadOptions struct {
	// File is the file to read; empty: FileName in SearchDir, if it is there.
	File string
	// SearchDir overrides the package's SearchDir.
	SearchDir string
	// Flags holds key → value as text, e.g. "storage.data_dir" → "/data".
	Flags map[string]string
}

// Loaded is a loaded configuration.
type Loaded struct {
	Config Config
	// File is the file that was read, empty if none was.
	File string
	// Warnings are about environment variables that no key answers to. They
	// are not errors because orchestrators inject variables of their own
	// (Kubernetes sets LOGBROKER_SERVICE_HOST for a service called logbroker).
	Warnings []string
}

// Load reads the configuration and validates it. Its error lists every fault.
func Load(o LoadOptions) (Loaded, error) {
	v := viper.New()
	v.SetEnvPrefix(EnvPrefix)
	v.SetEnvKeyReplacer(strings.NewReplacer(".", "_"))
	v.AutomaticEnv()
	// A key without a default is invisible to Unmarshal when it is only in the
	// environment, so every key gets one.
	defaults := flatten(Default())
	for key, value := range defaults {
		v.SetDefault(key, value)
	}
	file, err := readFile(v, o)
	if err != nil {
		return Loaded{}, err
	}
	for key, value := range o.Flags {
		if _, known := defaults[key]; !known {
			return Loaded{}, fmt.Errorf("config: flag for unknown key %s%s", key, suggest(key, defaults))
		}
		v.Set(key, value)
	}
	out := Loaded{File: file, Warnings: unknownEnv(os.Environ(), defaults)}
	if err := v.Unmarshal(&out.Config, decoderConfig); err != nil {
		return Loaded{}, fmt.Errorf("config: %w", firstLine(err))
	}
	if err := out.Config.Validate(); err != nil {
		return Loaded{}, err
	}
	return out, nil
}

// Keys returns every key, sorted.
func Keys() []string {
	keys := make([]string, 0, 64)
	for key := range flatten(Default()) {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

func readFile(v *viper.Viper, o LoadOptions) (string, error) {
	file := o.File
	if file == "" {
		dir := o.SearchDir
		if dir == "" {
			dir = SearchDir
		}
		file = filepath.Join(dir, FileName)
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			return "", nil
		}
	}
	v.SetConfigFile(file)
	v.SetConfigType("yaml")
	if err := v.ReadInConfig(); err != nil {
		return "", fmt.Errorf("config: cannot read %s: %w", file, err)
	}
	return file, unknownFileKeys(file)
}

// unknownFileKeys refuses keys that no field answers to: viper passes over a
// misspelt section without settings, so the file is looked at directly.
func unknownFileKeys(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("config: cannot read %s: %w", file, err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return fmt.Errorf("config: cannot read %s: %w", file, err)
	}
	known := flatten(Default())
	walk(reflect.ValueOf(Default()), "", func(string, string, reflect.Value) {}, func(key, _ string) { known[key] = nil })
	var faults []error
	for _, key := range sorted(treeKeys(tree, "")) {
		if _, ok := known[key]; !ok {
			faults = append(faults, fmt.Errorf("config: %s: unknown key %s%s", file, key, suggest(key, known)))
		}
	}
	return errors.Join(faults...)
}

// treeKeys returns the dotted names of sections and settings, in lower case as
// viper compares them.
func treeKeys(tree map[string]any, prefix string) []string {
	var keys []string
	for name, value := range tree {
		key := prefix + strings.ToLower(name)
		keys = append(keys, key)
		if below, ok := value.(map[string]any); ok {
			keys = append(keys, treeKeys(below, key+".")...)
		}
	}
	return keys
}

// clientEnv are variables of the command line client, which a person may have set.
func clientEnv() []string { return []string{EnvPrefix + "_SERVER", EnvPrefix + "_PROFILE"} }

// unknownEnv warns of LOGBROKER_ variables that are no key.
func unknownEnv(environ []string, known map[string]any) []string {
	names := make(map[string]any, len(known))
	for key := range known {
		names[envName(key)] = nil
	}
	var warnings []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, EnvPrefix+"_") || slices.Contains(clientEnv(), name) {
			continue
		}
		if _, ok := names[name]; !ok {
			warnings = append(warnings, fmt.Sprintf("environment variable %s is no setting%s", name, suggest(name, names)))
		}
	}
	return sorted(warnings)
}

func envName(key string) string {
	return EnvPrefix + "_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

func decoderConfig(c *mapstructure.DecoderConfig) {
	c.ErrorUnused = true
	c.DecodeHook = mapstructure.ComposeDecodeHookFunc(decodeDuration, decodeByteSize, decodeUnsigned, decodeList)
}

// decodeDuration takes text with a unit and refuses bare numbers: 30 would
// silently become 30 nanoseconds.
func decodeDuration(_, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[time.Duration]() {
		return data, nil
	}
	switch value := data.(type) {
	case time.Duration:
		return value, nil
	case string:
		d, err := time.ParseDuration(strings.TrimSpace(value))
		if err != nil {
			return nil, fmt.Errorf("%q is not a duration; write it with a unit, like 500ms, 30s, 5m or 24h", value)
		}
		return d, nil
	default:
		return nil, fmt.Errorf("%v has no unit; write a duration like 500ms, 30s, 5m or 24h", data)
	}
}

func decodeByteSize(_, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[ByteSize]() {
		return data, nil
	}
	switch value := data.(type) {
	case ByteSize:
		return value, nil
	case string, int, int64, uint64:
		return units.ParseByteSize(fmt.Sprint(value))
	default:
		return nil, fmt.Errorf("%v is not a size; write it like 64KiB, 1GiB, 1GB or 65536", data)
	}
}

// decodeUnsigned refuses what a weak conversion would wrap around.
func decodeUnsigned(_, to reflect.Type, data any) (any, error) {
	if to.Kind() != reflect.Uint64 {
		return data, nil
	}
	n, err := strconv.ParseUint(strings.TrimSpace(fmt.Sprint(data)), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%v is not a whole number of 0 or more", data)
	}
	return n, nil
}

// decodeList takes a comma-separated text, as the environment and flags give it.
func decodeList(_, to reflect.Type, data any) (any, error) {
	text, isText := data.(string)
	if to != reflect.TypeFor[[]string]() || !isText {
		return data, nil
	}
	list := []string{}
	for _, item := range strings.Split(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list, nil
}

// flatten returns the leaves of a Config by their dotted keys.
func flatten(c Config) map[string]any {
	out := map[string]any{}
	walk(reflect.ValueOf(c), "", func(key, _ string, value reflect.Value) { out[key] = value.Interface() }, nil)
	return out
}

// walk calls leaf for every setting and section for every group, in the order
// of the fields.
func walk(v reflect.Value, prefix string, leaf func(key, doc string, value reflect.Value), section func(key, doc string)) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		key := prefix + field.Tag.Get("mapstructure")
		if field.Type.Kind() != reflect.Struct {
			leaf(key, field.Tag.Get("doc"), v.Field(i))
			continue
		}
		if section != nil {
			section(key, field.Tag.Get("doc"))
		}
		walk(v.Field(i), key+".", leaf, section)
	}
}

// suggest returns ` (did you mean X?)` for the nearest known name, or "".
func suggest(name string, known map[string]any) string {
	best, bestDistance := "", len(name)/3+1
	for candidate := range known {
		d := distance(name, candidate)
		if d < bestDistance || (d == bestDistance && best != "" && candidate < best) {
			best, bestDistance = candidate, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", best)
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

// firstLine keeps mapstructure's multi-line report readable on one line.
func firstLine(err error) error {
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	return errors.New(strings.Join(strings.Fields(text), " "))
}
