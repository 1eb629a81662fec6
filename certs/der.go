package certs

import "encoding/asn1"

// Tags of DER (X.690 8.1.2).
const (
	tagBoolean     = 0x01
	tagInteger     = 0x02
	tagOctetString = 0x04
	tagObjectID    = 0x06
	tagUTCTime     = 0x17
	tagTime        = 0x18
	tagSequence    = 0x30
	tagExtensions  = 0xa0 // [0] of a TBSCertList
)

// element is one value of DER.
type element struct {
	tag        byte
	raw, value []byte
}

func (e element) isTime() bool { return e.tag == tagUTCTime || e.tag == tagTime }

// next reads the first element, which must have that tag unless it is 0. Lengths
// must be in the shortest form, as DER has it.
func next(der []byte, tag byte) (e element, rest []byte, ok bool) {
	if len(der) < 2 || tag != 0 && der[0] != tag || der[0]&0x1f == 0x1f {
		return e, nil, false
	}
	length, head := int(der[1]), 2
	if length > 0x7f {
		size := length & 0x7f
		if size == 0 || size > 4 || len(der) < 2+size || der[2] == 0 {
			return e, nil, false
		}
		length, head = 0, 2+size
		for _, b := range der[2:head] {
			length = length<<8 | int(b)
		}
		if length <= 0x7f {
			return e, nil, false
		}
	}
	if length < 0 || length > len(der)-head {
		return e, nil, false
	}
	end := head + length
	return element{der[0], der[:end], der[head:end]}, der[end:], true
}

// sequence is a sequence of what the parts hold.
func sequence(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	der, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: all})
	if err != nil {
		return nil // no bytes make it fail
	}
	return der
}

// dotted writes an object identifier as people do.
func dotted(der []byte) string {
	var id asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(der, &id); err != nil {
		return "of an unreadable name"
	}
	return id.String()
}
