package authn

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
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

// maxCryptPassword bounds the passwords of apr1 and SHA-crypt, whose time
// grows with them: 40 KB against $6$ would hold a core for seconds. 512 is
// also where libxcrypt stops.
const maxCryptPassword = 512

// maxRounds of SHA-crypt; the default is 5,000.
const maxRounds = 1_000_000

// Nanoseconds that a verification takes. Only their proportion counts: it
// tells which entry of a file is the dearest.
const (
	bcryptWork = 49_000 // shifted by the cost
	sha512Work = 230    // a round
	sha256Work = 120    // a round
	apr1Work   = 110    // a round
	digestWork = 1_000  // of one digest
)

// secret is a stored password. verify takes about work's time whatever the
// password is.
type secret struct {
	stored   string
	verify   func(stored string, password []byte) bool
	work     int    // nanoseconds
	weakness string // what its owner should mend; "" for nothing
}

func (h *secret) matches(password []byte) bool { return h.verify(h.stored, password) }

// cryptScheme is a kind of hash that crypt(3) knows.
type cryptScheme struct {
	form    *regexp.Regexp // captures rounds, or nothing, and the salt
	crypter func() crypt.Crypter
	rounds  int // where the hash says none
	work    int // of a round
}

var (
	bcryptForm = regexp.MustCompile(`^\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}$`)

	apr1Crypt   = cryptScheme{regexp.MustCompile(`^\$apr1\$()([./A-Za-z0-9]{1,8})\$[./A-Za-z0-9]{22}$`), apr1_crypt.New, 1000, apr1Work}
	sha256Crypt = cryptScheme{regexp.MustCompile(`^\$5\$(?:rounds=([1-9][0-9]{3,6})\$)?([!-#%-9;-~]{1,16})\$[./A-Za-z0-9]{43}$`), sha256_crypt.New, 5000, sha256Work}
	sha512Crypt = cryptScheme{regexp.MustCompile(`^\$6\$(?:rounds=([1-9][0-9]{3,6})\$)?([!-#%-9;-~]{1,16})\$[./A-Za-z0-9]{86}$`), sha512_crypt.New, 5000, sha512Work}
)

// parseHash reads the second field of an htpasswd line. Its errors never
// quote the hash.
func parseHash(s string, allowPlain bool) (secret, error) {
	switch {
	case s == "":
		return secret{}, errors.New("the hash is empty")
	case strings.HasPrefix(s, "$2x$"):
		return secret{}, errors.New("$2x$ marks hashes of a broken bcrypt; set the password anew")
	case strings.HasPrefix(s, "$2"):
		return parseBcrypt(s)
	case strings.HasPrefix(s, "$apr1$"):
		return apr1Crypt.parse(s)
	case strings.HasPrefix(s, "$5$"):
		return sha256Crypt.parse(s)
	case strings.HasPrefix(s, "$6$"):
		return sha512Crypt.parse(s)
	case strings.HasPrefix(s, "{SHA}"):
		return parseSHA(s, "{SHA}", sha1.Size, sha1.Size)
	case strings.HasPrefix(s, "{SSHA}"):
		return parseSHA(s, "{SSHA}", sha1.Size+4, sha1.Size+64)
	case strings.HasPrefix(s, "{PLAIN}") && allowPlain:
		h, err := plainSecret(strings.TrimPrefix(s, "{PLAIN}"))
		h.weakness = "the password is plaintext"
		return h, err
	}
	return secret{}, errors.New("the hash is none of bcrypt, apr1, SHA-crypt, {SHA} and {SSHA}; a plaintext password is not accepted (use sidegate passwd or htpasswd -B)")
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
	h := secret{stored: s, verify: verifyBcrypt, work: bcryptWork << cost}
	if cost < weakBcryptCost {
		h.weakness = fmt.Sprintf("bcrypt cost %d is below %d", cost, weakBcryptCost)
	}
	return h, nil
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

func (c *cryptScheme) parse(s string) (secret, error) {
	m := c.form.FindStringSubmatch(s)
	// rounds= with a number that the form refuses is no salt: the library
	// would take it for rounds.
	if m == nil || strings.HasPrefix(m[2], "rounds=") {
		return secret{}, errors.New("the hash is malformed")
	}
	rounds := c.rounds
	if m[1] != "" {
		rounds, _ = strconv.Atoi(m[1]) // digits, by the form
		if rounds > maxRounds {
			return secret{}, fmt.Errorf("%d rounds are more than %d", rounds, maxRounds)
		}
	}
	return secret{stored: s, verify: c.verify, work: rounds * c.work}, nil
}

// verify makes the hash again from the password and the parameters. The
// library's own Verify reads on into the digest where rounds stand before a
// salt of less than 16 bytes.
func (c *cryptScheme) verify(stored string, password []byte) bool {
	tooLong := len(password) > maxCryptPassword
	if tooLong {
		password = password[:0] // the time is spent all the same
	}
	parameters := stored[:strings.LastIndexByte(stored, '$')]
	got, err := c.crypter().Generate(password, []byte(parameters))
	return err == nil && subtle.ConstantTimeCompare([]byte(got), []byte(stored)) == 1 && !tooLong
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
	return secret{stored: s, verify: verify, work: digestWork}, nil
}

// plainSecret is a password that was stored as it is. It is kept and compared
// as a digest, so that the time tells neither its length nor a beginning.
func plainSecret(password string) (secret, error) {
	if password == "" || hasControl(password) {
		return secret{}, errors.New("the password is empty or holds a control byte")
	}
	want := sha256.Sum256([]byte(password))
	verify := func(_ string, password []byte) bool {
		got := sha256.Sum256(password)
		return subtle.ConstantTimeCompare(got[:], want[:]) == 1
	}
	return secret{stored: hex.EncodeToString(want[:]), verify: verify, work: digestWork}, nil
}

// entries are the users of one file.
type entries struct {
	users    map[string]secret
	names    []string // of users, as the file has them
	lines    []int    // where those stand, while the file is read
	dearest  secret   // what a failure costs, whoever is named
	warnings []string
}

// parseHtpasswd reads a file of NAME:HASH lines, as Apache's htpasswd and
// nginx's auth_basic use it. Blank lines and lines that begin with # are
// passed over; a line that can't be understood refuses the file, because
// somebody believes in it. A carriage return before the line end is dropped.
// {PLAIN} entries count only with allowPlain. The errors, one for each such
// line, name file and line and quote no hash.
func parseHtpasswd(file string, data []byte, allowPlain bool) (*entries, error) {
	const shortest = 30 // bytes of an entry, about
	most := len(data) / shortest
	e := &entries{users: make(map[string]secret, most), names: make([]string, 0, most), lines: make([]int, 0, most)}
	var errs []error
	i := 0
	for line := range strings.Lines(string(data)) {
		i++
		err := e.line(file, i, strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), allowPlain)
		if err == nil {
			continue
		}
		if errs = append(errs, fmt.Errorf("%s:%d: %w", file, i, err)); len(errs) == maxErrors {
			errs = append(errs, fmt.Errorf("%s: there may be more problems; the first %d are told", file, maxErrors))
			break
		}
	}
	e.lines = nil
	return e, errors.Join(errs...)
}

// line reads line number i of a file.
func (e *entries) line(file string, i int, line string, allowPlain bool) error {
	if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
		return nil
	}
	name, h, err := parseLine(line, allowPlain)
	if err != nil {
		return err
	}
	if _, taken := e.users[name]; taken {
		return fmt.Errorf("user %q is in line %d already", name, e.lines[slices.Index(e.names, name)])
	}
	if h.weakness != "" {
		e.warnings = append(e.warnings, fmt.Sprintf("%s:%d: %s", file, i, h.weakness))
	}
	e.add(name, h)
	e.lines = append(e.lines, i)
	return nil
}

// maxErrors bounds what is told of a file, which goes to the log.
const maxErrors = 100

func (e *entries) add(name string, h secret) {
	e.users[name] = h
	e.names = append(e.names, name)
	if h.work > e.dearest.work {
		e.dearest = h
	}
}

func parseLine(line string, allowPlain bool) (string, secret, error) {
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
	h, err := parseHash(stored, allowPlain)
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
	case strings.HasPrefix(name, "#"):
		return errors.New("a user name can't begin with #: the line would be a comment")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, notPrintable):
		return errors.New("the user name holds a control byte or another character that is not printable, or is not UTF-8")
	}
	return nil
}

// notPrintable is also true of what looks like nothing, such as the byte
// order mark that some editors put first: the name would not be the one read.
func notPrintable(r rune) bool { return !unicode.IsPrint(r) }

func hasControl[T string | []byte](s T) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] == 0x7f {
			return true
		}
	}
	return false
}
