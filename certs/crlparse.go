package certs

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"sort"
)

// revocationList is a CRL in a form that fits: [x509.RevocationList] takes some
// 400 bytes for each entry, this the bytes of its serial.
type revocationList struct {
	*x509.RevocationList // without entries
	revoked              serials
}

var errCRL = errors.New("x509: malformed crl")

// parseCRL reads a CRL (RFC 5280 5.1). All but the entries is for crypto/x509,
// which gets a list without them; the signature is that of the whole.
func parseCRL(der []byte) (*revocationList, error) {
	whole, rest, ok := next(der, tagSequence)
	if !ok || len(rest) > 0 {
		return nil, errCRL
	}
	tbs, signature, ok := next(whole.value, tagSequence)
	if !ok {
		return nil, errCRL
	}
	head, entries, tail, err := splitTBS(tbs.value)
	if err != nil {
		return nil, err
	}
	small := sequence(sequence(head, tail), signature)
	list, err := x509.ParseRevocationList(small)
	if err != nil {
		return nil, err
	}
	list.Raw, list.RawTBSRevocationList = nil, tbs.raw
	revoked, err := readEntries(entries)
	return &revocationList{list, revoked}, err
}

// splitTBS divides a TBSCertList around the entries, which are the only
// sequence after the one or two times. After them may come extensions.
func splitTBS(tbs []byte) (head, entries, tail []byte, err error) {
	times := 0
	for rest := tbs; len(rest) > 0; {
		e, after, ok := next(rest, 0)
		switch {
		case !ok:
			return nil, nil, nil, errCRL
		case e.isTime():
			times++
		case times == 0: // version, algorithm, issuer
		case e.tag == tagSequence:
			if extensions, _, _ := next(after, tagExtensions); len(extensions.raw) != len(after) {
				return nil, nil, nil, errCRL
			}
			return tbs[:len(tbs)-len(rest)], e.value, after, nil
		case e.tag != tagExtensions || len(after) > 0:
			return nil, nil, nil, errCRL
		}
		if times > 2 {
			return nil, nil, nil, errCRL
		}
		rest = after
	}
	return tbs, nil, nil, nil
}

// readEntries reads the revoked certificates: once to count them, so that what
// is kept is made in its size.
func readEntries(der []byte) (serials, error) {
	sizes := map[int]int{}
	if err := eachSerial(der, func(serial []byte) { sizes[len(serial)] += len(serial) }); err != nil {
		return nil, err
	}
	s := serials{}
	for length, all := range sizes {
		s[length] = make([]byte, 0, all)
	}
	err := eachSerial(der, func(serial []byte) { s[len(serial)] = append(s[len(serial)], serial...) })
	s.sort()
	return s, err
}

// eachSerial calls do for each revoked serial, without leading zeros.
func eachSerial(der []byte, do func(serial []byte)) error {
	for len(der) > 0 {
		e, rest, ok := next(der, tagSequence)
		if !ok {
			return errCRL
		}
		serial, removed, err := readEntry(e.value)
		if err != nil {
			return err
		}
		if !removed {
			do(bytes.TrimLeft(serial, "\x00"))
		}
		der = rest
	}
	return nil
}

// readEntry reads one. removed says that the entry takes a revocation back.
func readEntry(der []byte) (serial []byte, removed bool, err error) {
	number, rest, ok := next(der, tagInteger)
	if !ok || len(number.value) == 0 {
		return nil, false, errCRL
	}
	at, rest, ok := next(rest, 0)
	if !ok || !at.isTime() {
		return nil, false, errCRL
	}
	if len(rest) == 0 {
		return number.value, false, nil
	}
	extensions, rest, ok := next(rest, tagSequence)
	if !ok || len(rest) > 0 {
		return nil, false, errCRL
	}
	removed, err = readReasons(extensions.value, number.value)
	return number.value, removed, err
}

// Identifiers of extensions of entries (RFC 5280 5.3), in DER.
var (
	derReason     = []byte{0x55, 0x1d, 21}
	derInvalidity = []byte{0x55, 0x1d, 24}
	derRemove     = []byte{0x0a, 1, 8} // removeFromCRL
)

// readReasons refuses what is critical and not understood, such as a revocation
// of another issuer: such a list is an indirect one.
func readReasons(der, serial []byte) (removed bool, err error) {
	for len(der) > 0 {
		extension, rest, ok := next(der, tagSequence)
		if !ok {
			return false, errCRL
		}
		der = rest
		id, rest, ok := next(extension.value, tagObjectID)
		if !ok {
			return false, errCRL
		}
		flag, after, critical := next(rest, tagBoolean)
		if critical {
			rest = after
		}
		value, rest, ok := next(rest, tagOctetString)
		if !ok || len(rest) > 0 {
			return false, errCRL
		}
		switch isReason := bytes.Equal(id.value, derReason); {
		case isReason:
			removed = removed || bytes.Equal(value.value, derRemove)
		case critical && !bytes.Equal(flag.value, []byte{0}) && !bytes.Equal(id.value, derInvalidity):
			return false, fmt.Errorf("the critical extension %s of serial %x is not understood", dotted(id.raw), serial)
		}
	}
	return removed, nil
}

// serials are numbers of certificates by their length, those of one length in
// order, one after the other.
type serials map[int][]byte

// has compares the magnitude, as [math/big.Int.Bytes] writes it.
func (s serials) has(serial []byte) bool {
	size, all := len(serial), s[len(serial)]
	if size == 0 {
		_, zero := s[0]
		return zero
	}
	n := len(all) / size
	i := sort.Search(n, func(i int) bool { return bytes.Compare(all[i*size:(i+1)*size], serial) >= 0 })
	return i < n && bytes.Equal(all[i*size:(i+1)*size], serial)
}

func (s serials) count() (n int) {
	for size, all := range s {
		n += len(all) / max(size, 1)
	}
	return n
}

func (s serials) sort() {
	for size, all := range s {
		if size > 0 {
			sort.Sort(chunks{all, size, make([]byte, size)})
		}
	}
}

// chunks sorts values of one size in place.
type chunks struct {
	all  []byte
	size int
	swap []byte
}

func (c chunks) at(i int) []byte    { return c.all[i*c.size : (i+1)*c.size] }
func (c chunks) Len() int           { return len(c.all) / c.size }
func (c chunks) Less(i, j int) bool { return bytes.Compare(c.at(i), c.at(j)) < 0 }
func (c chunks) Swap(i, j int) {
	copy(c.swap, c.at(i))
	copy(c.at(i), c.at(j))
	copy(c.at(j), c.swap)
}
