package config

import (
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

func TestVirtual(t *testing.T) {
	t.Parallel()
	f, err := loadBackend(t, `
  virtual "All mail" {
    special_use = "all"
    exclude     = ["Trash", "Junk"]
  }
  virtual "Flagged" { special_use = "flagged" }
  virtual "Views/Large" { search = "LARGER 1000000 UNDELETED" }`)
	if err != nil {
		t.Fatal(err)
	}
	list := f.Backend.Listeners[1].IMAP(f).Virtual
	if len(list) != 3 || list[0].SpecialUse != imap.MailboxAttrAll || len(list[0].Exclude) != 2 || list[0].Match != nil || list[2].SpecialUse != "" {
		t.Fatalf("%+v", list)
	}
	for i, m := range []mailstore.Message{
		{Flags: mailstore.FlagFlagged, Instance: &mailstore.Instance{}}, {Instance: &mailstore.Instance{Octets: 2000000}},
	} {
		if !list[i+1].Match(&m) || list[i+1].Match(&mailstore.Message{Flags: mailstore.FlagDeleted, Instance: &mailstore.Instance{}}) {
			t.Errorf("%s does not show what it should", list[i+1].Name)
		}
	}
	plain, err := loadBackend(t, "")
	if err != nil || plain.Backend.Listeners[1].IMAP(plain).Virtual != nil {
		t.Errorf("virtual mailboxes without a block: %v", err)
	}
}

func TestVirtualRefused(t *testing.T) {
	t.Parallel()
	for block, want := range map[string]string{
		`virtual "Trash" {}`:                     "a mailbox that accounts have",
		"mailbox \"Old\" {}\nvirtual \"Old\" {}": "a mailbox that accounts have",
		`virtual "inbox" {}`:                     "cannot be the name",
		`virtual "a*" {}`:                        "cannot be the name",
		"sharing { others = \"Others\" }\nvirtual \"Others/x\" {}":                         "namespace of others",
		"virtual \"a\" { special_use = \"all\" }\nvirtual \"b\" { special_use = \"all\" }": "clients expect one",
		"virtual \"a\" {}\nvirtual \"a\" {}":                                               "two virtual mailboxes",
		`virtual "a" { search = "TEXT x" }`:                                                "it may ask for",
		`virtual "a" { search = "OLDER 5" }`:                                               "it may ask for",
		`virtual "a" { search = "NOT (OR SEEN 1:5)" }`:                                     "Wrong search program",
		`virtual "a" { search = "LARGE" }`:                                                 "Wrong search program",
		`virtual "a" { special_use = "sent" }`:                                             "special_use",
		`virtual "a" { exclude = ["Trash/"] }`:                                             "is no mailbox",
	} {
		if _, err := loadBackend(t, block); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", block, err, want)
		}
	}
}
