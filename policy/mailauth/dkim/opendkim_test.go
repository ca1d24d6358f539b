package dkim

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// TestAgainstOpenDKIM has the real OpenDKIM verify what we signed, and sees it
// refuse the same with a change.
func TestAgainstOpenDKIM(t *testing.T) {
	t.Parallel()
	program := testenv.Program(t, "opendkim")
	dir := testenv.TempDir(t)
	put := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	records := put("dns", "rsa._domainkey.example.com "+recordOf(t, rsaKey())+"\n")
	conf := put("conf", "Mode v\nSyslog no\nTestDNSData "+records+"\nTemporaryDirectory "+dir+"\n")
	const header = "Date: Fri, 11 Jul 2003 21:00:37 -0700\r\nFrom: a@example.com\r\nSubject: a\t b\r\n  c \r\nTo: b@example.net\r\n\r\n"
	fields, _ := split(header)
	for i, body := range []string{"hello\r\n", "a  b\t c \r\n\r\n x\r\n\r\n\r\n", "caf\xc3\xa9 \t\r\n", strings.Repeat("a line of a letter\r\n", 10000)} {
		for j, opts := range []Options{{}, {SimpleHeader: true, SimpleBody: true}} {
			made, err := newSigner(t, opts).Sign(fields, strings.NewReader(body), "", newKey(t, "example.com", "rsa", rsaKey()))
			if err != nil {
				t.Fatal(err)
			}
			for _, change := range []string{"", "x\r\n"} {
				message := put(fmt.Sprintf("m%d%d%d", i, j, len(change)), string(made[0])+"\r\n"+header+body+change)
				out, err := exec.Command(program, "-x", conf, "-t", message).CombinedOutput()
				if good := err == nil && strings.Contains(string(out), "verification (s=rsa, d=example.com, 2048-bit key") && strings.Contains(string(out), "succeeded"); good != (change == "") {
					t.Errorf("%+v of %.40q with %q: %v %s", opts, body, change, err, out)
				}
			}
		}
	}
}
