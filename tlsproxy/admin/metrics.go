package admin

import (
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"sidegate/policy"
	"sidegate/tlsproxy"
)

// Metrics is what Prometheus reads. No label ever holds a user, a peer or a
// path; one gate is at most 250 series.
type Metrics struct {
	Registry *prometheus.Registry

	requests    *prometheus.CounterVec
	decisions   *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	upstream    *prometheus.HistogramVec
	handshakes  *prometheus.CounterVec
	connections *prometheus.GaugeVec
	ended       *prometheus.CounterVec
	forged      *prometheus.CounterVec

	requestsEnded *prometheus.CounterVec
	http2Errors   *prometheus.CounterVec
}

// buckets reach from a fast application on loopback to a slow report.
var buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}

// NewMetrics makes the metrics with a registry of their own. version is that
// of the build.
func NewMetrics(version string) *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sidegate_requests_total",
			Help: "Requests ended, by status and by the method that proved the user."}, []string{"gate", "code", "via"}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sidegate_decisions_total",
			Help: "Requests allowed and denied, and why."}, []string{"gate", "decision", "reason"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sidegate_request_duration_seconds",
			Help: "Time from a request's head to the end of its answer.", Buckets: buckets}, []string{"gate"}),
		upstream: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sidegate_upstream_duration_seconds",
			Help: "Time the application took to the head of its answer.", Buckets: buckets}, []string{"gate"}),
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sidegate_handshakes_total",
			Help: "TLS handshakes ended, and why they failed."}, []string{"gate", "result", "reason"}),
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sidegate_connections",
			Help: "Open client connections."}, []string{"gate"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sidegate_connections_ended_total",
			Help: "Live connections that the gate ended, and why: a peer that is no longer trusted, or a drain that could not wait."}, []string{"gate", "reason"}),
		requestsEnded: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sidegate_requests_ended_total",
			Help: "Requests in flight, and connections that waited for their next one, that the gate ended because they would be refused by now, and why."}, []string{"gate", "reason"}),
		http2Errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sidegate_http2_errors_total",
			Help: "Streams and connections of HTTP/2 that ended because the client broke the protocol, and how."}, []string{"gate", "error"}),
		forged: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sidegate_forged_headers_total",
			Help: "Answers of the application that carried an identity header, which was dropped."}, []string{"gate"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "sidegate_build_info", Help: "Always 1; the labels tell the build.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()}})
	build.Set(1)
	m.Registry.MustRegister(m.requests, m.decisions, m.duration, m.upstream, m.handshakes, m.connections, m.ended, m.requestsEnded, m.http2Errors, m.forged, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Gate returns the counters of one gate.
func (m *Metrics) Gate(name string) tlsproxy.GateMetrics {
	g := &gateMetrics{
		requests:      m.requests.MustCurryWith(prometheus.Labels{"gate": name}),
		decisions:     m.decisions.MustCurryWith(prometheus.Labels{"gate": name}),
		handshakes:    m.handshakes.MustCurryWith(prometheus.Labels{"gate": name}),
		ended:         m.ended.MustCurryWith(prometheus.Labels{"gate": name}),
		requestsEnded: m.requestsEnded.MustCurryWith(prometheus.Labels{"gate": name}),
		http2Errors:   m.http2Errors.MustCurryWith(prometheus.Labels{"gate": name}),
		duration:      m.duration.WithLabelValues(name),
		upstream:      m.upstream.WithLabelValues(name),
		connections:   m.connections.WithLabelValues(name),
		forged:        m.forged.WithLabelValues(name),
	}
	g.allowed = g.decisions.WithLabelValues("allow", "")
	g.handshakeOK = g.handshakes.WithLabelValues("ok", "")
	return g
}

type gateMetrics struct {
	requests, decisions, handshakes, ended, requestsEnded *prometheus.CounterVec
	http2Errors                                           *prometheus.CounterVec
	duration, upstream                                    prometheus.Observer
	connections                                           prometheus.Gauge
	allowed, handshakeOK, forged                          prometheus.Counter
	recent                                                atomic.Pointer[requestCounter]
}

// requestCounter is the counter of requests that ended in one way.
type requestCounter struct {
	status int
	via    string
	prometheus.Counter
}

func (g *gateMetrics) Request(status int, via string, took time.Duration) {
	g.requestCounter(status, via).Inc()
	g.duration.Observe(took.Seconds())
}

// requestCounter remembers the last one: most requests end like the one before,
// and to find a counter by its labels costs more than to count.
func (g *gateMetrics) requestCounter(status int, via string) prometheus.Counter {
	c := g.recent.Load()
	if c == nil || c.status != status || c.via != via {
		c = &requestCounter{status, via, g.requests.WithLabelValues(codeLabel(status), via)}
		g.recent.Store(c)
	}
	return c
}

func (g *gateMetrics) Upstream(took time.Duration) { g.upstream.Observe(took.Seconds()) }

func (g *gateMetrics) Decision(allow bool, reason policy.Reason) {
	switch {
	case allow && reason == "":
		g.allowed.Inc()
	case allow:
		g.decisions.WithLabelValues("audit", string(reason)).Inc()
	default:
		g.decisions.WithLabelValues("deny", string(reason)).Inc()
	}
}

func (g *gateMetrics) Handshake(reason string) {
	switch reason {
	case "":
		g.handshakeOK.Inc()
	case tlsproxy.HandshakeChallenge:
		g.handshakes.WithLabelValues("ok", reason).Inc()
	default:
		g.handshakes.WithLabelValues("failed", reason).Inc()
	}
}

func (g *gateMetrics) Connections(delta int) { g.connections.Add(float64(delta)) }

func (g *gateMetrics) Ended(reason policy.Reason) { g.ended.WithLabelValues(string(reason)).Inc() }

func (g *gateMetrics) RequestEnded(reason policy.Reason) {
	g.requestsEnded.WithLabelValues(string(reason)).Inc()
}

func (g *gateMetrics) ProtocolError(kind string) { g.http2Errors.WithLabelValues(kind).Inc() }

func (g *gateMetrics) ForgedHeader() { g.forged.Inc() }

// codeLabel keeps the codes that people ask for and folds the others into
// their class, so that an application can't make series without end.
func codeLabel(status int) string {
	switch status {
	case 101, 200, 201, 204, 206, 301, 302, 303, 304, 307, 308,
		400, 401, 403, 404, 405, 408, 409, 413, 421, 429, 431, 499, 500, 501, 502, 503, 504:
		return strconv.Itoa(status)
	}
	if status < 100 || status > 599 {
		return "other"
	}
	return strconv.Itoa(status/100) + "xx"
}

// Loaded is what was last loaded of one thing that is reloaded.
type Loaded struct {
	What        string    // "certificates", "users"
	Generation  string    // id in service
	OK          bool      // the last attempt succeeded
	LastSuccess time.Time // when an attempt last succeeded
	Dates       []CertificateDates
}

// CertificateDates are when one certificate begins and ends.
type CertificateDates struct {
	Use                 string // "server" or "client_ca"
	Name                string
	NotBefore, NotAfter time.Time
}

// Watch makes the registry ask for the state of everything that is reloaded
// at each scrape. It may be called once.
func (m *Metrics) Watch(state func() []Loaded) {
	m.Registry.MustRegister(&loadedCollector{state: state})
}

// WatchRoots makes the registry ask at each scrape by which CAs the peers of
// each gate are believed. It may be called once.
func (m *Metrics) WatchRoots(gates func() []tlsproxy.GateStatus) {
	m.Registry.MustRegister(rootCollector(gates))
}

// WatchMemory shows how many bytes clients hold, and of how many; 0: of any number.
func (m *Metrics) WatchMemory(memory func() (held, limit int64)) {
	gauge := func(name, help string, value func() int64) {
		m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) }))
	}
	gauge("sidegate_client_memory_bytes", "Memory that connections and requests hold, as it is booked.", func() int64 { held, _ := memory(); return held })
	gauge("sidegate_client_memory_limit_bytes", "Memory that they may hold; 0 where there is no limit.", func() int64 { _, limit := memory(); return limit })
}

// WatchLog makes the registry ask at each scrape how many lines of the log were
// dropped. It may be called once for each kind of line.
func (m *Metrics) WatchLog(kind string, dropped func() uint64) {
	m.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "sidegate_log_lines_dropped_total",
		Help:        "Lines of the log that were dropped because nobody read them in time.",
		ConstLabels: prometheus.Labels{"kind": kind}}, func() float64 { return float64(dropped()) }))
}

type rootCollector func() []tlsproxy.GateStatus

var (
	livePeers = prometheus.NewDesc("sidegate_client_ca_live_peers",
		"Open connections whose client certificate chains to the CA.", []string{"gate", "ca", "serial"}, nil)
	lastSeen = prometheus.NewDesc("sidegate_client_ca_last_seen_timestamp_seconds",
		"When the last connection was open whose client certificate chains to the CA. No series: none since the start.", []string{"gate", "ca", "serial"}, nil)
)

// Describe implements prometheus.Collector.
func (c rootCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- livePeers
	ch <- lastSeen
}

// Collect implements prometheus.Collector.
func (c rootCollector) Collect(ch chan<- prometheus.Metric) {
	for _, g := range c() {
		for _, r := range g.Roots {
			ch <- prometheus.MustNewConstMetric(livePeers, prometheus.GaugeValue, float64(r.Live), g.Name, r.CA, r.Serial)
			ch <- prometheus.MustNewConstMetric(lastSeen, prometheus.GaugeValue, float64(r.LastSeen.UnixMilli())/1000, g.Name, r.CA, r.Serial)
		}
	}
}

type loadedCollector struct{ state func() []Loaded }

var (
	reloadOK = prometheus.NewDesc("sidegate_last_reload_successful",
		"Whether the last attempt to load succeeded. 0: the last good generation is in service, or users that were emptied.", []string{"what"}, nil)
	reloadTime = prometheus.NewDesc("sidegate_last_reload_success_timestamp_seconds",
		"When an attempt to load last succeeded.", []string{"what"}, nil)
	generationInfo = prometheus.NewDesc("sidegate_generation_info",
		"Always 1; the label tells what is in service.", []string{"what", "id"}, nil)
	notBefore = prometheus.NewDesc("sidegate_certificate_not_before_timestamp_seconds",
		"When a certificate began.", []string{"use", "name"}, nil)
	notAfter = prometheus.NewDesc("sidegate_certificate_not_after_timestamp_seconds",
		"When a certificate ends.", []string{"use", "name"}, nil)
)

// Describe implements prometheus.Collector.
func (c *loadedCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{reloadOK, reloadTime, generationInfo, notBefore, notAfter} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *loadedCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	seen := map[[2]string]bool{} // two stores may hold the same CA; a series may come once
	for _, l := range c.state() {
		ok := 0.0
		if l.OK {
			ok = 1
		}
		gauge(reloadOK, ok, l.What)
		gauge(reloadTime, float64(l.LastSuccess.UnixMilli())/1000, l.What)
		gauge(generationInfo, 1, l.What, l.Generation)
		for _, d := range l.Dates {
			if series := [2]string{d.Use, d.Name}; !seen[series] {
				seen[series] = true
				gauge(notBefore, float64(d.NotBefore.Unix()), d.Use, d.Name)
				gauge(notAfter, float64(d.NotAfter.Unix()), d.Use, d.Name)
			}
		}
	}
}
