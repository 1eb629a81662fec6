package policy

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// HTTP-29: names that override the method for some framework, and neighbours that
// don't.
func TestOverrideNames(t *testing.T) {
	for name, want := range map[string]bool{
		"X-Http-Method-Override": true, "X_HTTP_METHOD_OVERRIDE": true, "X!Method*Override": true, "X-Http-Method": true, "X-Tunneled-Method": true, "_method": true, "Http-Method-Override": true, "Method-Override": true,
		"X-Http-Method-Override-Not": false, "X-Http-Methods": false, "Method": false, "Access-Control-Request-Method": false, "X-Method": false, "X-Override": false, "Override": false, "": false,
		strings.Repeat("x", 100) + "-method-override": false,
	} {
		if got := isOverride(name); got != want {
			t.Errorf("field %q: got %t", name, got)
		}
	}
	for key, want := range map[string]bool{
		"_method": true, "%5Fmethod": true, "_METHOD": true, ".method": true, "_method[]": true, "_method%5b0%5d": true, "_method%00": true, "_method%00x": true, "+_method": true, "%20%20_method": true,
		"a_method": false, "_method2": false, "method": false, "x[_method]": false, "%00_method": false, "": false, "%zz_method": false, "_metho%64": true, "%": false,
		"_method[" + strings.Repeat("x", 100) + "]": true, strings.Repeat("+", 100) + "_method": true,
	} {
		if got := isOverrideParameter(key); got != want {
			t.Errorf("parameter %q: got %t", key, got)
		}
	}
}

// HTTP-29: which methods are judged.
func TestMethods(t *testing.T) {
	p := &Policy{namesMethods: true}
	for _, c := range []struct {
		query    string
		fields   http.Header
		want     []string
		complete bool
	}{
		{"", nil, []string{"POST"}, true},
		{"a=b", http.Header{"Accept": {"x"}}, []string{"POST"}, true},
		{"_method=PUT", http.Header{"X-Method-Override": {"delete, put", ""}}, []string{"POST", "DELETE", "PUT"}, true},
		{"_method=POST", http.Header{"X-Http-Method": {"Post"}}, []string{"POST"}, true},
		{"_method=a&_method=b", nil, []string{"POST", "A", "B"}, true},
		{"_method=a;_method=b&_method=c", nil, []string{"POST", "A", "B", "C"}, true},
		{"_method=a&_method=b&_method=c&_method=d", nil, nil, false},
		{"", http.Header{"X-Http-Method": {"a", "b", "c", "d", "e"}}, nil, false},
		{"_method=(", nil, nil, false},
		{strings.Repeat("_method=a&", maxParameters), nil, []string{"POST", "A"}, true},
		{strings.Repeat("_method=a&", maxParameters+1), nil, nil, false},
		{"_method=P%C5%BFT", nil, nil, false},
		{"_method=" + strings.Repeat("A", 33), nil, nil, false},
		{"_method=a&_method=b&_method=c", http.Header{"X-Http-Method": {"?"}}, nil, false},
	} {
		r := &Request{Method: "POST", Target: "/?" + c.query, Overrides: MethodOverrides(c.fields)}
		got, complete := p.methods(nil, r)
		if complete != c.complete || complete && !slices.Equal(got, c.want) || len(got) > maxMethods {
			t.Errorf("%s %v: got %q %t, want %q %t", c.query, c.fields, got, complete, c.want, c.complete)
		}
	}
	if got, _ := p.methods(nil, &Request{Method: "purge"}); !slices.Equal(got, []string{"purge", "PURGE"}) { // some write all in capitals
		t.Errorf("purge: got %q", got)
	}
	var array [maxMethods]string
	r := &Request{Method: "POST", Target: "/?a=b&c[d]=e&%41=%42;f&" + strings.Repeat("x=y&", 100)}
	if n := testing.AllocsPerRun(100, func() { p.methods(array[:0], r) }); n != 0 {
		t.Errorf("%v allocations for a request without an override", n)
	}
	fields := map[string][]string{"Accept": {"x"}, "X-Requested-With": {"y"}, "Access-Control-Request-Method": {"PUT"}}
	if n := testing.AllocsPerRun(100, func() { MethodOverrides(fields) }); n != 0 {
		t.Errorf("%v allocations for fields without an override", n)
	}
}

// FuzzMethods holds that the methods of any query are bounded, in capitals, and
// the request's own first (HTTP-29).
func FuzzMethods(f *testing.F) {
	for _, s := range []string{"_method=PUT&a", "%5fmethod[]=put;x", "&&=;", "_method=a,b,c,d,e", "_method=%zz"} {
		f.Add(s, "x-http-method", "delete")
	}
	p := &Policy{namesMethods: true}
	f.Fuzz(func(t *testing.T, query, name, value string) {
		r := &Request{Method: "GET", Target: "/?" + query, Overrides: MethodOverrides(http.Header{name: {value}})}
		got, complete := p.methods(nil, r)
		if len(got) > maxMethods || got[0] != "GET" {
			t.Fatalf("got %q", got)
		}
		for _, m := range got {
			if complete && (!isMethod(m) || strings.ToUpper(m) != m) {
				t.Errorf("got %q", got)
			}
		}
	})
}
