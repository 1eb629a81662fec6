package authn

import (
	"bytes"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/GehirnInc/crypt"
	"github.com/GehirnInc/crypt/apr1_crypt"
	"github.com/GehirnInc/crypt/sha256_crypt"
	"github.com/GehirnInc/crypt/sha512_crypt"
	"golang.org/x/crypto/bcrypt"
)

// maxBcryptCost keeps one entry from holding a core for hours: each step
// doubles the time, and cost 15 takes about two seconds.
const maxBcryptCost = 15

// weakBcryptCost is below what is worth the trouble of guessing.
const weakBcryptCost = 10

// maxBcryptPassword is where bcrypt stops reading.
const maxBcryptPassword = 72

// maxRounds of SHA-crypt; the default is 5,000.
const maxRounds = 1_000_000

// secret is a stored password. verify takes about work's time whatever the
// password is.
type secret struct {
	stored string
	verify func(stored string, password []byte) bool
	work   int // relative cost, to find the dearest entry of a file
	cost   int // of bcrypt; 0 otherwise
}

func (h *secret) matches(password []byte) bool { return h.verify(h.stored, password) }

var (
	bcryptForm = regexp.MustCompile(`^\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}$`)
	apr1Form   = regexp.MustCompile(`^\$apr1\$[./A-Za-z0-9]{1,8}\$[./A-Za-z0-9]{22}$`)
	sha256Form = regexp.MustCompile(`^\$5\$(rounds=([1-9][0-9]{3,6})\$)?[^$:\s]{1,16}\$[./A-Za-z0-9]{43}$`)
	sha512Form = regexp.MustCompile(`^\$6\$(rounds=([1-9][0-9]{3,6})\$)?[^$:\s]{1,16}\$[./A-Za-z0-9]{86}$`)
)

// parseHash reads the second field of an htpasswd line. Its errors never
// quote the hash.
func parseHash(s string) (secret, error) {
	switch {
	case s == "":
		return secret{}, errors.New("the hash is empty")
	case strings.HasPrefix(s, "$2x$"):
		return secret{}, errors.New("$2x$ marks hashes of a broken bcrypt; set the password anew")
	case strings.HasPrefix(s, "$2"):
		return parseBcrypt(s)
	case strings.HasPrefix(s, "$apr1$"):
		return cryptHash(s, apr1Form, apr1_crypt.New, 1000)
	case strings.HasPrefix(s, "$5$"):
		return cryptHash(s, sha256Form, sha256_crypt.New, 5000)
	case strings.HasPrefix(s, "$6$"):
		return cryptHash(s, sha512Form, sha512_crypt.New, 5000)
	case strings.HasPrefix(s, "{SHA}"):
		return parseSHA(s, "{SHA}", sha1.Size, sha1.Size)
	case strings.HasPrefix(s, "{SSHA}"):
		return parseSHA(s, "{SSHA}", sha1.Size+4, sha1.Size+64)
	}
	return secret{}, errors.New("the hash is none of bcrypt, apr1, SHA-crypt, {SHA} and {SSHA}; a plaintext password is never accepted (use sidegate passwd or htpasswd -B)")
}

func parseBcrypt(s string) (secret, error) {
	m := bcryptForm.FindStringSubmatch(s)
	if m == nil {
		return secret{}, errors.New("the bcrypt hash is malformed")
	}
	cost, err := strconv.Atoi(m[1])
	if err != nil || cost < bcrypt.MinCost || cost > maxBcryptCost {
		return secret{}, fmt.Errorf("bcrypt cost %s is not between %d and %d", m[1], bcrypt.MinCost, maxBcryptCost)
	}
	return secret{stored: s, verify: verifyBcrypt, work: 1000 << cost, cost: cost}, nil
}

// verifyBcrypt is the one caller of CompareHashAndPassword, which takes the
// first 72 bytes and a NUL for the end.
func verifyBcrypt(stored string, password []byte) bool {
	tooLong := len(password) > maxBcryptPassword || bytes.IndexByte(password, 0) >= 0
	if tooLong {
		password = password[:0] // the time is spent all the same
	}
	return bcrypt.CompareHashAndPassword([]byte(stored), password) == nil && !tooLong
}

func cryptHash(s string, form *regexp.Regexp, crypter func() crypt.Crypter, rounds int) (secret, error) {
	m := form.FindStringSubmatch(s)
	if m == nil {
		return secret{}, errors.New("the hash is malformed")
	}
	if len(m) > 2 && m[2] != "" {
		rounds, _ = strconv.Atoi(m[2]) // digits, by the form
		if rounds > maxRounds {
			return secret{}, fmt.Errorf("%d rounds are more than %d", rounds, maxRounds)
		}
	}
	verify := func(stored string, password []byte) bool { return crypter().Verify(stored, password) == nil }
	return secret{stored: s, verify: verify, work: rounds}, nil
}

func parseSHA(s, prefix string, least, most int) (secret, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(s, prefix))
	if err != nil || len(raw) < least || len(raw) > most {
		return secret{}, fmt.Errorf("the %s hash is malformed", prefix)
	}
	digest, salt := raw[:sha1.Size], raw[sha1.Size:]
	verify := func(_ string, password []byte) bool {
		h := sha1.New()
		h.Write(password)
		h.Write(salt)
		return subtle.ConstantTimeCompare(h.Sum(nil), digest) == 1
	}
	return secret{stored: s, verify: verify, work: 1}, nil
}

// entries are the users of one file.
type entries struct {
	users    map[string]secret
	dearest  secret // what a failure costs, whoever is named
	warnings []string
}

// parseHtpasswd reads a file of NAME:HASH lines, as Apache's htpasswd and
// nginx's auth_basic use it. Blank lines and lines that begin with # are
// passed over; a line that can't be understood refuses the file, because
// somebody believes in it. A carriage return before the line end is dropped.
func parseHtpasswd(file string, data []byte) (*entries, error) {
	e := &entries{users: map[string]secret{}}
	var errs []error
	seen := map[string]int{}
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, h, err := parseLine(line)
		if err == nil && seen[name] > 0 {
			err = fmt.Errorf("user %q is in line %d already", name, seen[name])
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", file, i+1, err))
			continue
		}
		seen[name] = i + 1
		if h.cost > 0 && h.cost < weakBcryptCost {
			e.warnings = append(e.warnings, fmt.Sprintf("%s:%d: bcrypt cost %d is below %d", file, i+1, h.cost, weakBcryptCost))
		}
		e.add(name, h)
	}
	return e, errors.Join(errs...)
}

func (e *entries) add(name string, h secret) {
	e.users[name] = h
	if h.work > e.dearest.work {
		e.dearest = h
	}
}

func parseLine(line string) (string, secret, error) {
	name, stored, ok := strings.Cut(line, ":")
	if !ok {
		return "", secret{}, errors.New("no colon; a line is NAME:HASH")
	}
	if err := CheckName(name); err != nil {
		return "", secret{}, err
	}
	if strings.Contains(stored, ":") {
		return "", secret{}, errors.New("more than one colon; a name can't hold one (RFC 7617), and nothing follows the hash")
	}
	h, err := parseHash(stored)
	return name, h, err
}

// CheckName says why a name can't be a user's.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("the user name is empty")
	case strings.Contains(name, ":"):
		return errors.New("a user name can't hold a colon (RFC 7617)")
	case name != strings.TrimSpace(name):
		return errors.New("the user name begins or ends with a space")
	case !utf8.ValidString(name) || hasControl(name):
		return errors.New("the user name holds a control byte or is not UTF-8")
	}
	return nil
}

func hasControl[T string | []byte](s T) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] == 0x7f {
			return true
		}
	}
	return false
}
