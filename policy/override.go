package policy

import (
	"slices"
	"strings"
)

// Many frameworks take another method than that of the request line for the
// request's own: from a field such as X-HTTP-Method-Override, from the query
// (?_method=), or from a form's body, which is not known when rules decide.

// maxMethods is how many methods one request may have.
const maxMethods = 4

// maxParameters is how often a query may name the same or another method.
const maxParameters = 16

// unreadable is an override that is no method, or that is one too many.
const unreadable = "?"

const errOverrides = "the fields and the query that override the method name too many methods, or something that is no method"

// MethodOverrides are the methods that override fields name: for
// [Request.Overrides]. The fields' names are compared as CGI and its like see
// them, to which every byte but letters and digits is the same.
func MethodOverrides(fields map[string][]string) (methods []string) {
	for name, values := range fields {
		if !isOverride(name) {
			continue
		}
		for _, v := range values {
			methods = appendMethods(methods, v)
		}
	}
	for i, m := range methods {
		methods[i] = strings.Clone(m) // the request may be kept, and not the field
	}
	return methods
}

// methods are those by which applications may know the request, its own first.
// Where no rule asks for the method, that is the only one. They are not complete
// if there may be others.
func (p *Policy) methods(list []string, r *Request) (_ []string, complete bool) {
	list = append(list, r.Method)
	if !p.namesMethods {
		return list, true
	}
	list = appendMethods(list, r.Method) // of an application that writes all in capitals
	for _, m := range r.Overrides {
		list = appendMethod(list, m)
	}
	_, query, _ := strings.Cut(r.Target, "?")
	list = appendQueryMethods(list, query)
	return list, !slices.Contains(list, unreadable)
}

// appendQueryMethods adds those that the parameters of a query name. It looks at
// each byte once, since a query may be long and nobody is known yet, and gives up
// where honest requests have long ended.
func appendQueryMethods(list []string, query string) []string {
	begin, found := 0, 0
	for i := 0; i <= len(query); i++ {
		if i < len(query) && query[i] != '&' && query[i] != ';' {
			continue
		}
		parameter := query[begin:i]
		begin = i + 1
		key, value, _ := strings.Cut(parameter, "=")
		if len(key) < len("_method") || !isOverrideParameter(key) {
			continue
		}
		if found++; found > maxParameters {
			return appendMethod(list, unreadable)
		}
		value = strings.ReplaceAll(value, "+", " ")
		list = appendMethods(list, string(unescape([]byte(value))))
	}
	return list
}

// appendMethods adds the methods of a value, which may be a list.
func appendMethods(list []string, value string) []string {
	for m := range strings.SplitSeq(value, ",") {
		list = appendMethod(list, strings.TrimSpace(m))
	}
	return list
}

// appendMethod adds one method in capitals, as frameworks do.
func appendMethod(list []string, m string) []string {
	if !isMethod(m) && m != "" {
		m = unreadable
	}
	m = strings.ToUpper(m)
	switch {
	case m == "" || slices.Contains(list, m):
		return list
	case len(list) < maxMethods:
		return append(list, m)
	case !slices.Contains(list, unreadable):
		list[maxMethods-1] = unreadable
	}
	return list
}

// isMethod reports whether m is a token (RFC 9110 5.6.2) of no more than 32
// letters, digits, - and _, as all registered methods are.
func isMethod(m string) bool {
	for i := 0; i < len(m); i++ {
		if c := m[i]; !isAlphanumeric(c) && c != '-' && c != '_' {
			return false
		}
	}
	return m != "" && len(m) <= 32
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// maxOverride is the longest name of an override.
const maxOverride = 48

// isOverrideParameter reports whether the name of a parameter overrides the
// method once it is decoded. PHP ends it at [ and at NUL, drops blanks before it,
// and takes dots and blanks for underscores.
func isOverrideParameter(key string) bool {
	var array [maxOverride]byte
	name := array[:0]
	for i := 0; i < len(key); i++ {
		c := key[i]
		if decoded, valid := escaped(key, i); c == '%' && valid {
			c = decoded
			i += 2
		} else if c == '+' {
			c = ' '
		}
		switch {
		case c == '[' && len(name) > 0 || c == 0:
			return isOverride(string(name))
		case c == ' ' && len(name) == 0:
			continue
		case len(name) == maxOverride:
			return false
		}
		name = append(name, c)
	}
	return isOverride(string(name))
}

// isOverride reports whether a field or parameter of this name overrides the
// method.
func isOverride(name string) bool {
	if len(name) > maxOverride || len(name) < len("_method") {
		return false
	}
	var array [maxOverride]byte
	folded := array[:len(name)]
	for i := range folded {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case !isAlphanumeric(c):
			c = '-'
		}
		folded[i] = c
	}
	return isOverrideName(string(folded))
}

func isOverrideName(folded string) bool {
	switch folded {
	case "-method", "x-http-method", "x-tunneled-method":
		return true
	}
	return strings.HasSuffix(folded, "method-override")
}
