package units

import (
	"testing"
	"time"
)

func TestByteSizeReadsAndPrintsEveryForm(t *testing.T) {
	tests := []struct {
		in   string
		want ByteSize
		out  string
	}{
		{"0", 0, "0"},
		{"-1", -1, "-1"},
		{"1", 1, "1"},
		{"1024", KiB, "1KiB"},
		{"64KiB", 64 * KiB, "64KiB"},
		{"64kib", 64 * KiB, "64KiB"},
		{"1 GiB", GiB, "1GiB"},
		{"1GB", 1e9, "1000000000"},
		{"2TiB", 2 * TiB, "2TiB"},
		{"10B", 10, "10"},
	}
	for _, test := range tests {
		got, err := ParseByteSize(test.in)
		if err != nil || got != test.want || got.String() != test.out {
			t.Errorf("%q: %d %v, prints %s", test.in, got, err, got)
		}
	}
	for _, bad := range []string{"", "KiB", "-2", "-1KiB", "1.5MiB", "1XB", "9999999999TiB", "0x10"} {
		if got, err := ParseByteSize(bad); err == nil {
			t.Errorf("%q was taken as %d", bad, got)
		}
	}
}

func FuzzParseByteSize(f *testing.F) {
	for _, s := range []string{"64KiB", "-1", "1GB", "9223372036854775807", "1 B"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseByteSize(s)
		if err != nil {
			return
		}
		back, err := ParseByteSize(v.String())
		if err != nil || back != v {
			t.Fatalf("%q → %d → %s → %d, %v", s, v, v, back, err)
		}
	})
}

func TestDurationsPrintShort(t *testing.T) {
	for d, want := range map[time.Duration]string{168 * time.Hour: "168h", 10 * time.Minute: "10m", 90 * time.Second: "1m30s", 50 * time.Millisecond: "50ms", 0: "0s"} {
		if got := FormatDuration(d); got != want {
			t.Errorf("%d prints %s, want %s", d, got, want)
		}
	}
}
