package replica

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
)

// Event is one operation in the history of a message.
type Event struct {
	At   time.Time
	Node uint16
	Dot  mailstore.Dot // of the operation
	What string
}

// Explain tells what happened to the message with a UID in a mailbox: who did
// what on which node, and when, as far as the journals of both nodes that are
// kept here tell. Also of one that is gone.
func (n *Node) Explain(ctx context.Context, name, mailbox string, uid uint32) ([]Event, error) {
	head, err := n.named(ctx, name)
	if err != nil {
		return nil, err
	}
	account, err := n.deps.Mail.Account(ctx, mail.Account{Name: name})
	if err != nil {
		return nil, err
	}
	defer account.Close()
	box, err := account.Mailbox(ctx, mailbox)
	if err != nil {
		return nil, err
	}
	defer box.Close()
	status, err := account.Status(ctx, mailbox)
	if err != nil {
		return nil, err
	}
	guid := status.GUID
	dots := make(map[mailstore.Dot]bool)
	view := box.View()
	for i := range view.Len() {
		if m := view.At(i); uint32(m.UID) == uid {
			dots[m.Dot] = true
		}
	}
	if err := n.whoHad(ctx, head.Account, guid, uid, dots); err != nil {
		return nil, err
	}
	var events []Event
	err = n.deps.Mail.Journals(ctx, head.Account, func(r *mailstore.JournalRecord) error {
		for i := range r.Ops {
			if what := describe(&r.Ops[i], dots); what != "" {
				events = append(events, Event{At: r.Time(), Node: r.Origin.Node(), Dot: mailstore.Dot{Origin: r.Origin, Seq: r.First + uint64(i)}, What: what})
			}
		}
		return nil
	})
	sort.SliceStable(events, func(i, j int) bool { return events[i].At.Before(events[j].At) })
	return events, err
}

// whoHad adds the messages that ever were given the UID.
func (n *Node) whoHad(ctx context.Context, account, mailbox mailstore.GUID, uid uint32, dots map[mailstore.Dot]bool) error {
	return n.deps.Mail.Journals(ctx, account, func(r *mailstore.JournalRecord) error {
		for i := range r.Ops {
			op := &r.Ops[i]
			if op.Mailbox != mailbox {
				continue
			}
			switch op.Code {
			case mailstore.OpAdd:
				if uint32(op.Message.UID) == uid {
					dots[op.Message.Dot] = true
				}
			case mailstore.OpUid:
				for i, u := range op.UIDs {
					if uint32(u) == uid {
						dots[op.Dots[i]] = true
					}
				}
			}
		}
		return nil
	})
}

// describe tells what an operation did to any of the messages, "" for nothing.
func describe(op *mailstore.JournalOp, dots map[mailstore.Dot]bool) string {
	touches := slices.ContainsFunc(op.Dots, func(d mailstore.Dot) bool { return dots[d] })
	switch op.Code {
	case mailstore.OpAdd:
		if !dots[op.Message.Dot] {
			return ""
		}
		return describeAdd(op)
	case mailstore.OpExpunge:
		if touches {
			return "expunged"
		}
	case mailstore.OpFlags:
		if touches {
			return "flags" + flagWords(" set", op.Set, op.SetKeywords) + flagWords(" cleared", op.Clear, op.ClearKeywords)
		}
	case mailstore.OpUid:
		for i, d := range op.Dots {
			if dots[d] && i < len(op.UIDs) {
				return fmt.Sprintf("given UID %d", op.UIDs[i])
			}
		}
	case mailstore.OpNeedUid:
		if touches {
			return fmt.Sprintf("asked for a UID above %d", op.UID)
		}
	case mailstore.OpMerged:
		if touches {
			return "brought in by a state merge"
		}
	}
	return ""
}

func describeAdd(op *mailstore.JournalOp) string {
	what := fmt.Sprintf("added, %d octets", op.Message.Octets)
	if op.Message.UID != 0 {
		what += fmt.Sprintf(", UID %d", op.Message.UID)
	}
	if op.Source != (mailstore.Dot{}) {
		what += fmt.Sprintf(", from message %x.%d", uint64(op.Source.Origin), op.Source.Seq)
	}
	if op.Delivery != (mailstore.GUID{}) {
		what += fmt.Sprintf(", delivery %s", op.Delivery)
	}
	return what
}

var flagNames = []struct {
	flag mailstore.Flags
	name string
}{
	{mailstore.FlagSeen, `\Seen`}, {mailstore.FlagAnswered, `\Answered`}, {mailstore.FlagFlagged, `\Flagged`},
	{mailstore.FlagDeleted, `\Deleted`}, {mailstore.FlagDraft, `\Draft`},
}

func flagWords(doing string, flags mailstore.Flags, keywords []string) string {
	var words []string
	for _, f := range flagNames {
		if flags&f.flag != 0 {
			words = append(words, f.name)
		}
	}
	if words = append(words, keywords...); len(words) == 0 {
		return ""
	}
	return doing + " " + strings.Join(words, " ")
}
