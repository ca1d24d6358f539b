package testenv

import (
	"encoding/hex"
	"fmt"
	"path/filepath"
	"testing"
)

// ClamAVServer is a private clamd with its milter. Its only virus is Infected.
type ClamAVServer struct {
	// Milter is the milter's socket. It refuses Infected with 550 5.7.1 and
	// puts mail off when it cannot scan.
	Milter string
	// Infected is a text that the scanner takes for a virus, named Virus.
	Infected, Virus string
	// Scanner is the clamd behind it, Filter the milter: to be paused or killed.
	Scanner, Filter *Process
}

// ClamAV starts a virus scanner in a private directory, and ends it after the
// test. Its database holds one signature, so that it needs no network.
func ClamAV(t testing.TB) *ClamAVServer {
	t.Helper()
	scanner, filter := Program(t, "clamd"), Program(t, "clamav-milter")
	dir := TempDir(t)
	s := &ClamAVServer{Milter: filepath.Join(dir, "milter"), Infected: "POSTERN-STANDARD-VIRUS-TEST-TEXT", Virus: "Postern.Test.UNOFFICIAL"}
	socket := filepath.Join(dir, "clamd")
	writeFile(t, filepath.Join(dir, "test.ndb"), []byte("Postern.Test:0:*:"+hex.EncodeToString([]byte(s.Infected))+"\n"), 0o644)
	writeFile(t, filepath.Join(dir, "clamd.conf"), fmt.Appendf(nil, `Foreground yes
LocalSocket %[1]s
DatabaseDirectory %[2]s
TemporaryDirectory %[2]s
SelfCheck 0
Bytecode no
MaxThreads 2
`, socket, dir), 0o644)
	writeFile(t, filepath.Join(dir, "milter.conf"), fmt.Appendf(nil, `Foreground yes
MilterSocket unix:%[1]s
ClamdSocket unix:%[2]s
TemporaryDirectory %[3]s
OnInfected Reject
OnFail Defer
RejectMsg Infected: %%v
AddHeader Replace
ReportHostname mx.example.com
`, s.Milter, socket, dir), 0o644)
	s.Scanner = Start(t, Command{Path: scanner, Args: []string{"--config-file=" + filepath.Join(dir, "clamd.conf")}, Ready: DialReady("unix", socket)})
	s.Filter = Start(t, Command{Path: filter, Args: []string{"--config-file=" + filepath.Join(dir, "milter.conf")}, Ready: DialReady("unix", s.Milter), Expendable: true})
	return s
}
