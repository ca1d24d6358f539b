package imapd

import (
	"slices"
	"strings"
)

// event is a set of kinds of events (RFC 5465 section 5).
type event uint8

const (
	eventMessageNew event = 1 << iota
	eventMessageExpunge
	eventFlagChange
	eventAnnotationChange
	eventMailboxName
	eventSubscriptionChange
	eventMailboxMetadata
	eventServerMetadata

	messageEvents = eventMessageNew | eventMessageExpunge | eventFlagChange | eventAnnotationChange
	// supportedEvents are all but those of annotations, which messages do not
	// have here (RFC 5257).
	supportedEvents = messageEvents&^eventAnnotationChange | eventMailboxName | eventSubscriptionChange | eventMailboxMetadata | eventServerMetadata
)

// eventNames are the events in the order of their bits.
var eventNames = [...]string{
	"MessageNew", "MessageExpunge", "FlagChange", "AnnotationChange",
	"MailboxName", "SubscriptionChange", "MailboxMetadataChange", "ServerMetadataChange",
}

func (e event) has(some event) bool { return e&some != 0 }

// names lists the events of a set.
func (e event) names() string {
	var names []string
	for i, name := range eventNames {
		if e.has(1 << i) {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// filterKind is which mailboxes a group of events is about.
type filterKind uint8

const (
	filterPersonal filterKind = iota // and the inboxes: mail is delivered to all of them
	filterSubscribed
	filterSubtree
	filterMailboxes
)

// eventGroup is a filter for mailboxes other than the selected one, and the
// events of these that the client wants to know.
type eventGroup struct {
	filter filterKind
	names  []string // of filterSubtree and filterMailboxes
	events event
}

const (
	// maxNotifyGroups and maxNotifyNames bound what one NOTIFY names: each change
	// is compared with all of it.
	maxNotifyGroups = 100
	maxNotifyNames  = 1000
)

// notifyArgs is NOTIFY.
type notifyArgs struct {
	none   bool
	status bool
	groups []eventGroup
	// selected are the events of the selected mailbox; delayed keeps expunges
	// back until a command.
	selected event
	delayed  bool
	fetch    fetchArgs // what is told of new messages there
	named    bool      // selected was given
	unknown  bool      // an event was named that is not supported
	count    int       // of names
}

// parseNotify reads NOTIFY (RFC 5465 section 8).
func parseNotify(p *parser) (a notifyArgs, err error) {
	if err = p.sp(); err != nil {
		return a, err
	}
	switch word, err := p.word(); {
	case err == nil && word == "NONE":
		a.none = true
		return a, nil
	case err != nil || word != "SET":
		return a, orSyntax(err, "expected SET or NONE")
	}
	if err = p.sp(); err != nil {
		return a, err
	}
	if p.peek() != '(' {
		if word, err := p.word(); err != nil || word != "STATUS" {
			return a, orSyntax(err, "expected STATUS or a group of events")
		}
		a.status = true
		if err = p.sp(); err != nil {
			return a, err
		}
	}
	for {
		if err = p.eventGroup(&a); err != nil {
			return a, err
		}
		if !p.take(' ') || p.i == len(p.b) {
			break
		}
	}
	return a, nil
}

func (p *parser) eventGroup(a *notifyArgs) error {
	if err := p.want('('); err != nil {
		return err
	}
	filter, err := p.word()
	if err != nil {
		return err
	}
	if err := p.sp(); err != nil {
		return err
	}
	if filter == "SELECTED" || filter == "SELECTED-DELAYED" {
		if a.named {
			return syntax("the selected mailbox is named twice")
		}
		a.named, a.delayed = true, filter == "SELECTED-DELAYED"
		if a.selected, err = p.events(a, true); err != nil {
			return err
		}
		return p.want(')')
	}
	g := eventGroup{}
	switch filter {
	case "PERSONAL", "INBOXES":
		g.filter = filterPersonal
	case "SUBSCRIBED":
		g.filter = filterSubscribed
	case "SUBTREE", "MAILBOXES":
		if g.filter = filterMailboxes; filter == "SUBTREE" {
			g.filter = filterSubtree
		}
		p.i-- // the space is read with the names
		if g.names, err = p.sourceNames(); err == nil {
			err = p.sp()
		}
		if a.count += len(g.names); a.count > maxNotifyNames {
			return errNotifyTooMuch
		}
	default:
		err = syntax("unknown filter of mailboxes")
	}
	if err != nil {
		return err
	}
	if g.events, err = p.events(a, false); err != nil {
		return err
	}
	if len(a.groups) >= maxNotifyGroups {
		return errNotifyTooMuch
	}
	a.groups = append(a.groups, g)
	return p.want(')')
}

// errNotifyTooMuch answers what is more than anybody should ask for.
var errNotifyTooMuch = refuse("NOTIFICATIONOVERFLOW", "Too many mailboxes to watch")

// events reads a list of events, or NONE. selected says that they are those of
// the selected mailbox.
func (p *parser) events(a *notifyArgs, selected bool) (set event, err error) {
	if p.peek() != '(' {
		if word, err := p.word(); err != nil || word != "NONE" {
			return 0, orSyntax(err, "expected a list of events or NONE")
		}
		return 0, nil
	}
	some := false
	if err = p.list(func() error {
		name, err := p.atom()
		if err != nil {
			return err
		}
		some = true
		i := slices.IndexFunc(eventNames[:], func(known string) bool { return strings.EqualFold(known, name) })
		if i < 0 {
			a.unknown = true
			return nil
		}
		one := event(1 << i)
		set |= one
		switch {
		case selected && !messageEvents.has(one):
			return syntax(eventNames[i] + " is no event of the selected mailbox")
		case one == eventMessageNew && p.followsFold(" ("):
			if !selected {
				return syntax("data items are for the selected mailbox only")
			}
			p.i++
			return p.list(func() error { return p.fetchItem(&a.fetch, false) })
		}
		return nil
	}); err != nil {
		return 0, err
	}
	switch {
	case !some:
		return 0, syntax("expected an event")
	case set.has(eventMessageNew) != set.has(eventMessageExpunge):
		return 0, syntax("MessageNew and MessageExpunge belong together")
	case set.has(eventFlagChange|eventAnnotationChange) && !set.has(eventMessageNew):
		return 0, syntax("FlagChange and AnnotationChange need MessageNew and MessageExpunge")
	}
	a.unknown = a.unknown || set&^supportedEvents != 0
	return set, nil
}
