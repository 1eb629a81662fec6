package main

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// OPS-18: who listens on a mesh's ports is told, with what the gates see then.
func TestDoctorSeesTheMesh(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
	row := func(address, port, state string) string {
		return "   0: " + address + ":" + port + " 00000000:0000 " + state + " 00000000:00000000 00:00000000 00000000  1337\n"
	}
	const any6, loopback = "00000000000000000000000000000000", "0100007F"
	for name, c := range map[string]struct{ tcp, tcp6, want string }{
		"nobody":         {"", "", ""},
		"Istio":          {row("00000000", "3A99", "0A"), row(any6, "3A9E", "0A"), "127.0.0.6"},
		"half of Istio":  {row("00000000", "3A99", "0A"), "", ""},
		"not listening":  {row("00000000", "3A99", "01") + row("00000000", "3A9E", "0A"), "", ""},
		"Linkerd":        {row(loopback, "102C", "0A") + row("00000000", "102F", "0A"), "", "config.linkerd.io/skip-inbound-ports"},
		"something else": {"garbage\n\x00 0A\n" + row("0100007F", "ZZZZ", "0A"), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, map[string][]byte{"tcp": []byte(head + c.tcp), "tcp6": []byte(head + c.tcp6)})
			d := newDoctor(nil)
			d.sockets = []string{filepath.Join(dir, "tcp"), filepath.Join(dir, "tcp6"), filepath.Join(dir, "none")}
			f := d.lookAtMesh()
			if c.want == "" && len(f) > 0 || c.want != "" && (len(f) != 1 || !strings.Contains(f[0].Found+f[0].Do, c.want)) {
				t.Errorf("got %v, want %q", f, c.want)
			}
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	try(t, err)
	defer l.Close()
	if ports := listeningPorts(newDoctor(nil).sockets); !slices.Contains(ports, uint64(l.Addr().(*net.TCPAddr).Port)) {
		t.Errorf("a listener of ours is not among %v", ports)
	}
}
