package config

import (
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/policy/milter"
)

const milterGateway = `
gateway {
  listener "mx" { bind = ["127.0.0.1:0"] }
  milter "dkim" {
    address         = "inet:8891@localhost"
    on_error        = "accept"
    content_timeout = "10s"
    macros          = ["daemon_name=ORIGINATING", "{empty}="]
    local_clients   = "unix"
    max_idle        = 4
  }
  milter "clamav" { address = "unix:/run/clamav/milter.sock" }
  policy "content" {
    milter { use = milter.dkim }
    milter {
      use      = "milter.clamav"
      on_error = "hold"
    }
  }
}
`

func TestMilters(t *testing.T) {
	t.Parallel()
	f, err := loadText(t, `hostname = "mx.example.com"`+milterGateway)
	if err != nil {
		t.Fatal(err)
	}
	all, err := f.Milters()
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	m := all[0]
	if m.Network != "tcp" || m.Address != "localhost:8891" || m.OnError != milter.Accept || m.ContentTimeout != 10*time.Second ||
		m.CommandTimeout != 30*time.Second || !m.LocalAsUnix || m.MaxIdle != 4 || m.Protocol != 6 || m.Hostname != "mx.example.com" {
		t.Errorf("%+v", m)
	}
	if v, ok := m.Macros["empty"]; len(m.Macros) != 2 || m.Macros["daemon_name"] != "ORIGINATING" || !ok || v != "" {
		t.Errorf("macros %q", m.Macros)
	}
	if all[1].OnError != milter.TempFail || all[1].MaxIdle != 0 || all[1].ContentTimeout != 300*time.Second {
		t.Errorf("%+v", all[1])
	}
}

func TestWrongMilters(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`milter "a" {}`:                                                 `"address" is required here`,
		`milter "a" { address = "run/x" }`:                              "is neither unix:/PATH nor inet:HOST:PORT",
		`milter "a" { address = "unix:run/x" }`:                         `the socket "run/x" is no absolute path`,
		`milter "a" { address = "unix:/x" protocol = 7 }`:               "use 2 to 6",
		`milter "a" { address = "unix:/x" on_error = "reject" }`:        `on_error is "reject"`,
		`milter "a" { address = "unix:/x" macros = ["j"] }`:             "is not NAME=VALUE",
		`policy "content" { milter { use = milter.b } }`:                `no milter block named "b"`,
		`policy "content" { milter { use = "milter.b" } }`:              `no milter block "b"`,
		`policy "content" { milter {} }`:                                `it needs use = "milter.NAME"`,
		`policy "content" { milter { use = "x" timeout = "1s" } }`:      `does not know the setting "timeout"`,
		`policy "content" { rspamd {} }`:                                `it needs url`,
		`policy "content" { rspamd { url = "127.0.0.1:11333" } }`:       `is neither http://HOST:PORT`,
		`policy "sender" { rspamd { url = "http://127.0.0.1:11333" } }`: "move it to the content list",
		`milter "a" { address = "unix:/x" }
		 milter "a" { address = "unix:/y" }`: "There is a milter \"a\" already",
		`milter "a" { address = "unix:/x" }
		 policy "sender" { milter { use = milter.a } }`: "move it to the content list",
		`milter "a" { address = "unix:/x" }
		 policy "content" { milter { use = milter.a on_error = "accept" } }`: `on_error of milter is "accept"`,
	} {
		in = strings.ReplaceAll(in, ` protocol`, "\nprotocol")
		for _, word := range []string{"on_error", "macros", "timeout"} {
			in = strings.ReplaceAll(in, " "+word, "\n"+word)
		}
		in = strings.ReplaceAll(strings.ReplaceAll(in, "{ ", "{\n"), " }", "\n}")
		_, err := loadText(t, "hostname = \"mx.example.com\"\ngateway {\nlistener \"mx\" {\nbind = [\"127.0.0.1:0\"]\n}\n"+in+"\n}\n")
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
			t.Errorf("%s\ngot  %v\nwant %s", in, err, want)
		}
	}
}

// loadText loads a configuration of one file.
func loadText(t *testing.T, text string) (*File, error) {
	t.Helper()
	return Load(write(t, map[string]string{"postern.hcl": text}))
}
