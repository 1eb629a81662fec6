package admin

import (
	"strings"
	"testing"
	"time"
)

// Each way in which a request ends has a counter of its own, whatever came before.
func TestRequestsAreCountedApart(t *testing.T) {
	m := NewMetrics("test")
	g, other := m.Gate("main"), m.Gate("other")
	for _, r := range []struct {
		status int
		via    string
	}{{200, ""}, {200, ""}, {200, "basic"}, {403, "basic"}, {200, ""}, {299, ""}, {298, ""}} {
		g.Request(r.status, r.via, time.Millisecond)
	}
	other.Request(200, "", time.Millisecond)
	want := map[string]float64{"200 main ": 3, "200 main basic": 1, "403 main basic": 1, "2xx main ": 2, "200 other ": 1}
	got := requestCounts(t, m)
	for labels, n := range want {
		if got[labels] != n {
			t.Errorf("%q: %v, want %v", labels, got[labels], n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("counters: %v", got)
	}
}

// requestCounts are the counters of requests by their labels: code, gate, via.
func requestCounts(t *testing.T, m *Metrics) map[string]float64 {
	t.Helper()
	families, err := m.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "sidegate_requests_total" {
			continue
		}
		for _, series := range f.GetMetric() {
			var labels []string
			for _, l := range series.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			counts[strings.Join(labels, " ")] = series.GetCounter().GetValue()
		}
	}
	return counts
}
