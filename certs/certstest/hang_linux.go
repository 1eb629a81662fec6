package certstest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Mount is a folder that a file system in user space (FUSE) serves, whose
// server can stop: whatever asks for something in it then waits.
type Mount struct {
	Dir   string
	fd    int
	files map[string][]byte
	names []string // a file's node is its index and 2; 1 is the folder

	mu      sync.Mutex
	running *sync.Cond
	stopped bool
	ended   bool
}

// NewMount mounts files that never change. It skips the test where that may
// not be done: it takes root and /dev/fuse.
func NewMount(t testing.TB, files map[string][]byte) *Mount {
	t.Helper()
	fd, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("/dev/fuse: %v", err)
	}
	m := &Mount{Dir: t.TempDir(), fd: fd, files: files}
	m.running = sync.NewCond(&m.mu)
	for name := range files {
		m.names = append(m.names, name)
	}
	slices.Sort(m.names)
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, os.Getuid(), os.Getgid())
	if err := syscall.Mount("hang", m.Dir, "fuse", syscall.MS_NOSUID|syscall.MS_NODEV, options); err != nil {
		_ = syscall.Close(fd)
		t.Skipf("mount: %v", err)
	}
	served := make(chan struct{})
	go func() { defer close(served); m.serve() }()
	t.Cleanup(func() {
		_ = syscall.Unmount(m.Dir, syscall.MNT_FORCE)  // ends every call that waits; busy is no matter
		_ = syscall.Unmount(m.Dir, syscall.MNT_DETACH) // it may have gone with that
		m.mu.Lock()
		m.stopped, m.ended = false, true
		m.running.Broadcast()
		m.mu.Unlock()
		<-served
		_ = syscall.Close(fd)
	})
	return m
}

// Hang stops the server. At most one more call is answered.
func (m *Mount) Hang() { m.set(true) }

// Resume lets it answer again.
func (m *Mount) Resume() { m.set(false) }

func (m *Mount) set(stopped bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopped = stopped
	m.running.Broadcast()
}

// wait returns false when the mount has ended. A request that is not taken from
// the kernel can be killed, unlike one that was taken and not answered.
func (m *Mount) wait() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.stopped {
		m.running.Wait()
	}
	return !m.ended
}

// Requests of the kernel, fuse(4) and linux/fuse.h.
const (
	opLookup, opForget, opGetattr, opOpen, opRead = 1, 2, 3, 14, 15
	opRelease, opFlush, opInit, opOpendir         = 18, 25, 26, 27
	opReaddir, opReleasedir, opInterrupt, opMany  = 28, 29, 36, 42
)

func (m *Mount) serve() {
	buf := make([]byte, 1<<17)
	for m.wait() {
		n, err := syscall.Read(m.fd, buf)
		if err == syscall.EINTR || err == syscall.ENOENT { // the caller has gone
			continue
		}
		if err != nil {
			return // unmounted
		}
		op, unique, node := binary.NativeEndian.Uint32(buf[4:]), binary.NativeEndian.Uint64(buf[8:]), binary.NativeEndian.Uint64(buf[16:])
		if op == opForget || op == opInterrupt || op == opMany {
			continue // nobody waits for an answer
		}
		body, errno := m.answer(op, node, buf[40:n])
		out := pack(uint32(16+len(body)), -int32(errno), unique)
		_, _ = syscall.Write(m.fd, append(out, body...)) // the caller may have gone
	}
}

func (m *Mount) answer(op uint32, node uint64, in []byte) ([]byte, syscall.Errno) {
	switch op {
	case opInit:
		return pack(uint32(7), uint32(31), uint32(1<<16), uint32(0), uint16(0), uint16(0), uint32(1<<16), uint32(1), [9]uint32{}), 0
	case opLookup:
		i := slices.Index(m.names, strings.TrimRight(string(in), "\x00"))
		if i < 0 {
			return nil, syscall.ENOENT
		}
		return append(pack(uint64(i+2), uint64(0), uint64(0), uint64(0), uint64(0)), m.attr(uint64(i+2))...), 0
	case opGetattr:
		return append(pack(uint64(0), uint64(0)), m.attr(node)...), 0
	case opOpen, opOpendir:
		return pack(uint64(0), uint32(1), uint32(0)), 0 // direct I/O: no cache answers
	case opRead:
		return from(m.files[m.names[node-2]], in), 0
	case opReaddir:
		return from(m.list(), in), 0
	case opRelease, opReleasedir, opFlush:
		return nil, 0
	}
	return nil, syscall.ENOSYS
}

func (m *Mount) attr(node uint64) []byte {
	mode, size := uint32(syscall.S_IFDIR|0o755), 0
	if node > 1 {
		mode, size = syscall.S_IFREG|0o644, len(m.files[m.names[node-2]])
	}
	return pack(node, uint64(size), uint64(0), [3]uint64{}, [3]uint32{}, mode, uint32(1), [5]uint32{})
}

func (m *Mount) list() []byte {
	var all []byte
	for i, name := range m.names {
		padded := make([]byte, (len(name)+7)/8*8)
		copy(padded, name)
		all = append(all, pack(uint64(i+2), uint64(len(all)+24+len(padded)), uint32(len(name)), uint32(8))...)
		all = append(all, padded...)
	}
	return all
}

// from is the part of data that a read asks for.
func from(data, in []byte) []byte {
	offset, size := binary.NativeEndian.Uint64(in[8:]), uint64(binary.NativeEndian.Uint32(in[16:]))
	offset = min(offset, uint64(len(data)))
	return data[offset:min(offset+size, uint64(len(data)))]
}

func pack(values ...any) []byte {
	var b bytes.Buffer
	for _, v := range values {
		if err := binary.Write(&b, binary.NativeEndian, v); err != nil {
			panic(err) // a value of ours without a fixed size
		}
	}
	return b.Bytes()
}
