package cfssl

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"sidegate/certs"
)

// keptName is the one file of the cache (ROT-17: a key and its certificate in
// two files may be torn apart).
const keptName = "cfssl.json"

// keptLife is what must be left of a certificate to start with it: else it
// could be over before the next one is here.
const keptLife = 15 * time.Second

// kept is the content of the cache: what was issued, and what for.
type kept struct {
	Hosts          []string
	Profile, Label string
	Key            string // PEM, as are the others
	Chain, Roots   string
}

// keep writes what was issued for the next start, and returns a warning if it
// can't: what is in memory is good without it.
func (i *Issuer) keep(g *given, keyPEM []byte) []string {
	if i.Cache == nil {
		return nil
	}
	text, err := json.Marshal(kept{i.Hosts, i.Profile, i.Label, string(keyPEM), string(encode(g.chain)), string(encode(g.roots))})
	if err == nil {
		err = i.Cache.Put(keptName, text)
	}
	if err != nil {
		return []string{fmt.Sprintf("%v; the next start has to ask the server", err)}
	}
	return nil
}

// kept is what the cache has, if it is what would be asked for now and passes
// the checks of a server's answer.
func (i *Issuer) kept(pins *pins) (certs.Input, bool) {
	in, err := i.readKept(pins)
	switch {
	case err == nil:
		return in, true
	case !errors.Is(err, errNoneKept):
		i.warnings = []string{fmt.Sprintf("what is kept in %s is of no use: %v", i.Cache.Dir, err)}
	}
	return certs.Input{}, false
}

// errNoneKept is that there is nothing, or something else than would be asked
// for now, and nobody needs to know.
var errNoneKept = errors.New("nothing is kept")

func (i *Issuer) readKept(pins *pins) (certs.Input, error) {
	data, err := i.Cache.Get(keptName)
	if err != nil {
		return certs.Input{}, err
	}
	if data == nil {
		return certs.Input{}, errNoneKept
	}
	var k kept
	if json.Unmarshal(data, &k) != nil { // whose text may quote the key
		return certs.Input{}, errors.New(keptName + " is garbled")
	}
	if !slices.Equal(k.Hosts, i.Hosts) || k.Profile != i.Profile || k.Label != i.Label {
		return certs.Input{}, errNoneKept
	}
	ask, errs := i.request()
	if len(errs) > 0 {
		return certs.Input{}, errors.Join(errs...)
	}
	if ask.key, err = parseKept(k.Key); err != nil {
		return certs.Input{}, err
	}
	chain, err := certs.ParseCertificates(keptName, []byte(k.Chain))
	if err != nil {
		return certs.Input{}, err
	}
	authorities, err := certs.ParseCertificates(keptName, []byte(k.Roots))
	if err != nil {
		return certs.Input{}, err
	}
	now := time.Now()
	if !chain[0].NotAfter.After(now.Add(keptLife)) {
		return certs.Input{}, errNoneKept
	}
	g, err := pins.accept(answer{chain, authorities}, ask, now)
	if err != nil {
		return certs.Input{}, err
	}
	return g.input("the copy in "+i.Cache.Dir, []byte(k.Key)), nil
}

func parseKept(text string) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New(keptName + " holds no key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	ours, ok := key.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("the key in " + keptName + " can't be read")
	}
	return ours, nil
}
