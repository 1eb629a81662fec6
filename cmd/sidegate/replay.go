package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"sidegate/policy"
)

// logged is an access-log line, as far as a decision goes.
type logged struct {
	Msg    string        `json:"msg"`
	Gate   string        `json:"gate"`
	Remote string        `json:"remote"`
	Client string        `json:"client"`
	Host   string        `json:"host"`
	Method string        `json:"method"`
	Path   string        `json:"path"`
	Peer   string        `json:"peer"`
	User   string        `json:"user"`
	Via    string        `json:"via"`
	Rule   string        `json:"rule"`
	Reason policy.Reason `json:"reason"`
	Audit  policy.Reason `json:"audit"`
}

// byRules are the reasons of refusals that rules made. All others came before
// them and stay what they are.
var byRules = []policy.Reason{"", policy.NoCredentials, policy.RuleDenied, policy.NoRule}

// replay decides an access log again and prints what would change.
func replay(ctx context.Context, p *program, j *judge, q *question) error {
	in := p.stdin
	if q.log != "-" {
		f, err := os.Open(q.log)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	s := newSummary()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l logged
		if json.Unmarshal(lines.Bytes(), &l) != nil || l.Msg != "request" {
			continue // a log has other lines too
		}
		s.add(ctx, j, &l)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", q.log, err)
	}
	return s.print(p.stdout)
}

// summary counts requests by what would change.
type summary struct {
	decided, skipped int
	changed          map[string]int
}

func newSummary() *summary { return &summary{changed: map[string]int{}} }

func (s *summary) add(ctx context.Context, j *judge, l *logged) {
	gate, err := j.gate(l.Gate)
	id, idErr := l.identity()
	if err != nil || idErr != nil || !slices.Contains(byRules, l.Reason) {
		s.skipped++
		return
	}
	s.decided++
	r := &policy.Request{Method: l.Method, Host: authority(l.Host), Target: l.Path, Client: l.client()}
	v := j.verdict(ctx, gate, r, id)
	before := "allow"
	if l.Reason != "" {
		before = "deny"
	} else if l.Audit != "" {
		before = "audit"
	}
	if before != v.Decision {
		s.changed[fmt.Sprintf("%s (rule %q) becomes %s (%s): %s %s%s", before, l.Rule, v.Decision, v.by(), l.Method, l.Path, l.who())]++
	}
}

// by is what decides, in few words.
func (v *verdict) by() string {
	if v.Rule == "" {
		return string(v.Reason)
	}
	return "rule " + quoted(v.Rule, v.Line)
}

func (l *logged) who() string {
	who := ""
	if l.User != "" {
		who += " user " + l.Via + "/" + l.User
	}
	if l.Peer != "" {
		who += " peer " + l.Peer
	}
	return who
}

func (l *logged) client() netip.Addr {
	text := l.Client
	if text == "" {
		text = l.Remote
	}
	a, _ := netip.ParseAddr(text) // zero where the log says unknown, and on a unix socket
	return a
}

// identity is who asked, as far as the log knows: of a certificate it has one
// name, of a user no groups.
func (l *logged) identity() (policy.Identity, error) {
	var id policy.Identity
	var err error
	if l.Peer != "" {
		id.Peer, err = policy.PeerOf(peerPrincipal(l.Peer))
	}
	if l.User != "" && err == nil {
		id.User, err = policy.UserOf(l.Via+"/"+l.User, nil)
	}
	return id, err
}

// peerPrincipal is the principal of a name in the log.
func peerPrincipal(name string) string {
	switch {
	case strings.HasPrefix(name, "spiffe://"):
		return name
	case strings.Contains(name, "="):
		return "subject:" + name
	case strings.Contains(name, "@"):
		return "email:" + name
	case strings.Contains(name, ":"):
		return "uri:" + name
	}
	return "dns:" + name
}

func (s *summary) print(w io.Writer) error {
	for _, change := range slices.Sorted(maps.Keys(s.changed)) {
		line(w, "%6d  %s", s.changed[change], change)
	}
	err := line(w, "%d requests decided again, %d decisions would change; %d were refused before any rule or can't be decided",
		s.decided, s.total(), s.skipped)
	if err == nil && len(s.changed) > 0 {
		err = errDenied
	}
	return err
}

func (s *summary) total() int {
	n := 0
	for _, count := range s.changed {
		n += count
	}
	return n
}
