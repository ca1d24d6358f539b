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
