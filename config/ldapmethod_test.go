package config

import (
	"strings"
	"testing"
)

// TestLDAPMethods: which settings of how LDAP verifies fit together.
func TestLDAPMethods(t *testing.T) {
	t.Parallel()
	const file = `
hostname = "mail.example.com"
data_dir = "$DIR/data"
directory "ldap" "corp" {
  uris = ["ldaps://ldap.example.com"]
  base = "dc=example,dc=com"
}
auth_server "postfix" { bind = ["unix:$DIR/auth"] }
authn KIND {
  directory = directory.corp
  SETTINGS
}
`
	recalled := make(map[string]string)
	for _, tt := range []struct{ kind, settings, mistake string }{
		{"ldap", ``, ""},
		{"ldap", `method = "compare"`, ""},
		{"ldap", `method = "hash"`, ""},
		{"ldap", "method = \"hash\"\npassword_attribute = \"mailPassword\"", ""},
		{"ldap", "method = \"compare\"\npassword_attribute = \"1.3.6.1.4.1.99999.1\"", ""},
		{"ldap", "method = \"hash\"\ndn_template = \"uid={local},dc=example,dc=com\"", ""},
		{"ldap", `method = "guess"`, "guess"},
		{"ldap", `password_attribute = "mailPassword"`, "reads no attribute"},
		{"ldap", "method = \"hash\"\npassword_attribute = \"userPassword;x-old\"", "no name of an attribute"},
		{"ldap", "method = \"hash\"\npassword_attribute = \"\"", "no name of an attribute"},
		{"pam", `method = "hash"`, `"method" means nothing`},
		{"sql", `password_attribute = "x"`, `"password_attribute" means nothing`},
	} {
		text := strings.NewReplacer("KIND", `"`+tt.kind+`"`, "SETTINGS", tt.settings).Replace(file)
		f, err := Load(write(t, map[string]string{"postern.hcl": text}))
		switch {
		case tt.mistake == "" && err != nil:
			t.Errorf("%s: %v", tt.settings, err)
		case tt.mistake != "" && (err == nil || !strings.Contains(err.Error(), tt.mistake)):
			t.Errorf("%s %s: %v, want a mistake with %q", tt.kind, tt.settings, err, tt.mistake)
		case tt.mistake == "":
			as := f.RecalledAs(f.Authn[0])
			if before, twice := recalled[as]; twice {
				t.Errorf("%q is remembered as %q", tt.settings, before)
			}
			recalled[as] = tt.settings
		}
	}
}
