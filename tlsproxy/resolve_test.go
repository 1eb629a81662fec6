package tlsproxy_test

import (
	"net"
	"strings"
	"testing"

	"sidegate/certs/certstest"
	"sidegate/tlsproxy"
)

// TCP-07: an upstream's name is looked up at every connection, and must lead to
// loopback by each of its addresses.
func TestUpstreamNameBeyondLoopback(t *testing.T) {
	n := certstest.StartNames(t)
	app := newRecorder(t)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(app.url, "http://"))
	must(t, err)
	w := newWorld(t, allow("anyone"), func(g *tlsproxy.Gate) {
		g.Upstream.Address = tlsproxy.Address{Network: "tcp", Address: "app.example:" + port}
	})
	for _, c := range []struct {
		addresses []string
		want      int
	}{
		{[]string{"127.0.0.1"}, 200},
		{[]string{"192.0.2.1"}, 502},
		{[]string{"127.0.0.1", "192.0.2.1"}, 502}, // one of them is enough
		{[]string{"192.0.2.1", "127.0.0.1"}, 502},
		{[]string{"127.0.0.1", "2001:db8::1"}, 502},
		{[]string{"127.0.0.1", "169.254.169.254"}, 502}, // the metadata of a cloud
		{[]string{"0.0.0.0"}, 502},                      // which Linux takes for this machine
		{[]string{"127.0.0.1"}, 200},
	} {
		n.Set("app.example", c.addresses...)
		before := app.connections()
		if res := w.get("/"); res.StatusCode != c.want || (app.connections() > before) != (c.want == 200) {
			t.Errorf("%s: got %d, and the application saw %d connections", c.addresses, res.StatusCode, app.connections()-before)
		}
		if err := tlsproxy.CheckUpstream(t.Context(), w.gate.Upstream); (err == nil) != (c.want == 200) {
			t.Errorf("%s: CheckUpstream says %v", c.addresses, err)
		}
	}
	w.log.WaitFor(t, 6, "which is not loopback")
}
