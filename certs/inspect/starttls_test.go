package inspect_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"sidegate/certs/certstest"
	"sidegate/certs/inspect"
)

// talks is a server that reads a line or as many bytes as said, and answers.
type talks struct {
	first string   // said without being asked
	turns []string // answers, one after each thing that the client says
}

func (s talks) serve(c net.Conn) {
	defer c.Close()
	_, _ = io.WriteString(c, s.first)
	buffer := make([]byte, 1024)
	for _, answer := range s.turns {
		if _, err := c.Read(buffer); err != nil {
			return
		}
		_, _ = io.WriteString(c, answer)
	}
	_, _ = c.Read(buffer) // until the client goes
}

func (s talks) ask(t *testing.T, protocol string) error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			s.serve(c)
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(s.patience())); err != nil {
		t.Fatal(err)
	}
	return inspect.StartTLS(c, protocol)
}

// patience is long enough for every server that says something.
func (s talks) patience() time.Duration {
	if s.first+strings.Join(s.turns, "") == "" {
		return time.Second
	}
	return certstest.HangGuard
}

// Servers that refuse, are something else, or say what only TLS should carry
// (TCP-10).
func TestStartTLS(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for name, c := range map[string]struct {
		protocol string
		server   talks
		want     string // "": it goes well
	}{
		"postgres":                    {"postgres", talks{"", []string{"S"}}, ""},
		"postgres without TLS":        {"postgres", talks{"", []string{"N"}}, "the server has TLS switched off"},
		"postgres is a web server":    {"postgres", talks{"", []string{"HTTP/1.1 400 Bad Request\r\n"}}, "is no PostgreSQL server"},
		"postgres goes on":            {"postgres", talks{"", []string{"SS"}}, "went on in plaintext"},
		"smtp":                        {"smtp", talks{"220 here\r\n", []string{"250-here\r\n250 STARTTLS\r\n", "220 go\r\n"}}, ""},
		"smtp without STARTTLS":       {"smtp", talks{"220 here\r\n", []string{"250 here\r\n", "502 no\r\n"}}, `answered "502 no"`},
		"smtp goes on":                {"smtp", talks{"220 here\r\n", []string{"250 here\r\n", "220 go\r\n250 more\r\n"}}, "went on in plaintext"},
		"smtp does not end":           {"smtp", talks{strings.Repeat("220-more\r\n", 200), nil}, "does not end"},
		"smtp is too long":            {"smtp", talks{long, nil}, "longer than 4096 bytes"},
		"imap":                        {"imap", talks{"* OK here\r\n", []string{"* CAPABILITY x\r\na OK go\r\n"}}, ""},
		"imap refuses":                {"imap", talks{"* OK here\r\n", []string{"a BAD no\r\n"}}, `answered "a BAD no"`},
		"imap says good-bye":          {"imap", talks{"* BYE full\r\n", nil}, `answered "* BYE full"`},
		"pop3":                        {"pop3", talks{"+OK here\r\n", []string{"+OK go\r\n"}}, ""},
		"pop3 refuses":                {"pop3", talks{"+OK here\r\n", []string{"-ERR no\r\n"}}, `answered "-ERR no"`},
		"ldap":                        {"ldap", talks{"", []string{"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00"}}, ""},
		"ldap in a longer form":       {"ldap", talks{"", []string{"\x30\x84\x00\x00\x00\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00"}}, ""},
		"ldap refuses":                {"ldap", talks{"", []string{"\x30\x0e\x02\x01\x01\x78\x09\x0a\x01\x34\x04\x00\x04\x02no"}}, `result code 52: "no"`},
		"ldap is something else":      {"ldap", talks{"", []string{"HTTP/1.1 400 Bad Request" + strings.Repeat(" ", 100)}}, "is no LDAP server"},
		"ldap is endless":             {"ldap", talks{"", []string{"\x30\x84\x7f\xff\xff\xff"}}, "longer than 4096 bytes"},
		"ldap has no length":          {"ldap", talks{"", []string{"\x30\x80\x00"}}, "no length that LDAP allows"},
		"the server says nothing":     {"smtp", talks{"", []string{""}}, "i/o timeout"},
		"a protocol that nobody knew": {"gopher", talks{}, "of imap, ldap, pop3, postgres, smtp it is"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := c.server.ask(t, c.protocol)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// A server's bytes can't hurt, whatever they are.
func FuzzStartTLS(f *testing.F) {
	f.Add("220 here\r\n250 x\r\n220 go\r\n")
	f.Add("\x30\x84\x00\x00\x00\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00")
	f.Fuzz(func(t *testing.T, said string) {
		for _, protocol := range inspect.StartTLSProtocols() {
			client, server := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, server) }()
			go func() {
				_, _ = io.WriteString(server, said)
				_ = server.Close()
			}()
			_ = inspect.StartTLS(client, protocol)
			_ = client.Close()
		}
	})
}
