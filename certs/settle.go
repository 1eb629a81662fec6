package certs

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// slot is the place of a pair in a candidate: the pair, or why there is none.
type slot struct {
	name string
	pair *Pair
	err  error
}

// settlement is what a candidate's pairs come to beside those in service. Each
// is judged alone: one that is not good leaves its predecessor in place.
type settlement struct {
	pairs   []*Pair // the default first
	remarks []remark
	starts  time.Time // when the first staged pair begins; zero: none is staged
	refused error     // why the default pair is not replaced, or can't be
}

// settle judges the pairs of m. old is nil at the start.
func (s *Store) settle(m, old *Material, now time.Time) settlement {
	var c settlement
	for i, sl := range m.slots {
		c.place(sl, i == 0, old.predecessor(sl.name, i == 0), now)
	}
	if old != nil && !s.AllowNameLoss {
		c.keepNames(m, old, now)
	}
	return c
}

// predecessor is what serves in the place of a pair; nil: nothing does.
func (m *Material) predecessor(name string, first bool) *Pair {
	switch {
	case m == nil || len(m.pairs) == 0:
		return nil
	case first:
		return m.pairs[0]
	}
	return m.named(name)
}

// place takes the pair of a slot, or was.
func (c *settlement) place(sl slot, first bool, was *Pair, now time.Time) {
	err := sl.err
	switch {
	case err != nil:
	case was != nil && was.sum == sl.pair.sum:
		c.add(was) // it may have ended, which is told of what serves
		return
	case now.After(sl.pair.Cert.Leaf.NotAfter):
		err = fmt.Errorf("%s ended %s", sl.pair.File, utc(sl.pair.Cert.Leaf.NotAfter))
	case now.Before(sl.pair.Cert.Leaf.NotBefore):
		c.stage(sl.pair, first, was, now)
		return
	default:
		c.add(sl.pair)
		return
	}
	c.add(was)
	switch {
	case first:
		c.refused = err
	case was != nil:
		c.alarm("pair refused, the one before stays in service", err.Error())
	default:
		c.alarm("pair refused, it is not served", err.Error())
	}
}

// stage waits for a pair's beginning. Whom we trust changes at once: a
// revocation does not wait.
func (c *settlement) stage(p *Pair, first bool, was *Pair, now time.Time) {
	c.add(was)
	starts := p.Cert.Leaf.NotBefore
	if first && was == nil {
		c.refused = fmt.Errorf("a certificate is not valid before %s; the clock says %s", utc(starts), utc(now))
		return
	}
	c.starts = earliest(c.starts, starts)
	c.remarks = append(c.remarks, remark{slog.LevelWarn, "certificate staged until it is valid", fmt.Sprintf("%s begins %s", p.File, utc(starts))})
}

func (c *settlement) add(p *Pair) {
	if p != nil && !slices.Contains(c.pairs, p) {
		c.pairs = append(c.pairs, p)
	}
}

func (c *settlement) alarm(event, text string) {
	c.remarks = append(c.remarks, remark{slog.LevelError, event, text})
}

// keepNames keeps those in service whose names would be lost, unless they have
// ended anyway.
func (c *settlement) keepNames(m, old *Material, now time.Time) {
	missing := m.withPairs(c.pairs).missingNames(old)
	for _, was := range old.pairs {
		lost := slices.DeleteFunc(slices.Clone(was.names), func(n string) bool { return !slices.Contains(missing, n) })
		if len(lost) == 0 || slices.Contains(c.pairs, was) {
			continue
		}
		names := strings.Join(lost, ", ")
		if now.After(was.Cert.Leaf.NotAfter) {
			c.alarm("replacement lacks names but the certificate in service has ended", names)
			continue
		}
		err := fmt.Errorf("the replacement lacks %s, which is served now (SIDEGATE_TLS_ALLOW_NAME_LOSS=true allows it)", names)
		if was == old.pairs[0] {
			c.pairs[0], c.refused = was, errors.Join(c.refused, err)
			continue
		}
		c.alarm("pair refused, the one before stays in service", fmt.Sprintf("%s: %v", was.Name, err))
		if i := slices.IndexFunc(c.pairs, func(p *Pair) bool { return p.Name == was.Name }); i > 0 {
			c.pairs[i] = was
		} else {
			c.add(was)
		}
	}
}
