package spiffe

import (
	"errors"
	"testing"
	"time"
)

// An agent is asked ever less often, and looked for each second.
func TestPauses(t *testing.T) {
	const ms = time.Millisecond
	c := &client{}
	p := &pauses{client: c}
	for i, want := range []time.Duration{200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 5000 * ms, 5000 * ms} {
		if got := p.Next(); got != want {
			t.Errorf("pause %d: got %s, want %s", i, got, want)
		}
	}
	c.dial = errors.New("nobody there")
	if got := p.Next(); got != time.Second {
		t.Errorf("between two looks: got %s", got)
	}
	p.NewBackoff().Reset()
	if got := p.Next(); got != 200*ms {
		t.Errorf("after an answer: got %s", got)
	}
}
