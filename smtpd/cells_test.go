package smtpd

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/dnsbl"
	"github.com/postern-mail/postern/policy/verify"
)

// The cells of a restriction: what may come of asking it.
const (
	cellHit     = "hit"
	cellMissed  = "missed"
	cellFails   = "SERVFAIL"
	cellSilent  = "timeout"
	cellOutages = "table error"
)

// coverage is which cells of which restrictions dialogues went through.
type coverage struct {
	mu    sync.Mutex
	cells map[string]map[string]bool
}

func (c *coverage) add(restriction, cell string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cells[restriction] == nil {
		c.cells[restriction] = make(map[string]bool)
	}
	c.cells[restriction][cell] = true
}

// walked takes in what a dialogue went through; its name says what the DNS did.
func (c *coverage) walked(dialogue string) func(*mail.Transaction, []policy.Step, mail.Decision) {
	return func(_ *mail.Transaction, steps []policy.Step, _ mail.Decision) {
		for _, s := range steps {
			name := strings.TrimPrefix(s.Stage, "warn_if_reject ")
			switch {
			case dialogue == cellFails || dialogue == cellSilent:
				c.add(name, dialogue)
			case s.Err != nil:
				c.add(name, cellOutages)
			case s.Action == mail.Dunno:
				c.add(name, cellMissed)
			default:
				c.add(name, cellHit)
			}
		}
	}
}

// asksNoDNS are the restrictions whose answer no name server can delay.
func asksNoDNS(name string) bool {
	return !slices.Contains(dnsbl.Names(), name) && !strings.Contains(name, "unverified") && !strings.HasPrefix(name, "reject_unknown_") &&
		!strings.HasSuffix(name, "_a_access") && !strings.HasSuffix(name, "_mx_access") && !strings.HasSuffix(name, "_ns_access") && name != "permit_mx_backup"
}

// asksTables are the restrictions that look something up in what may be out of
// order, beside the DNS.
func asksTables(name string) bool {
	return strings.HasPrefix(name, "check_") || strings.Contains(name, "login_mismatch") || name == "permit_tls_clientcerts" || strings.Contains(name, "unlisted")
}

// inapplicable are the cells that a restriction does not have, or that are not
// seen in dialogues of these scenes, and why.
var inapplicable = map[string]string{
	"permit: missed":                      "it always decides",
	"reject: missed":                      "it always decides",
	"defer: missed":                       "it always decides",
	"defer_if_permit: missed":             "it always decides",
	"defer_if_reject: missed":             "it always decides",
	"sleep: hit":                          "it never decides",
	"warn_if_reject: hit":                 "it goes with the restriction behind it",
	"warn_if_reject: missed":              "it goes with the restriction behind it",
	"reject_unauth_pipelining: hit":       "dialogues wait for each reply; see the tests of policy and smtp",
	"permit_mx_backup: hit":               "no mail host of the zone is this machine; see the tests of policy",
	"permit_mx_backup: missed":            "the same",
	"permit_mx_backup: SERVFAIL":          "the same",
	"permit_mx_backup: timeout":           "the same",
	"permit_account: hit":                 "Postfix knows no accounts; see the tests of policy",
	"permit_account: missed":              "the same",
	"reject_account: hit":                 "the same",
	"reject_account: missed":              "the same",
	"reject_header_from_mismatch: hit":    "Postfix does not look at the field; see the tests of policy",
	"reject_header_from_mismatch: missed": "the same",
}

// TestEveryRestrictionIsPlayed: for each restriction that a list may hold there
// are dialogues in testdata in which it hit and missed, in which the DNS failed
// and was silent, and in which its table was out of order, as far as it has any.
func TestEveryRestrictionIsPlayed(t *testing.T) {
	t.Parallel()
	seen := &coverage{cells: make(map[string]map[string]bool)}
	server := dnstest.New(t)
	zone(t, server)
	scenes, _ := readScenes(t)
	t.Run("scenes", func(t *testing.T) {
		for _, s := range scenes {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				ours := s.ours
				ours.walked = seen.walked("")
				in := ours.standIn(t)
				for _, r := range s.sessions {
					r.withUs(t, in)
				}
			})
		}
		for _, s := range readDNSScenes(t) {
			for _, r := range s.sessions {
				t.Run(s.name+"/"+r.name, func(t *testing.T) {
					t.Parallel()
					own := *s.replayScene
					own.ours.walked = seen.walked(r.name)
					dnsScene{replayScene: &own}.withUs(t, r, server)
				})
			}
		}
	})
	unused := maps.Clone(inapplicable)
	for _, name := range slices.Concat(policy.Names(), dnsbl.Names(), []string{verify.Sender, verify.Recipient}) {
		wanted := []string{cellHit, cellMissed}
		if !asksNoDNS(name) {
			wanted = append(wanted, cellFails, cellSilent)
		}
		if asksTables(name) {
			wanted = append(wanted, cellOutages)
		}
		for _, cell := range wanted {
			_, excused := inapplicable[name+": "+cell]
			delete(unused, name+": "+cell)
			if seen.cells[name][cell] == excused {
				t.Errorf("%s: %s: played %t, excused %t", name, cell, seen.cells[name][cell], excused)
			}
		}
	}
	for what := range unused {
		t.Errorf("excused is what no restriction has: %s", what)
	}
}
