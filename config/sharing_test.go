package config

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/mail"
)

// withBackend is the sound configuration with more in its backend block.
func withBackend(more string) string {
	return strings.Replace(sound, "backend {\n", "backend {\n"+more+"\n", 1)
}

func loadBackend(t *testing.T, more string) (*File, error) {
	t.Helper()
	return Load(write(t, map[string]string{"postern.hcl": withBackend(more), "people.ldif": "", "senders": ""}))
}

func TestSharing(t *testing.T) {
	t.Parallel()
	f, err := loadBackend(t, `
  separator = "."
  sharing {
    others = "Other Users"
    public "Shared" {
      account        = "shared"
      quota          = "1 GiB"
      quota_messages = 1000
      grant "anyone" { rights = "lr" }
      grant "$staff" { rights = "lrswipcda" }
    }
  }`)
	if err != nil {
		t.Fatal(err)
	}
	room := f.Backend.Listeners[1].IMAP(f)
	if room.Separator != "." || room.Sharing.Others != "Other Users" || len(room.Sharing.Public) != 1 {
		t.Fatalf("%+v", room.Sharing)
	}
	p := room.Sharing.Public[0]
	if p.Name != "Shared" || p.Account != "shared" || p.QuotaOctets != 1<<30 || p.QuotaMessages != 1000 || len(p.Access) != 2 ||
		p.Access[1] != (acl.Grant{Identifier: "$staff", Rights: acl.All}) {
		t.Errorf("%+v", p)
	}
	if access := f.Deliveries().Access["shared"]; len(access) != 2 {
		t.Errorf("deliveries know of %v", access)
	}
	for name, octets := range map[string]int64{"shared": 1 << 30, "alice": 5} {
		if got := f.Backend.Limited(mail.Account{Name: name, QuotaOctets: 5}); got.QuotaOctets != octets {
			t.Errorf("%s may hold %d octets", name, got.QuotaOctets)
		}
	}
	if room.Sharing.SeenShared {
		t.Error("\\Seen is one for all without being asked for")
	}
	if f, err := loadBackend(t, "sharing {\nothers = \"Other Users\"\nseen = \"shared\"\n}"); err != nil || !f.Backend.Listeners[1].IMAP(f).Sharing.SeenShared {
		t.Errorf("seen = shared: %v", err)
	}
	plain, err := loadBackend(t, "")
	if err != nil || plain.Backend.Listeners[1].IMAP(plain).Sharing.Others != "" {
		t.Errorf("sharing without a block: %v", err)
	}
}

func TestMistakesInSharing(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`sharing {}`:                         "Nothing to share",
		`sharing { others = "INBOX" }`:       "not the name of a mailbox",
		"sharing {\npublic \"Shared\" {}\n}": "the account that holds its mailboxes",
		`separator = "|"`:                    "separator",
		`sharing { group_attribute = "x" }`:  "policy_attributes",
		"sharing {\nothers = \"S\"\npublic \"S\" { account = \"s\" }\n}":                     "overlap",
		"sharing {\npublic \"S\" {\naccount = \"s\"\nquota_messages = -1\n}\n}":              "quota_messages is -1",
		"sharing {\npublic \"S\" {\naccount = \"s\"\ngrant \"a\" {}\n}\n}":                   "letters of RFC 4314",
		"sharing {\npublic \"S\" {\naccount = \"s\"\ngrant \"a\" { rights = \"z\" }\n}\n}":   "none of lrswipkxtea",
		"sharing {\npublic \"S\" {\naccount = \"s\"\ngrant \"--a\" { rights = \"l\" }\n}\n}": "no login, group or anyone",
	} {
		_, err := loadBackend(t, text)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "postern.hcl line ") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestMailboxRules(t *testing.T) {
	t.Parallel()
	f, err := loadBackend(t, `
  mailbox "Trash" {
    special_use = "trash"
    auto        = "subscribe"
    autoexpunge = "30d"
    quota_extra = 10
  }
  mailbox "Archive" {
    special_use = "archive"
    auto        = "no"
  }
  mailbox "Drafts" {}
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []mailstore.ConfiguredMailbox{
		{Name: "Trash", SpecialUse: imap.MailboxAttrTrash, Always: true, Autoexpunge: 30 * 24 * time.Hour, QuotaExtra: 10},
		{Name: "Archive", SpecialUse: imap.MailboxAttrArchive, OnDemand: true},
		{Name: "Drafts"}, // as configurations of before have it
	}
	if got := f.Backend.Room().Mailboxes; !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	if _, err := loadBackend(t, "mailbox \"Trash\" { quota_extra = -1 }"); err == nil || !strings.Contains(err.Error(), "quota_extra is -1") {
		t.Errorf("a negative percentage: %v", err)
	}
}
