package config

import (
	"slices"
	"time"

	"github.com/postern-mail/postern/backend/pop3d"
)

// POP3 is how mailboxes look to POP3 clients.
type POP3 struct {
	block
	UIDLFormat  string        `conf:"uidl_format" default:"%g" doc:"How messages are named to clients, which fetch again all that they do not know by its name. %g: by what identifies a message for ever. To keep the names of another server whose UIDs were taken over: \"%08Xu%08Xv\" of Dovecot, \"UID%u-%v\" of Courier, \"%v.%u\" of Cyrus; docs/pop3.md."`
	InUseWait   time.Duration `conf:"in_use_wait" default:"10s" doc:"How long a second session of an account waits for the first to end, before it is refused. 0s: not at all."`
	LoginDelay  time.Duration `conf:"login_delay" default:"0s" doc:"Least time between two logins of an account. 0s: none."`
	MarkSeen    bool          `conf:"mark_seen" default:"false" doc:"Set \\Seen on messages that a client fetched whole."`
	IdleTimeout time.Duration `conf:"idle_timeout" default:"10m" doc:"Longest silence of a logged-in client; RFC 1939 asks for 10 minutes at least."`
	Quirks      []string      `conf:"quirks" doc:"What is done for clients that break otherwise. outlook-no-nuls: send the octet 0x80 for NULs, on which Outlook hangs. oe-ns-eoh: send the empty line behind the header of a message that has none, for which Outlook Express and Netscape wait."`
}

// The quirks there are.
const (
	quirkNoNULs      = "outlook-no-nuls"
	quirkEndOfHeader = "oe-ns-eoh"
)

// maxInUseWait is what clients have the patience for.
const maxInUseWait = time.Minute

func (c checker) pop3(p *POP3) {
	if _, err := pop3d.ParseUIDL(p.UIDLFormat); err != nil {
		c.errorf(p.rangeOf("uidl_format"), "Wrong value", "%v.", err)
	}
	if p.InUseWait > maxInUseWait {
		c.errorf(p.rangeOf("in_use_wait"), "Wrong value", "in_use_wait is %s; clients give up within a minute.", p.InUseWait)
	}
	known := []string{quirkNoNULs, quirkEndOfHeader}
	for _, quirk := range p.Quirks {
		if !slices.Contains(known, quirk) {
			c.errorf(p.rangeOf("quirks"), "Wrong value", "There is no quirk %q; there are %s.%s", quirk, quoteList(known), didYouMean(quirk, known))
		}
	}
}

// POP3 returns the dialect and limits of a listener of kind pop3 or pop3s.
func (l *BackendListener) POP3(f *File) pop3d.Config {
	p := f.Backend.POP3
	uidl, _ := pop3d.ParseUIDL(p.UIDLFormat) // was checked
	return pop3d.Config{
		Terms: l.terms(f, p.IdleTimeout),
		UIDL:  uidl, MarkSeen: p.MarkSeen, InUseWait: p.InUseWait, LoginDelay: p.LoginDelay,
		Quirks: pop3d.Quirks{NoNULs: slices.Contains(p.Quirks, quirkNoNULs), EndOfHeader: slices.Contains(p.Quirks, quirkEndOfHeader)},
	}
}
