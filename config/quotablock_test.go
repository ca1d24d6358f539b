package config

import (
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/limits"
	"github.com/postern-mail/postern/smtp"
)

// TestQuotaBlock: what stands there is what counts.
func TestQuotaBlock(t *testing.T) {
	t.Parallel()
	f, err := withLimits(t, `quota "students" {
  groups = ["Students@example.com"]
  recipients_per_day = 50
  over_quota = "hold"
}
quota "everybody" {
  messages_per_hour = 7
  except = ["root"]
}`, "")
	if err != nil {
		t.Fatal(err)
	}
	all := f.Quotas()
	if len(all) != 2 || all[0].Groups[0] != (mail.Address{Local: "Students", Domain: "example.com"}) || all[0].Most[limits.RecipientsDay] != 50 || !all[0].Hold ||
		all[1].Most[limits.MessagesHour] != 7 || all[1].Except[0] != "root" || all[1].Hold {
		t.Errorf("quotas %+v", all)
	}
}

// TestQuotaMistakes are told with their place and what to write.
func TestQuotaMistakes(t *testing.T) {
	t.Parallel()
	const enough = "\nrecipients_per_day = 5"
	for block, want := range map[string]string{
		`groups = ["students"]` + enough:                   "write the address of a group",
		`groups = ["students@elsewhere.example"]` + enough: `No directory knows the groups of "elsewhere.example"`,
		`attribute = "shoeSize"` + enough:                  `No directory has "shoeSize" among its policy_attributes`,
		`recipients_per_day_attribute = "maxMail"`:         `No directory has "maxMail" among its policy_attributes`,
		`values = ["x"]` + enough:                          `values needs "attribute"`,
		"messages_per_hour = -1":                           "messages_per_hour is -1; write a number above 0",
		"":                                                 "The last quota bounds nothing",
		enough + "\n}\nquota \"x\" {" + enough:             `The quota "x" is defined twice`,
		`over_quota = "bounce"` + enough:                   "over_quota",
		"recipients_per_day = 5\nrecipients_per_week = 9":  "recipients_per_week",
	} {
		if _, err := withLimits(t, "quota \"x\" {\n"+block+"\n}", ""); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), " line ") {
			t.Errorf("%s: %v", block, err)
		}
	}
}

// TestPregreetBlock: what stands there is what the server does, and mistakes are
// told.
func TestPregreetBlock(t *testing.T) {
	t.Parallel()
	f, err := withLimits(t, "", `pregreet { action = "drop" }`)
	if err != nil {
		t.Fatal(err)
	}
	if c := f.Gateway.Listeners[0].Room(f, nil); c.Pregreet != smtp.PregreetDrop || c.GreetDelay != 6*time.Second || !c.Teaser {
		t.Errorf("%v after %v, teaser %t", c.Pregreet, c.GreetDelay, c.Teaser)
	}
	for block, want := range map[string]string{
		`pregreet { action = "tempfail" }`:   `"ignore", "enforce"`,
		`pregreet { wait = "10ms" }`:         "wait is 10ms; it is from 100ms to 1m",
		`pregreet { wait = "2m" }`:           "wait is 2m; it is from 100ms to 1m",
		`pregreet { remember = "-1s" }`:      "remember",
		`pregreet { greet_wait = "6s" }`:     "greet_wait",
		"mode = \"submission\"\npregreet {}": "pregreet is for listeners of mode mx",
	} {
		if _, err := withLimits(t, "", block); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), " line ") {
			t.Errorf("%s: %v", block, err)
		}
	}
}

// TestProxyProtocolMistakes are told.
func TestProxyProtocolMistakes(t *testing.T) {
	t.Parallel()
	for block, want := range map[string]string{
		`proxy_protocol {}`:                                                 "networks",
		`proxy_protocol { networks = [] }`:                                  "networks names none: nobody could connect",
		`proxy_protocol { networks = ["0.0.0.0/0"] }`:                       "networks holds every address",
		`proxy_protocol { networks = ["192.0.2.1/8"] }`:                     "bits behind its mask",
		"proxy_protocol {\nnetworks = [\"192.0.2.1\"]\ntimeout = \"1h\"\n}": "timeout is 1h; it is from 100ms to 1m",
		"proxy_protocol {\nnetworks = [\"192.0.2.1\"]\nversion = 2\n}":      "version",
	} {
		if _, err := withLimits(t, "", block); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), " line ") {
			t.Errorf("%s: %v", block, err)
		}
	}
}
