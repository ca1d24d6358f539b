package testenv

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// HAProxy starts a private HAProxy in TCP mode that passes what comes to one of
// the returned addresses on to the server of that name, with the options given
// ("send-proxy", "send-proxy-v2", "check ..."). It ends after the test.
func HAProxy(t testing.TB, servers map[string]string) (addresses map[string]string) {
	t.Helper()
	program := Program(t, "haproxy")
	dir := TempDir(t)
	addresses = make(map[string]string)
	config := &strings.Builder{}
	config.WriteString("global\n log stderr format raw local0\n maxconn 200\ndefaults\n mode tcp\n timeout connect 1m\n timeout client 1m\n timeout server 1m\n")
	first := ""
	for name, server := range servers {
		address := loopback(FreePort(t))
		addresses[name], first = address, address
		fmt.Fprintf(config, "listen %s\n bind %s\n server one %s\n", name, address, server)
	}
	file := writeFile(t, filepath.Join(dir, "haproxy.cfg"), []byte(config.String()), 0o644)
	Start(t, Command{Path: program, Args: []string{"-db", "-f", file}, Ready: DialReady("tcp", first)})
	return addresses
}
