package authn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"sidegate/policy"
)

// PWD-07: hashes are bounded and queued; more is refused, known users are not.
func TestFloodIsBounded(t *testing.T) { synctest.Test(t, testFloodIsBounded) }

func testFloodIsBounded(t *testing.T) {
	w := newWorld(t, "u:"+bcryptOf(t, "x", 4))
	w.load(t)
	w.verdict(t, basic("u", "x"))
	release := w.hold() // as many as may hash are at it
	results := make(chan string, maxWaiting)
	for i := range maxWaiting {
		go func() { results <- w.verdict(t, from(fmt.Sprint("192.0.2.", i%4), fmt.Sprint("user", i), "wrong")) }()
	}
	synctest.Wait() // until all of them queue
	for i := range 4 {
		_, err := w.Authenticate(t.Context(), from(fmt.Sprint("192.0.2.", i), "one more", "wrong"))
		var refusal *policy.Refusal
		if !errors.As(err, &refusal) || refusal.Reason != policy.Overloaded || refusal.RetryAfter == 0 {
			t.Errorf("got %v, want overloaded with Retry-After", err)
		}
	}
	if got := w.verdict(t, basic("u", "x")); got != "ok" {
		t.Errorf("a known user gets %s during the flood", got)
	}
	release()
	for range maxWaiting {
		if got := <-results; got != "bad_credentials" {
			t.Errorf("a queued attempt got %s", got)
		}
	}
}

// As many clients as like may bring the same credential: it is hashed once,
// whether it is right or wrong, and who leaves does not take it from the others.
func TestOneHashForOneCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for password, want := range map[string]string{"x": "ok", "y": "bad_credentials"} {
			w := newWorld(t, "u:"+bcryptOf(t, "x", 4))
			w.load(t)
			release := w.hold()
			ctx, leave := context.WithCancel(t.Context())
			left := make(chan error)
			go func() {
				_, err := w.Authenticate(ctx, basic("u", password))
				left <- err
			}()
			results := make(chan string)
			for range 100 {
				go func() { results <- w.verdict(t, basic("u", password)) }()
			}
			synctest.Wait()
			leave()
			var refusal *policy.Refusal
			if err := <-left; !errors.As(err, &refusal) || !errors.Is(err, context.Canceled) {
				t.Errorf("who left got %v, want a refusal that says so", err)
			}
			release()
			for range 100 {
				if got := <-results; got != want {
					t.Errorf("%s: got %s, want %s", password, got, want)
				}
			}
			if n := w.hashes.Load(); n != 1 {
				t.Errorf("%s: %d hashes, want one", password, n)
			}
		}
	})
}

// places is a queue whose only place is taken, and what it does with those who
// come.
type oneQueue struct {
	*queue
	order chan string // who got the place, one at a time
	sent  chan string // who was sent away
}

func newOneQueue() *oneQueue {
	q := &oneQueue{newQueue(1), make(chan string), make(chan string, 2*maxWaiting)}
	q.enter(netip.Prefix{}, false)
	return q
}

// come has n of a name wait, from a site or as such that were right.
func (q *oneQueue) come(n int, name, addr string, right bool) {
	site := siteOf(netip.MustParseAddr(addr))
	for range n {
		go func() {
			if !q.enter(site, right) {
				q.sent <- name
				return
			}
			q.order <- name
			q.leave()
		}()
		synctest.Wait() // one after the other
	}
}

// next gives n places, one after the other, and tells who got them.
func (q *oneQueue) next(n int) (list []string) {
	for range n {
		list = append(list, <-q.order)
	}
	return list
}

func count(list []string, name string) (n int) {
	for _, s := range list {
		if s == name {
			n++
		}
	}
	return n
}

func TestQueue(t *testing.T) {
	run := func(name string, f func(*testing.T, *oneQueue)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { f(t, newOneQueue()) }) })
	}
	run("PWD-17 a site has half of the queue", func(t *testing.T, q *oneQueue) {
		q.come(2*maxWaiting, "flood", "192.0.2.66", false)
		if n := len(q.sent); n != 2*maxWaiting-maxLine {
			t.Errorf("%d sent away, want all but %d", n, maxLine)
		}
		q.come(maxLine, "others", "192.0.2.1", false)
		if n := len(q.sent); n != 2*maxWaiting-maxLine {
			t.Error("there was no room for others")
		}
		go q.leave()
		q.next(2 * maxLine)
	})
	run("PWD-17 a /48 is one site", func(t *testing.T, q *oneQueue) {
		for i := range maxWaiting {
			q.come(1, "flood", fmt.Sprintf("2001:db8:0:%x::1", i), false)
		}
		if n := len(q.sent); n != maxWaiting-maxLine {
			t.Errorf("%d sent away, want all but %d", n, maxLine)
		}
		go q.leave()
		q.next(maxLine)
	})
	run("PWD-17 a site has half of the places", func(t *testing.T, q *oneQueue) {
		q.come(maxLine, "flood", "192.0.2.66", false)
		q.come(10, "others", "192.0.2.1", false)
		go q.leave()
		if got := q.next(20); count(got, "others") != 10 || !slices.Equal(got[:4], []string{"flood", "others", "flood", "others"}) {
			t.Errorf("places went to %s, want every second one to the others", got)
		}
		q.next(maxLine - 10)
	})
	run("the longest line gives way", func(t *testing.T, q *oneQueue) {
		q.come(maxLine, "flood", "192.0.2.66", false)
		q.come(maxLine, "flood", "192.0.2.67", false)
		q.come(3, "others", "192.0.2.1", false)
		synctest.Wait()
		if n := len(q.sent); n != 3 || q.waiting != maxWaiting || count([]string{<-q.sent, <-q.sent, <-q.sent}, "flood") != 3 {
			t.Errorf("%d sent away and %d wait, want three of the flood and %d", n, q.waiting, maxWaiting)
		}
		go q.leave()
		if got := q.next(9); count(got, "others") != 3 {
			t.Errorf("places went to %s", got)
		}
		q.next(maxWaiting - 9)
	})
	run("PWD-07 no line gives way to one as long", func(t *testing.T, q *oneQueue) {
		for i := range maxWaiting {
			q.come(1, "flood", fmt.Sprint("192.0.2.", i), false)
		}
		q.come(1, "others", "192.0.2.200", false)
		if got := <-q.sent; got != "others" {
			t.Errorf("%s was sent away", got)
		}
		go q.leave()
		q.next(maxWaiting)
	})
	run("PWD-18 what was right waits for no guess", func(t *testing.T, q *oneQueue) {
		q.come(maxLine, "flood", "192.0.2.66", false)
		q.come(maxLine, "flood", "192.0.2.67", false)
		q.come(6, "right", "192.0.2.66", true)
		go q.leave()
		want := []string{"right", "right", "right", "flood", "right", "right", "right", "flood"}
		if got := q.next(8); !slices.Equal(got, want) {
			t.Errorf("places went to %s, want %s", got, want)
		}
		q.next(maxWaiting - 2)
		synctest.Wait()
		if q.free != 1 || q.waiting != 0 || len(q.lines) != 0 || len(q.sites) != 0 || len(q.right) != 0 {
			t.Errorf("after all have gone: %+v", q.queue)
		}
	})
}
