package config

import (
	"strings"
	"testing"
)

func TestDNSLists(t *testing.T) {
	t.Parallel()
	load := func(block string) (*File, error) {
		return Load(write(t, map[string]string{
			"postern.hcl": strings.Replace(tabled, "gateway {", "gateway {\n"+block, 1), "virtual": "", "aliases": "", "key": "s3cret\n", "bad": "not a key\n",
		}))
	}
	f, err := load(`  default_rbl_reply = "$rbl_code No, $rbl_what"
  dns_list "Zen.Example" {
    key_file = "$DIR/key"
    refusals = "127.0.0.1"
    test     = false
    code     = 550
  }
  policy "client" {
    reject_rbl_client { list = "zen.example=127.0.0.[2..11]" }
    dns_score {
      lists  = ["zen.example*3", "wl.example*-4"]
      reject = "3"
    }
  }
`)
	if err != nil {
		t.Fatal(err)
	}
	room, err := f.Gateway.DNSListsRoom()
	if err != nil || len(room.Lists) != 1 {
		t.Fatalf("%+v, %v", room, err)
	}
	if l := room.Lists[0]; l.Domain != "zen.example" || l.Key != "s3cret" || !l.Untested || l.Code != 550 || l.Refusals == nil || l.Timeout == 0 {
		t.Errorf("%+v", l)
	}
	for block, want := range map[string]string{
		`dns_list "a b" {}`:                                                                        "is not the domain of a list",
		`dns_list "a.example=127.0.0.2" {}`:                                                        "is not the domain of a list",
		"dns_list \"a.example\" {}\n dns_list \"A.example\" {}":                                    "described twice",
		`dns_list "a.example" { refusals = "127.0.0.x" }`:                                          "not an octet",
		`dns_list "a.example" { code = 250 }`:                                                      "4NN or 5NN",
		`dns_list "a.example" { timeout = "2h" }`:                                                  "at most a minute",
		`dns_list "a.example" { key_file = "/no/such" }`:                                           "no such file",
		`dns_list "a.example" { key_file = "$DIR/bad" }`:                                           "no key that can stand",
		`dns_list "a.example" { reply = "hello" }`:                                                 "does not begin with a code",
		`default_rbl_reply = "554 $nosuch"`:                                                        "no macro $nosuch",
		"policy \"client\" {\nreject_rbl_client {}\n}":                                             "needs one list",
		"policy \"client\" {\nreject_rbl_client { list = \"x*2\" }\n}":                             "has a weight",
		"delay_reject = false\npolicy \"client\" {\nreject_rhsbl_helo { list = \"x.example\" }\n}": "before the client has said",
	} {
		if _, err := load(block + "\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", block, err, want)
		}
	}
}

// TestAsksNames: names of clients are looked up where a restriction wants them.
func TestAsksNames(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string]bool{
		"":                                  false,
		"reject_unknown_client_hostname {}": true,
		"reject_rhsbl_client { list = \"x.example\" }": true,
		"reject_rbl_client { list = \"x.example\" }":   false,
	} {
		f, err := Load(write(t, map[string]string{
			"postern.hcl": strings.Replace(tabled, "gateway {", "gateway {\n policy \"client\" {\n"+policy+"\n}", 1), "virtual": "", "aliases": "",
		}))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range f.Gateway.Listeners {
			if got := l.Room(f, nil).LookupHostname != nil; l.Mode == ModeMX && got != want {
				t.Errorf("%s: %v", policy, got)
			}
		}
	}
}
