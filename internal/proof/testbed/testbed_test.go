package testbed

import (
	"testing"

	"logbroker/internal/history"
	"logbroker/producer"
)

func TestAValueTellsItsMessageAndNothingElseDoes(t *testing.T) {
	t.Parallel()
	for _, size := range []int{8, 100, 101} {
		value := appendValue(nil, 3<<laneShift|7, size)
		if len(value) != size || messageIn(value) != 3<<laneShift|7 {
			t.Errorf("%d bytes: %x", size, value)
		}
		for i := range value {
			value[i] ^= 1
			if size > 8 && messageIn(value) != 0 {
				t.Errorf("%d bytes: byte %d is wrong and nobody sees it", size, i)
			}
			value[i] ^= 1
		}
	}
	if messageIn([]byte("short")) != 0 {
		t.Error("a short value is taken for a message")
	}
}

func TestOnlyACertainFailureIsOne(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]history.Kind{
		nil: history.OK, producer.ErrDeliveryTimeout: history.Fail, producer.ErrUnknownOutcome: history.Unknown, producer.ErrClosed: history.Unknown,
	} {
		if got := verdictOf(err); got != want {
			t.Errorf("%v is %v, want %v", err, got, want)
		}
	}
}
