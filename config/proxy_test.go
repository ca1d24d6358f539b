package config

import (
	"strings"
	"testing"
)

const proxyHead = `
hostname = "imap.example.com"
directory "ldif" "company" {
  file = "$DIR/people.ldif"
  base = "dc=example,dc=com"
}
authn "ldif" { directory = directory.company }
`

// loadProxy loads a configuration with a proxy block.
func loadProxy(t *testing.T, block string) error {
	t.Helper()
	_, err := Load(write(t, map[string]string{"postern.hcl": proxyHead + "proxy {\n" + block + "\n}\n", "people.ldif": ""}))
	return err
}

// TestCellsSayWhereEachProtocolIs: a cell needs an address by every protocol
// that the proxy listens for, and no other.
func TestCellsSayWhereEachProtocolIs(t *testing.T) {
	t.Parallel()
	const (
		imap  = "listener \"imap\" {\n bind = [\":143\"]\n allow_plaintext_auth = true\n}\n"
		pop3  = "listener \"pop3\" {\n bind = [\":110\"]\n allow_plaintext_auth = true\n}\n"
		login = " user = \"proxy\"\n password_file = \"/dev/null\"\n}\n"
	)
	cell := func(lines string) string { return "cell \"main\" {\n" + lines + "\n" + login }
	const byIMAP, byPOP3 = `address = ["mail1.example.com:143"]`, `pop3_address = ["mail2.example.com:110"]`
	for _, tt := range []struct{ block, want string }{
		{imap + cell(byIMAP), ""},
		{pop3 + cell(byPOP3), ""},
		{imap + pop3 + cell(byIMAP+"\n"+byPOP3), ""},
		{imap + cell(byPOP3), "does not say by address where"},
		{pop3 + cell(byIMAP), "does not say by pop3_address where"},
		{imap + cell(""), "needs to know where to connect"},
		{pop3 + cell(`pop3_address = ["a:1", "b:1", "c:1"]`), "one server or the two of a pair"},
		{pop3 + cell(`pop3_address = ["a"]`), "pop3_address"},
		{strings.Replace(imap, `"imap"`, `"lmtp"`, 1) + cell(byIMAP), "imap, imaps, pop3 or pop3s"},
	} {
		switch err := loadProxy(t, tt.block); {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.block, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.block, err, tt.want)
		}
	}
}

// TestProxyWaitsForMaildrops: a server may keep a POP3 login waiting for a
// session before it, and the proxy waits longer than any server of ours does.
func TestProxyWaitsForMaildrops(t *testing.T) {
	t.Parallel()
	room, err := (&Cell{Name: "main", POP3Address: []string{"mail1.example.com:110"}}).Room(KindPOP3)
	if err != nil || room.LoginTimeout <= maxInUseWait || room.Addresses[0] != "mail1.example.com:110" {
		t.Errorf("%+v, %v", room, err)
	}
}
