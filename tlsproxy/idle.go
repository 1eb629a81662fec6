package tlsproxy

import (
	"time"

	"sidegate/policy"
)

// notRemembered is why an idle connection ends whose last request was too long
// to keep: whether it would be refused by now, nobody can tell.
const notRemembered policy.Reason = "not_remembered"

// maxRemembered bounds the memory that an idle connection's last request
// holds on to.
const maxRemembered = 512

// remembered is what an idle connection keeps of its last request. Rules don't
// look at the header. Of one that is too long to keep, nobody can tell whether
// it would be refused: that connection ends at any change.
func (q question) remembered() question {
	q.req.Header = nil
	q.kept = keptWhole
	if len(q.req.Target) > maxRemembered || len(q.req.Host) > maxRemembered || len(q.req.Method) > maxRemembered || size(q.req.Overrides) > maxRemembered {
		q.req = policy.Request{Gate: q.req.Gate}
		q.kept = keptUser
	}
	return q
}

func size(list []string) (n int) {
	for _, s := range list {
		n += len(s)
	}
	return n
}

// idle is why a connection ends by which no request is under way, or "".
// Nothing is left of its credential; the next request brings another.
func (s *sweep) idle(last *question) policy.Reason {
	if last.kept == keptWhole {
		reason, _ := s.gate.again(last, s.users)
		return reason
	}
	if v := s.gate.userAgain(last, s.users); v.reason != "" {
		return v.reason
	}
	return notRemembered
}

// hangUpIdle ends a connection whose last answer may still be on its way.
func (s *sweep) hangUpIdle(c *conn) {
	if c.waits.Load() {
		go c.hangUp(lastWords) // it may want the mutex
		return
	}
	time.AfterFunc(parting, func() { c.hangUp(lastWords) })
}
