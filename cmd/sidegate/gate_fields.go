package main

import (
	"errors"
	"fmt"
	"net/textproto"
	"regexp"
	"strings"

	"sidegate/tlsproxy"
)

// addField reads NAME:attribute.
func (s *gateSpec) addField(v string) error {
	name, attribute, ok := strings.Cut(v, ":")
	if !ok || !fieldName.MatchString(name) {
		return errors.New("it is not NAME:attribute, such as X-User:user")
	}
	words := tlsproxy.Attributes()
	attribute, err := oneOf([]byte(attribute), words, words)
	if err != nil {
		return err
	}
	name = textproto.CanonicalMIMEHeaderKey(name)
	if tlsproxy.ReservedHeader(name) {
		return fmt.Errorf("%s is needed for the request itself or its way, or says what the client certificate is", name)
	}
	s.fields = append(s.fields, tlsproxy.IdentityField{Header: name, Attribute: attribute})
	return nil
}

var fieldName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]*$`)

func (s *gateSpec) setSeparator(v string) error {
	for _, r := range v {
		if r < ' ' || r > '~' || r == '%' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return errors.New("a separator is made of punctuation without %")
		}
	}
	s.groupsSeparator = v
	return nil
}

// sameFields refuses two fields of one name: which of them the application
// would see is not for chance to say.
func (s *gateSpec) sameFields() []error {
	fields, _ := tlsproxy.HeaderPreset(string(s.headers)) // the name was checked when it was parsed
	var errs []error
	for _, f := range s.fields {
		for _, other := range fields {
			if tlsproxy.SameHeader(f.Header, other.Header) {
				errs = append(errs, fmt.Errorf("option header: %s:%s and %s:%s are one field: no letter or digit of their names differs; headers=none leaves the preset's out",
					f.Header, f.Attribute, other.Header, other.Attribute))
			}
		}
		fields = append(fields, f)
	}
	return errs
}
