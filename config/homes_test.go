package config

import (
	"maps"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

// TestHomes: which hosts pin an account to a node of a pair.
func TestHomes(t *testing.T) {
	t.Parallel()
	nobody := map[string]mail.Home{}
	addresses := map[string]mail.Home{"mail1.example.com": "mail1.example.com", "shared.example.com": "shared.example.com"}
	with := maps.Clone(addresses)
	with["old"] = "mail1.example.com"
	for settings, want := range map[string]map[string]mail.Home{
		"":                        nobody,
		`unknown_host = "domain"`: addresses,
		`host "old" { 
		   deliver = target.box1 
		   home = "Mail1.example.com" 
		 }`: with,
		`host "old" { deliver = target.relay }`: addresses,
	} {
		f, err := Load(write(t, map[string]string{"corp.ldif": "", "postern.hcl": strings.Replace(hosted, "SETTINGS", settings, 1)}))
		if err != nil {
			t.Fatalf("%s: %v", settings, err)
		}
		if got := f.DirectoryRoom(f.Directory("corp"), nil).Homes; got == nil || !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", settings, got, want)
		}
	}
	alone := strings.Replace(strings.Replace(hosted, `, "shared.example.com:24"`, "", 1), `"unix:/run/box2", `, "", 1)
	f, err := Load(write(t, map[string]string{"corp.ldif": "", "postern.hcl": strings.Replace(alone, "SETTINGS", "", 1)}))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.DirectoryRoom(f.Directory("corp"), nil).Homes; got != nil {
		t.Errorf("without partners anywhere recipients get homes: %v", got)
	}
	wrong := strings.Replace(hosted, "SETTINGS", `host "old" {
	  deliver = target.box1
	  home = "elsewhere.example.com"
	}`, 1)
	if _, err := Load(write(t, map[string]string{"corp.ldif": "", "postern.hcl": wrong})); err == nil || !strings.Contains(err.Error(), "Mail1.example.com:24") {
		t.Errorf("a home that is no node of the target: %v", err)
	}
}
