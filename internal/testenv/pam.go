package testenv

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// PAMHelper builds the program that runs "auth-helper" as cmd/gateway does, with
// PAM in it, and returns its path. It is built whatever tags the test was built
// with: only a C compiler and libpam's headers must be there.
func PAMHelper(t testing.TB) string {
	t.Helper()
	if _, err := os.Stat(pamHeader); err != nil {
		Missing(t, "header security/pam_appl.h (libpam0g-dev)")
	}
	return buildC(t, "github.com/postern-mail/postern/authn/helper/process/testdata")
}

// pamHeader is what programs with PAM are built with.
const pamHeader = "/usr/include/security/pam_appl.h"

// buildC builds a program with C in it, as the tests are built, and returns its
// path.
func buildC(t testing.TB, program string) string {
	t.Helper()
	Program(t, "cc", "gcc", "clang")
	var tags []string
	for _, c := range []struct{ tag, header string }{{"pam", pamHeader}, {"gssapi", gssapiHeader}} {
		if _, err := os.Stat(c.header); err == nil {
			tags = append(tags, c.tag)
		}
	}
	binary := filepath.Join(TempDir(t), "program")
	args := slices.Concat([]string{"build", "-tags", strings.Join(tags, ","), "-ldflags=-w", "-o", binary}, buildMode, []string{program})
	cmd := exec.Command(Program(t, "go"), args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", program, err, out)
	}
	return binary
}

// PAMMatrix returns the path of pam_matrix.so, a module that takes logins and
// passwords from a text file ("login:password:service") and needs no root.
func PAMMatrix(t testing.TB) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/*/pam_wrapper/pam_matrix.so", "/usr/lib*/pam_wrapper/pam_matrix.so"} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	Missing(t, "module pam_matrix.so (libpam-wrapper)")
	return ""
}

// PAMService writes the PAM service name into dir, one line of configuration
// ("auth required pam_debug.so") each.
func PAMService(t testing.TB, dir, name string, lines ...string) {
	t.Helper()
	text := strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// LocalUser makes a user of this machine with the given password hash, as
// /etc/shadow holds it, and removes the user when the test ends. It needs root.
func LocalUser(t testing.TB, hash string) (login string) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root, for a local user,")
	}
	add, remove := Program(t, "useradd"), Program(t, "userdel")
	var unique [5]byte
	rand.Read(unique[:])
	login = "pt" + hex.EncodeToString(unique[:])
	// Another test may hold the lock on the password file.
	Eventually(t, 2*time.Minute, func() error {
		return exec.Command(add, "--no-create-home", "--shell", "/usr/sbin/nologin", "--password", hash, login).Run()
	})
	t.Cleanup(func() {
		Eventually(t, 2*time.Minute, func() error { return exec.Command(remove, login).Run() })
	})
	return login
}
