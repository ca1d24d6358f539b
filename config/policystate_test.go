package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/policy/greylist"
)

func TestPolicyState(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("s", 40)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := loadWith(t, `
greylist {
  delay     = "10m"
  ipv4_bits = 32
}
peers {
  addresses   = ["mx2.example.com:7025"]
  secret_file = "`+secret+`"
}
policy_service "grey" { address = "inet:127.0.0.1:10023" }
policy_server "postfix" {
  bind     = ["unix:/run/postern/policy"]
  listener = "mx"
}
policy "client" {
  check_greylist { delay = "1m" }
  check_policy_service { service = policy_service.grey }
  check_policy_service {
    address        = "unix:/run/x"
    default_action = "DUNNO"
  }
}
`, "")
	if err != nil {
		t.Fatal(err)
	}
	room := f.Gateway.GreylistRoom()
	if room.Delay != 10*time.Minute || room.IPv4Bits != 32 || room.AutoAllow != 5 || !room.Header || len(room.Pools) != len(greylist.DefaultPools()) {
		t.Errorf("%+v", room)
	}
	peers, err := f.Gateway.Peers.Room()
	if err != nil || len(peers.Secret) != 40 || len(peers.Addresses) != 1 {
		t.Errorf("%+v, %v", peers, err)
	}
	if s := f.Gateway.Services()["grey"]; s.Timeout != 20*time.Second || s.MaxTTL != 1000*time.Second || s.Tries != 2 {
		t.Errorf("%+v", s)
	}
}

func TestWrongPolicyState(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`greylist { window = "1m" }`:                                                     "nobody would ever pass",
		`greylist { max_entries = 5 }`:                                                   "at least 1000",
		`peers { listen = [":7025"] }`:                                                   `"secret_file" is required`,
		"peers {\nsecret_file = \"/no/such\"\n}":                                         "need a way to each other",
		"peers {\nlisten = [\":7025\"]\nsecret_file = \"/no/such\"\n}":                   "secret_file",
		"peers {\naddresses = [\"mx2\"]\nsecret_file = \"/no/such\"\n}":                  "is not host:port",
		`policy_service "a" { address = "127.0.0.1:1" }`:                                 "neither unix:/PATH nor inet:HOST:PORT",
		`policy_service "a" {}`:                                                          `"address" is required`,
		"policy_service \"a\" {\naddress = \"unix:/x\"\ndefault_action = \"PERHAPS\"\n}": "is no action",
		"policy_server \"a\" {\nbind = [\"unix:/x\"]\nlistener = \"other\"\n}":           `no listener "other"`,
		"policy \"client\" {\ncheck_greylist { delay = \"soon\" }\n}":                    "is no time",
		"policy \"client\" {\ncheck_policy_service {}\n}":                                "it needs service",
		"policy \"client\" {\ncheck_policy_service { service = \"a\" }\n}":               "no block policy_service",
	} {
		if _, err := loadWith(t, in+"\n", ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}
