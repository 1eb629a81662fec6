package tlsproxy

import "time"

// Clock tells the time of day. Trust should judge certificates by the same one.
type Clock interface {
	Now() time.Time
	// At calls f on a goroutine of its own at that time of day, once. stop keeps
	// it from that and reports whether it does. It does not wait for f.
	At(at time.Time, f func()) (stop func() bool)
}

// passing is a clock that nobody sets.
type passing struct{}

func (passing) Now() time.Time { return time.Now() }

func (passing) At(at time.Time, f func()) (stop func() bool) {
	return time.AfterFunc(time.Until(at), f).Stop
}

func (p *Proxy) clock() Clock {
	if p.Clock == nil {
		return passing{}
	}
	return p.Clock
}
