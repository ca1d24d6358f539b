package testenv

import (
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
)

// Postgrey starts a private postgrey on 127.0.0.1, which puts first attempts off
// for so many seconds, and returns host:port. It ends with the test.
func Postgrey(t testing.TB, delay int) string {
	t.Helper()
	program := Program(t, "postgrey")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	group, err := user.LookupGroupId(me.Gid)
	if err != nil {
		t.Fatal(err)
	}
	dir := TempDir(t)
	none := writeFile(t, filepath.Join(dir, "none"), nil, 0o644)
	address := loopback(FreePort(t))
	Start(t, Command{
		Path: program,
		Args: []string{
			"--inet=" + address, "--dbdir=" + dir, "--user=" + me.Username, "--group=" + group.Name, "--delay=" + strconv.Itoa(delay),
			"--whitelist-clients=" + none, "--whitelist-recipients=" + none, "--pidfile=" + filepath.Join(dir, "pid"),
		},
		Ready: DialReady("tcp", address), Expendable: true,
	})
	return address
}
