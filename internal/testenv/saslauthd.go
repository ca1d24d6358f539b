package testenv

import (
	"path/filepath"
	"strings"
	"testing"
)

// SaslauthdServer is a private saslauthd.
type SaslauthdServer struct {
	// Socket is its mux socket.
	Socket string

	process *Process
}

// Saslauthd starts a saslauthd that asks an IMAP server, 127.0.0.1 with a port,
// and ends it after the test.
func Saslauthd(t testing.TB, imap string) *SaslauthdServer {
	t.Helper()
	dir := TempDir(t)
	s := &SaslauthdServer{Socket: filepath.Join(dir, "mux")}
	s.process = Start(t, Command{
		Path: Program(t, "saslauthd"), Args: []string{"-d", "-n", "1", "-r", "-m", dir, "-a", "rimap", "-O", strings.Replace(imap, ":", "/", 1)},
		Ready: DialReady("unix", s.Socket), OwnGroup: true,
	})
	return s
}

// Process is the running program, to be paused or killed.
func (s *SaslauthdServer) Process() *Process { return s.process }
