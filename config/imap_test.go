package config

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/imapd"
)

func TestMessageLimits(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]imapd.MessageLimits{
		"":                              {},
		"imap {}":                       {},
		"imap { message_limit = 5000 }": {Most: 5000},
		"imap {\n message_limit = 1000\n message_limit_enforced = 20000\n}":    {Most: 1000, Enforced: 20000},
		"imap {\n message_limit = 1000\n message_limit_commands = \"save\"\n}": {Most: 1000, SavesOnly: true},
	} {
		f, err := loadBackend(t, text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := f.Backend.messageLimits(); got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"imap { message_limit = 999 }":                                     "1000 at least",
		"imap { message_limit = -1 }":                                      "1000 at least",
		"imap { message_limit_enforced = 2000 }":                           "higher of the two",
		"imap {\n message_limit = 3000\n message_limit_enforced = 2000\n}": "higher of the two",
		"imap { message_limit_commands = \"save\" }":                       "needs a message_limit",
		"imap { message_limit_commands = \"most\" }":                       "message_limit_commands",
	} {
		if _, err := loadBackend(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestIMAPClients(t *testing.T) {
	t.Parallel()
	f, err := loadBackend(t, `imap {
	client "Outlook 2013" {
		match_name = "Microsoft Outlook*"
		match_version = "<16"
		workarounds = ["xlist", "idle_alive"]
		without = ["COMPRESS=DEFLATE", "special-use"]
	}
	client "all" { workarounds = ["delay_new_mail"] }
}`)
	if err != nil {
		t.Fatal(err)
	}
	rules := f.Backend.imapClients()
	if len(rules) != 2 || len(rules[0].Match) != 2 || rules[0].Match["version"] != "<16" || len(rules[0].Without) != 2 || len(rules[1].Match) != 0 {
		t.Errorf("rules %+v", rules)
	}
	for text, want := range map[string]string{
		"match_name = \"[x\"\n workarounds = [\"xlist\"]":     "is no pattern",
		"match_name = \"<16\"\n workarounds = [\"xlist\"]":    "only version and os-version",
		"match_os_version = \">=ten\"\n without = [\"MOVE\"]": "is no version",
		"workarounds = [\"xlists\"]":                          "Did you mean \"xlist\"",
		"without = [\"COMPRESS\"]":                            "no capability that clients can be without",
		"without = [\"IMAP4rev1\"]":                           "no capability that clients can be without",
		"without = [\"STARTTLS\"]":                            "no capability that clients can be without",
		"match_name = \"x\"":                                  "neither workarounds nor without",
	} {
		_, err := loadBackend(t, "imap {\nclient \"c\" {\n"+text+"\n}\n}")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "line ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
