package tlsproxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"
)

// frame is an unmasked WebSocket frame with n bytes of payload.
func frame(opcode byte, n int) []byte {
	head := []byte{0x80 | opcode}
	switch {
	case n < 126:
		head = append(head, byte(n))
	case n < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, 126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 127), uint64(n))
	}
	return append(head, bytes.Repeat([]byte{0x88}, n)...) // a payload that looks like Close frames
}

var goingAway = []byte{0x88, 2, 0x03, 0xe9}

// newTestUpgrade returns our side, and the bytes that the other has read when it ends.
func newTestUpgrade(t *testing.T, protocol string) (*upgradedConn, func() []byte) {
	t.Helper()
	ours, theirs := net.Pipe()
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(theirs)
		got <- b
	}()
	return newUpgradedConn(ours, bufio.NewReader(ours), protocol), func() []byte {
		_ = ours.Close()
		return <-got
	}
}

// OPS-07: however the application's frames are cut into writes, the Close
// frame comes right behind the one that is under way, and nothing after it.
func TestGoodbyeStandsBetweenFrames(t *testing.T) {
	first, second := slices.Concat(frame(1, 5), frame(0, 0), frame(2, 126), frame(2, 70000)), frame(2, 300)
	stream := slices.Concat(first, second)
	for _, at := range []int{0, 1, 2, 6, 7, 8, 9, 11, 12, 20, len(first) - 1, len(first), len(first) + 1} {
		for _, step := range []int{1, 7, len(stream)} {
			u, end := newTestUpgrade(t, "WebSocket")
			write := func(p []byte) {
				for part := range slices.Chunk(p, step) {
					if n, err := u.Write(part); n != len(part) || err != nil {
						t.Fatalf("wrote %d, %v", n, err)
					}
				}
			}
			write(stream[:at])
			u.goodbye(closeGoingAway)
			u.goodbye(closePolicy) // the first word counts
			write(stream[at:])
			got := end()
			var boundary int
			for _, size := range []int{len(frame(1, 5)), len(frame(0, 0)), len(frame(2, 126)), len(frame(2, 70000)), len(second)} {
				if boundary < at {
					boundary += size
				}
			}
			if want := slices.Concat(stream[:boundary], goingAway); !bytes.Equal(got, want) {
				t.Errorf("goodbye after %d bytes in steps of %d: %d bytes, want %d; end %x", at, step, len(got), len(want), got[max(0, len(got)-8):])
			}
		}
	}
}

// The application's own Close frame is the last word.
func TestGoodbyeAfterClose(t *testing.T) {
	u, end := newTestUpgrade(t, "websocket")
	if _, err := u.Write(frame(8, 2)); err != nil {
		t.Fatal(err)
	}
	u.goodbye(closeGoingAway)
	if got := end(); !bytes.Equal(got, frame(8, 2)) {
		t.Errorf("got %x", got)
	}
}

// Of other protocols nothing is known, so nothing is said in them.
func TestNoGoodbyeInOtherProtocols(t *testing.T) {
	u, end := newTestUpgrade(t, "tcp")
	u.goodbye(closeGoingAway)
	if _, err := u.Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	if got := string(end()); got != "ab" {
		t.Errorf("got %q", got)
	}
}

// What a client sends right behind its request belongs to the new protocol.
func TestUpgradeKeepsEarlyBytes(t *testing.T) {
	ours, theirs := net.Pipe()
	go func() {
		_, _ = io.WriteString(theirs, "early")
		_, _ = io.WriteString(theirs, " late")
		_ = theirs.Close()
	}()
	r := bufio.NewReader(ours)
	if _, err := r.Peek(5); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(newUpgradedConn(ours, r, "websocket"))
	if err != nil || string(got) != "early late" {
		t.Errorf("got %q, %v", got, err)
	}
}

// Where frames end doesn't depend on how the bytes are cut.
func FuzzFrames(f *testing.F) {
	f.Add(frame(1, 3), 1)
	f.Add(slices.Concat(frame(2, 126), frame(8, 2)), 3)
	f.Add([]byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4}, 2)
	f.Fuzz(func(t *testing.T, stream []byte, step int) {
		if step <= 0 || len(stream) == 0 {
			return
		}
		var whole, parts frames
		whole.follow(stream)
		for part := range slices.Chunk(stream, step) {
			parts.follow(part)
		}
		if whole != parts {
			t.Errorf("whole %+v, in parts %+v", whole, parts)
		}
	})
}
