package tlsproxy_test

import (
	"fmt"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sidegate/certs/certstest"
	"sidegate/policy"
	"sidegate/tlsproxy/admin"
)

// scrape is what Prometheus would read.
func scrape(m *admin.Metrics) string {
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	return rec.Body.String()
}

// counted waits for a line of the metrics that contains text.
func (w *world) counted(text string) {
	w.t.Helper()
	for guard := time.Now().Add(certstest.HangGuard); time.Now().Before(guard); time.Sleep(5 * time.Millisecond) {
		if strings.Contains(scrape(w.metrics), text) {
			return
		}
	}
	w.t.Errorf("no %q in the metrics:\n%s", text, strings.Join(ours(scrape(w.metrics)), "\n"))
}

func ours(metrics string) []string {
	var lines []string
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "sidegate_") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// One gate is at most 150 series, whatever the application answers.
func TestSeriesAreBounded(t *testing.T) {
	m := admin.NewMetrics("test")
	g := m.Gate("main")
	for code := range 1000 {
		for _, via := range []string{"", "local"} {
			g.Request(code, via, time.Millisecond)
		}
	}
	for _, r := range []policy.Reason{policy.NoCredentials, policy.BadCredentials, policy.RuleDenied, policy.NoRule, policy.RateLimited,
		policy.Overloaded, policy.BadRequest, policy.AmbiguousTarget, policy.MethodRefused, policy.WrongHost, policy.DependencyDown, policy.BadIdentity} {
		g.Decision(false, r)
	}
	for i := range 12 {
		g.Handshake(fmt.Sprint("reason", i))
	}
	g.Upstream(time.Millisecond)
	if n := len(ours(scrape(m))); n > 150 {
		t.Errorf("%d series", n)
	}
}

// Two gates may share a folder: the scrape must not fail on what both hold.
func TestSharedCertificate(t *testing.T) {
	m := admin.NewMetrics("test")
	end := admin.CertificateDates{Use: "server", Name: "tls/tls", NotAfter: time.Unix(1, 0)}
	m.Watch(func() []admin.Loaded {
		return []admin.Loaded{{What: "a", Dates: []admin.CertificateDates{end}}, {What: "b", Dates: []admin.CertificateDates{end}}}
	})
	if text := scrape(m); strings.Count(text, `sidegate_certificate_not_after_timestamp_seconds{name="tls/tls",use="server"} 1`) != 1 {
		t.Errorf("got\n%s", strings.Join(ours(text), "\n"))
	}
}

// Every metric, label and reason that an alert speaks of is one of ours.
func TestAlertsSpeakOfMetricsThatExist(t *testing.T) {
	rules, err := os.ReadFile("../manifests/alerts.yaml")
	must(t, err)
	m := admin.NewMetrics("test")
	g := m.Gate("main")
	g.Handshake(string(policy.PeerUntrusted))
	g.Handshake("shed_connections")
	g.Decision(false, policy.Overloaded)
	m.Watch(func() []admin.Loaded {
		return []admin.Loaded{{What: "certificates", Generation: "a", Dates: []admin.CertificateDates{{Use: "server", Name: "tls/tls"}}}}
	})
	m.WatchLog("other", func() uint64 { return 1 })
	series := ours(scrape(m))
	selectors := regexp.MustCompile(`(sidegate_\w+)(?:\{([^}]*)\})?`).FindAllStringSubmatch(string(rules), -1)
	if len(selectors) < 8 {
		t.Fatalf("only %d selectors found", len(selectors))
	}
	matcher := regexp.MustCompile(`(\w+)(=~?)"([^"]*)"`)
	for _, s := range selectors {
		found := slices.ContainsFunc(series, func(line string) bool {
			if !strings.HasPrefix(line, s[1]+"{") {
				return false
			}
			for _, label := range matcher.FindAllStringSubmatch(s[2], -1) {
				value := regexp.QuoteMeta(label[3])
				if label[2] == "=~" {
					value = "(" + label[3] + ")"
				}
				if !regexp.MustCompile(`[{,]` + label[1] + `="` + value + `"`).MatchString(line) {
					return false
				}
			}
			return true
		})
		if !found {
			t.Errorf("no series is %s", s[0])
		}
	}
}
