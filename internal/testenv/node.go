package testenv

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// NodeModules returns the folder that make deps installed npm packages in, for
// NODE_PATH. lock is the package-lock.json that says which: with those of an
// older one the test is as if there were none.
func NodeModules(t testing.TB, lock string) string {
	t.Helper()
	want, err := os.ReadFile(lock)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "postern-tests", "npm")
	got, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil || !bytes.Equal(got, want) {
		Missing(t, "npm packages (make deps)")
	}
	return filepath.Join(dir, "node_modules")
}
