package producerstate

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestScenarios plays the stories in testdata. A line is a step and, behind
// "->", what must come of it; "#" begins a comment. The steps:
//
//	limits W P M                      a new table that remembers W batches, P producers, M message ids
//	produce ID epoch E seq S xN @O    N records from sequence S on, to be stored at offset O -> verdict [offset]
//	keys                              -> id/epoch/last sequence …
//	expire id/epoch/last …            -> how many were forgotten
//	message ID time T @O              a plain publish at command time T -> append | duplicate offset
//	held                              -> producers P messages M
//	reload                            through the snapshot form, which must be stable
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { playFile(t, file) })
	}
}

func playFile(t *testing.T, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := scenario{table: New(Limits{})}
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		step, want, _ := strings.Cut(line, "->")
		if strings.TrimSpace(step) == "" {
			continue
		}
		got, err := s.play(strings.Fields(step))
		if err != nil {
			t.Fatalf("%s:%d: %s: %v", file, n, strings.TrimSpace(step), err)
		}
		if got != strings.TrimSpace(want) {
			t.Errorf("%s:%d: %s: got %q, want %q", file, n, strings.TrimSpace(step), got, strings.TrimSpace(want))
		}
	}
}

type scenario struct{ table *Table }

func (s *scenario) play(words []string) (string, error) {
	args := strings.Join(words[1:], " ")
	switch words[0] {
	case "limits":
		var l Limits
		_, err := fmt.Sscanf(args, "%d %d %d", &l.Window, &l.Producers, &l.MessageIDs)
		s.table = New(l)
		return "", err
	case "produce":
		return s.produce(args)
	case "keys":
		return formatKeys(s.table.Keys(nil)), nil
	case "expire":
		keys, err := parseKeys(words[1:])
		return fmt.Sprint(s.table.Expire(keys)), err
	case "message":
		return s.message(args)
	case "held":
		return fmt.Sprintf("producers %d messages %d", s.table.Producers(), s.table.MessageIDs()), nil
	case "reload":
		return "", s.reload()
	default:
		return "", fmt.Errorf("unknown step %q", words[0])
	}
}

func (s *scenario) produce(args string) (string, error) {
	var b Batch
	var at int64
	_, err := fmt.Sscanf(args, "%d epoch %d seq %d x%d @%d", &b.Producer, &b.Epoch, &b.Sequence, &b.Count, &at)
	v, offset := s.table.Apply(b, at)
	if v == Duplicate {
		return fmt.Sprintf("%s %d", v, offset), err
	}
	return v.String(), err
}

func (s *scenario) message(args string) (string, error) {
	var id string
	var ms, at int64
	if _, err := fmt.Sscanf(args, "%s time %d @%d", &id, &ms, &at); err != nil {
		return "", err
	}
	if offset, ok := s.table.Message([]byte(id), ms); ok {
		return fmt.Sprintf("duplicate %d", offset), nil
	}
	s.table.RememberMessage([]byte(id), ms, at)
	return "append", nil
}

func (s *scenario) reload() error {
	b := s.table.Encode(nil)
	table, err := Decode(b, s.table.Limits())
	if err != nil {
		return err
	}
	if !bytes.Equal(table.Encode(nil), b) {
		return fmt.Errorf("the snapshot form is not stable")
	}
	s.table = table
	return nil
}

func formatKeys(keys []Key) string {
	words := make([]string, 0, len(keys))
	for _, k := range keys {
		words = append(words, fmt.Sprintf("%d/%d/%d", k.Producer, k.Epoch, k.LastSequence))
	}
	return strings.Join(words, " ")
}

func parseKeys(words []string) ([]Key, error) {
	keys := make([]Key, len(words))
	for i, w := range words {
		if _, err := fmt.Sscanf(w, "%d/%d/%d", &keys[i].Producer, &keys[i].Epoch, &keys[i].LastSequence); err != nil {
			return nil, err
		}
	}
	return keys, nil
}
