package main

import (
	"strings"
	"testing"
)

func TestShowsFailuresAndCountsWhatWasSkipped(t *testing.T) {
	in := `go: downloading something
{"Action":"build-output","ImportPath":"m/c","Output":"c.go:1: undefined\n"}
{"Action":"start","Package":"m/a"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"    good words\n"}
{"Action":"pass","Package":"m/a","Test":"TestGood","Elapsed":0.1}
{"Action":"output","Package":"m/a","Test":"TestRoot","Output":"=== RUN   TestRoot\n"}
{"Action":"output","Package":"m/a","Test":"TestRoot","Output":"    a_test.go:7: run as root\n"}
{"Action":"output","Package":"m/a","Test":"TestRoot","Output":"--- SKIP: TestRoot (0.00s)\n"}
{"Action":"skip","Package":"m/a","Test":"TestRoot","Elapsed":0}
{"Action":"output","Package":"m/a","Output":"PASS\n"}
{"Action":"output","Package":"m/a","Output":"ok  \tm/a\t0.1s\n"}
{"Action":"pass","Package":"m/a","Elapsed":0.1}
{"Action":"output","Package":"m/b","Test":"TestBad","Output":"    b_test.go:3: bad\n"}
{"Action":"fail","Package":"m/b","Test":"TestBad","Elapsed":0}
{"Action":"output","Package":"m/b","Test":"TestHangs","Output":"panic: timed out\n"}
{"Action":"output","Package":"m/b","Output":"FAIL\tm/b\t0.2s\n"}
{"Action":"fail","Package":"m/b","Elapsed":0.2}
{"Action":"skip","Package":"m/none","Elapsed":0}
`
	want := `go: downloading something
c.go:1: undefined
ok  	m/a	0.1s
    b_test.go:3: bad
FAIL	m/b	0.2s
=== m/b TestHangs did not end
panic: timed out
1 tests were skipped
  m/a TestRoot: a_test.go:7: run as root
`
	var out strings.Builder
	if err := show(strings.NewReader(in), &out); err != nil || out.String() != want {
		t.Errorf("%v, got\n%s", err, out.String())
	}
}
