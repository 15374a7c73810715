package errcode

import (
	"errors"
	"fmt"
	"testing"
)

func TestNamesAreUniqueAndEveryCodeHasOne(t *testing.T) {
	seen := map[string]Code{}
	for _, c := range Codes() {
		if other, ok := seen[c.String()]; ok {
			t.Errorf("%d and %d are both %s", other, c, c)
		}
		seen[c.String()] = c
	}
	if got := Code(31999).String(); got != "CODE_31999" || Code(31999).Retriable() {
		t.Errorf("a newer peer's code reads %s", got)
	}
}

func TestCodesSurviveWrapping(t *testing.T) {
	err := fmt.Errorf("producing: %w", New(NotEnoughReplicas, "%d of 3 nodes", 1))
	if Of(err) != NotEnoughReplicas || !errors.Is(err, New(NotEnoughReplicas, "")) || errors.Is(err, New(Throttled, "")) {
		t.Fatalf("code %s", Of(err))
	}
	if Of(nil) != None || Of(errors.New("x")) != UnknownServerError || From(nil) != nil || From(errors.New("x")).Message != "x" {
		t.Fatal("errors without a code")
	}
	if got := err.Error(); got != "producing: NOT_ENOUGH_REPLICAS: 1 of 3 nodes" {
		t.Fatal(got)
	}
}
