package imapd

import (
	"context"

	"github.com/postern-mail/postern/backend/mailstore"
)

// watchedVirtual is a virtual mailbox that NOTIFY covers. It stays open, so that
// it follows the account step by step.
type watchedVirtual struct {
	mailbox *mailstore.Virtual
	told    mailstore.Status
}

// gatherVirtual is the STATUS of the virtual mailboxes that show something else
// now: the account tells of real mailboxes only. first says that nothing was told
// yet.
func (n *news) gatherVirtual(ctx context.Context, w *observed, first bool) error {
	for _, d := range n.cfg.Virtual {
		wanted, at := n.wanted(d.Name), w.place
		if at.info = at.account.VirtualInfo(d); !wanted.has(messageEvents) || n.isSelected(w, at.info.GUID) {
			continue
		}
		v := n.virtual[d]
		if v == nil {
			mailbox, err := at.account.Virtual(ctx, d)
			if err != nil {
				return err
			}
			v = &watchedVirtual{mailbox: mailbox}
			if n.virtual == nil {
				n.virtual = make(map[*mailstore.VirtualMailbox]*watchedVirtual)
			}
			n.virtual[d] = v
		}
		before, now := v.told, v.mailbox.Status()
		v.told = now
		messages := now.Messages != before.Messages || now.UIDNext != before.UIDNext || now.UIDValidity != before.UIDValidity
		flags := now.Unseen != before.Unseen || n.condstore && now.HighestModSeq != before.HighestModSeq
		items := statusUIDValidity | statusUnseen
		if n.condstore || first && wanted.has(eventFlagChange) {
			items |= statusHighestModSeq
		}
		switch {
		case first && !n.notification.status:
			continue
		case first || messages:
			items |= statusMessages | statusUIDNext
		case !flags || !wanted.has(eventFlagChange):
			continue
		}
		at.virtual = d
		n.statuses = append(n.statuses, statusNews{&observed{place: at}, at.info, items})
	}
	return nil
}

// closeVirtual gives the virtual mailboxes back.
func (n *notification) closeVirtual() {
	for _, v := range n.virtual {
		v.mailbox.Close()
	}
	n.virtual = nil
}
