package policy

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTableIsReadAtRest(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "access")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.example OK\n")
	s := &source{file: file}
	for i, want := range []bool{false, true, true} {
		if s.atRest() != want {
			t.Errorf("unchanged file, look %d: at rest is %v", i, !want)
		}
	}
	write("a.example OK\nb.example")
	if s.atRest() {
		t.Error("at rest while it is written")
	}
	write("a.example OK\nb.example OK\n")
	if s.atRest() {
		t.Error("at rest while it is still written")
	}
	if !s.atRest() {
		t.Error("never at rest")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if !s.atRest() {
		t.Error("nobody would tell that the file is gone")
	}
}

// TestMappedNetworks: clients are known by their IPv4 address, so a network
// written the other way must not be one that nobody is in.
func TestMappedNetworks(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"::ffff:192.0.2.0/120": "192.0.2.0/24", "[::ffff:192.0.2.1]": "192.0.2.1/32", "::ffff:0:0/96": "0.0.0.0/0",
		"::/0": "::/0", "::/90": "::/90", "::ffff:0:0/90": "", "fe80::1%eth0": "",
	} {
		got, err := parseNetwork(text)
		if want == "" && err == nil || want != "" && (err != nil || got.String() != want) {
			t.Errorf("parseNetwork(%q) = %v, %v; want %q", text, got, err, want)
		}
	}
}
