package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write lays a configuration into a folder of its own.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "$DIR", dir)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "postern.hcl")
}

const sound = `
hostname = "mail.example.com"
data_dir = "$DIR/data"
directory "ldif" "people" {
  file = "$DIR/people.ldif"
  base = "dc=example,dc=com"
}
authn "ldif" { directory = directory.people }
gateway {
  listener "mx" { bind = [":25"] }
  domains "local" {
    names      = ["example.com", "bücher.example"]
    recipients = directory.people
    deliver    = target.mail1
  }
  target "lmtp" "mail1" { address = "unix:$DIR/lmtp.sock" }
  policy "recipient" {
    permit_mynetworks {}
    check_sender_access { table = "$DIR/senders" }
    reject_unauth_destination {}
  }
}
backend {
  listener "lmtp" { bind = ["unix:$DIR/lmtp.sock"] }
  listener "imap" {
    bind                 = ["127.0.0.1:143"]
    allow_plaintext_auth = true
  }
}
`

func TestSoundConfiguration(t *testing.T) {
	t.Parallel()
	path := write(t, map[string]string{"postern.hcl": sound, "people.ldif": "", "senders": ""})
	f, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Gateway.Domains[0].Names[1]; got != "xn--bcher-kva.example" {
		t.Errorf("domain is %q", got)
	}
	if l := f.Gateway.Listeners[0]; l.Mode != ModeMX || l.Auth != "none" || l.MaxMessage != 50<<20 {
		t.Errorf("defaults of a listener: %+v", l)
	}
	var names []string
	for _, step := range f.Gateway.Policies[0].Steps {
		names = append(names, step.name)
	}
	if got := strings.Join(names, " "); got != "permit_mynetworks check_sender_access reject_unauth_destination" {
		t.Errorf("steps out of order: %s", got)
	}
	if got, want := f.Audit.File, filepath.Join(filepath.Dir(path), "data", "audit.log"); got != want {
		t.Errorf("audit in %s, want %s", got, want)
	}
}

// TestShownConfigurationLoadsAgain holds that what show prints is a
// configuration, and the same one.
func TestShownConfigurationLoadsAgain(t *testing.T) {
	t.Parallel()
	path := write(t, map[string]string{"postern.hcl": sound, "people.ldif": "", "senders": ""})
	for _, nonDefault := range []bool{false, true} {
		f, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		var first, second bytes.Buffer
		if err := f.Show(&first, nonDefault); err != nil {
			t.Fatal(err)
		}
		if nonDefault && strings.Contains(first.String(), "max_message") {
			t.Errorf("a default is shown:\n%s", &first)
		}
		again := filepath.Join(t.TempDir(), "again.hcl")
		if err := os.WriteFile(again, first.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if f, err = Load(again); err != nil {
			t.Fatalf("what show printed is refused: %v\n%s", err, &first)
		}
		if err := f.Show(&second, nonDefault); err != nil {
			t.Fatal(err)
		}
		if first.String() != second.String() {
			t.Errorf("shown, read and shown again differs:\n%s\n---\n%s", &first, &second)
		}
	}
}

func TestMistakesAreToldAtOnceWithPlaceAndRemedy(t *testing.T) {
	t.Parallel()
	path := write(t, map[string]string{"postern.hcl": `
hostname = "mail.example.com"
directory "ldap" "corp" {
  urls    = ["ldaps://ldap.example.com"]
  base    = "dc=example,dc=com"
  timeout = "5 minutes"
}
authn "ldap" { directory = directory.crop }
authn "kerberos" {}
gateway {
  listener "mx" { bind = [":25", "nonsense"] }
  listener "extra" { bind = [":26"] }
  listener "submission" { bind = [":587"] }
  domains "local" {
    names      = ["exa mple.com"]
    recipients = directory.corp
    deliver    = target.mail1
  }
  target "lmtp" "mail1" { address = "unix:lmtp.sock" }
  queue { minimal_backoff = "2h" }
  queue { workers = 3.5 }
  policy "rcpt" { permit = true }
  policy "recipient" {
    reject_unauth_destinaton {}
    check_client_access { table = "$DIR/absent" }
  }
  mynetworks = ["10.0.0.1/8"]
  max_message = "1 MB"
}
`})
	_, err := Load(path)
	var mistakes *Mistakes
	if !errors.As(err, &mistakes) {
		t.Fatalf("got %v", err)
	}
	text := err.Error()
	for _, want := range []string{
		`postern.hcl line 4`, `Did you mean "uris"?`,
		`line 6`, `"5 minutes"`,
		`line 8`, `There is no directory block named "crop". Did you mean "corp"?`,
		`line 9`, `ldap, pam, gssapi, file, ldif, sql, dovecot, saslauthd, certificate, oauth, app-passwords, master or recovery, not "kerberos"`,
		`line 11`, `"nonsense" is not host:port`,
		`line 12`, `tells no mode`,
		`line 13`, `needs a tls block`,
		`line 15`, `exa mple.com`,
		`line 19`, `path of a socket is absolute`,
		`line 21`, `only one "queue" block`,
		`line 20`, `minimal_backoff (2h) is longer`,
		`line 22`, `not "rcpt"`, `steps are blocks`,
		`line 24`, `Unknown restriction "reject_unauth_destinaton". Did you mean reject_unauth_destination?`,
		`line 25`, `absent: no such file or directory`,
		`line 27`, `meant is perhaps 10.0.0.0/8`,
		`line 28`, `no setting "max_message"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if t.Failed() {
		t.Logf("told was:\n%s", text)
	}
}

func TestTLSOfTargets(t *testing.T) {
	t.Parallel()
	load := func(settings string) (*File, error) {
		return Load(write(t, map[string]string{
			"postern.hcl": strings.Replace(sound, "gateway {", "gateway {\n"+settings, 1), "people.ldif": "", "senders": "",
		}))
	}
	f, err := load(`
  tls_policy "Example.org" { tls = "secure" }
  tls_policy "[relay.example.net]:587" {
    tls   = "fingerprint"
    match = ["` + strings.Repeat("0A:", 31) + `FF"]
  }
  target "smtp" "smtp" { mta_sts = false }
  target "smtp" "smart" { address = "[relay.example.net]:587" }
`)
	if err != nil {
		t.Fatal(err)
	}
	levels := make(map[string]string)
	for _, target := range f.Delivery().Targets {
		levels[target.Name] = fmt.Sprintf("%s sts=%v rules=%d idle=%v", target.Rule().Level, target.Rule().MTASTS, len(target.Policies), target.IdleTime)
	}
	for name, want := range map[string]string{
		"smtp": "dane sts=false rules=2 idle=0s", "smart": " sts=true rules=2 idle=30s", "mail1": "none sts=true rules=0 idle=30s",
	} {
		if levels[name] != want {
			t.Errorf("target %s: %q, want %q", name, levels[name], want)
		}
	}
	for _, row := range []struct{ settings, want string }{
		{`tls_policy "example.org" {}`, "the level, such as secure"},
		{`tls_policy "example.org" { tls = "secured" }`, `Did you mean "secure"?`},
		{`tls_policy "example.org" { tls = "fingerprint" }`, "without a digest"},
		{`tls_policy "exam ple.org" { tls = "may" }`, "is no next hop"},
		{"tls_policy \"example.org\" { tls = \"may\" }\ntls_policy \"Example.org\" { tls = \"may\" }", "defined twice"},
		{`tls_policy "example.org" {
			tls = "secure"
			ca_file = "/nonexistent/ca.pem"
		}`, "no such file"},
		{`target "smtp" "x" { cert_file = "/dev/null" }`, "go together"},
		{`target "lmtp" "x" { tls = "may" }`, `"address" is required`},
		{"target \"lmtp\" \"x\" {\naddress = \"[::1]:24\"\ntls = \"dane\"\n}", "is for smtp"},
		{"target \"smtp\" \"x\" {\ntls = \"may\"\ntls_match = [\"a\"]\n}", "matches nothing"},
		{"}\ndns { servers = [\"ns.example.com\"] }\ngateway {", "is not an IP address"},
	} {
		if _, err := load(row.settings); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s:\ngot %v, want %q", row.settings, err, row.want)
		}
	}
}

func TestInclude(t *testing.T) {
	t.Parallel()
	path := write(t, map[string]string{
		"postern.hcl":        `include = ["conf.d", "one.hcl"]`,
		"conf.d/10-base.hcl": `hostname = "mail.example.com"`,
		"conf.d/ignored.txt": `nonsense`,
		"one.hcl":            strings.Replace(sound, `hostname = "mail.example.com"`, "", 1),
		"people.ldif":        "", "senders": "",
	})
	f, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if f.Hostname != "mail.example.com" || f.Backend == nil || len(f.Sources()) != 3 {
		t.Errorf("read %v", f.Sources())
	}
	for name, text := range map[string]string{
		"circle":  `include = "postern.hcl"`,
		"missing": `include = ["absent"]`,
		"twice":   "include = [\"again.hcl\"]\nhostname = \"a.example\"",
	} {
		path := write(t, map[string]string{"postern.hcl": text, "again.hcl": `hostname = "b.example"`})
		if _, err := Load(path); err == nil {
			t.Errorf("%s: accepted", name)
		} else if !strings.Contains(err.Error(), ".hcl line ") {
			t.Errorf("%s: no place in %v", name, err)
		}
	}
}

func TestDocumentIsCurrent(t *testing.T) {
	t.Parallel()
	const file = "../docs/config.md"
	var want bytes.Buffer
	if err := Document(&want); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("docs/config.md is not what the schema says: run make golden")
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(sound))
	f.Add([]byte(`gateway { policy "recipient" { permit {} } }`))
	f.Add([]byte(`directory "a" "b" "c" {}`))
	f.Add([]byte(`hostname = directory.x.y[0]`))
	f.Add([]byte("hostname = \"\xff\"\ngateway = {}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "postern.hcl")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := Load(path)
		if (file == nil) == (err == nil) {
			t.Fatalf("neither a configuration nor an error: %v, %v", file, err)
		}
		if err != nil && err.Error() == "" {
			t.Fatal("an empty error")
		}
	})
}

func TestControlSocketIsFoundDespiteMistakes(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct{ text, want string }{
		"of its own": {"control { socket = \"/run/a.sock\" }\nhostnam = 1\ngateway {}", "/run/a.sock"},
		"in data":    {"data_dir = \"/srv/p\"\nauthn \"ldap\" {}\nbackend { x {} }", "/srv/p/control.sock"},
		"torn":       {"data_dir = \"/srv/p\"\ngateway {", "/srv/p/control.sock"},
		"default":    {"nonsense = true", "/var/lib/postern/control.sock"},
	} {
		path := write(t, map[string]string{"postern.hcl": row.text})
		if _, err := Load(path); err == nil {
			t.Errorf("%s: loads", name)
		}
		if got, err := ControlSocket(path); err != nil || got != row.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, row.want)
		}
	}
	if _, err := ControlSocket(filepath.Join(t.TempDir(), "absent.hcl")); err == nil {
		t.Error("found in a file that is not there")
	}
}

func TestLocalListener(t *testing.T) {
	t.Parallel()
	const gateway = `
hostname = "mail.example.com"
gateway {
  listener "local" {
    %s
  }
}
`
	path := write(t, map[string]string{"postern.hcl": strings.Replace(gateway, "%s", `bind = ["unix:/run/postern/submit.sock"]`+"\n"+`trusted_users = ["www-data"]`, 1)})
	f, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	l := f.Gateway.Listeners[0]
	if l.Mode != ModeLocal || l.SocketPermissions() != 0o666 || !l.Trusts("root") || !l.Trusts("www-data") || l.Trusts("kim") {
		t.Errorf("defaults: %+v", l)
	}
	if socket, err := SubmitSocket(path); err != nil || socket != "/run/postern/submit.sock" {
		t.Errorf("submits to %q, %v", socket, err)
	}
	for settings, want := range map[string]string{
		`bind = ["127.0.0.1:25"]`:                                "takes unix:PATH only",
		"bind = [\"unix:/s\"]\n auth = \"optional\"":             "without logins",
		"bind = [\"unix:/s\"]\n socket_mode = \"0777\"":          "socket_mode",
		"bind = [\"unix:submit.sock\"]\n socket_mode = \"0600\"": "absolute",
	} {
		path := write(t, map[string]string{"postern.hcl": strings.Replace(gateway, "%s", settings, 1)})
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", settings, err, want)
		}
	}
}
