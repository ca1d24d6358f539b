package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/keytab"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/directory/ldap"
)

// servedKeytab writes a keytab with a key of postern@EXAMPLE.COM.
func servedKeytab(t *testing.T) string {
	t.Helper()
	keys := keytab.New()
	if err := keys.AddEntry("postern", "EXAMPLE.COM", "secret", time.Unix(1, 0), 1, etypeID.AES256_CTS_HMAC_SHA1_96); err != nil {
		t.Fatal(err)
	}
	content, err := keys.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "keytab")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestKerberosOfDirectory(t *testing.T) {
	t.Parallel()
	keys := servedKeytab(t)
	for _, c := range []struct {
		name, settings string
		mistake        string
	}{
		{"fine", fmt.Sprintf("kerberos_keytab = %q\nkerberos_principal = \"postern@EXAMPLE.COM\"", keys), ""},
		{"no principal", fmt.Sprintf("kerberos_keytab = %q", keys), "kerberos_keytab and kerberos_principal belong together"},
		{"no keytab", `kerberos_principal = "postern@EXAMPLE.COM"`, "belong together"},
		{"a keytab that is not there", "kerberos_keytab = \"/nonexistent\"\nkerberos_principal = \"postern@EXAMPLE.COM\"", "/nonexistent"},
		{"two logins", fmt.Sprintf("kerberos_keytab = %q\nkerberos_principal = \"postern@EXAMPLE.COM\"\nsasl_external = true", keys), "kerberos_keytab excludes bind_dn and sasl_external"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "postern.hcl")
			text := "hostname = \"mx.example.com\"\ngateway {\n  listener \"mx\" { bind = [\"127.0.0.1:0\"] }\n}\n" +
				"directory \"ldap\" \"corp\" {\n  uris = [\"ldaps://ldap.example.com\"]\n  base = \"dc=x\"\n" + c.settings + "\n}\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := config.Load(file)
			if c.mistake != "" {
				if err == nil || !strings.Contains(strings.Join(strings.Fields(err.Error()), " "), c.mistake) {
					t.Errorf("Load = %v, want %q", err, c.mistake)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := f.Directories[0].LDAP().Kerberos; got != (ldap.Kerberos{Principal: "postern@EXAMPLE.COM", Keytab: keys}) {
				t.Errorf("%+v", got)
			}
		})
	}
}
