package authn

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf8"
)

// credential is what a Basic field carried.
type credential struct {
	name     []byte
	password []byte
}

var errMalformed = errors.New("the Basic credential is malformed")

// parseBasic reads an Authorization field. ok is false for any scheme but
// Basic, which is somebody else's to judge. The form is RFC 7617's to the
// byte (one space, padded base64, UTF-8, no control byte): other readers of
// the same field must not see another user.
func parseBasic(field string) (c credential, ok bool, err error) {
	const scheme = "basic"
	if len(field) < len(scheme) || !strings.EqualFold(field[:len(scheme)], scheme) {
		return c, false, nil
	}
	rest := field[len(scheme):]
	if rest != "" && rest[0] != ' ' {
		return c, false, nil // "Basically" is another scheme
	}
	if rest == "" {
		return c, true, errMalformed
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(rest[1:])
	if err != nil || strings.ContainsAny(rest, "\r\n") || !utf8.Valid(raw) || hasControl(raw) {
		return c, true, errMalformed
	}
	name, password, found := bytes.Cut(raw, []byte(":"))
	if !found {
		return c, true, errMalformed
	}
	return credential{name, password}, true, nil
}
