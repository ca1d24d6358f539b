package config

import (
	"maps"
	"strings"
	"testing"

	"github.com/postern-mail/postern/delivery"
)

const hosted = `
hostname = "mx.example.com"
directory "ldif" "corp" {
  file = "$DIR/corp.ldif"
  base = "dc=example,dc=com"
  SETTINGS
}
gateway {
  listener "mx" { bind = [":25"] }
  domains "local" {
    names      = ["example.com"]
    recipients = directory.corp
    deliver    = target.box1
  }
  target "lmtp" "box1" { address = ["Mail1.example.com:24", "shared.example.com:24"] }
  target "lmtp" "box2" { address = ["unix:/run/box2", "shared.example.com:25"] }
  target "smtp" "relay" { address = ["relay.example.com:25"] }
}
`

// TestMailHosts: which hosts of accounts are known, and what becomes of mail
// for the others.
func TestMailHosts(t *testing.T) {
	t.Parallel()
	known := map[string]string{"box1": "box1", "box2": "box2", "mail1.example.com": "box1", "mx.example.com": ""}
	with := maps.Clone(known)
	with["mail2.example.com"] = "box2"
	for settings, want := range map[string]struct {
		hosts   map[string]string
		unknown string
	}{
		"":                         {nil, "domain"},
		`unknown_host = "domain"`:  {known, "domain"},
		`unknown_host = "connect"`: {known, "connect"},
		`host "Mail2.example.com" { deliver = target.box2 }`: {with, "defer"},
	} {
		f, err := Load(write(t, map[string]string{"corp.ldif": "", "postern.hcl": strings.Replace(hosted, "SETTINGS", settings, 1)}))
		if err != nil {
			t.Fatalf("%s: %v", settings, err)
		}
		room := f.DirectoryRoom(f.Directory("corp"), nil)
		if !maps.Equal(room.Hosts, want.hosts) || room.UnknownHost != want.unknown {
			t.Errorf("%s: %v, %s; want %v, %s", settings, room.Hosts, room.UnknownHost, want.hosts, want.unknown)
		}
	}
}

// TestLocalTarget: a directory that names next hops brings a target for them,
// unless there is one.
func TestLocalTarget(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		strings.Replace(hosted, "SETTINGS", "", 1):                                                                              0,
		strings.Replace(hosted, "SETTINGS", `transport_attribute = "mailTransport"`, 1):                                         1,
		strings.Replace(strings.Replace(hosted, "SETTINGS", `transport_attribute = "mailTransport"`, 1), `"box2"`, `"lmtp"`, 1): 1,
	} {
		f, err := Load(write(t, map[string]string{"corp.ldif": "", "postern.hcl": text}))
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, target := range f.Delivery().Targets {
			if target.Name == delivery.Local {
				found++
			}
		}
		if found != want {
			t.Errorf("%d targets for next hops of the directory, want %d", found, want)
		}
	}
}
