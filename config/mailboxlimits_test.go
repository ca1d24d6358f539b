package config

import (
	"strings"
	"testing"
)

func TestMailboxLimits(t *testing.T) {
	t.Parallel()
	f, err := loadBackend(t, `mailbox_limits {
	name_octets = 200
	level_octets = 80
	depth = 4
	mailboxes = 50
	subscriptions = 60
	keywords = 70
	refused_characters = "~#"
}`)
	if err != nil {
		t.Fatal(err)
	}
	room := f.Backend.Room()
	if room.MaxNameOctets != 200 || room.MaxLevelOctets != 80 || room.MaxDepth != 4 || room.MaxMailboxes != 50 || room.MaxSubscriptions != 60 ||
		room.MaxKeywords != 70 || room.RefusedCharacters != "~#" {
		t.Errorf("room %+v", room)
	}
	for text, want := range map[string]string{
		"mailbox_limits { name_octets = 2000 }":                            "from 20 to 1000",
		"mailbox_limits { depth = 0 }":                                     "from 1 to 500",
		"mailbox_limits { mailboxes = -1 }":                                "from 10 to 100000",
		"mailbox_limits { refused_characters = \"~a\" }":                   "refused_characters has 'a'",
		"mailbox_limits { refused_characters = \"/\" }":                    "refused_characters has '/'",
		"mailbox_limits { depth = 1 }\nmailbox \"Archive/Old\" {}":         "more than 1 levels",
		"mailbox_limits { refused_characters = \"#\" }\nmailbox \"#1\" {}": "U+0023",
	} {
		if _, err := loadBackend(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
