package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/foreign"
)

const aMirror = `
hostname = "mail.example.com"
data_dir = "DIR"
mirror "m" {
  left {
    uri           = "imap://localhost:1143"
    user          = "master"
    password_file = "DIR/password"
  }
  right {
    uri         = "imaps://new.example.com"
    logins_file = "DIR/logins"
  }
  accounts_file = "DIR/accounts"
  accounts      = ["carol"]
}
`

// mirrorFile loads a configuration with files beside it.
func mirrorFile(t *testing.T, text string) (*File, error) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"password": "secret\r\nnot this\n", "logins": "# people\nanna@new:a:b\nbob:x\n", "accounts": "# comment\n\nanna anna@old anna@new\nbob\n",
		"postern.hcl": strings.ReplaceAll(text, "DIR", dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Load(filepath.Join(dir, "postern.hcl"))
}

func TestMirror(t *testing.T) {
	t.Parallel()
	f, err := mirrorFile(t, aMirror)
	if err != nil {
		t.Fatal(err)
	}
	all, err := f.ForeignMirrors()
	if err != nil || len(all) != 1 {
		t.Fatalf("%d mirrors, %v", len(all), err)
	}
	m := all[0]
	l, r := m.Servers[foreign.Left], m.Servers[foreign.Right]
	if l.Address != "localhost:1143" || l.Protection != foreign.StartTLS || l.Password != "secret" || l.TLS.ServerName != "localhost" ||
		r.Address != "new.example.com:993" || r.Protection != foreign.ImplicitTLS || r.Password != "" || m.MaxDeletions != 30 || m.Direction != foreign.Both {
		t.Errorf("%+v", m)
	}
	accounts, err := m.Accounts(t.Context())
	want := []foreign.Account{
		{Name: "carol", Logins: [2]foreign.Login{{Name: "carol"}, {Name: "carol"}}},
		{Name: "anna", Logins: [2]foreign.Login{{Name: "anna@old"}, {Name: "anna@new", Password: "a:b"}}},
		{Name: "bob", Logins: [2]foreign.Login{{Name: "bob"}, {Name: "bob", Password: "x"}}},
	}
	if err != nil || len(accounts) != len(want) {
		t.Fatalf("%+v, %v", accounts, err)
	}
	for i := range want {
		if accounts[i] != want[i] {
			t.Errorf("%+v, want %+v", accounts[i], want[i])
		}
	}
}

func TestMirrorMistakes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ from, to, want string }{
		"scheme":           {"imaps://new", "https://new", "begins neither with imaps://"},
		"a path":           {"imaps://new.example.com", "imaps://new.example.com/x", "is not like imaps://"},
		"in the clear":     {`uri           = "imap://localhost:1143"`, "uri = \"imap://192.0.2.1\"\nallow_plaintext = true", "would go to 192.0.2.1 as they are"},
		"no login":         {`logins_file = "DIR/logins"`, "", "How does the mirror get into the accounts?"},
		"two logins":       {`logins_file = "DIR/logins"`, "logins_file = \"DIR/logins\"\nuser = \"x\"\npassword_file = \"DIR/password\"", "exclude each other"},
		"no password":      {`    password_file = "DIR/password"`, "", "user needs password_file"},
		"no such file":     {"DIR/logins", "DIR/nothing", "logins_file"},
		"nobody":           {"  accounts_file = \"DIR/accounts\"\n  accounts      = [\"carol\"]\n", "", "Whose mail is it?"},
		"a wrong pattern":  {"accounts_file", "exclude = [\"[\"]\n  accounts_file", "is no pattern"},
		"too much":         {"accounts_file", "max_deletions = 101\n  accounts_file", "between 0 and 100"},
		"one side":         {"right {", "left {", "right"},
		"no time":          {"accounts_file", "poll_interval = \"1ms\"\n  accounts_file", "poll_interval is at least 1s"},
		"no place":         {"accounts_file", "max_accounts = 0\n  accounts_file", "max_accounts is at least 1"},
		"an unknown thing": {"accounts_file", "acounts = []\n  accounts_file", "acounts"},
	} {
		text := strings.Replace(aMirror, c.from, c.to, 1)
		if text == aMirror {
			t.Errorf("%s: nothing was replaced", name)
		}
		if _, err := mirrorFile(t, text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestAccountsOfAMirror(t *testing.T) {
	t.Parallel()
	m := &Mirror{Left: &MirrorSide{}, Right: &MirrorSide{}}
	for text, want := range map[string]string{"a b c d\n": ":1: ", "a\na\n": "listed twice", strings.Repeat("x", 5000) + "\n": "too long"} {
		m.AccountsFile = filepath.Join(t.TempDir(), "accounts")
		if err := os.WriteFile(m.AccountsFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := m.accounts(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
}
