// Package lines keeps whoever logs from waiting for whoever reads the log.
//
//	q := lines.New(os.Stdout)
//	log := slog.New(slog.NewJSONHandler(q.Of(lines.Other), nil))
//	go q.Run(ctx)
//
// Lines wait in memory until they are written, in the order in which they came
// and never in parts. Each kind has a share of that memory, and a line that
// finds its share full is dropped and counted: a reader that stalls costs
// lines, never a request. A kind that strangers can fill takes nothing from
// another.
//
// # Design
//
// Lines are written in batches, a few milliseconds after the first of them: at
// a busy gate one system call then writes hundreds. A process that is killed
// loses the lines of that time.
package lines

import (
	"context"
	"io"
	"sync"
	"time"
)

// Kind is what a line is about.
type Kind int

// The kinds of lines. Of each, as much may wait as its share says.
const (
	Request Kind = iota // an allowed request
	Other               // a refusal, and whatever is no error
	Error               // somebody must act
	Kinds   = 3
)

// String is the kind's name in metrics.
func (k Kind) String() string { return [Kinds]string{"request", "other", "error"}[k] }

// shares are in bytes. As much may be under way to the reader besides.
var shares = [Kinds]int{Request: 512 << 10, Other: 256 << 10, Error: 64 << 10}

const (
	gather  = 2 * time.Millisecond // between the first line of a batch and its write
	linger  = time.Second          // for the reader, when Run is to end
	reports = time.Minute          // until a report while lines are dropped on and on
	kept    = 128 << 10            // of a batch's buffer, for the next one

	firstRetry, lastRetry = 10 * time.Millisecond, time.Second // after a write that failed
)

// Queue is where lines wait. It is made by [New]; its methods may be called
// concurrently, Run once.
type Queue struct {
	// Resumed is called when lines are written again, with the number of those
	// that were dropped since the last call. It may write a line. It is set
	// before Run; nil: nobody is told.
	Resumed func(dropped uint64)

	out   io.Writer
	awake chan struct{} // holds a signal while a batch waits

	mu      sync.Mutex
	waiting []byte
	used    [Kinds]int // of waiting
	dropped [Kinds]uint64
	told    uint64    // of dropped
	since   time.Time // when the first line was dropped that was not told
}

// New returns a queue before out. Lines wait until Run writes them.
func New(out io.Writer) *Queue {
	return &Queue{out: out, awake: make(chan struct{}, 1)}
}

// Of returns the writer of one kind. Each Write is a whole line, is copied, and
// never fails.
func (q *Queue) Of(k Kind) io.Writer { return &share{q, k} }

type share struct {
	queue *Queue
	kind  Kind
}

func (s *share) Write(line []byte) (int, error) {
	s.queue.add(s.kind, line)
	return len(line), nil
}

func (q *Queue) add(k Kind, line []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	// One line has always room: its length is no way to keep it out of the log.
	if q.used[k] > 0 && q.used[k]+len(line) > shares[k] {
		q.drop(k)
		return
	}
	if len(q.waiting) == 0 {
		q.wake()
	}
	q.used[k] += len(line)
	q.waiting = append(q.waiting, line...)
}

func (q *Queue) drop(k Kind) {
	if q.allDropped() == q.told {
		q.since = time.Now()
	}
	q.dropped[k]++
}

func (q *Queue) wake() {
	select {
	case q.awake <- struct{}{}:
	default:
	}
}

// Dropped is how many lines of a kind were dropped so far.
func (q *Queue) Dropped(k Kind) uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped[k]
}

// Run writes until ctx ends. Then the reader has a second for what still waits,
// after which Run returns although a write may hang. It returns nil.
func (q *Queue) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		q.writeAll(ctx)
	}()
	<-ctx.Done()
	late := time.NewTimer(linger)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
	}
	return nil
}

// writeAll writes batch after batch, the last one when ctx has ended.
func (q *Queue) writeAll(ctx context.Context) {
	var spare []byte
	for last := false; !last; {
		select {
		case <-q.awake:
			last = !pause(ctx, gather)
		case <-ctx.Done():
			last = true
		}
		batch, before := q.take(spare)
		if !q.write(ctx, batch) {
			return
		}
		q.report(before)
		if spare = batch[:0]; cap(spare) > kept {
			spare = nil
		}
	}
}

// take exchanges what waits for an empty buffer, and tells how many lines were
// dropped before.
func (q *Queue) take(spare []byte) (batch []byte, dropped uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch, q.waiting = q.waiting, spare
	q.used = [Kinds]int{}
	return batch, q.allDropped()
}

func (q *Queue) allDropped() (n uint64) {
	for _, d := range q.dropped {
		n += d
	}
	return n
}

// write writes a batch whole. After an error it goes on behind the last byte
// that was written, so that no line is torn, until that works or ctx has ended.
// A reader that has gone is such an error, too: it may be a disk that is full,
// which passes.
func (q *Queue) write(ctx context.Context, batch []byte) bool {
	for retry := firstRetry; len(batch) > 0; retry = min(2*retry, lastRetry) {
		n, err := q.out.Write(batch)
		batch = batch[n:]
		if err != nil && !pause(ctx, retry) {
			return false
		}
	}
	return true
}

// report tells of lines that were dropped, once the reader reads again: none
// was dropped since the last batch was taken. Where that never comes, it tells
// all the same from time to time.
func (q *Queue) report(before uint64) {
	q.mu.Lock()
	now := q.allDropped()
	n := now - q.told
	if n == 0 || now != before && time.Since(q.since) < reports {
		q.mu.Unlock()
		return
	}
	q.told = now
	q.mu.Unlock()
	if q.Resumed != nil {
		q.Resumed(n)
	}
}

// pause waits and reports whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
