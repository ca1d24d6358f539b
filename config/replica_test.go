package config

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/replica/link"
)

// paired is a sound configuration whose backend has the settings.
func paired(t *testing.T, settings string) string {
	t.Helper()
	text := strings.Replace(sound, "backend {\n", "backend {\n"+settings+"\n", 1)
	return write(t, map[string]string{
		"postern.hcl": text, "people.ldif": "", "senders": "", "pair.secret": link.NewSecret() + "\n", "weak.secret": "hunter2\n",
	})
}

const goodPin = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

func TestReplica(t *testing.T) {
	t.Parallel()
	f, err := Load(paired(t, `node = 1
	replica {
	  pair = "cell 1"
	  partner = "mail1.example.com:7024"
	  listen = "127.0.0.1:7024"
	  partner_pin = "`+goodPin+`"
	  accounts "*@bank.example" { durability = "strict" }
	  accounts "*" { durability = "async" }
	  journal_retention = "30d"
	  home = "node1"
	}`))
	if err != nil {
		t.Fatal(err)
	}
	r := f.Backend.Replica
	for account, want := range map[string]string{"kim@bank.example": "strict", "kim": "async"} {
		if got := r.DurabilityOf(account); got != want {
			t.Errorf("%s: %s, want %s", account, got, want)
		}
	}
	if c := f.Backend.Room(); c.Node != 1 || c.JournalRetention != 30*24*time.Hour || c.Home == nil || *c.Home != 1 {
		t.Errorf("mailboxes %+v", c)
	}
	l := r.Link(f)
	if l.Node != 1 || l.Pair != "cell 1" || l.Partner != "mail1.example.com:7024" || len(l.Pins) != 1 || l.Pins[0].String() != goodPin || l.DeadAfter != 3*time.Second {
		t.Errorf("link %+v", l)
	}
	if !r.Same(r) || r.Same(nil) || !(*Replica)(nil).Same(nil) {
		t.Error("Same")
	}
}

// TestReplicaSettings: what differs between the servers is seen, however long.
func TestReplicaSettings(t *testing.T) {
	t.Parallel()
	settings := func(accounts ...string) []link.Setting {
		var blocks strings.Builder
		for _, mask := range accounts {
			fmt.Fprintf(&blocks, "accounts %q { durability = \"strict\" }\n", mask)
		}
		f, err := Load(paired(t, "node = 0\nreplica {\n partner = \"b:1\"\n secret_file = \"$DIR/pair.secret\"\n"+blocks.String()+"}"))
		if err != nil {
			t.Fatal(err)
		}
		return f.Backend.Replica.Link(f).Settings
	}
	var long []string
	for i := range 30 {
		long = append(long, fmt.Sprintf("a-rather-long-name-of-account-%d", i))
	}
	for name, pair := range map[string][2][]string{"one": {{"a"}, {"b"}}, "the end of many": {append(long[:30:30], "x"), append(long[:30:30], "y")}} {
		if d := (link.Peer{Settings: settings(pair[0]...)}).Differences(settings(pair[1]...)); len(d) != 1 || !strings.HasPrefix(d[0], "backend.replica.accounts") {
			t.Errorf("%s: %q", name, d)
		}
	}
	if d := (link.Peer{Settings: settings("a", "b")}).Differences(settings("a", "b")); len(d) != 0 {
		t.Errorf("the same: %q", d)
	}
}

// TestReplicaMistakes: each is told with what to write instead.
func TestReplicaMistakes(t *testing.T) {
	t.Parallel()
	const partner, secret = "partner = \"mail2.example.com:7024\"\n", "secret_file = \"$DIR/pair.secret\"\n"
	for name, row := range map[string]struct{ node, replica, want string }{
		"node":              {"node = 2", partner + secret, "node is 0 or 1"},
		"negative node":     {"node = -1", partner + secret, "node"},
		"no node":           {"", partner + secret, "write node = 0 on one server"},
		"no way":            {"node = 0", secret, `"partner", such as`},
		"no key":            {"node = 0", partner, "postern replica keygen"},
		"both keys":         {"node = 0", partner + secret + "partner_pin = \"" + goodPin + "\"\n", "exclude each other"},
		"weak secret":       {"node = 0", partner + "secret_file = \"$DIR/weak.secret\"\n", "at least 32"},
		"absent secret":     {"node = 0", partner + "secret_file = \"$DIR/no.secret\"\n", "no such file"},
		"bad pin":           {"node = 0", partner + "partner_pin = \"sha256:12\"\n", "64 hexadecimal digits"},
		"no port":           {"node = 0", "partner = \"mail2.example.com\"\n" + secret, "mail2.example.com:7024"},
		"no host":           {"node = 0", "partner = \":7024\"\n" + secret, "is not host:port"},
		"itself":            {"node = 0", "partner = \"127.0.0.1:7024\"\nlisten = \"127.0.0.1:7024\"\n" + secret, "listens itself"},
		"socket":            {"node = 0", "listen = \"unix:/run/x\"\n" + secret, "host:port only"},
		"half a key pair":   {"node = 0", partner + secret + "cert_file = \"$DIR/people.ldif\"\n", "go together"},
		"mode":              {"node = 0", partner + secret + "durability = \"semisync\"\n", "semi-sync"},
		"mode of accounts":  {"node = 0", partner + secret + "accounts \"*\" {}\n", "durability"},
		"empty mask":        {"node = 0", partner + secret + "accounts \"\" { durability = \"strict\" }\n", "mask is empty"},
		"fast heartbeat":    {"node = 0", partner + secret + "heartbeat = \"1ms\"\n", "at least 100ms"},
		"impatient":         {"node = 0", partner + secret + "dead_after = \"1s\"\n", "at least twice heartbeat"},
		"too patient":       {"node = 0", partner + secret + "sync_timeout = \"5m\"\n", "at most"},
		"short retention":   {"node = 0", partner + secret + "journal_retention = \"1s\"\n", "at least 1h"},
		"home of elsewhere": {"node = 0", partner + secret + "home = \"mail1\"\n", "node0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Load(paired(t, row.node+"\nreplica {\n"+row.replica+"}"))
			if err == nil || !strings.Contains(strings.Join(strings.Fields(err.Error()), " "), row.want) {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the secret is shown: %v", err)
			}
		})
	}
}
