package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
