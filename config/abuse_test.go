package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/authn/lockout"
)

// TestSecretsAreNotShown has settings people know from other programs: they are
// mistakes here, and the mistake must not tell the secret to a log.
func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		`bind_password = "hunter2"`, `  Bind_PW = "hunter2"`, `secret: hunter2`, `password="hunter2" # hunter2`,
		`api-token = "hunter2"`, `ldap_password = <<E`, `bind_password = "hunter2`,
	} {
		_, err := Load(write(t, map[string]string{"postern.hcl": "directory \"ldap\" \"corp\" {\n" + line + "\n}\n"}))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", line, err)
		}
	}
	_, err := Load(write(t, map[string]string{"postern.hcl": "directory \"ldap\" \"corp\" {\nbind_password_file = \"/no/such\"\n}\n"}))
	if err == nil || !strings.Contains(err.Error(), `"/no/such"`) {
		t.Errorf("the name of a file is no secret: %v", err)
	}
}

func TestHostileFiles(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct{ text, want string }{
		"deeply nested":   {"hostname = " + strings.Repeat("(", 1<<12), "too deeply"},
		"deep lists":      {"hostname = " + strings.Repeat("[", 1<<12), "too deeply"},
		"deep blocks":     {strings.Repeat("a {\n", 1<<12), "too deeply"},
		"deep templates":  {"hostname = " + strings.Repeat(`"${`, 1<<12), "too deeply"},
		"deep negations":  {"hostname = " + strings.Repeat("!", 1<<12), "too deeply"},
		"deep conditions": {"hostname = " + strings.Repeat("a ? ", 1<<12), "too deeply"},
		"huge":            {strings.Repeat("#", maxFileOctets+1), "larger than"},
		"NUL":             {"hostname = \"a\x00b\"\n", "postern.hcl"},
		"UTF-16":          {"\xff\xfeh\x00o\x00s\x00t\x00", "postern.hcl"},
		"byte order mark": {"\xef\xbb\xbfhostname = \"mail.example.com\"\n", "postern.hcl"},
		"not UTF-8":       {"hostname = \"m\xff\xfe\"\n", "postern.hcl"},
		"carriage return": {"hostname = \"a\"\rlog {}\r", "postern.hcl"},
		"a device":        {"include = \"/dev/zero\"\n", "not a regular file"},
		"a loop":          {"include = \"./postern.hcl\"\n", "Included twice"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Load(write(t, map[string]string{"postern.hcl": row.text}))
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("%.500v, want %q", err, row.want)
			}
		})
	}
}

func TestIncludeInAFolderOfAnyName(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "conf[1]*")
	for name, text := range map[string]string{
		"conf.d/10.hcl": "log { level = \"verbose\" }\n", "conf.d/.hidden.hcl": "junk", "conf.d/20.hcl.bak": "junk",
		"postern.hcl": "include = \"conf.d\"\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Load(filepath.Join(dir, "postern.hcl"))
	if err == nil || !strings.Contains(err.Error(), `level is "verbose"`) || strings.Contains(err.Error(), "junk") {
		t.Errorf("included files: %v", err)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	path := write(t, map[string]string{"postern.hcl": strings.Replace(tabled, "base        =", "bind_dn = \"cn=x\"\n  bind_password_file = \"$DIR/pw\"\n  base        =", 1),
		"virtual": "", "aliases": "", "pw": "secret\n"})
	secret := filepath.Join(filepath.Dir(path), "pw")
	for mode, want := range map[os.FileMode]string{0o600: "", 0o644: fmt.Sprintf("%s:9: bind_password_file %s is readable by everybody: chmod o-r it", path, secret)} {
		if err := os.Chmod(secret, mode); err != nil {
			t.Fatal(err)
		}
		f, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(f.Warnings(), "\n"); got != want {
			t.Errorf("mode %o: %q, want %q", mode, got, want)
		}
	}
}

// TestWarningOfTrustingLogins: a password for another machine is not told to
// just anybody without a word.
func TestWarningOfTrustingLogins(t *testing.T) {
	t.Parallel()
	for target, warns := range map[string]bool{
		`address = ["[smtp.example.net]:587"]`:                              true,
		"address = [\"127.0.0.1:25\", \"[192.0.2.1]\"]\n tls = \"encrypt\"": true,
		"address = [\"[smtp.example.net]\"]\n tls = \"verify\"":             false,
		"address = [\"[smtp.example.net]:465\"]\n tls = \"implicit\"":       false,
		`address = ["127.0.0.1:25", "[::1]:25", "localhost:25"]`:            false,
	} {
		path := write(t, map[string]string{"pw": "secret\n", "people.ldif": "", "senders": "", "postern.hcl": strings.Replace(sound, "gateway {\n",
			"gateway {\n target \"smtp\" \"relay\" {\n "+target+"\n user = \"us\"\n password_file = \"$DIR/pw\"\n }\n", 1)})
		f, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(f.Warnings(), "\n"); strings.Contains(got, ": user: any server on the way") != warns {
			t.Errorf("%s: %q", target, got)
		}
	}
}

func loadLogins(t *testing.T, text string) (*File, error) {
	t.Helper()
	dir := t.TempDir()
	passwords := filepath.Join(dir, "passwords")
	if err := os.WriteFile(passwords, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "postern.hcl")
	text = "hostname = \"mail.example.com\"\ndata_dir = \"" + dir + "\"\n" + strings.ReplaceAll(text, "PASSWORDS", passwords) +
		"\ngateway {\n  listener \"mx\" { bind = [\"127.0.0.1:0\"] }\n  mynetworks = [\"10.0.0.0/8\"]\n}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func TestLockoutSettings(t *testing.T) {
	t.Parallel()
	f, err := loadLogins(t, "lockout {\n  directory_lockout_threshold = 0\n  wrong_password_memory = \"0s\"\n  spray_accounts = 0\n  allow_networks = [\"192.0.2.0/24\"]\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	cfg := f.LoginMemory()
	if cfg.DirectoryThreshold != -1 || cfg.WrongFor != -1 || cfg.SprayAccounts != -1 || len(cfg.AllowNetworks) != 2 || cfg.Delay != time.Second {
		t.Errorf("%+v", cfg)
	}
	if _, err := lockout.New(cfg, make([]byte, lockout.KeyOctets), nil, nil, nil); err != nil {
		t.Error(err)
	}
	for setting, want := range map[string]string{
		"directory_lockout_threshold = 2":             "Below 3 no wrong password",
		"client_failures = 0":                         "or -1 to let nobody wait",
		"spray_accounts = 65":                         "outside 2 to 64",
		"max_entries = 5":                             "at least 100",
		"delay = \"1h\"":                              "shorter than delay",
		"forgive = \"0s\"":                            "must be a time above 0",
		"directory_lockout_window = \"0s\"":           "must be a time above 0",
		"allow_networks = [\"192.0.2.1/24\"]":         "bits behind its mask",
		"wrong_password_retry = \"sometimes\"":        "wrong_password_retry",
		"account_failures = -2":                       "or -1 to let nobody wait",
		"network_failure = 3":                         "network_failures",
		"familiar_for = \"0s\"":                       "must be a time above 0",
		"spray_window = \"0s\"\n  spray_accounts = 1": "outside 2 to 64",
	} {
		if _, err := loadLogins(t, "lockout {\n  "+setting+"\n}\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", setting, err, want)
		}
	}
}

func TestPasswordsThatStandBeside(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"authn \"app-passwords\" {}":                                  "",
		"authn \"app-passwords\" { only_for = [\"imap\", \"smtp\"] }": "",
		"authn \"app-passwords\" { only_for = [\"ftp\"] }":            `"ftp" is no protocol`,
		"authn \"recovery\" { file = \"PASSWORDS\" }":                 "",
		"authn \"recovery\" {}":                                       `needs "file"`,
		"authn \"master\" { file = \"PASSWORDS\" }":                   `"directory" is missing`,
		"authn \"recovery\" {\n  file = \"PASSWORDS\"\n  separator = \"*\"\n  verifier_cache = \"offline-ok\"\n}": "nothing to remember",
		"authn \"file\" {\n  file = \"PASSWORDS\"\n  verifier_cache = \"offline-ok\"\n}":                          "nothing to remember",
		"authn \"ldif\" { verifier_cache = \"online-only\" }":                                                     "nothing to remember",
		"authn \"oauth\" { verifier_cache = \"online-only\" }":                                                    "takes no passwords",
		"authn \"gssapi\" { verifier_cache = \"online-only\" }":                                                   "takes no passwords",
		"authn \"oauth\" {\n  issuer = \"https://id.example.com\"\n  audiences = [\"postern\"]\n}":                "everybody whom the issuer names",
		"authn \"certificate\" { login_from = [\"common_name\"] }":                                                "everybody whom the authority names",
		"authn \"pam\" { verifier_cache = \"sometimes\" }":                                                        "verifier_cache",
		"authn \"pam\" { verifier_cache = \"online-only\" }":                                                      "",
		"verifier_cache { offline_for = \"30d\" }":                                                                "at most 7d",
		"verifier_cache { fresh_for = \"0s\" }":                                                                   "at least 1s",
		"verifier_cache { max_entries = 1 }":                                                                      "at least 100",
	} {
		_, err := loadLogins(t, text)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// What a verifier said is forgotten with the settings it said it under.
func TestAnotherServerSaidNothingYet(t *testing.T) {
	t.Parallel()
	named := func(uri, template string) string {
		f := &File{
			Directories: []*Directory{{Kind: DirectoryLDAP, Name: "corp", URIs: []string{uri}, Base: "dc=example"}},
			Authn:       []*Authn{{Kind: "ldap", Directory: "corp", DNTemplate: template}},
		}
		return f.RecalledAs(f.Authn[0])
	}
	seen := map[string]bool{named("ldaps://a", ""): true, named("ldaps://b", ""): true, named("ldaps://a", "uid={local}"): true}
	for _, a := range []*Authn{
		{Kind: "pam", Service: "postern"}, {Kind: "pam", Service: "mail"}, {Kind: "pam", Service: "postern", Services: []string{"imap=mail"}},
		{Kind: "pam", Service: "postern", ServiceDir: "/pam"}, {Kind: "pam", Service: "postern", Socket: "/helper"},
	} {
		seen[(&File{}).RecalledAs(a)] = true
	}
	if len(seen) != 8 {
		t.Errorf("%d names of 8 verifiers: %v", len(seen), seen)
	}
	if !seen[named("ldaps://a", "")] {
		t.Error("one verifier has two names")
	}
}
