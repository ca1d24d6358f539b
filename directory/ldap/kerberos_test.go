package ldap_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/status"
	company "github.com/postern-mail/postern/testdata/ldif"
)

const (
	ticketRealm = "EXAMPLE.COM"
	account     = "postern/mx.example.com"
)

// ticketed starts a realm and a slapd that knows its tickets, and returns how
// to log in there by one.
func ticketed(t *testing.T) (*testenv.KDCServer, ldap.Config) {
	t.Helper()
	kdc := testenv.KDC(t, ticketRealm, account, "ldap/localhost", "ldap/unserved.example.com")
	s := testenv.Slapd(t, testenv.SlapdOptions{
		Env: append(kdc.Env(), "KRB5_KTNAME="+kdc.Keytab("ldap/localhost")),
		GlobalConfig: fmt.Sprintf("sasl-host localhost\nsasl-realm %s\nauthz-regexp \"uid=%s(,cn=example.com)?,cn=gssapi,cn=auth\" %q",
			ticketRealm, account, company.OpenLDAP().ServiceDN),
	})
	cfg := config(s, s.LDAPS)
	cfg.BindDN, cfg.BindPasswordFile = "", ""
	cfg.ServerName = "localhost" // tickets are for names
	cfg.Kerberos = ldap.Kerberos{Principal: account + "@" + ticketRealm, Keytab: kdc.Keytab(account), ConfigFile: kdc.Config}
	return kdc, cfg
}

func TestLoginByTicket(t *testing.T) {
	t.Parallel()
	kdc, cfg := ticketed(t)
	client := open(t, cfg)
	if err := lookup(t, client); err != nil {
		t.Fatalf("%v", err)
	}
	for _, f := range client.Check(ctx(t), directory.Needs{}) {
		if f.What == "login" && (f.Grade != ldap.Fine || !strings.Contains(f.Text, account)) {
			t.Errorf("%+v", f)
		}
	}
	short := cfg
	short.Kerberos.Principal = account // of the realm in krb5.conf
	if err := lookup(t, open(t, short)); err != nil {
		t.Errorf("without a realm: %v", err)
	}
	for _, test := range []struct {
		name   string
		change func(*ldap.Config)
		advice string
	}{
		{"a service the realm does not know", func(c *ldap.Config) { c.ServerName, c.InsecureSkipVerify = "unknown.example.com", true }, "does not know the directory by this name"},
		{"a ticket for another service", func(c *ldap.Config) { c.ServerName, c.InsecureSkipVerify = "unserved.example.com", true }, ""},
		{"an account that is gone", func(c *ldap.Config) { c.Kerberos = gone(t, kdc, c.Kerberos) }, "does not know kerberos_principal"},
		{"a key that was replaced", func(c *ldap.Config) { c.Kerberos = replaced(t, kdc, c.Kerberos) }, "Write the keytab again"},
	} {
		t.Run(test.name, func(t *testing.T) {
			other := cfg
			test.change(&other)
			client := open(t, other)
			if err := lookup(t, client); status.Of(err) != status.DirectoryDown {
				t.Errorf("%v", err)
			}
			told := ""
			for _, f := range client.Check(ctx(t), directory.Needs{}) {
				if f.Grade == ldap.Failure {
					told += f.Text + "\n" + f.Advice + "\n"
				}
			}
			if told == "" || !strings.Contains(told, test.advice) {
				t.Errorf("the check tells %q, want %q", told, test.advice)
			}
		})
	}
}

// gone makes an account whose keytab outlives it.
func gone(t *testing.T, kdc *testenv.KDCServer, k ldap.Kerberos) ldap.Kerberos {
	t.Helper()
	kdc.Add("old/mx.example.com")
	k.Principal, k.Keytab = "old/mx.example.com", kdc.Keytab("old/mx.example.com")
	kdc.Admin("delprinc -force old/mx.example.com")
	return k
}

// replaced makes an account with a keytab that was written before another one.
func replaced(t *testing.T, kdc *testenv.KDCServer, k ldap.Kerberos) ldap.Kerberos {
	t.Helper()
	const name = "rekeyed/mx.example.com"
	kdc.Add(name)
	kdc.Admin("modprinc +requires_preauth " + name)
	k.Principal, k.Keytab = name, kdc.Keytab(name)
	kdc.Keytab(name)
	return k
}

// Who is bound stays bound, and who comes when no KDC answers is told of an
// outage within his time.
func TestKDCDown(t *testing.T) {
	t.Parallel()
	kdc, cfg := ticketed(t)
	client := open(t, cfg)
	if err := lookup(t, client); err != nil {
		t.Fatal(err)
	}
	kdc.Stop()
	if err := lookup(t, client); err != nil {
		t.Errorf("the connection that is there: %v", err)
	}
	client.Close()
	if err := lookup(t, client); status.Of(err) != status.DirectoryDown {
		t.Errorf("a new one: %v", err)
	}

	silent, err := net.Listen("tcp", "127.0.0.1:0") // and nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	file := filepath.Join(t.TempDir(), "krb5.conf")
	content := fmt.Sprintf("[libdefaults]\n\tdefault_realm = %[1]s\n\tudp_preference_limit = 1\n[realms]\n\t%[1]s = {\n\t\tkdc = %[2]s\n\t}\n", ticketRealm, silent.Addr())
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Kerberos.ConfigFile, cfg.Timeout = file, 50*time.Millisecond
	if err := lookup(t, open(t, cfg)); status.Of(err) != status.DirectoryDown {
		t.Errorf("a KDC that says nothing: %v", err)
	}
}

func TestKerberosFiles(t *testing.T) {
	t.Parallel()
	kdc := testenv.KDC(t, ticketRealm, account)
	keytab := kdc.Keytab(account)
	write := func(content string) string {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	enrolled := write("includedir /etc/krb5.conf.d/\n[logging]\n default = FILE:/var/log/krb5libs.log\n[libdefaults]\n default_realm = EXAMPLE.COM\n dns_lookup_kdc = true\n rdns = false\n" +
		" ticket_lifetime = 24h\n forwardable = true\n udp_preference_limit = 0\n default_ccache_name = KEYRING:persistent:%{uid}\n[realms]\n EXAMPLE.COM = {\n  kdc = ipa.example.com:88\n" +
		"  master_kdc = ipa.example.com:88\n  default_domain = example.com\n  pkinit_anchors = FILE:/var/lib/ipa-client/pki/kdc-ca-bundle.pem\n }\n[domain_realm]\n .example.com = EXAMPLE.COM\n" +
		"[dbmodules]\n EXAMPLE.COM = {\n  db_library = ipadb.so\n }\n[plugins]\n certauth = {\n  module = ipakdb:kdb/ipadb.so\n }\n")
	for _, test := range []struct {
		name  string
		uri   string
		login ldap.Kerberos
		want  string // part of the error; "" for none
	}{
		{"fine", "ldaps://ldap.example.com", ldap.Kerberos{Principal: account, Keytab: keytab, ConfigFile: kdc.Config}, ""},
		{"a member of FreeIPA", "ldaps://ldap.example.com", ldap.Kerberos{Principal: account, Keytab: keytab, ConfigFile: enrolled}, ""},
		{"an address", "ldaps://192.0.2.1", ldap.Kerberos{Principal: account, Keytab: keytab, ConfigFile: kdc.Config}, "not for addresses"},
		{"no principal", "ldaps://ldap.example.com", ldap.Kerberos{Keytab: keytab, ConfigFile: kdc.Config}, "without the principal"},
		{"no keytab there", "ldaps://ldap.example.com", ldap.Kerberos{Principal: account, Keytab: keytab + "x", ConfigFile: kdc.Config}, "no such file"},
		{"no keytab", "ldaps://ldap.example.com", ldap.Kerberos{Principal: account, Keytab: write("\x05\x02\x00\x00\x00\x10short"), ConfigFile: kdc.Config}, "keytab"},
		{"another's key", "ldaps://ldap.example.com", ldap.Kerberos{Principal: "imap/mx.example.com", Keytab: keytab, ConfigFile: kdc.Config}, "holds no key of imap/mx.example.com@EXAMPLE.COM"},
		{"no configuration", "ldaps://ldap.example.com", ldap.Kerberos{Principal: account, Keytab: keytab, ConfigFile: "/nonexistent"}, "no such file"},
		{"a broken configuration", "ldaps://ldap.example.com", ldap.Kerberos{Principal: account, Keytab: keytab, ConfigFile: write("[libdefaults]\nfoo\n")}, "libdefaults"},
		{"no realm", "ldaps://ldap.example.com", ldap.Kerberos{Principal: account, Keytab: keytab, ConfigFile: write("[libdefaults]\n")}, "no realm"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ldap.New(ldap.Config{URIs: []string{test.uri}, Kerberos: test.login}, hclog.NewNullLogger())
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// Active Directory turns its last token, wants no FAST, and signs with RC4 where
// an account has no better key.
func TestLoginByTicketOfSamba(t *testing.T) {
	t.Parallel()
	s := samba.Get(t)
	s.Tool(t, "spn", "add", "ldap/dc1.example.com", "DC1$") // which Samba's task for the DNS, not started here, does
	cfg := ofSamba(s, s.LDAPS)
	cfg.BindDN, cfg.BindPasswordFile = "", ""
	cfg.ServerName = "dc1.example.com"
	cfg.Kerberos = ldap.Kerberos{Principal: "mail@EXAMPLE.COM", Keytab: s.Keytab(t, "mail"), ConfigFile: s.KerberosConfig(t)}
	if err := lookup(t, open(t, cfg)); err != nil {
		t.Error(err)
	}
}
