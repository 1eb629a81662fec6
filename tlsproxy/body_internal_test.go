package tlsproxy

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// OPS-15: who reads on after the handler has returned, as the transport may
// where the application answered early, is told so. With HTTP/2 there is nothing
// left to set a deadline on, and to try was the end of the process.
func TestBodyIsReadAfterTheHandler(t *testing.T) {
	var body *requestBody
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body = &requestBody{ReadCloser: r.Body, in: r, conn: http.NewResponseController(w)}
		g := &gate{Gate: &Gate{AccessLog: AccessLogOff}, metrics: noMetrics{}, budget: newBudget(Limits{})}
		x := &exchange{gate: g, conn: &conn{}, in: r, body: body, answer: recorder{ResponseWriter: w}}
		x.finish()
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	res, err := s.Client().Post(s.URL, "text/plain", strings.NewReader("unread"))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.ProtoMajor != 2 {
		t.Fatalf("spoke %s", res.Proto)
	}
	s.Close() // waits for the handler
	if _, err := body.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("got %v", err)
	}
}

// noMetrics counts nothing.
type noMetrics struct{ GateMetrics }

func (noMetrics) Request(int, string, time.Duration) {}
