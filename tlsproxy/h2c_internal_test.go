package tlsproxy

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"sidegate/tlsproxy/http1"
)

// HTTP-31: the net/http of an older Go lets such answers of HTTP/2 through.
func TestCheckFraming(t *testing.T) {
	for _, c := range []struct {
		fields http.Header
		good   bool
	}{
		{http.Header{}, true},
		{http.Header{"Content-Length": {"2"}}, true},
		{http.Header{"Content-Length": {"2", "2"}}, false},
		{http.Header{"Content-Length": {"2, 2"}}, false},
		{http.Header{"Content-Length": {"+2"}}, false},
		{http.Header{"Content-Length": {""}}, false},
		{http.Header{"Transfer-Encoding": {"chunked"}}, false},
	} {
		if err := checkFraming(c.fields); (err == nil) != c.good || err != nil && !errors.Is(err, http1.ErrProtocol) {
			t.Errorf("%v: %v", c.fields, err)
		}
	}
}

// What an error of net/http quotes may be the application's.
func TestQuietError(t *testing.T) {
	err := &quietError{errors.New(`http2: server sent GOAWAY, ErrCode=NO_ERROR, debug="SECRET"`)}
	if text := err.Error(); strings.Contains(text, "SECRET") || !strings.Contains(text, "GOAWAY") {
		t.Error(text)
	}
}
