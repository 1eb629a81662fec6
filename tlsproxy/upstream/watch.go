package upstream

import "time"

// watch looks at each connection that has waited for long enough to tell
// whether it is silent, and closes those that wait too long or are too many. It
// calls itself as long as connections wait.
func (p *pool) watch() {
	now := p.now()
	p.mu.Lock()
	p.busiest = max(p.inUse, p.busiest*7/8)
	gone, faults := p.lookLocked(now)
	gone = append(gone, p.trimLocked()...)
	if p.watching = p.oldest != nil; p.watching {
		p.after(p.nextLookLocked(now))
	}
	p.mu.Unlock()
	for _, f := range faults {
		p.tell(f)
	}
	closeAll(gone)
}

// lookLocked removes the connections that must not be used again. Those whose
// time is over are looked at once more: what came late says as much.
func (p *pool) lookLocked(now time.Time) (gone []*conn, faults []string) {
	for c := p.oldest; c != nil; {
		next := c.newer
		waited := now.Sub(c.since)
		over := waited >= p.idle
		if waited < quiet && !over {
			break // as all that follow
		}
		if !c.watched || over || p.faulty[c.kind] {
			s := c.look()
			faults = append(faults, p.concludeLocked(c, s, now))
			if s != silent || over || p.faulty[c.kind] {
				p.removeLocked(c)
				gone = append(gone, c)
			}
		}
		c = next
	}
	return gone, faults
}

// trimLocked removes the oldest of those that have waited for longer than a
// moment, if there are more than are in use or were a moment ago.
func (p *pool) trimLocked() (gone []*conn) {
	long := 0
	for c := p.oldest; c != nil && c.watched; c = c.newer {
		long++
	}
	for busy := p.waiting - long; long > p.boundLocked()+busy; long-- {
		gone = append(gone, p.oldest)
		p.removeLocked(p.oldest)
	}
	return gone
}

// nextLookLocked is when the next connection has waited for long enough.
func (p *pool) nextLookLocked(now time.Time) time.Duration {
	const together = 5 * time.Millisecond // to look at several at a time
	for c := p.oldest; c != nil; c = c.newer {
		if !c.watched {
			return max(c.since.Add(quiet).Sub(now), together)
		}
	}
	return quiet
}

// leave closes what only this caller could use again.
func (p *pool) leave(caller *Caller) {
	var gone []*conn
	p.mu.Lock()
	caller.gone = true
	for caller.waiting != nil {
		gone = append(gone, caller.waiting)
		p.removeLocked(caller.waiting)
	}
	p.mu.Unlock()
	closeAll(gone)
}

// close closes all that wait, and lets none wait any more.
func (p *pool) close() {
	var gone []*conn
	p.mu.Lock()
	p.closed = true
	for p.oldest != nil {
		gone = append(gone, p.oldest)
		p.removeLocked(p.oldest)
	}
	p.mu.Unlock()
	closeAll(gone)
}

func closeAll(conns []*conn) {
	for _, c := range conns {
		_ = c.Close() // nothing is lost with it
	}
}
