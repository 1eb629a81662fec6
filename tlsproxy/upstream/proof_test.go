package upstream

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sidegate/tlsproxy/http1"
)

// The long proof: go test ./tlsproxy/upstream -run TestProof -proof 1m
var proof = flag.Duration("proof", 150*time.Millisecond, "how long each part of TestProof asks")

// fault is an application that sends more than its answer.
type fault struct {
	method, target string
	answer         string // what it says rightly
}

// Each surplus names the client to which it was said.
var proofFaults = map[string]fault{
	"HEAD":   {"HEAD", "/wrong", "HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n"},
	"204":    {"GET", "/wrong", "HTTP/1.1 204 No Content\r\n\r\n"},
	"304":    {"GET", "/wrong", "HTTP/1.1 304 Not Modified\r\n\r\n"},
	"length": {"GET", "/wrong", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"},
	"chunks": {"GET", "/wrong", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
}

// faulty answers /wrong with surplus, so much later, and tells everybody else
// who he is.
// late counts when that took longer than it should, as on a busy machine.
func faulty(f fault, split bool, delay time.Duration, whole bool, late *atomic.Int64) func(net.Conn, *bufio.Reader, *http.Request) bool {
	return func(c net.Conn, _ *bufio.Reader, r *http.Request) bool {
		me := "said to " + r.Header.Get("X-Who")
		if r.URL.Path != "/wrong" {
			_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(me), me)
			return err == nil
		}
		more := "EVIL " + me
		if whole {
			more = fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(more), more)
		}
		if !split {
			_, err := io.WriteString(c, f.answer+more)
			return err == nil
		}
		said := time.Now()
		if _, err := io.WriteString(c, f.answer); err != nil {
			return false
		}
		time.Sleep(delay)
		_, err := io.WriteString(c, more)
		if time.Since(said) >= quiet {
			late.Add(1)
		}
		return err == nil
	}
}

// count is what clients have seen.
type count struct{ own, foreign, evil, failed, wrong atomic.Int64 }

// leastRounds are gone however long they take, or else a busy machine would prove
// nothing.
const leastRounds = 4

// load makes 32 clients ask for their own, a third of them for what is answered
// wrongly too. A client asks as one of two users.
func load(s *side, f fault, d time.Duration) *count {
	n := &count{}
	end := time.Now().Add(d)
	var clients sync.WaitGroup
	for i := range 32 {
		clients.Go(func() {
			caller := &Caller{}
			defer s.Leave(caller)
			for k := 0; k < leastRounds || time.Now().Before(end); k++ {
				who := fmt.Sprintf("client%d/user%d", i, k%2)
				o := Owner{Caller: caller, User: who}
				if i%3 == 0 && k%4 == 0 {
					n.count(s.askAs(o, who, f.method, f.target, true))
				}
				n.count(s.askAs(o, who, "GET", "/own", false))
			}
		})
	}
	clients.Wait()
	return n
}

func (s *side) askAs(o Owner, who, method, target string, wrong bool) (string, string, bool, error) {
	_, body, err := s.send(&Request{Head: http1.Request{Method: method, Target: target, Host: "a", Fields: []http1.Field{{Name: "X-Who", Value: who}}}, Owner: o})
	return who, body, wrong, err
}

func (n *count) count(who, body string, wrong bool, err error) {
	switch {
	case err != nil && wrong:
		n.wrong.Add(1)
	case err != nil:
		n.failed.Add(1)
	case wrong && (body == "" || body == "ok"):
		n.wrong.Add(1)
	case body == "said to "+who:
		n.own.Add(1)
	case strings.HasSuffix(body, "said to "+who):
		n.evil.Add(1)
	default:
		n.foreign.Add(1)
	}
}

func (n *count) String() string {
	return fmt.Sprintf("own %d, foreign %d, own surplus %d, failed %d, asked wrongly %d", n.own.Load(), n.foreign.Load(), n.evil.Load(), n.failed.Load(), n.wrong.Load())
}

// HTTP-30: 32 clients and an application that sends more than its answer, in one
// packet or two, up to 50 ms apart. On probation the fault reaches nobody, not
// even its own client, and no other request fails.
func TestProofOnProbation(t *testing.T) {
	for name, f := range proofFaults {
		for _, whole := range []bool{true, false} {
			for _, delay := range []time.Duration{-1, 0, time.Millisecond, 10 * time.Millisecond, 40 * time.Millisecond} {
				t.Run(fmt.Sprintf("%s/whole %t/%s", name, whole, delay), func(t *testing.T) {
					t.Parallel()
					var late atomic.Int64
					s := newSide(t, newApplication(t, faulty(f, delay >= 0, delay, whole, &late)))
					n := load(s, f, *proof)
					if n.foreign.Load() > 0 || n.evil.Load()+n.failed.Load() > late.Load() || n.own.Load() == 0 {
						t.Errorf("%s; %d late", n, late.Load())
					}
					if delay < 0 && s.log.String() == "" {
						t.Error("nobody was warned")
					}
					t.Log(n)
				})
			}
		}
	}
}

// HTTP-30: an application that begins to do so when it is trusted, and later
// than anybody waits, reaches nobody else all the same.
func TestProofTrusted(t *testing.T) {
	for name, f := range proofFaults {
		for _, delay := range []time.Duration{0, 5 * time.Millisecond, 60 * time.Millisecond, 120 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s/%s", name, delay), func(t *testing.T) {
				t.Parallel()
				var late atomic.Int64
				s := newSide(t, newApplication(t, faulty(f, true, delay, true, &late))).trust()
				n := load(s, f, max(*proof, 4*delay))
				if n.foreign.Load() > 0 || n.own.Load() == 0 {
					t.Error(n)
				}
				if name == "HEAD" && n.evil.Load()+n.failed.Load() > late.Load() {
					t.Errorf("after HEAD nobody may be hit: %s; %d late", n, late.Load())
				}
				t.Log(n)
			})
		}
	}
}

// Connections are used again, so that the proofs above do not come of their not
// being used: by those who ask one after the other, once the probation is over.
func TestProofOfReuse(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		least  float64
	}{
		"GET": {ok, 0.95},
		"204": {"HTTP/1.1 204 No Content\r\n\r\n", 0.90},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSide(t, newApplication(t, says(c.answer)))
			ask := func(more func(asked int, took time.Duration) bool) (asked int64) {
				var clients sync.WaitGroup
				var n atomic.Int64
				began := time.Now()
				for range 32 {
					clients.Go(func() {
						o := owner()
						defer s.Leave(o.Caller)
						for k := 0; more(k, time.Since(began)); k++ {
							if _, _, err := s.ask(o, "GET", "/"); err != nil {
								t.Error(err)
							}
							n.Add(1)
						}
					})
				}
				clients.Wait()
				return n.Load()
			}
			onProbation := func() bool { _, _, silent := s.state(); return silent < probation }
			ask(func(asked int, _ time.Duration) bool { return asked < 10*probation && onProbation() })
			if onProbation() {
				t.Fatal("still on probation after ten times as many requests as it lasts, by each client")
			}
			const enough = 100 // by each client, of which one is a new connection
			var asked int64
			dialled := s.dialled(func() {
				asked = ask(func(asked int, took time.Duration) bool { return asked < enough || took < *proof })
			})
			if reused := 1 - float64(dialled)/float64(asked); reused < c.least {
				t.Errorf("%d connections for %d requests", dialled, asked)
			}
			t.Logf("%d connections for %d requests", dialled, asked)
		})
	}
}
