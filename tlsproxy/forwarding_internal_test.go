package tlsproxy

import (
	"maps"
	"net/http"
	"slices"
	"testing"

	"sidegate/tlsproxy/http1"
)

// Of an answer nothing goes on that is about the application's connection, by
// itself or because any of the Connection fields names it (RFC 9110 7.6.1).
func TestAnswerFieldsOfOneHop(t *testing.T) {
	fields := []http1.Field{
		{Name: "x-hop", Value: "1"}, {Name: "Connection", Value: "keep-alive, X-Hop"}, {Name: "Keep-Alive", Value: "timeout=5"},
		{Name: "ETag", Value: "a"}, {Name: "etag", Value: "b"}, {Name: "set-cookie", Value: "c"}, {Name: "Set-Cookie", Value: "d"},
		{Name: "connection", Value: "\tY-HOP\t,"}, {Name: "Y-Hop", Value: "2"}, {Name: "Upgrade", Value: "x"}, {Name: "Transfer-Encoding", Value: "chunked"},
	}
	for _, upgrade := range []bool{false, true} {
		h := http.Header{}
		takeFields(h, fields, upgrade)
		want := []string{"ETag", "Set-Cookie", "etag"}
		if upgrade {
			want = []string{"ETag", "Set-Cookie", "Upgrade", "etag"}
		}
		if got := slices.Sorted(maps.Keys(h)); !slices.Equal(got, want) {
			t.Errorf("upgrade %t: %q, want %q", upgrade, got, want)
		}
		if got := h["Set-Cookie"]; !slices.Equal(got, []string{"c", "d"}) {
			t.Errorf("Set-Cookie is %q", got)
		}
	}
}

// Fields that share their memory stay apart when one gets another value.
func TestFieldsSetTogetherStayApart(t *testing.T) {
	f := fieldSetter{http.Header{}, make([]string, 0, 2)}
	for _, name := range []string{"A", "B", "C"} {
		f.set(name, "of "+name)
	}
	f.Add("A", "more")
	for _, name := range []string{"B", "C"} {
		if got := f.Values(name); len(got) != 1 || got[0] != "of "+name {
			t.Errorf("%s is %q", name, got)
		}
	}
}
