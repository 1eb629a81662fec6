package authn

import (
	"errors"
	"testing"

	"sidegate/policy"
)

// What becomes of a user who was proven once, when the file changes.
func TestRecheck(t *testing.T) {
	hash, other := bcryptOf(t, "x", 4), bcryptOf(t, "x", 4)
	w := newWorld(t, "u:"+hash)
	w.load(t)
	login, err := w.Authenticate(t.Context(), basic("u", "x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, file, want string }{
		{"nothing changed", "u:" + hash + "\nv:" + hash, ""},
		{"the hash changed", "u:" + other, "prove again"},
		{"somebody else has the hash", "v:" + hash, "bad_credentials"}, // u is gone: to prove anything again is of no use
		{"the user is back", "u:" + hash, ""},
	} {
		w.set(map[string][]byte{"htpasswd": []byte(c.file)}, nil)
		w.load(t)
		got := ""
		var refusal *policy.Refusal
		switch err := w.Recheck(t.Context(), login.User); {
		case errors.Is(err, policy.ErrProveAgain):
			got = "prove again"
		case errors.As(err, &refusal):
			got = string(refusal.Reason)
		case err != nil:
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// LIB-17: bcrypt repeats a password with a NUL behind it, so that x and x\0x are
// one to it. No request gets so far; what guards the comparison holds by itself.
func TestNoPasswordEndsInTheMiddle(t *testing.T) {
	h, err := parseHash(bcryptOf(t, "x", 4), false)
	if err != nil {
		t.Fatal(err)
	}
	for password, want := range map[string]bool{"x": true, "x\x00x": false, "x\x00": false, "x\x00y": false} {
		if got := h.matches([]byte(password)); got != want {
			t.Errorf("%q: got %t, want %t", password, got, want)
		}
	}
}
