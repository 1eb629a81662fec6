package tlsproxy_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sync/errgroup"

	"sidegate/certs/certstest"
	"sidegate/tlsproxy"
)

// unix is a change of a gate: it listens on a unix socket, whose buffers are
// soon full of small records.
func unix(t *testing.T) func(*tlsproxy.Gate) {
	path := filepath.Join(t.TempDir(), "gate")
	return func(g *tlsproxy.Gate) { g.Listen = tlsproxy.Address{Network: "unix", Address: path} }
}

// silent opens connections of each protocol whose clients ask for new keys again
// and again and read none of the answers (RFC 8446 4.6.3), until the gate can't
// write any more.
func (w *world) silent(pair *certstest.Pair, each int) {
	w.t.Helper()
	var floods errgroup.Group
	for range each {
		floods.Go(w.flooder(pair, "h2"))
		floods.Go(w.flooder(pair, "http/1.1"))
	}
	must(w.t, floods.Wait())
}

func (w *world) flooder(pair *certstest.Pair, proto string) (flood func() error) {
	w.t.Helper()
	raw, err := net.Dial(w.gate.Listen.Network, w.addr)
	must(w.t, err)
	w.t.Cleanup(func() { _ = raw.Close() })
	var keys bytes.Buffer
	conf := w.config(pair)
	conf.MinVersion, conf.NextProtos, conf.KeyLogWriter = tls.VersionTLS13, []string{proto}, &keys
	c := tls.Client(raw, conf)
	must(w.t, c.Handshake())
	if got := c.ConnectionState().CipherSuite; got != tls.TLS_AES_128_GCM_SHA256 {
		w.t.Fatalf("this test can't write %s", tls.CipherSuiteName(got))
	}
	s := &sender{to: raw, secret: clientSecret(w.t, keys.String())}
	hello, more := "GET / HTTP/1.1\r\nHost: localhost\r\nX: ", "x"
	if proto == "h2" {
		var settings, window bytes.Buffer
		must(w.t, http2.NewFramer(&settings, nil).WriteSettings())
		must(w.t, http2.NewFramer(&window, nil).WriteWindowUpdate(0, 1))
		hello, more = http2.ClientPreface+settings.String(), window.String()
	}
	return func() error { return s.flood(hello, more) }
}

func clientSecret(t testing.TB, keyLog string) []byte {
	t.Helper()
	for line := range strings.Lines(keyLog) {
		if f := strings.Fields(line); f[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(f[2])
			must(t, err)
			return secret
		}
	}
	t.Fatal("no secret of the client")
	return nil
}

// sender writes records of TLS 1.3.
type sender struct {
	to     net.Conn
	secret []byte
	number uint64 // of the next record with this secret
}

// flood asks for new keys. crypto/tls wants to see data between.
func (s *sender) flood(hello, more string) error {
	const (
		handshake, data = 22, 23
		each            = 10
		enough          = 4000 // a unix socket holds some hundred records
	)
	err := s.send(data, []byte(hello))
	for n := 0; n < enough && err == nil; n++ {
		if err = s.to.SetWriteDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		err = s.send(handshake, []byte{24, 0, 0, 1, 1}) // KeyUpdate, update_requested
		s.secret, s.number = s.expand("traffic upd", sha256.Size), 0
		if n%each == 0 && err == nil {
			err = s.send(data, []byte(more))
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // the gate reads no more, for it can't answer
	}
	return err
}

func (s *sender) send(kind byte, content []byte) error {
	block, err := aes.NewCipher(s.expand("key", 16))
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	nonce := s.expand("iv", 12)
	for i, b := range binary.BigEndian.AppendUint64(make([]byte, 4), s.number) {
		nonce[i] ^= b
	}
	s.number++
	plain := append(bytes.Clone(content), kind)
	head := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(plain)+aead.Overhead()))
	_, err = s.to.Write(aead.Seal(head, nonce, plain, head))
	return err
}

// expand is HKDF-Expand-Label without a context (RFC 8446 7.1).
func (s *sender) expand(label string, length int) []byte {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(length))
	info = append(append(append(info, byte(len(label))), label...), 0)
	out, err := hkdf.Expand(sha256.New, s.secret, string(info), length)
	if err != nil {
		panic(err) // it is too long for HKDF
	}
	return out
}

// TLS-32: peers that read nothing are ended in time, and hold up nobody else's
// end.
func TestRevokedPeersThatReadNothing(t *testing.T) {
	w := newWorld(t, unix(t), upstream(streamer(t)), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
	content := certstest.Secret(w.ca.Server(t, "localhost", "127.0.0.1"), w.ca)
	peer, other := w.ca.Client(t, "peer"), w.ca.Client(t, "other")
	const each = 25
	w.silent(&peer, each)
	refused := []held{w.holdIdle(&peer, "http/1.1"), w.holdIdle(&peer, "h2"), w.holdUpgraded(&peer)}
	kept := w.holdIdle(&other, "h2")
	content["crl.pem"] = w.ca.CRL(t, time.Now().Add(time.Hour), peer.Leaf)
	w.update(content)
	began := certstest.StartStopwatch(t)
	for _, h := range refused {
		w.untilEnded(h)
	}
	certstest.Until(t, "the end of the silent ones", func() bool { return w.proxy.Status()[0].Connections == 1 })
	took := began.Elapsed()
	t.Logf("%d connections ended after %s", 2*each+len(refused), took)
	if took > time.Second {
		t.Error("that is too late")
	}
	mustGoOn(t, kept)
	if roots := w.proxy.Status()[0].Roots; len(roots) != 1 || roots[0].Live != 1 {
		t.Errorf("live peers by CA: %+v", roots)
	}
}

// OPS-17: the drain's timeout is a bound, whatever clients do: read nothing,
// say nothing, or hold on to what they have.
func TestDrainIsBounded(t *testing.T) {
	w := newWorldIn(t, tlsproxy.Limits{Handshake: time.Hour, BodyIdle: time.Hour}, unix(t), upstream(streamer(t)), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
	peer := w.ca.Client(t, "peer")
	w.silent(&peer, 25)
	for range 10 {
		halfOpen, err := net.Dial(w.gate.Listen.Network, w.addr)
		must(t, err)
		t.Cleanup(func() { _ = halfOpen.Close() })
	}
	w.holdIdle(&peer, "http/1.1")
	w.holdIdle(&peer, "h2")
	w.holdUpgraded(&peer)
	began := certstest.StartStopwatch(t)
	w.stop()
	err := <-w.done
	w.done <- err
	took := began.Elapsed()
	t.Logf("the drain took %s", took)
	if most := w.proxy.DrainTimeout + time.Second; took > most {
		t.Errorf("that is more than %s", most)
	}
	if s := w.proxy.Status()[0]; s.Connections != 0 || s.Roots[0].Live != 0 {
		t.Errorf("left behind: %+v", s)
	}
}

// OPS-17: half-open handshakes alone hold nobody up until the timeout, and one
// that comes to its end meanwhile is served.
func TestDrainFinishesHandshakes(t *testing.T) {
	w := newWorldIn(t, tlsproxy.Limits{Handshake: time.Hour}, upstream(echo(t).URL), allow("anyone"))
	halfOpen, err := net.Dial("tcp", w.addr)
	must(t, err)
	defer halfOpen.Close()
	late, err := net.Dial("tcp", w.addr)
	must(t, err)
	defer late.Close()
	w.counted("sidegate_connections{gate=\"main\"} 2")
	w.stop()
	w.proxy.Drain(t.Context()) // until the listener is closed
	conf := w.config(nil)
	conf.NextProtos = []string{"http/1.1"}
	if got, err := ask(tls.Client(late, conf)); err != nil || got != "200 OK" {
		t.Errorf("a handshake that was in progress got %q, %v", got, err)
	}
	err = <-w.done
	w.done <- err
}
