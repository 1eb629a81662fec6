package authn

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sidegate/policy"
)

// PWD-14: guesses that arrive together don't each pass for one of the first.
func TestLimiterCountsGuessesMadeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "u:"+bcryptOf(t, "x", 4))
		w.load(t)
		release := w.hold()
		results := make(chan string)
		for i := range maxWaiting {
			go func() { results <- w.verdict(t, basic("u", fmt.Sprint(i))) }()
		}
		synctest.Wait()
		release()
		got := map[string]int{}
		for range maxWaiting {
			got[<-results]++
		}
		if got["bad_credentials"] != burst || got["rate_limited"] != maxLine-burst || got["overloaded"] != maxWaiting-maxLine {
			t.Errorf("got %v, want %d judged, the others in line limited, and no more in line than %d", got, burst, maxLine)
		}
	})
}

// PWD-14, PWD-15.
func TestLimiter(t *testing.T) {
	w := newWorld(t, "u:"+bcryptOf(t, "x", 4)+"\nv:"+bcryptOf(t, "x", 4)+"\nw:"+bcryptOf(t, "x", 4))
	w.load(t)
	w.verdict(t, from("192.0.2.9", "v", "x")) // v is known from now on
	for range burst - 1 {
		w.verdict(t, from("192.0.2.7", "u", "no"))
		w.verdict(t, from("192.0.2.7", "w", "no"))
	}
	w.verdict(t, from("192.0.2.7", "w", "x")) // which begins anew, but for w alone
	for name, want := range map[string][]string{"u": {"bad_credentials", "rate_limited"}, "w": {"bad_credentials", "bad_credentials"}} {
		if got := []string{w.verdict(t, from("192.0.2.7", name, "no")), w.verdict(t, from("192.0.2.7", name, "no"))}; !slices.Equal(got, want) {
			t.Errorf("%s after the success of w: got %s, want %s", name, got, want)
		}
	}
	for i := range burst {
		if got := w.verdict(t, from("192.0.2.1", "u", fmt.Sprint(i))); got != "bad_credentials" {
			t.Fatalf("failure %d: %s", i, got)
		}
	}
	for _, c := range []struct{ name, addr, user, password, want string }{
		{"one more", "192.0.2.1", "u", "no", "rate_limited"},
		{"the right one too", "192.0.2.1", "u", "x", "rate_limited"},
		{"another account", "192.0.2.1", "v", "no", "bad_credentials"},
		{"a known login", "192.0.2.1", "v", "x", "ok"},
		{"the victim from elsewhere", "192.0.2.2", "u", "x", "ok"},
		{"and then, being known, from there", "192.0.2.1", "u", "x", "ok"},
		{"guesses go on being refused", "192.0.2.1", "u", "no", "rate_limited"},
	} {
		if got := w.verdict(t, from(c.addr, c.user, c.password)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
	_, err := w.Authenticate(t.Context(), from("192.0.2.1", "u", "no"))
	var refusal *policy.Refusal
	if !errors.As(err, &refusal) || refusal.RetryAfter <= 0 || refusal.RetryAfter > refill {
		t.Errorf("got %v, want to hear when to try again", err)
	}
	w.mu.Lock()
	w.now = w.now.Add(refusal.RetryAfter)
	w.mu.Unlock()
	if got := []string{w.verdict(t, from("192.0.2.1", "u", "no")), w.verdict(t, from("192.0.2.1", "u", "no"))}; !slices.Equal(got, []string{"bad_credentials", "rate_limited"}) {
		t.Errorf("when it said to: %s, want one more guess", got)
	}
	w.mu.Lock()
	w.now = w.now.Add(burst * refill)
	w.mu.Unlock()
	if got := w.verdict(t, from("192.0.2.1", "u", "no")); got != "bad_credentials" {
		t.Errorf("after a pause: %s", got)
	}
}

// What counts as one network and as one site.
func TestNetworks(t *testing.T) {
	at := netip.MustParseAddr
	for _, c := range []struct {
		name, a, b          string
		oneNetwork, oneSite bool
	}{
		{"IPv4 addresses", "192.0.2.1", "192.0.2.2", false, false},
		{"IPv4 written as IPv6", "192.0.2.1", "::ffff:192.0.2.1", true, true},
		{"IPv4 addresses written as IPv6", "::ffff:192.0.2.1", "::ffff:192.0.2.2", false, false},
		{"one /64", "2001:db8::1", "2001:db8::ffff:2", true, true},
		{"one /48", "2001:db8::1", "2001:db8:0:1::1", false, true},
		{"two /48", "2001:db8::1", "2001:db8:1::1", false, false},
		{"zones", "fe80::1%eth0", "fe80::1%eth1", true, true},
	} {
		if got := networkOf(at(c.a)) == networkOf(at(c.b)); got != c.oneNetwork {
			t.Errorf("%s: one network %t, want %t", c.name, got, c.oneNetwork)
		}
		if got := siteOf(at(c.a)) == siteOf(at(c.b)); got != c.oneSite {
			t.Errorf("%s: one site %t, want %t", c.name, got, c.oneSite)
		}
	}
	if networkOf(netip.Addr{}) != siteOf(netip.Addr{}) {
		t.Error("who comes by a unix socket has a site that is not its network")
	}
}

// judged is how many of n attempts by a limiter are not told to wait. The
// attempts are failures.
func judged(l *limiter, n int, attempt func(i int) guess) (passed int) {
	for i := range n {
		if l.take(attempt(i)) == 0 {
			passed++
		}
	}
	return passed
}

func stoppedLimiter() *limiter {
	now := time.Now()
	return newLimiter(func() time.Time { return now })
}

// PWD-16: no junk makes the failures for an account forgotten, and the network
// has a limit of its own.
func TestJunkNamesForgetNothing(t *testing.T) {
	const attacker, victim = "192.0.2.66", "victim"
	addr := netip.MustParseAddr(attacker)
	// elsewhere is the i-th of many sites.
	elsewhere := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	t.Run("junk from the same address", func(t *testing.T) {
		l := stoppedLimiter()
		guesses, junk := 0, 0
		for i := range 5 * maxBuckets {
			if i%500 == 0 && l.take(newGuess(victim, addr)) == 0 {
				guesses++
			}
			if l.take(newGuess(fmt.Sprint("junk", i), addr)) == 0 {
				junk++
			}
		}
		if guesses > burst || guesses+junk > burst*tenfold {
			t.Errorf("%d guesses for the victim and %d for others, want at most %d and %d in all", guesses, junk, burst, burst*tenfold)
		}
	})
	t.Run("junk from endless addresses", func(t *testing.T) {
		l := stoppedLimiter()
		guesses := 0
		for i := range 5 * maxBuckets {
			if i%500 < burst && l.take(newGuess(victim, addr)) == 0 {
				guesses++
			}
			l.take(newGuess(fmt.Sprint("junk", i%7), elsewhere(i)))
		}
		if guesses != burst {
			t.Errorf("%d guesses, want %d", guesses, burst)
		}
	})
	t.Run("junk that owes as much", func(t *testing.T) {
		l := stoppedLimiter()
		judged(l, burst, func(int) guess { return newGuess(victim, addr) })
		for i := range maxBuckets - 1 { // all others owe one less
			judged(l, burst-1, func(int) guess { return newGuess("junk", elsewhere(i)) })
		}
		judged(l, maxBuckets-1, func(i int) guess { return newGuess("more", elsewhere(i)) })
		if got := judged(l, 1, func(int) guess { return newGuess(victim, addr) }); got != 0 {
			t.Error("the largest debt of all was forgotten")
		}
	})
	t.Run("success with an account of one's own", func(t *testing.T) {
		l := stoppedLimiter()
		guesses := 0
		for i := range 100 * burst * tenfold {
			own := newGuess("mallory", addr)
			own.known = i%2 == 0
			if l.take(own) == 0 {
				l.succeeded(own)
			}
			if l.take(newGuess(fmt.Sprint("junk", i), addr)) == 0 {
				guesses++
			}
		}
		if guesses != burst*tenfold {
			t.Errorf("%d guesses between successes, want %d", guesses, burst*tenfold)
		}
	})
	t.Run("networks of one IPv6 site", func(t *testing.T) {
		l := stoppedLimiter()
		network := func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 1, byte(i >> 8), byte(i), 15: 1})
		}
		if got := judged(l, 60_000, func(i int) guess { return newGuess(victim, network(i)) }); got != burst*tenfold {
			t.Errorf("%d guesses from one /48, want %d", got, burst*tenfold)
		}
		if l.take(newGuess(victim, netip.MustParseAddr("2001:db8:2::1"))) != 0 {
			t.Error("another site is limited too") // PWD-15
		}
	})
	t.Run("names that look alike", func(t *testing.T) {
		w := newWorld(t, "jos\u00e9:"+bcryptOf(t, "x", 4))
		w.load(t)
		for i := range 3 * burst {
			for _, name := range []string{"jose\u0301", "JOS\u00c9", "jos\u00e9 ", "jos\uff45"} {
				if got := w.verdict(t, from(fmt.Sprint("198.51.100.", i), name, "x")); got != "bad_credentials" {
					t.Fatalf("%q: %s", name, got)
				}
			}
		}
		if got := w.verdict(t, from("198.51.100.1", "jos\u00e9", "x")); got != "ok" {
			t.Errorf("the user whose name they are not: %s", got)
		}
	})
}

// PWD-14, PWD-16: a site that failed too often slows names that are new there,
// and nobody else.
func TestSiteLimit(t *testing.T) {
	hash := bcryptOf(t, "x", 4)
	w := newWorld(t, "here:"+hash+"\nnew:"+hash+"\nelse:"+hash)
	w.load(t)
	const site = "192.0.2.1"
	w.verdict(t, from("203.0.113.5", "else", "x"))
	w.verdict(t, from(site, "else", "x")) // by memory
	w.verdict(t, from(site, "here", "x"))
	rehashed := bcryptOf(t, "x", 4)
	for i := range burst * tenfold {
		if got := w.verdict(t, from(site, fmt.Sprint("junk", i), "no")); got != "bad_credentials" {
			t.Fatalf("failure %d: %s", i, got)
		}
	}
	for _, c := range []struct{ name, addr, user, password, want string }{
		{"one more name", site, "junk", "no", "rate_limited"},
		{"a user who is new here", site, "new", "x", "rate_limited"},
		{"a remembered login", site, "here", "x", "ok"},
		{"the same user from elsewhere", "192.0.2.2", "new", "x", "ok"}, // PWD-15
		{"and then from here", site, "new", "x", "ok"},
		{"a wrong password of a name that logged in from here", site, "here", "no", "bad_credentials"},
	} {
		if got := w.verdict(t, from(c.addr, c.user, c.password)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
	changed := bcryptOf(t, "y", 4)
	w.set(map[string][]byte{"htpasswd": []byte("here:" + changed + "\nelse:" + changed + "\nnew:" + rehashed + "\nnever:" + hash)}, nil)
	w.load(t)
	for user, want := range map[string]string{"here": "ok", "else": "ok", "never": "rate_limited"} {
		password := map[string]string{"never": "x"}[user]
		if password == "" {
			password = "y"
		}
		if got := w.verdict(t, from(site, user, password)); got != want {
			t.Errorf("%s with a new password: got %s, want %s", user, got, want)
		}
	}
	_, err := w.Authenticate(t.Context(), from(site, "junk", "no"))
	var refusal *policy.Refusal
	if !errors.As(err, &refusal) || refusal.RetryAfter <= 0 || refusal.RetryAfter > refill/tenfold {
		t.Errorf("got %v, want to hear when to try again", err)
	}
}

// PWD-15: endless names, networks and sites, and mixtures, take bounded memory,
// and none once they are paid off.
func TestLimiterMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(time.Now)
		for i := range 3 * maxBuckets {
			site := netip.AddrFrom16([16]byte{0x20, 0x01, byte(i >> 16), byte(i >> 8), byte(i), 15: 1})
			network := netip.AddrFrom16([16]byte{0x20, 0x01, 0, 0, 0, 1, byte(i >> 8), byte(i), 15: 1})
			l.take(newGuess("u", site))
			l.take(newGuess("u", network))
			l.take(newGuess(fmt.Sprint(i), site))
			l.take(newGuess(fmt.Sprint(i), netip.MustParseAddr("192.0.2.3")))
			time.Sleep(time.Microsecond) // of the bubble's clock
		}
		for what, s := range map[string]*buckets{"accounts": &l.accounts, "sites": &l.sites} {
			if n := len(s.by); n != maxBuckets || len(s.debts) != n {
				t.Errorf("%s: %d in memory and %d in order, want %d", what, n, len(s.debts), maxBuckets)
			}
		}
		time.Sleep(burst * refill)
		l.take(newGuess("u", netip.MustParseAddr("192.0.2.1")))
		if a, s := len(l.accounts.by), len(l.sites.by); a != 1 || s != 1 {
			t.Errorf("%d accounts and %d sites in memory after a pause, want the newest", a, s)
		}
	})
}

// PWD-16: when there is no room left, the least debt gives way, whichever it is.
func TestLeastDebtGivesWay(t *testing.T) {
	now := time.Now()
	s := newBuckets(burst, refill)
	key := func(i int) limitKey { return limitKey{account: digest{1, byte(i >> 8), byte(i)}} }
	order := rand.New(rand.NewPCG(1, 2)).Perm(maxBuckets)
	for _, i := range order { // key(i) owes the more the larger i is
		s.add(key(i), now.Add(time.Duration(i)*time.Microsecond-time.Second))
	}
	for i := range 100 {
		s.add(limitKey{account: digest{2, byte(i)}}, now)
		if s.by[key(i)] != nil || s.by[key(i+1)] == nil {
			t.Fatalf("not the least debt gave way when the newcomer %d came", i)
		}
	}
}

// A bucket is what its comment says: one more with each failure, one less each
// refill, whatever else happens.
func TestBucketsDoWhatTheySay(t *testing.T) {
	type plain struct {
		debt float64
		at   time.Time
	}
	now := time.Now()
	s := newBuckets(burst, refill)
	want := map[limitKey]plain{}
	keys := []limitKey{{account: digest{1}}, {account: digest{2}}, {account: digest{3}}}
	random := rand.New(rand.NewPCG(1, 2))
	for step := range 20_000 {
		now = now.Add(time.Duration(random.Int64N(int64(4 * time.Second))))
		k := keys[random.IntN(len(keys))]
		p := want[k]
		p.debt, p.at = max(0, p.debt-float64(now.Sub(p.at))/float64(refill)), now
		wait := time.Duration(max(0, p.debt-(burst-1)) * float64(refill))
		if got := s.wait(k, now); (got - wait).Abs() > time.Microsecond {
			t.Fatalf("step %d: wait %s, want %s", step, got, wait)
		}
		switch random.IntN(40) {
		case 0:
			s.remove(k)
			p.debt = 0
		case 1:
			s.refund(k)
			p.debt = max(0, p.debt-1)
		default:
			if wait == 0 {
				s.add(k, now)
				p.debt++
			}
		}
		want[k] = p
	}
}

// The figures of SECURITY.md are those that the tests here prove.
func TestSecurityPageTellsTheLimits(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("| failed logins for one account from one network | %d, then one each %s |", burst, refill),
		fmt.Sprintf("| failed logins from one site | %d, then one each %s |", burst*tenfold, refill/tenfold),
		fmt.Sprintf("| accounts and sites whose failures are remembered | %d each |", maxBuckets),
		fmt.Sprintf("| guesses that wait to be hashed; of one site | %d; %d |", maxWaiting, maxLine),
		fmt.Sprintf("| logins that are remembered; networks of one name | %d; %d |", maxVerified, maxPlaces),
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("SECURITY.md has no line %s", want)
		}
	}
}
