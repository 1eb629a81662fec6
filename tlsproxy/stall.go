package tlsproxy

import (
	"sync"
	"sync/atomic"
	"time"
)

// watchdog ends a call that waits for the client too long. It watches only
// while the call lasts: what passes between two calls is the application's
// time, and is never taken for the client's. One call at a time is watched.
type watchdog struct {
	limit time.Duration // 0: nothing is watched
	bite  func() bool   // ends the call; false: it may go on. mu is held

	mu     sync.Mutex
	armed  bool
	bitten bool
	timer  *time.Timer
}

func (w *watchdog) start() {
	if w.limit == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = true
	if w.timer == nil {
		w.timer = time.AfterFunc(w.limit, w.fire)
	} else {
		w.timer.Reset(w.limit)
	}
}

// stop ends the watch. When it has returned, nothing is bitten any more.
func (w *watchdog) stop() {
	if w.limit == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
	if w.timer != nil {
		w.timer.Stop()
	}
}

func (w *watchdog) fire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.armed {
		w.bitten = w.bite()
	}
}

// bit reports whether a call was ended.
func (w *watchdog) bit() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bitten
}

// silence ends an exchange by which no byte has moved for a time, whichever
// side is to blame. A nil one watches nothing.
type silence struct {
	limit   time.Duration
	end     func()
	born    time.Time
	moved   atomic.Int64 // when a byte moved last, nanoseconds after born
	mu      sync.Mutex
	timer   *time.Timer // nil: it does not watch yet
	stopped bool
}

func newSilence(limit time.Duration, end func()) *silence {
	return &silence{limit: limit, end: end, born: time.Now()}
}

// listen begins to watch. It may be called again.
func (s *silence) listen() {
	if s == nil {
		return
	}
	s.touch()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil && !s.stopped {
		s.timer = time.AfterFunc(s.limit, s.look)
	}
}

// touch notes that bytes have moved.
func (s *silence) touch() {
	if s != nil {
		s.moved.Store(int64(time.Since(s.born)))
	}
}

func (s *silence) look() {
	quiet := time.Since(s.born) - time.Duration(s.moved.Load())
	if quiet >= s.limit {
		s.end()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.timer.Reset(s.limit - quiet)
	}
}

func (s *silence) stop() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.timer != nil {
		s.timer.Stop()
	}
}
