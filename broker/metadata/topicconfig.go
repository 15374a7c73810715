package metadata

import (
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"logbroker/internal/errcode"
	"logbroker/internal/units"
)

// Bounds of topic settings.
const (
	PartitionsMax      = 10_000  // of one topic
	TotalPartitionsMax = 100_000 // of the whole cluster
	BatchBytesMin      = 1 << 10
	BatchBytesMax      = 1 << 20 // bigger Raft entries pin memory in every replica
	SegmentBytesMin    = 1 << 10
	SegmentBytesMax    = 1<<31 - 1
	SegmentAgeMin      = time.Millisecond
)

// CleanupDelete is the one cleanup policy there is: retention removes old
// segments.
const CleanupDelete = "delete"

// TopicConfig holds the settings of a topic. In JSON durations are nanoseconds.
type TopicConfig struct {
	RetentionAge   time.Duration `json:"retention_age"`   // since append; 0 keeps records for ever
	RetentionBytes int64         `json:"retention_bytes"` // per partition; -1 keeps all
	MaxBatchBytes  int64         `json:"max_batch_bytes"` // of an encoded batch
	SegmentBytes   int64         `json:"segment_bytes"`   // a segment is closed at this size
	SegmentAge     time.Duration `json:"segment_age"`     // a segment is closed at this age
	Cleanup        string        `json:"cleanup"`         // CleanupDelete
}

// setting is one topic setting: how it is read and how it is written.
type setting struct {
	set  func(c *configPatch, text string) error
	show func(c TopicConfig) string
}

// settings returns the settings by their names.
func settings() map[string]setting {
	return map[string]setting{
		"retention_age": {
			func(c *configPatch, s string) error { return setDuration(&c.RetentionAge, s, 0) },
			func(c TopicConfig) string { return units.FormatDuration(c.RetentionAge) },
		},
		"retention_bytes": {
			func(c *configPatch, s string) error { return setRetentionBytes(&c.RetentionBytes, s) },
			func(c TopicConfig) string { return units.ByteSize(c.RetentionBytes).String() },
		},
		"max_batch_bytes": {
			func(c *configPatch, s string) error {
				return setSize(&c.MaxBatchBytes, s, BatchBytesMin, BatchBytesMax)
			},
			func(c TopicConfig) string { return units.ByteSize(c.MaxBatchBytes).String() },
		},
		"segment_bytes": {
			func(c *configPatch, s string) error {
				return setSize(&c.SegmentBytes, s, SegmentBytesMin, SegmentBytesMax)
			},
			func(c TopicConfig) string { return units.ByteSize(c.SegmentBytes).String() },
		},
		"segment_age": {
			func(c *configPatch, s string) error { return setDuration(&c.SegmentAge, s, SegmentAgeMin) },
			func(c TopicConfig) string { return units.FormatDuration(c.SegmentAge) },
		},
		"cleanup": {
			func(c *configPatch, s string) error { return setCleanup(&c.Cleanup, s) },
			func(c TopicConfig) string { return c.Cleanup },
		},
	}
}

// TopicSettings returns the names of the topic settings, sorted.
func TopicSettings() []string { return slices.Sorted(maps.Keys(settings())) }

// ParseTopicConfig returns defaults with changes, settings by name as text, laid
// over them. Durations need a unit (168h), sizes are 64KiB, 1GiB, 1GB or a plain
// number of bytes. Errors: INVALID_CONFIG, NOT_IMPLEMENTED for cleanup: compact.
func ParseTopicConfig(defaults TopicConfig, changes map[string]string) (TopicConfig, error) {
	patch, err := parsePatch(changes)
	if err != nil {
		return TopicConfig{}, err
	}
	return patch.over(defaults), nil
}

// Map returns the settings by name as text, which ParseTopicConfig reads back.
func (c TopicConfig) Map() map[string]string {
	out := map[string]string{}
	for name, s := range settings() {
		out[name] = s.show(c)
	}
	return out
}

// validate returns the first setting of c that could not have been given as text.
func (c TopicConfig) validate() error {
	_, err := parsePatch(c.Map())
	return err
}

// configPatch is a change of some settings; nil leaves a setting alone. It is
// what an alter command carries, so that two of them at once do not undo each
// other.
type configPatch struct {
	RetentionAge   *time.Duration `json:"retention_age,omitempty"`
	RetentionBytes *int64         `json:"retention_bytes,omitempty"`
	MaxBatchBytes  *int64         `json:"max_batch_bytes,omitempty"`
	SegmentBytes   *int64         `json:"segment_bytes,omitempty"`
	SegmentAge     *time.Duration `json:"segment_age,omitempty"`
	Cleanup        *string        `json:"cleanup,omitempty"`
}

// parsePatch reads changes in the order of their names, so that the same input
// always gives the same error.
func parsePatch(changes map[string]string) (configPatch, error) {
	known := settings()
	var patch configPatch
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		s, ok := known[name]
		if !ok {
			return configPatch{}, errcode.New(errcode.InvalidConfig, "there is no topic setting %q; the settings are %s",
				name, strings.Join(TopicSettings(), ", "))
		}
		if err := s.set(&patch, strings.TrimSpace(changes[name])); err != nil {
			e := errcode.From(err)
			return configPatch{}, errcode.New(e.Code, "%s: %s", name, e.Message)
		}
	}
	return patch, nil
}

// over returns base with what p sets.
func (p configPatch) over(base TopicConfig) TopicConfig {
	lay(&base.RetentionAge, p.RetentionAge)
	lay(&base.RetentionBytes, p.RetentionBytes)
	lay(&base.MaxBatchBytes, p.MaxBatchBytes)
	lay(&base.SegmentBytes, p.SegmentBytes)
	lay(&base.SegmentAge, p.SegmentAge)
	lay(&base.Cleanup, p.Cleanup)
	return base
}

func lay[T any](dst, src *T) {
	if src != nil {
		*dst = *src
	}
}

func setDuration(dst **time.Duration, text string, least time.Duration) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return errcode.New(errcode.InvalidConfig, "%q is not a duration; write a number with a unit, like 168h or 90s", text)
	}
	if d < least {
		return errcode.New(errcode.InvalidConfig, "%s is too short; use at least %s", text, units.FormatDuration(least))
	}
	*dst = &d
	return nil
}

func setSize(dst **int64, text string, least, most int64) error {
	size, err := units.ParseByteSize(text)
	if err != nil {
		return errcode.New(errcode.InvalidConfig, "%v", err)
	}
	n := int64(size)
	if n < least || n > most {
		return errcode.New(errcode.InvalidConfig, "%s is out of bounds; use %s to %s", text, units.ByteSize(least).String(), units.ByteSize(most).String())
	}
	*dst = &n
	return nil
}

// setRetentionBytes reads a size, or -1 for no limit.
func setRetentionBytes(dst **int64, text string) error {
	if text == "-1" {
		all := int64(-1)
		*dst = &all
		return nil
	}
	return setSize(dst, text, 1, math.MaxInt64)
}

func setCleanup(dst **string, text string) error {
	switch text {
	case CleanupDelete:
		*dst = &text
		return nil
	case "compact", "compact,delete", "delete,compact":
		return errcode.New(errcode.NotImplemented, "compaction is not built yet; use delete")
	}
	return errcode.New(errcode.InvalidConfig, "there is no cleanup policy %q; use delete", text)
}
