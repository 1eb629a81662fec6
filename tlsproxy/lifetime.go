package tlsproxy

import (
	"context"
	"slices"
	"sync"
)

// lifetime is the context of what is done for one request. It ends with the
// exchange, when the client leaves, and when the request is ended from outside.
//
// # Design
//
// One of package context makes a channel and a map for each request, for which
// there are a few users in a thousand: who dials, or speaks HTTP/2.
type lifetime struct {
	context.Context // of net/http's request: its values
	exchange        *exchange

	mu    sync.Mutex
	err   error         // nil: it lasts
	done  chan struct{} // nil: nobody has asked for it
	after []afterward
	only  [1]afterward // where after begins: there is hardly ever another
	last  int          // the number of the last one
}

// afterward is what is to be done when a lifetime ends.
type afterward struct {
	number int
	do     func()
}

// Value implements context.Context.
func (l *lifetime) Value(key any) any {
	if key == (exchangeKey{}) {
		return l.exchange
	}
	return l.Context.Value(key)
}

// Done implements context.Context.
func (l *lifetime) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.err != nil {
			close(l.done)
		}
	}
	return l.done
}

// Err implements context.Context.
func (l *lifetime) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// AfterFunc is what context.AfterFunc calls.
func (l *lifetime) AfterFunc(do func()) (stop func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		go do()
		return func() bool { return false }
	}
	if l.after == nil {
		l.after = l.only[:0]
	}
	l.last++
	number := l.last
	l.after = append(l.after, afterward{number, do})
	return func() bool { return l.leaveOut(number) }
}

// leaveOut reports whether it has kept from being done what was to be done.
func (l *lifetime) leaveOut(number int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.after, func(a afterward) bool { return a.number == number })
	if i >= 0 {
		l.after = slices.Delete(l.after, i, i+1)
	}
	return i >= 0
}

// end ends it, once.
func (l *lifetime) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = context.Canceled
	if l.done != nil {
		close(l.done)
	}
	for _, a := range l.after {
		go a.do()
	}
	l.after = nil
}
