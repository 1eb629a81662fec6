package cfssl

import (
	"net/http"
	"testing"

	"github.com/cloudflare/cfssl/info"
)

// LIB-05: whatever a server answers, it is read or refused, and what is read is
// certificates.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{
		`{"success":true,"result":{"certificate":"x","usages":null,"expiry":""},"errors":[]}`,
		`{"success":false,"errors":[{"code":1,"message":"no"}]}`, `{"success":true,"result":[]}`, `{"result":{"certificate":1}}`, `null`, `[`, "",
	} {
		f.Add(200, text)
		f.Add(500, text)
	}
	f.Fuzz(func(t *testing.T, status int, text string) {
		var has info.Resp
		if err := read("info", &http.Response{StatusCode: status, Header: http.Header{}}, []byte(text), &has); err != nil {
			if err.Error() == "" || len(err.Error()) > 8*maxText {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if status != http.StatusOK {
			t.Errorf("status %d was taken for an answer", status)
		}
		if list, err := parse("info", has.Certificate); err == nil && len(list) == 0 {
			t.Error("no certificate, and no error")
		}
	})
}
