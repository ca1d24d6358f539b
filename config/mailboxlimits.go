package config

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/postern-mail/postern/backend/mailstore"
)

// MailboxLimits bounds what clients make.
type MailboxLimits struct {
	block
	NameOctets    int    `conf:"name_octets" default:"1000" doc:"Octets of a mailbox's whole name in UTF-8, from 20 to 1000."`
	LevelOctets   int    `conf:"level_octets" default:"1000" doc:"Octets of one level of it, from 10 on."`
	Depth         int    `conf:"depth" default:"50" doc:"Levels of a name, from 1 to 500."`
	Mailboxes     int    `conf:"mailboxes" default:"10000" doc:"Mailboxes of an account, from 10 to 100000."`
	Subscriptions int    `conf:"subscriptions" default:"10000" doc:"Subscriptions of an account to names without a mailbox, such as other people's, from 10 to 100000."`
	Keywords      int    `conf:"keywords" default:"255" doc:"Keywords in use in one mailbox, from 10 to 255."`
	Refused       string `conf:"refused_characters" doc:"Characters that may not stand in a name, such as \"~#\", beyond * and % and control characters, which never may."`
}

func (c checker) mailboxLimits(b *Backend) {
	l := b.Limits
	for _, row := range []struct {
		key         string
		value       int
		least, most int
	}{
		{"name_octets", l.NameOctets, 20, 1000}, {"level_octets", l.LevelOctets, 10, 1000}, {"depth", l.Depth, 1, 500},
		{"mailboxes", l.Mailboxes, 10, 100_000}, {"subscriptions", l.Subscriptions, 10, 100_000}, {"keywords", l.Keywords, 10, 255},
	} {
		if row.value < row.least || row.value > row.most {
			c.errorf(l.rangeOf(row.key), "Wrong value", "%s is %d; write a number from %d to %d.", row.key, row.value, row.least, row.most)
			return
		}
	}
	if i := strings.IndexFunc(l.Refused, func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '/' || r == unicode.ReplacementChar
	}); i >= 0 {
		c.errorf(l.rangeOf("refused_characters"), "Wrong value", "refused_characters has %q; letters, digits and the separator of names are not refused.", []rune(l.Refused[i:])[0])
		return
	}
	for _, m := range b.Mailboxes {
		room := mailstore.Config{Mailboxes: []mailstore.ConfiguredMailbox{{Name: m.Name}}}
		if room.Check() != nil {
			continue // is told of elsewhere
		}
		l.set(&room)
		if err := room.Check(); err != nil {
			c.errorf(m.at, "Contradiction", "mailbox_limits does not allow it: %v.", err)
		}
	}
}

// set puts the limits into the room's configuration.
func (l *MailboxLimits) set(room *mailstore.Config) {
	room.MaxNameOctets, room.MaxLevelOctets, room.MaxDepth = l.NameOctets, l.LevelOctets, l.Depth
	room.MaxMailboxes, room.MaxSubscriptions, room.MaxKeywords = l.Mailboxes, l.Subscriptions, l.Keywords
	room.RefusedCharacters = l.Refused
}

// summary is what both servers of a pair should have alike.
func (l *MailboxLimits) summary() string {
	return fmt.Sprintf("%d %d %d %d %d %d %q", l.NameOctets, l.LevelOctets, l.Depth, l.Mailboxes, l.Subscriptions, l.Keywords, l.Refused)
}
