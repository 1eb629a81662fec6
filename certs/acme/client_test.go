package acme

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/acme"
)

// silent is a server that takes requests and says nothing.
type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// A server that says nothing costs callTimeout, and the error is the same each time.
func TestSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := client(silent{}).Get("https://ca.example/dir")
		if took := time.Since(began); err == nil || took != callTimeout {
			t.Errorf("%v after %s", err, took)
		}
		if got := while("ask", err).Error(); got != "ask: the server takes too long" {
			t.Errorf("got %q", got)
		}
	})
}

// Nothing of the environment stands between us and the server.
func TestNoProxy(t *testing.T) {
	tr, err := (&Issuer{}).transport()
	if err != nil {
		t.Fatal(err)
	}
	if tr.Proxy != nil {
		t.Error("the proxy of the environment is asked")
	}
}

// A pause that is over, or never began, would be none at all.
func TestOver(t *testing.T) {
	for later, want := range map[string]bool{"3": false, "0": true, "-7": true, "soon": false,
		time.Now().Add(time.Hour).UTC().Format(http.TimeFormat): false, time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat): true} {
		if got := over(later); got != want {
			t.Errorf("%q: got %t", later, got)
		}
	}
}

// An hour is the longest that a server can have us keep quiet, whatever it says.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var i Issuer
		i.hush(while("order", &acme.Error{ProblemType: "urn:ietf:params:acme:error:rateLimited", Header: http.Header{"Retry-After": {"999999999"}}}))
		if quiet := time.Until(i.quiet); quiet != maxQuiet {
			t.Errorf("quiet for %s", quiet)
		}
	})
}

// Our end of a connection has another port each time.
func TestOwnPort(t *testing.T) {
	for text, want := range map[string]string{
		"read tcp 127.0.0.1:54321->10.0.0.1:443: read: connection reset by peer":                    "read tcp 10.0.0.1:443: read: connection reset by peer",
		"read tcp [fd00::1]:54321->[fd00::2]:443: i/o timeout":                                      "read tcp [fd00::2]:443: i/o timeout",
		"lookup ca.example on 10.96.0.10:53: read udp 10.244.0.5:52000->10.96.0.10:53: i/o timeout": "lookup ca.example on 10.96.0.10:53: read udp 10.96.0.10:53: i/o timeout",
		"dial tcp: lookup ca.example on 10.96.0.10:53: no such host\n":                              "dial tcp: lookup ca.example on 10.96.0.10:53: no such host",
	} {
		if got := stable(errors.New(text)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
