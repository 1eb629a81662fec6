package policy_test

import (
	"errors"
	"log/slog"
	"testing"

	"sidegate/policy"
)

// ROT-09: a policy file that is broken, emptied or gone takes nothing away from
// the one in service, and adds nothing to it.
func TestStoreKeepsTheLastGood(t *testing.T) {
	const good = "version: 1\nrules: [{name: those, user: [user:alice]}]\n"
	text, readErr := good, error(nil)
	s := &policy.Store{File: "policy.yaml", Surroundings: around, Log: slog.New(slog.DiscardHandler),
		Read: func() ([]byte, error) { return []byte(text), readErr }}
	generation, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	changed := s.Changed()
	for _, broken := range []string{"", "version: 1\n", "version: 2\nrules: [{name: x, user: [anyone]}]\n", "version: 1\nrules: [{name: x, usr: [anyone]}]\n", "\x00", "gone"} {
		text, readErr = broken, nil
		if broken == "gone" {
			readErr = errors.New("no such file")
		}
		if _, err := s.Load(t.Context()); err == nil {
			t.Errorf("%q was loaded", broken)
		}
		for name, want := range map[string]bool{"alice": true, "bob": false} {
			if d := s.Decide(t.Context(), request(t, "GET /"), policy.Identity{User: local(name)}); d.Allow != want {
				t.Errorf("%q: %s passes: %t", broken, name, d.Allow)
			}
		}
	}
	select {
	case <-changed:
		t.Error("nothing is in service that was not, and a change was told")
	default:
	}
	text, readErr = good, nil
	if again, err := s.Load(t.Context()); err != nil || again != generation {
		t.Errorf("the same file again is %s, %v; want %s", again, err, generation)
	}
}
