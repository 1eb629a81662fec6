package inspect

import (
	"bufio"
	"bytes"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
)

// StartTLS asks a server that begins in plaintext to go on in TLS. The
// connection's deadline bounds it. What it returns is the connection, ready for
// the handshake; an error says what the server answered instead.
//
// A server that says more than it was asked for before the handshake is
// refused: that would be taken for something said in TLS (CVE-2011-0411).
func StartTLS(conn net.Conn, protocol string) error {
	ask, ok := startTLS[protocol]
	if !ok {
		return fmt.Errorf("STARTTLS of %q is not known, of %s it is", protocol, strings.Join(StartTLSProtocols(), ", "))
	}
	in := bufio.NewReaderSize(conn, maxLine)
	if err := ask(conn, in); err != nil {
		return fmt.Errorf("STARTTLS of %s: %w", protocol, err)
	}
	if in.Buffered() > 0 {
		return fmt.Errorf("STARTTLS of %s: the server went on in plaintext", protocol)
	}
	return nil
}

// StartTLSProtocols are the protocols that [StartTLS] knows.
func StartTLSProtocols() []string { return slices.Sorted(maps.Keys(startTLS)) }

var startTLS = map[string]func(io.Writer, *bufio.Reader) error{
	"postgres": startPostgres,
	"smtp":     startSMTP,
	"imap":     startIMAP,
	"pop3":     startPOP3,
	"ldap":     startLDAP,
}

// maxLine is the longest line of a server, and the longest LDAP answer.
const (
	maxLine  = 4096
	maxLines = 100
)

// startPostgres sends SSLRequest (PostgreSQL documentation, 55.2.10).
func startPostgres(out io.Writer, in *bufio.Reader) error {
	if _, err := out.Write([]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}); err != nil {
		return err
	}
	switch answer, err := in.ReadByte(); {
	case err != nil:
		return err
	case answer == 'N':
		return errors.New("the server has TLS switched off")
	case answer != 'S':
		return errors.New("the server is no PostgreSQL server")
	}
	return nil
}

// startSMTP is RFC 3207.
func startSMTP(out io.Writer, in *bufio.Reader) error {
	if err := expectReply(in, "220"); err != nil {
		return err
	}
	if _, err := io.WriteString(out, "EHLO localhost\r\n"); err != nil {
		return err
	}
	if err := expectReply(in, "250"); err != nil {
		return err
	}
	if _, err := io.WriteString(out, "STARTTLS\r\n"); err != nil {
		return err
	}
	return expectReply(in, "220")
}

// expectReply reads a reply of SMTP, whose last line has a space after the code
// (RFC 5321, 4.2.1).
func expectReply(in *bufio.Reader, code string) error {
	for range maxLines {
		line, err := readLine(in)
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(line, code+"-"):
			continue
		case line == code || strings.HasPrefix(line, code+" "):
			return nil
		}
		return fmt.Errorf("the server answered %q", line)
	}
	return errors.New("the server's answer does not end")
}

// startIMAP is RFC 9051, 6.2.1.
func startIMAP(out io.Writer, in *bufio.Reader) error {
	if err := expectLine(in, "* OK"); err != nil {
		return err
	}
	if _, err := io.WriteString(out, "a STARTTLS\r\n"); err != nil {
		return err
	}
	return expectLine(in, "a OK")
}

// startPOP3 is RFC 2595, 4.
func startPOP3(out io.Writer, in *bufio.Reader) error {
	if err := expectLine(in, "+OK"); err != nil {
		return err
	}
	if _, err := io.WriteString(out, "STLS\r\n"); err != nil {
		return err
	}
	return expectLine(in, "+OK")
}

// expectLine reads lines until one is tagged as the wanted one is.
func expectLine(in *bufio.Reader, want string) error {
	for range maxLines {
		line, err := readLine(in)
		if err != nil {
			return err
		}
		if strings.HasPrefix(line, want) {
			return nil
		}
		if !strings.HasPrefix(line, "* ") || strings.HasPrefix(want, "* ") {
			return fmt.Errorf("the server answered %q", line)
		}
	}
	return errors.New("the server's answer does not end")
}

func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", fmt.Errorf("the server's line is longer than %d bytes", maxLine)
	}
	return strings.TrimRight(string(line), "\r\n"), err
}

// startLDAP is the StartTLS operation (RFC 4511, 4.14): an extended request
// with the name 1.3.6.1.4.1.1466.20037, and an extended response to it.
func startLDAP(out io.Writer, in *bufio.Reader) error {
	const name = "1.3.6.1.4.1.1466.20037"
	request := append([]byte{0x30, byte(3 + 2 + 2 + len(name)), 0x02, 0x01, 0x01, 0x77, byte(2 + len(name)), 0x80, byte(len(name))}, name...)
	if _, err := out.Write(request); err != nil {
		return err
	}
	answer, err := readElement(in)
	if err != nil {
		return err
	}
	var message struct {
		ID       int
		Response asn1.RawValue
	}
	if _, err := asn1.Unmarshal(answer, &message); err != nil || message.Response.Tag != 24 {
		return errors.New("the server is no LDAP server")
	}
	var code asn1.Enumerated
	rest, err := asn1.Unmarshal(message.Response.Bytes, &code)
	if err != nil {
		return errors.New("the server's answer can't be read")
	}
	if code != 0 {
		return fmt.Errorf("the server answered with result code %d%s", code, diagnostic(rest))
	}
	return nil
}

// diagnostic is the message after the matched name of an LDAP result.
func diagnostic(rest []byte) string {
	var matched, text []byte
	rest, err := asn1.Unmarshal(rest, &matched)
	if err != nil {
		return ""
	}
	if _, err := asn1.Unmarshal(rest, &text); err != nil || len(text) == 0 {
		return ""
	}
	return fmt.Sprintf(": %q", text)
}

// readElement reads one BER element of definite length (X.690, 8.1).
func readElement(in *bufio.Reader) ([]byte, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(in, head); err != nil {
		return nil, err
	}
	length := int(head[1])
	if more := length & 0x7f; length > 0x7f {
		if more == 0 || more > 4 {
			return nil, errors.New("the server's answer has no length that LDAP allows")
		}
		digits := make([]byte, more)
		if _, err := io.ReadFull(in, digits); err != nil {
			return nil, err
		}
		length = 0
		for _, d := range digits {
			length = length<<8 | int(d)
		}
	}
	if length > maxLine {
		return nil, fmt.Errorf("the server's answer is longer than %d bytes", maxLine)
	}
	content := make([]byte, length)
	if _, err := io.ReadFull(in, content); err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{{head[0]}, derLength(length), content}, nil), nil
}

// derLength is a length as encoding/asn1 wants it: as short as can be, which
// BER leaves open.
func derLength(n int) []byte {
	switch {
	case n < 0x80:
		return []byte{byte(n)}
	case n < 0x100:
		return []byte{0x81, byte(n)}
	}
	return []byte{0x82, byte(n >> 8), byte(n)}
}
