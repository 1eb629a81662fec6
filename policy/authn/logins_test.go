package authn

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"sidegate/policy"
)

// PWD-08: a success is remembered, a failure never, and another hash is another login.
func TestVerifiedCache(t *testing.T) {
	stored := "u:" + bcryptOf(t, "x", 4)
	w := newWorld(t, stored)
	w.load(t)
	step := func(what, password, want string, hashes int64) {
		t.Helper()
		before := w.hashes.Load()
		if got := w.verdict(t, basic("u", password)); got != want || w.hashes.Load()-before != hashes {
			t.Errorf("%s: got %s and %d hashes, want %s and %d", what, got, w.hashes.Load()-before, want, hashes)
		}
	}
	step("first", "x", "ok", 1)
	step("again", "x", "ok", 0)
	late := &trial{attempt: attempt{generation: w.current.Load(), credential: credential{[]byte("u"), []byte("x")}}}
	late.key = w.verifiedKey(late.credential, late.users["u"].stored)
	if login, err := w.hash(late); login == nil || err != nil || w.hashes.Load() != 1 {
		t.Errorf("who came too late for the first hash: %v, %v after %d hashes", login, err, w.hashes.Load())
	}
	step("wrong", "y", "bad_credentials", 1)
	step("wrong again", "y", "bad_credentials", 1)
	w.load(t)
	step("same content", "x", "ok", 0)
	login, err := w.Authenticate(t.Context(), basic("u", "x"))
	if err != nil || w.Recheck(t.Context(), login.User) != nil {
		t.Errorf("recheck of a good user: %v", err)
	}
	w.set(map[string][]byte{"htpasswd": []byte("u:" + bcryptOf(t, "x", 4))}, nil)
	w.load(t)
	if w.Recheck(t.Context(), login.User) == nil {
		t.Error("a user whose hash changed is still good")
	}
	step("same password, other hash", "x", "ok", 1)
	w.set(map[string][]byte{"htpasswd": []byte("v:" + bcryptOf(t, "x", 4))}, nil)
	w.load(t)
	step("user gone", "x", "bad_credentials", 1)
	for i := range maxVerified + 10 {
		w.logins.remember(digest{byte(i), byte(i >> 8)}, &verified{login: login}, netip.Prefix{})
	}
	if n := len(w.logins.verified); n != maxVerified {
		t.Errorf("%d logins remembered, want %d", n, maxVerified)
	}
}

// PWD-08: the key of a login is made of each field, with its length.
func TestVerifiedKey(t *testing.T) {
	w := newWorld(t, "")
	key := func(user, stored, password string) [32]byte {
		return w.verifiedKey(credential{[]byte(user), []byte(password)}, stored)
	}
	base := key("ab", "cd", "ef")
	if key("ab", "cd", "ef") != base {
		t.Error("the same login has two keys")
	}
	for _, other := range [][3]string{{"x", "cd", "ef"}, {"ab", "x", "ef"}, {"ab", "cd", "x"}, {"a", "bcd", "ef"}, {"ab", "c", "def"}, {"", "abcd", "ef"}} {
		if key(other[0], other[1], other[2]) == base {
			t.Errorf("%q has the key of another login", other)
		}
	}
	const gap = "\x00\x00\x00\x00\x00\x00\x00\x00" // as wide as a length
	if key("a", "b"+gap+"c", "d") == key("a"+gap+"b", "c", "d") {
		t.Error("a gap between fields can be part of one")
	}
	if newWorld(t, "").verifiedKey(credential{[]byte("ab"), []byte("ef")}, "cd") == base {
		t.Error("two processes have the same key")
	}
}

// users is a file of so many users, whose passwords are all x.
func users(t *testing.T, n int) string {
	hash := bcryptOf(t, "x", 4)
	var file strings.Builder
	for i := range n {
		fmt.Fprintf(&file, "user%d:%s\n", i, hash)
	}
	return file.String()
}

func (w *world) reload(t *testing.T, htpasswd string) {
	t.Helper()
	w.set(map[string][]byte{"htpasswd": []byte(htpasswd)}, nil)
	w.load(t)
}

// flood fills the queue with guesses from one address and those next to it,
// and returns how to wait for their end. hold must be in force.
func (w *world) flood(t *testing.T, addr string) (wait func()) {
	t.Helper()
	done := make(chan string)
	neighbour := netip.MustParseAddr(addr).Next().String()
	for i := range 2 * maxWaiting {
		go func() {
			done <- w.verdict(t, from([]string{addr, neighbour}[i%2], fmt.Sprint("guessed", i), "no"))
		}()
	}
	synctest.Wait()
	if w.queue.waiting != maxWaiting {
		t.Fatalf("%d guesses wait, want %d", w.queue.waiting, maxWaiting)
	}
	return func() {
		for range 2 * maxWaiting {
			<-done
		}
	}
}

// PWD-17, PWD-08: a reload keeps the remembered logins whose stored hash is the
// same; the flood of guesses that goes on meanwhile does not touch them.
func TestReloadKeepsLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 27
		file := users(t, n)
		w := newWorld(t, file)
		w.load(t)
		for i := range n {
			w.verdict(t, from("192.0.2.1", fmt.Sprint("user", i), "x"))
		}
		release := w.hold()
		end := w.flood(t, "192.0.2.1")
		before := w.hashes.Load()
		other := bcryptOf(t, "x", 4)
		w.reload(t, strings.Replace(file, "user0:", "added:"+other+"\nuser0:", 1))
		for i := range n {
			if got := w.verdict(t, from("192.0.2.1", fmt.Sprint("user", i), "x")); got != "ok" {
				t.Errorf("user%d after the reload: %s", i, got)
			}
		}
		if w.hashes.Load() != before {
			t.Errorf("%d hashes, want none", w.hashes.Load()-before)
		}
		release()
		end()
		_, rest, _ := strings.Cut(file, "\n")
		w.reload(t, "user0:"+other+"\n"+rest)
		for user, hashes := range map[string]int64{"user0": 1, "user1": 0} {
			before := w.hashes.Load()
			if got := w.verdict(t, from("192.0.2.9", user, "x")); got != "ok" || w.hashes.Load()-before != hashes {
				t.Errorf("%s: got %s after %d hashes, want ok after %d", user, got, w.hashes.Load()-before, hashes)
			}
		}
	})
}

// A user who was taken out of the file is forgotten with all that is known.
func TestReloadForgetsUsers(t *testing.T) {
	file := users(t, 2)
	u0, u1, _ := strings.Cut(file, "\n")
	w := newWorld(t, file)
	w.load(t)
	w.verdict(t, from("192.0.2.1", "user0", "x"))
	login, err := w.Authenticate(t.Context(), from("192.0.2.1", "user1", "x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, changed := range []bool{false, true} {
		if changed { // what is remembered is what was right before
			w.reload(t, u0+"\nuser1:"+bcryptOf(t, "x", 4))
		}
		w.reload(t, u0)
		if l := w.logins; len(l.verified) != 1 || len(l.former) != 0 || len(l.places) != 1 {
			t.Errorf("%d logins, %d former ones and the places of %d names are left, want those of user0", len(l.verified), len(l.former), len(l.places))
		}
		before := w.hashes.Load()
		// A removed user is gone at once, and is not asked to prove again.
		var refusal *policy.Refusal
		if err := w.Recheck(t.Context(), login.User); !errors.As(err, &refusal) || refusal.Reason != policy.BadCredentials || errors.Is(err, policy.ErrProveAgain) {
			t.Errorf("recheck of a removed user: %v", err)
		}
		if _, err := w.Prove(t.Context(), from("192.0.2.1", "user1", "x"), login.User); !errors.As(err, &refusal) || refusal.Reason != policy.BadCredentials {
			t.Errorf("proof of a removed user: %v", err)
		}
		if w.hashes.Load() != before {
			t.Error("a removed user cost a hash")
		}
		w.reload(t, u0+"\n"+u1)
		if got := w.verdict(t, from("192.0.2.1", "user1", "x")); got != "ok" || w.hashes.Load()-before != 1 {
			t.Errorf("who came back: %s after %d hashes", got, w.hashes.Load()-before)
		}
	}
}

// PWD-18, PWD-08: where the stored hash changed the credential is checked anew,
// before the guesses and whatever the limits, but as such once only.
func TestFormerLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const router = "192.0.2.1" // by which all come
		w := newWorld(t, users(t, 2))
		w.load(t)
		w.verdict(t, from(router, "user0", "x"))
		w.verdict(t, from(router, "user1", "x"))
		w.reload(t, "user0:"+bcryptOf(t, "x", 4)+"\nuser1:"+bcryptOf(t, "changed", 4))
		for _, user := range []string{"user0", "user1"} {
			for w.limiter.take(newGuess(user, netip.MustParseAddr(router))) == 0 {
			}
		}
		if got := w.verdict(t, from(router, "user0", "no")); got != "rate_limited" {
			t.Fatalf("a guess: %s", got)
		}
		release := w.hold()
		end := w.flood(t, router)
		results := map[string]chan string{"user0": make(chan string), "user1": make(chan string)}
		for user, c := range results {
			go func() { c <- w.verdict(t, from(router, user, "x")) }()
		}
		synctest.Wait()
		if len(w.queue.right) != 2 {
			t.Errorf("%d credentials that were right wait, want two", len(w.queue.right))
		}
		release()
		if got := <-results["user0"]; got != "ok" {
			t.Errorf("the same password, hashed anew: %s", got)
		}
		if got := <-results["user1"]; got != "bad_credentials" {
			t.Errorf("the old password: %s", got)
		}
		end()
		before := w.hashes.Load()
		if got := w.verdict(t, from(router, "user1", "x")); got != "rate_limited" || w.hashes.Load() != before {
			t.Errorf("the old password again: %s, want it to be a guess like any", got)
		}
		if got := w.verdict(t, from(router, "user0", "x")); got != "ok" || w.hashes.Load() != before {
			t.Errorf("the right one again: %s after %d hashes", got, w.hashes.Load()-before)
		}
	})
}

// An old password that comes from everywhere at once takes one hash out of turn.
func TestFormerLoginFromEverywhere(t *testing.T) {
	for _, password := range []string{"changed", "x"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, users(t, 1))
			w.load(t)
			w.verdict(t, from("192.0.2.1", "user0", "x"))
			w.reload(t, "user0:"+bcryptOf(t, password, 4))
			w.queue = newQueue(1)
			release := w.hold()
			before := w.hashes.Load()
			results := make(chan string)
			for i := range 200 {
				go func() { results <- w.verdict(t, from(fmt.Sprint("198.51.100.", i), "user0", "x")) }()
			}
			synctest.Wait()
			release()
			for range 200 {
				<-results
			}
			if n := w.hashes.Load() - before; n != 1 {
				t.Errorf("the password is %s: %d hashes, want one", password, n)
			}
		})
	}
}

// PWD-18: the credential of a request under way is proven before all guesses,
// is counted by no limit, and proves nobody else.
func TestProve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const router = "192.0.2.1"
		w := newWorld(t, users(t, 3))
		w.load(t)
		var was []*policy.User
		for i := range 3 {
			login, err := w.Authenticate(t.Context(), from(router, fmt.Sprint("user", i), "x"))
			if err != nil {
				t.Fatal(err)
			}
			was = append(was, login.User)
		}
		w.reload(t, "user0:"+bcryptOf(t, "x", 4)+"\nuser1:"+bcryptOf(t, "changed", 4)+"\nuser2:"+bcryptOf(t, "x", 5))
		clear(w.logins.former) // as if there were too many to remember
		for _, user := range was {
			if err := w.Recheck(t.Context(), user); !errors.Is(err, policy.ErrProveAgain) {
				t.Fatalf("%s: recheck says %v", user.Name, err)
			}
			for w.limiter.take(newGuess(user.Name, netip.MustParseAddr(router))) == 0 {
			}
		}
		debts := len(w.limiter.accounts.by)
		release := w.hold()
		end := w.flood(t, router)
		before := w.hashes.Load()
		type proof struct {
			login *policy.Login
			err   error
		}
		proofs := map[string]chan proof{"user0": make(chan proof, 1), "user1": make(chan proof, 1)}
		for i := range 2 {
			go func() {
				login, err := w.Prove(t.Context(), from(router, was[i].Name, "x"), was[i])
				proofs[was[i].Name] <- proof{login, err}
			}()
		}
		synctest.Wait()
		if len(w.queue.right) != 2 {
			t.Errorf("%d proofs wait before the guesses, want two", len(w.queue.right))
		}
		release()
		if p := <-proofs["user0"]; p.err != nil || w.Recheck(t.Context(), p.login.User) != nil {
			t.Errorf("the same password, hashed anew: %v", p.err)
		}
		var refusal *policy.Refusal
		if p := <-proofs["user1"]; !errors.As(p.err, &refusal) || refusal.Reason != policy.BadCredentials {
			t.Errorf("the old password: %v", p.err)
		}
		if n := w.hashes.Load() - before; n < 2 {
			t.Errorf("%d hashes, want two of the proofs", n)
		}
		end()
		if _, counted := w.limiter.accounts.by[newGuess("user1", netip.MustParseAddr(router)).account]; !counted || len(w.limiter.accounts.by) < debts {
			t.Error("a proof paid what guesses owe")
		}
		for name, r := range map[string]*policy.Request{
			"another name":    from(router, "user0", "x"),
			"no credential":   request(""),
			"another scheme":  request("Bearer x"),
			"a malformed one": request("Basic x"),
			"none at all":     {Gate: "tcp"},
		} {
			before := w.hashes.Load()
			if _, err := w.Prove(t.Context(), r, was[2]); !errors.As(err, &refusal) || refusal.Reason != policy.BadCredentials || w.hashes.Load() != before {
				t.Errorf("%s: %v after %d hashes", name, err, w.hashes.Load()-before)
			}
		}
	})
}

// A proof that fails costs its own hash alone: the dearest entry of the file
// must not delay the end of what is under way.
func TestProofCostsItsOwnHash(t *testing.T) {
	w := newWorld(t, "u:"+bcryptOf(t, "x", 4)+"\ndear:"+bcryptOf(t, "x", 5))
	w.load(t)
	login, err := w.Authenticate(t.Context(), basic("u", "x"))
	if err != nil {
		t.Fatal(err)
	}
	w.reload(t, "u:"+bcryptOf(t, "y", 4)+"\ndear:"+bcryptOf(t, "x", 5))
	before := w.hashes.Load()
	if _, err := w.Prove(t.Context(), basic("u", "x"), login.User); err == nil || w.hashes.Load()-before != 1 {
		t.Errorf("got %v after %d hashes", err, w.hashes.Load()-before)
	}
}

// PWD-14: each network has its own answer and its own debt, also when the same
// credential comes from several at once.
func TestNetworksShareNoHash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, users(t, 1))
		w.load(t)
		release := w.hold()
		results := make(chan string)
		addrs := []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"}
		for _, addr := range addrs {
			go func() { results <- w.verdict(t, from(addr, "user0", "no")) }()
		}
		synctest.Wait()
		if w.queue.waiting != len(addrs) {
			t.Errorf("%d wait, want each network to", w.queue.waiting)
		}
		release()
		for range addrs {
			<-results
		}
		for _, addr := range addrs {
			if w.limiter.accounts.by[newGuess("user0", netip.MustParseAddr(addr)).account] == nil {
				t.Errorf("the failure from %s was not counted", addr)
			}
		}

		// One of them becomes limited while its guess waits: that is no answer for the other.
		release = w.hold()
		limited, free := make(chan string), make(chan string)
		go func() { limited <- w.verdict(t, from(addrs[0], "user0", "x")) }()
		synctest.Wait()
		go func() { free <- w.verdict(t, from(addrs[1], "user0", "x")) }()
		synctest.Wait()
		for w.limiter.take(newGuess("user0", netip.MustParseAddr(addrs[0]))) == 0 {
		}
		release()
		if a, b := <-limited, <-free; b != "ok" {
			t.Errorf("the limited network got %s and the other %s", a, b)
		}
	})
}

// What another network proved meanwhile costs no second hash, and no place
// where it is known before one waits.
func TestOneHashForOneSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, users(t, 1))
		w.load(t)
		release := w.hold()
		results := make(chan string)
		for i := range 20 {
			go func() { results <- w.verdict(t, from(fmt.Sprint("192.0.2.", i), "user0", "x")) }()
		}
		synctest.Wait()
		w.queue.leave() // one place, so that one is judged after the other
		for range 20 {
			if got := <-results; got != "ok" {
				t.Errorf("got %s", got)
			}
		}
		if n := w.hashes.Load(); n != 1 {
			t.Errorf("%d hashes, want one", n)
		}
		w.queue.enter(netip.Prefix{}, false) // all are taken again
		a, _, err := w.attempt(from("192.0.2.1", "user0", "x"))
		if err != nil {
			t.Fatal(err)
		}
		if login, err := w.hash(w.trial(a, from("192.0.2.1", "user0", "x"))); login == nil || err != nil { // or it waits for ever
			t.Errorf("who came too late for the hash: %v", err)
		}
		release()
	})
}

// The places of a name are bounded, and only its own owner changes them.
func TestPlaces(t *testing.T) {
	w := newWorld(t, users(t, 2))
	w.load(t)
	w.verdict(t, from("192.0.2.1", "user1", "x"))
	w.verdict(t, from("198.51.100.0", "user0", "x"))
	for i := range 4 * maxPlaces {
		w.verdict(t, from(fmt.Sprint("198.51.100.", i), "user0", "x")) // by memory
	}
	came := func(name, addr string) bool { return w.logins.cameFrom(name, networkOf(netip.MustParseAddr(addr))) }
	if n := len(*w.logins.places["user0"].list.Load()); n != maxPlaces || !came("user0", "198.51.100.0") || came("user0", "198.51.100.40") {
		t.Errorf("%d places of user0, want the first %d", n, maxPlaces)
	}
	if !came("user1", "192.0.2.1") || came("user1", "198.51.100.0") || came("nobody", "198.51.100.0") {
		t.Error("the places of user1 are not those that it came from")
	}
	w.reload(t, users(t, 2))
	w.verdict(t, from("198.51.100.40", "user0", "x")) // by a hash
	if n := len(*w.logins.places["user0"].list.Load()); n != maxPlaces || came("user0", "198.51.100.0") || !came("user0", "198.51.100.40") {
		t.Errorf("%d places of user0, want the newest instead of the oldest", n)
	}
}

// A hash that was begun before a reload ends after it: what it found counts as
// long as the file has the same hash.
func TestHashAcrossReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := users(t, 1)
		w := newWorld(t, file)
		w.load(t)
		release := w.hold()
		result := make(chan string)
		go func() { result <- w.verdict(t, from("192.0.2.1", "user0", "x")) }()
		synctest.Wait()
		w.reload(t, file+"other:"+bcryptOf(t, "x", 4))
		release()
		<-result
		if got := w.verdict(t, from("192.0.2.1", "user0", "x")); got != "ok" || w.hashes.Load() != 1 {
			t.Errorf("got %s after %d hashes, want ok after one", got, w.hashes.Load())
		}
	})
}
