package lines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// gated is a reader's end that takes what it is let take.
type gated struct {
	open chan struct{} // closed: it reads

	mu   sync.Mutex
	got  bytes.Buffer
	errs []error // of the next writes, which take half
}

func newGated(open bool) *gated {
	g := &gated{open: make(chan struct{})}
	if open {
		close(g.open)
	}
	return g
}

func (g *gated) Write(p []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.errs) > 0 {
		err := g.errs[0]
		g.errs = g.errs[1:]
		g.got.Write(p[:len(p)/2])
		return len(p) / 2, err
	}
	return g.got.Write(p)
}

func (g *gated) text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.got.String()
}

// begun is a queue at work, and how to end it.
func begun(out io.Writer) (q *Queue, reports *[]uint64, end func() time.Duration) {
	q, reports = New(out), new([]uint64)
	q.Resumed = func(dropped uint64) {
		*reports = append(*reports, dropped)
		fmt.Fprintf(q.Of(Other), "dropped %d\n", dropped)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = q.Run(ctx) }()
	return q, reports, func() time.Duration {
		began := time.Now()
		cancel()
		<-done
		return time.Since(began)
	}
}

// fill writes 1 KiB lines of a kind until a hundred were dropped.
func fill(q *Queue, k Kind) (written int) {
	before := q.Dropped(k)
	for ; q.Dropped(k) < before+100; written++ {
		fmt.Fprintf(q.Of(k), "%s %06d %s\n", k, written, strings.Repeat("x", 1024-len(k.String())-9))
	}
	return written - 100
}

// OPS-21: nobody waits for a reader that stalls, each kind has its share, what
// is beyond is counted, and one report comes when the reader reads again.
func TestStalledReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := newGated(false)
		q, reports, end := begun(out)
		fmt.Fprintln(q.Of(Request), "first")
		time.Sleep(time.Hour) // its write hangs
		want := map[Kind]int{}
		for _, k := range []Kind{Other, Request, Error} { // a flood of refusals takes nothing from the others
			want[k] = fill(q, k)
			if want[k] != shares[k]>>10 {
				t.Errorf("%s: %d lines of 1 KiB found room, want %d", k, want[k], shares[k]>>10)
			}
		}
		close(out.open)
		synctest.Wait()
		time.Sleep(time.Second)
		for k, n := range want {
			if got := strings.Count(out.text(), k.String()+" "); got != n {
				t.Errorf("%s: %d lines arrived, want %d", k, got, n)
			}
		}
		if fmt.Sprint(*reports) != "[300]" || strings.Count(out.text(), "dropped") != 1 {
			t.Errorf("reports %v, want one of 300", *reports)
		}
		whole(t, out.text())
		if took := end(); took != 0 {
			t.Errorf("the end took %s", took)
		}
	})
}

// whole wants lines as they were written, in their order by kind.
func whole(t *testing.T, text string) {
	t.Helper()
	next := map[string]int{}
	for line := range strings.Lines(text) {
		var kind, rest string
		var n int
		if _, err := fmt.Sscanf(line, "%s %d %s", &kind, &n, &rest); err != nil {
			continue // of another test's form
		}
		if len(line) != 1024 || n != next[kind] {
			t.Fatalf("line %.40q has %d bytes and is not number %d", line, len(line), next[kind])
		}
		next[kind]++
	}
}

// OPS-21: where lines are dropped without end, that is told all the same, once
// a minute.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := newGated(true)
		slow := writer(func(p []byte) (int, error) { time.Sleep(time.Second); return out.Write(p) })
		q, reports, end := begun(slow)
		for began := time.Now(); time.Since(began) < 150*time.Second; {
			fill(q, Request)
			time.Sleep(100 * time.Millisecond)
		}
		if len(*reports) != 2 {
			t.Errorf("%d reports in 150 s, want 2", len(*reports))
		}
		end()
		time.Sleep(10 * time.Second) // until the writes end, too
	})
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// A write that took a part goes on behind it: no line is torn or lost.
func TestWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := newGated(true)
		out.errs = []error{errors.New("no space left on device"), errors.New("the same"), io.ErrShortWrite}
		q, reports, end := begun(out)
		for n := range 100 {
			fmt.Fprintf(q.Of(Request), "request %06d %s\n", n, strings.Repeat("x", 1024-16))
		}
		time.Sleep(10 * time.Second)
		if got := strings.Count(out.text(), "\n"); got != 100 || len(*reports) != 0 {
			t.Errorf("%d lines, reports %v", got, *reports)
		}
		whole(t, out.text())
		end()
	})
}

// OPS-21: at the end the reader has one second, whatever is wrong with it.
func TestEnd(t *testing.T) {
	gone := errors.New("broken pipe")
	for name, c := range map[string]struct {
		out   io.Writer
		takes time.Duration
	}{
		"reads":   {newGated(true), 0},
		"stalled": {newGated(false), time.Second},
		"gone":    {writer(func([]byte) (int, error) { return 0, gone }), 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if g, ok := c.out.(*gated); ok && name == "stalled" {
					g.open = make(chan struct{}) // of this bubble
					defer close(g.open)
				}
				q, _, end := begun(c.out)
				for _, line := range []string{"one", "two"} {
					fmt.Fprintln(q.Of(Error), line)
				}
				if took := end(); took != c.takes {
					t.Errorf("took %s, want %s", took, c.takes)
				}
				if g, ok := c.out.(*gated); ok && name == "reads" && g.text() != "one\ntwo\n" {
					t.Errorf("got %q", g.text())
				}
			})
		})
	}
}

// A line of any length finds room once, so that a client can't keep its
// request out of the log by a long path.
func TestLongLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := newGated(true)
		q, _, end := begun(out)
		long := strings.Repeat("y", 2*shares[Other]) + "\n"
		_, _ = io.WriteString(q.Of(Other), long)
		_, _ = io.WriteString(q.Of(Other), long)
		end()
		if out.text() != long || q.Dropped(Other) != 1 {
			t.Errorf("%d bytes, %d dropped; want %d and 1", len(out.text()), q.Dropped(Other), len(long))
		}
	})
}

// Lines of many goroutines are whole and in the order of each, and a buffer
// that a burst made large is let go.
func TestTogether(t *testing.T) {
	out := newGated(true)
	q, _, end := begun(out)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for n := range 200 {
				fmt.Fprintf(q.Of(Other), "g%d %06d %s\n", g, n, strings.Repeat("x", 1024-11))
				if n%20 == 0 {
					time.Sleep(gather) // let it be written
				}
			}
		})
	}
	all.Wait()
	end()
	if q.Dropped(Other) == 0 {
		whole(t, out.text())
		if got := strings.Count(out.text(), "\n"); got != 1600 {
			t.Errorf("%d lines, want 1600", got)
		}
	}
}

// What a line costs is its copy.
func TestCost(t *testing.T) {
	q := New(io.Discard)
	w, line := q.Of(Request), bytes.Repeat([]byte("x"), 400)
	var spare []byte
	n := testing.AllocsPerRun(10000, func() {
		_, _ = w.Write(line)
		if len(q.waiting) > 100<<10 {
			batch, _ := q.take(spare)
			spare = batch[:0]
		}
	})
	if n != 0 {
		t.Errorf("%v allocations a line", n)
	}
}

func BenchmarkWrite(b *testing.B) {
	q, _, end := begun(io.Discard)
	defer end()
	w, line := q.Of(Request), bytes.Repeat([]byte("x"), 400)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = w.Write(line)
	}
}
