package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// limitsTogether is one of two gateways that count together.
var limitsTogether = strings.Replace(withPolicy(`
  quota "sales" {
    groups             = ["sales@example.com"]
    recipients_per_day = 1
  }
  quota "everybody" { recipients_per_day = 4 }
  peers {
    listen      = ["127.0.0.1:{{.Extra.Listen}}"]
    addresses   = ["127.0.0.1:{{.Extra.Peer}}"]
    secret_file = "{{.Extra.Secret}}"
  }
`), mxListener, `listener "mx" {
    bind = ["127.0.0.1:{{.Port.MX}}"]
    limits {
      client_message_rate_limit = 4
      rate_time_unit            = "1h"
      shared                    = true
    }
  }`, 1)

// TestGatewaysShareLimits: rates of clients and quotas of accounts are for both
// gateways together, and a group of the directory has a quota of its own.
func TestGatewaysShareLimits(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(testenv.TempDir(t), "peers.secret")
	testenv.Run(t, program, "replica", "keygen", secret)
	ports := [2]string{fmt.Sprint(testenv.FreePort(t)), fmt.Sprint(testenv.FreePort(t))}
	var both [2]*site
	for i := range both {
		both[i] = newSite(t, limitsTogether, map[string]string{"Listen": ports[i], "Peer": ports[1-i], "Secret": secret}).start()
	}
	a, b := both[0], both[1]
	waitForOutput(t, a, `peer 127.0.0.1:\d+ +connected`, "status")

	submit := func(s *site, login string, to ...string) string {
		return replyText(s.submit(login, ldif.Password(login), login+"@example.com", to, "shared"))
	}
	if got := submit(a, "alice", "bob@example.com", "carol@example.com", "bob@example.net"); got != "" {
		t.Fatalf("three of four: %q", got)
	}
	waitForOutput(t, b, `alice of company +1 +1 +3 +3`, "limits", "show", "alice")
	const exceeded = "450 4.7.1 Error: sending quota exceeded: "
	if got := submit(b, "alice", "bob@example.com", "carol@example.com"); !strings.HasPrefix(got, exceeded+"4 recipients in 1 day; try again in ") {
		t.Errorf("five of four at the other gateway: %q", got)
	}
	if got := submit(b, "alice", "bob@example.com"); got != "" {
		t.Errorf("the fourth at the other gateway: %q", got)
	}
	b.run("limits", "reset", "alice of company")
	testenv.Eventually(t, time.Minute, func() error {
		if got := submit(a, "alice", "bob@example.com"); got != "" {
			return fmt.Errorf("reset at the other gateway: %s", got)
		}
		return nil
	})
	if got := submit(a, "bob", "alice@example.com"); got != "" {
		t.Errorf("one of sales: %q", got)
	}
	waitForOutput(t, b, `bob of company +1 +1 +1 +1`, "limits", "show", "bob")
	for _, s := range both {
		if got := submit(s, "bob", "alice@example.com"); !strings.HasPrefix(got, exceeded+"1 recipients in 1 day") {
			t.Errorf("two of sales: %q", got)
		}
	}

	to := []string{"bob@example.com"}
	for i := range 4 {
		if got := replyText(a.inject("x@far.example", to, "rate")); got != "" {
			t.Fatalf("message %d of 4: %q", i, got)
		}
	}
	waitForOutput(t, b, `rates 1h0m0s +[1-9]\d* entries`, "status")
	taken, told := 0, ""
	for told == "" && taken < 4 { // alone it would take four
		if told = replyText(b.inject("x@far.example", to, "rate")); told == "" {
			taken++
		}
	}
	if !strings.HasPrefix(told, "450 4.7.1 Error: too much mail from 127.0.0.1; try again in ") {
		t.Errorf("%d were taken, then %q", taken, told)
	}
}
