package file

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/status"
)

// TestLimits: what a Dovecot passwd-file says of who may log in from where.
func TestLimits(t *testing.T) {
	t.Parallel()
	const content = `free:{PLAIN}secret:1:1::/home/free::userdb_quota_rule=*:storage=1G
office:{PLAIN}secret:1:1::/home/office::userdb_x=y allow_nets=192.0.2.0/24,2001:db8::/32
one:{PLAIN}secret::::::allow_nets=192.0.2.7
here:{PLAIN}secret::::::allow_nets=local
nobody:{PLAIN}secret::::::nologin
shadow:{PLAIN}secret:19000:0:99999:7:::
`
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	hasher, err := authn.NewHasher(authn.HashConfig{AllowCleartext: true})
	if err != nil {
		t.Fatal(err)
	}
	f, err := New(Config{Path: path}, hasher, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		login, from string
		yes         bool
	}{
		{"free", "198.51.100.1", true},
		{"shadow", "198.51.100.1", true},
		{"office", "192.0.2.9", true},
		{"office", "::ffff:192.0.2.9", true},
		{"office", "2001:db8::1", true},
		{"office", "198.51.100.1", false},
		{"office", "", false},
		{"one", "192.0.2.7", true},
		{"one", "192.0.2.8", false},
		{"here", "", true},
		{"here", "192.0.2.7", false},
		{"nobody", "192.0.2.7", false},
	} {
		a := authn.Attempt{Login: test.login, Password: "secret"}
		if test.from != "" {
			a.Remote = netip.AddrPortFrom(netip.MustParseAddr(test.from), 1)
		}
		_, err := f.Verify(t.Context(), a)
		if (err == nil) != test.yes || err != nil && (status.Of(err) != status.AuthFailed || !errors.Is(err, authn.ErrRefused)) {
			t.Errorf("%s from %q: %v", test.login, test.from, err)
		}
		a.Password = "wrong"
		if _, err := f.Verify(t.Context(), a); status.Of(err) != status.AuthFailed || errors.Is(err, authn.ErrRefused) {
			t.Errorf("%s from %q with a wrong password: %v", test.login, test.from, err)
		}
	}
	if _, _, err := f.Stored(t.Context(), "office", authn.FormSCRAMSHA256); !errors.Is(err, authn.ErrNoForm) {
		t.Errorf("a limited login can be proven without Verify: %v", err)
	}
	for line, want := range map[string]string{
		"a:{PLAIN}x::::::nopassword=y\n":        "nopassword",
		"a:{PLAIN}x::::::allow_nets=office\n":   "allow_nets",
		"a:{PLAIN}x::::::allow_nets=1.2.3.4/40": "allow_nets",
	} {
		if _, err := parsePasswd("users", strings.NewReader(line), hasher); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "users:1") {
			t.Errorf("%q: %v", line, err)
		}
	}
}
