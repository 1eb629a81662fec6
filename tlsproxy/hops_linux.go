package tlsproxy

import (
	"net"
	"os"
	"syscall"
)

// isOwnProcess reports whether this process has the other end of a unix socket.
func isOwnProcess(c net.Conn) bool {
	socket, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	own := false
	// An error means that the connection is closed, and nobody's any more.
	_ = raw.Control(func(fd uintptr) {
		peer, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		own = err == nil && int(peer.Pid) == os.Getpid()
	})
	return own
}
