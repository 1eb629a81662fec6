package inspect_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"sidegate/certs/inspect"
)

func TestPlain(t *testing.T) {
	for s, want := range map[string]string{
		"CN=münchen.example, O=a\\,b 日本": "CN=münchen.example, O=a\\,b 日本",
		"a\x1b[2Jb":                      `a\x1b[2Jb`,
		"a\r\nb\tc\x00\x7f":              `a\x0d\x0ab\x09c\x00\x7f`,
		"a\u009b31mb":                    `a\u009b31mb`,
		"\xff\x9b":                       `\xff\x9b`,
		"a\u202eb\u2066c\u200bd\ufeff":   `a\u202eb\u2066c\u200bd\ufeff`,
		"a\u2028b\u00a0c":                `a\u2028b\u00a0c`,
		"\U000e0041":                     `\ue0041`,
	} {
		if got := inspect.Plain(s); got != want {
			t.Errorf("%q: got %s, want %s", s, got, want)
		}
	}
	if got := inspect.PlainLines("a\nb\x1b"); got != "a\nb\\x1b" {
		t.Errorf("got %q", got)
	}
}

// Nothing printed steers a terminal, and JSON reads as it was meant.
func FuzzPlain(f *testing.F) {
	f.Add("a\x1b\u009b\u202e\U000e0041\xff\\\"")
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsFunc(inspect.Plain(s), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q: %q", s, inspect.Plain(s))
		}
		var b strings.Builder
		if err := json.NewEncoder(inspect.JSON(&b)).Encode(s); err != nil {
			t.Fatal(err)
		}
		line := strings.TrimSuffix(b.String(), "\n")
		if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) && r != '\ufffd' }) {
			t.Errorf("%q: JSON %q", s, line)
		}
		var back string
		if err := json.Unmarshal([]byte(line), &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") && !strings.Contains(back, "\ufffd") {
			t.Errorf("%q reads as %q, %v", s, back, err)
		}
	})
}
