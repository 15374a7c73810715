package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
)

// The encoding is one JSON object a line. Fields that are zero are left out,
// except the kind and the time.

// line is an event as it is read.
type line struct {
	Kind      string `json:"k"`
	At        int64  `json:"t"`
	Began     int64  `json:"from"`
	Process   string `json:"proc"`
	Group     string `json:"g"`
	Member    string `json:"m"`
	Epoch     int32  `json:"e"`
	Partition int32  `json:"p"`
	Offset    int64  `json:"o"`
	High      int64  `json:"hw"`
	Message   uint64 `json:"id"`
	Producer  uint64 `json:"prod"`
	Sequence  int64  `json:"seq"`
	Replica   uint64 `json:"r"`
	Flushed   bool   `json:"flushed"`
	Note      string `json:"note"`
}

// append adds the event's JSON object to b.
func (e *Event) append(b []byte) []byte {
	b = append(b, `{"k":"`...)
	b = append(b, e.Kind.String()...)
	b = append(b, `","t":`...)
	b = strconv.AppendInt(b, e.At, 10)
	b = appendInt(b, `,"from":`, e.Began)
	b = appendText(b, `,"proc":`, e.Process)
	b = appendText(b, `,"g":`, e.Group)
	b = appendText(b, `,"m":`, e.Member)
	b = appendInt(b, `,"e":`, int64(e.Epoch))
	b = appendInt(b, `,"p":`, int64(e.Partition))
	b = appendInt(b, `,"o":`, e.Offset)
	b = appendInt(b, `,"hw":`, e.High)
	b = appendUint(b, `,"id":`, e.Message)
	b = appendUint(b, `,"prod":`, e.Producer)
	b = appendInt(b, `,"seq":`, e.Sequence)
	b = appendUint(b, `,"r":`, e.Replica)
	if e.Flushed {
		b = append(b, `,"flushed":true`...)
	}
	b = appendText(b, `,"note":`, e.Note)
	return append(b, '}')
}

func appendInt(b []byte, name string, v int64) []byte {
	if v == 0 {
		return b
	}
	return strconv.AppendInt(append(b, name...), v, 10)
}

func appendUint(b []byte, name string, v uint64) []byte {
	if v == 0 {
		return b
	}
	return strconv.AppendUint(append(b, name...), v, 10)
}

func appendText(b []byte, name, v string) []byte {
	if v == "" {
		return b
	}
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // a string always encodes
	}
	return append(append(b, name...), text...)
}

// Decode reads the events of a file's bytes. torn says that the last line has no
// end; it is left out then.
//
// Errors: a whole line that is no event, by its number.
func Decode(data []byte) (events []Event, torn bool, err error) {
	for n := 1; len(data) > 0; n++ {
		one, rest, whole := bytes.Cut(data, []byte{'\n'})
		if !whole {
			return events, true, nil
		}
		data = rest
		var l line
		if err := json.Unmarshal(one, &l); err != nil {
			return nil, false, fmt.Errorf("history line %d: %w", n, err)
		}
		kind := slices.Index(kindNames[:], l.Kind)
		if kind < 1 {
			return nil, false, fmt.Errorf("history line %d: there is no kind %q", n, l.Kind)
		}
		events = append(events, Event{
			Kind: Kind(kind), At: l.At, Began: l.Began, Process: l.Process, Group: l.Group, Member: l.Member, Epoch: l.Epoch,
			Partition: l.Partition, Offset: l.Offset, High: l.High, Message: l.Message, Producer: l.Producer, Sequence: l.Sequence,
			Replica: l.Replica, Flushed: l.Flushed, Note: l.Note,
		})
	}
	return events, false, nil
}

// Load reads files and returns their events one file after the other. torn is
// the number of files that end within a line.
//
// Errors: a file that cannot be read, or that Decode refuses; the others are
// read all the same.
func Load(files ...string) (events []Event, torn int, err error) {
	var errs []error
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		more, cut, err := Decode(data)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file, err))
			continue
		}
		if cut {
			torn++
		}
		events = append(events, more...)
	}
	return events, torn, errors.Join(errs...)
}
