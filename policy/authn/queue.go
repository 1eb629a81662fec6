package authn

import (
	"net/netip"
	"sync"
)

const (
	// maxWaiting guesses may wait for a hash to be made; more are refused.
	maxWaiting = 64
	// maxLine of them may be of one site.
	maxLine = maxWaiting / 2
	// Of this many places all but one go to credentials that were right
	// before, where guesses wait too.
	rightOf = 4
)

// queue lends the places in which hashes are made. Guesses wait in a line for
// each site and the lines take turns, so that a flood from one site leaves half
// of the queue and every second place to the others. Credentials that were
// right before the user file changed wait in a line of their own: there are as
// many as there are users, and no flood comes between them.
type queue struct {
	mu      sync.Mutex
	free    int // places; above 0 nobody waits
	right   []chan bool
	lines   map[netip.Prefix][]chan bool
	sites   []netip.Prefix // that have a line, whose turn it is first
	waiting int            // in lines
	turns   int            // given to right since a line had one
}

func newQueue(places int) *queue {
	return &queue{free: places, lines: map[netip.Prefix][]chan bool{}}
}

// enter waits for a place, which [queue.leave] gives back. false: there are
// too many guesses before this one.
func (q *queue) enter(site netip.Prefix, right bool) bool {
	q.mu.Lock()
	if q.free > 0 {
		q.free--
		q.mu.Unlock()
		return true
	}
	ticket := make(chan bool, 1)
	switch {
	case right:
		q.right = append(q.right, ticket)
	case !q.room(site):
		q.mu.Unlock()
		return false
	default:
		q.line(site, ticket)
	}
	q.mu.Unlock()
	return <-ticket
}

// room makes room in the queue for one more of the site. When it is full, the
// longest line gives way, but only to one that stays shorter. The caller holds
// mu.
func (q *queue) room(site netip.Prefix) bool {
	own := len(q.lines[site])
	if own >= maxLine {
		return false
	}
	if q.waiting < maxWaiting {
		return true
	}
	longest := site
	for s, line := range q.lines {
		if len(line) > len(q.lines[longest]) {
			longest = s
		}
	}
	last := len(q.lines[longest]) - 1
	if last <= own {
		return false
	}
	q.lines[longest][last] <- false
	q.lines[longest] = q.lines[longest][:last]
	q.waiting--
	return true
}

// line puts a ticket at the end of the site's line. The caller holds mu.
func (q *queue) line(site netip.Prefix, ticket chan bool) {
	if q.lines[site] == nil {
		q.sites = append(q.sites, site)
	}
	q.lines[site] = append(q.lines[site], ticket)
	q.waiting++
}

// leave passes the place on.
func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case len(q.right) > 0 && (q.waiting == 0 || q.turns < rightOf-1):
		q.turns++
		q.right[0] <- true
		q.right = q.right[1:]
	case q.waiting > 0:
		q.turns = 0
		q.next() <- true
	default:
		q.turns = 0
		q.free++
	}
}

// next takes the first ticket of the site whose turn it is. The caller holds mu.
func (q *queue) next() chan bool {
	site := q.sites[0]
	q.sites = q.sites[1:]
	line := q.lines[site]
	if len(line) > 1 {
		q.lines[site] = line[1:]
		q.sites = append(q.sites, site)
	} else {
		delete(q.lines, site)
	}
	q.waiting--
	return line[0]
}
