//go:build !linux

package tlsproxy

import "net"

// isOwnProcess can't be told here; what check can tell, it tells everywhere.
func isOwnProcess(net.Conn) bool { return false }
