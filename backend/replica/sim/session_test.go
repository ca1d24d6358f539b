package sim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

// refused reports errors that mean that nothing was done.
func refused(err error) bool {
	for _, e := range []error{
		mailstore.ErrNoMailbox, mailstore.ErrMailboxExists, mailstore.ErrBadName, mailstore.ErrInbox, mailstore.ErrTooMany,
		mailstore.ErrSpecialUse, mailstore.ErrNoMessage, store.ErrFull,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// session is one command of an IMAP client at a node.
func (w *world) session(n *node, s step) {
	a, err := n.open()
	if n.died("open", err) {
		return
	}
	if err != nil {
		w.tracef("%v refuses: %v", n, err)
		return
	}
	defer a.Close()
	switch s.op {
	case opCreate, opRename, opRemove, opSubscribe:
		w.tree(n, a, s)
		return
	}
	name := n.pick(s.a)
	m, err := a.Mailbox(context.Background(), name)
	if n.died("select", err) || err != nil {
		return
	}
	defer m.Close()
	switch s.op {
	case opAppend:
		w.append(n, m, name)
	case opCopy, opMove:
		w.transfer(n, a, m, name, s)
	case opFlags, opDelete:
		w.flags(n, m, name, s)
	case opExpunge:
		w.expunge(n, m, name)
	}
}

// pick chooses a mailbox that the node shows; INBOX more often than others.
func (n *node) pick(by uint16) string {
	var names []string
	for name := range n.views {
		names = append(names, name)
	}
	if len(names) == 0 || by%3 == 0 {
		return "INBOX"
	}
	slices.Sort(names)
	return names[int(by/3)%len(names)]
}

func (w *world) newLetter() (*letter, []byte) {
	l := &letter{token: len(w.mail.mails)}
	text := fmt.Sprintf("Subject: mail %d\r\n\r\n%s\r\n", l.token, strings.Repeat("text ", l.token%40))
	l.text, l.hash = []byte(text), sha256.Sum256([]byte(text))
	w.mail.mails = append(w.mail.mails, l)
	w.mail.tokens[l.hash] = l.token
	return l, l.text
}

func (w *world) letterOf(m *mailstore.Message) *letter {
	token, ok := w.mail.tokens[m.Body.Hash]
	if !ok {
		w.fail("S3: %v has a body that nobody sent", m.Dot)
		return &letter{}
	}
	return w.mail.mails[token]
}

func (w *world) append(n *node, m *mailstore.Mailbox, name string) {
	l, text := w.newLetter()
	content, err := n.ms.Stage(context.Background(), bytes.NewReader(text))
	if n.died("stage", err) || err != nil {
		return
	}
	defer content.Discard()
	l.adds++
	uids, err := m.Append(context.Background(), []mailstore.Append{{Content: content, InternalDate: epoch}})
	w.tracef("%v: append mail %d to %s: %v %v", n, l.token, name, uids, err)
	switch {
	case err == nil:
		w.promise(n, l)
	case refused(err):
		l.adds--
	}
	n.died("append", err)
}

func (w *world) transfer(n *node, a *mailstore.Account, m *mailstore.Mailbox, name string, s step) {
	v := m.View()
	if v.Len() == 0 {
		return
	}
	dest := n.pick(s.c)
	to, err := a.Mailbox(context.Background(), dest)
	if err != nil || dest == name && s.op == opMove {
		return
	}
	defer to.Close()
	first := int(s.b) % v.Len()
	var list []*mailstore.Message
	var uids []imap.UID
	for i := first; i < min(first+1+int(s.b%3), v.Len()); i++ {
		list, uids = append(list, v.At(i)), append(uids, v.At(i).UID)
	}
	for _, msg := range list {
		w.letterOf(msg).adds++
		if s.op == opMove {
			w.mail.perhaps[msg.Dot] = true
		}
	}
	var result mailstore.CopyResult
	if s.op == opCopy {
		result, err = m.Copy(context.Background(), uids, to)
	} else {
		result, err = m.Move(context.Background(), uids, to)
	}
	w.tracef("%v: %s %v of %s to %s: %v %v", n, opNames[s.op], uids, name, dest, result.Dest, err)
	for _, msg := range list {
		l := w.letterOf(msg)
		switch {
		case err == nil && slices.Contains(result.Source, msg.UID):
			w.promise(n, l)
			if s.op == opMove {
				w.promiseRemoval(n, msg.Dot)
			}
		case err == nil || refused(err):
			l.adds--
		}
	}
	n.died("transfer", err)
}

var keywords = []string{"$Junk", "$NotJunk", "$Forwarded", "work"}

func (w *world) flags(n *node, m *mailstore.Mailbox, name string, s step) {
	v := m.View()
	if v.Len() == 0 {
		return
	}
	change := mailstore.FlagsChange{Op: mailstore.FlagsOp(1 + s.b%2)}
	if s.op == opDelete {
		change.Op = mailstore.FlagsAdd
		if s.b%4 == 3 {
			change.Op = mailstore.FlagsRemove
		}
		change.Flags = mailstore.FlagDeleted
	} else {
		if s.b%16 == 15 {
			change.Op = mailstore.FlagsSet
		}
		change.Flags = mailstore.Flags(s.b>>4) & 31 &^ mailstore.FlagDeleted
		if s.b%4 == 0 {
			change.Keywords = []string{keywords[int(s.b>>3)%len(keywords)]}
		}
	}
	first := int(s.c) % v.Len()
	var uids []imap.UID
	for i := first; i < min(first+1+int(s.c%3), v.Len()); i++ {
		uids = append(uids, v.At(i).UID)
	}
	_, err := m.StoreFlags(context.Background(), uids, change)
	w.tracef("%v: flags %d %v %v of %v in %s: %v", n, change.Op, change.Flags, change.Keywords, uids, name, err)
	if !n.died("flags", err) {
		w.wrote(n, v, m.View(), uids, change, err)
	} else {
		w.wrote(n, v, v, uids, change, errors.New("unknown"))
	}
}

func (w *world) expunge(n *node, m *mailstore.Mailbox, name string) {
	v := m.View()
	var dots []mailstore.Dot
	for i := range v.Len() {
		if msg := v.At(i); msg.Flags&mailstore.FlagDeleted != 0 {
			dots = append(dots, msg.Dot)
			w.mail.perhaps[msg.Dot] = true
		}
	}
	uids, err := m.Expunge(context.Background(), nil)
	w.tracef("%v: expunge %s: %v %v", n, name, uids, err)
	if err == nil {
		w.promiseRemoval(n, dots...)
	}
	n.died("expunge", err)
}

var someNames = []string{"A", "B", "C", "A/x", "B/x", "A/x/y", "C/z", "INBOX/sub", "Trash"}

// tree is a command that changes mailboxes.
func (w *world) tree(n *node, a *mailstore.Account, s step) {
	ctx := context.Background()
	other := someNames[int(s.b)%len(someNames)]
	name := n.pick(s.a | 1)
	var err error
	switch s.op {
	case opCreate:
		_, err = a.Create(ctx, other, "")
		name = ""
	case opRename:
		if name == "INBOX" {
			w.renameInbox(n, a, other)
			return
		}
		err = a.Rename(ctx, name, other)
	case opRemove:
		if name == "INBOX" || name == "Trash" {
			return
		}
		w.remove(n, a, name)
		return
	case opSubscribe:
		err = a.Subscribe(ctx, other, s.c%2 == 0)
	}
	w.tracef("%v: %s %s %s: %v", n, opNames[s.op], name, other, err)
	n.died(opNames[s.op], err)
}

// renameInbox moves what is in INBOX to a new mailbox.
func (w *world) renameInbox(n *node, a *mailstore.Account, to string) {
	v, ok := n.views["INBOX"]
	if !ok {
		return
	}
	var list []*mailstore.Message
	for i := range v.Len() {
		list = append(list, v.At(i))
		w.letterOf(v.At(i)).adds++
		w.mail.perhaps[v.At(i).Dot] = true
	}
	err := a.Rename(context.Background(), "INBOX", to)
	w.tracef("%v: rename INBOX %s: %v", n, to, err)
	for _, msg := range list {
		l := w.letterOf(msg)
		switch {
		case err == nil:
			w.promise(n, l)
			w.promiseRemoval(n, msg.Dot)
		case refused(err):
			l.adds--
		}
	}
	n.died("rename INBOX", err)
}

// remove deletes a mailbox with all that its client saw in it.
func (w *world) remove(n *node, a *mailstore.Account, name string) {
	v, ok := n.views[name]
	if !ok {
		return
	}
	for i := range v.Len() {
		w.mail.perhaps[v.At(i).Dot] = true
	}
	hidden := n.hidden(v.guid)
	err := a.Delete(context.Background(), name)
	w.tracef("%v: remove %s: %v", n, name, err)
	if err == nil || !refused(err) {
		for _, l := range hidden {
			l.excused = true
		}
	}
	if err == nil {
		for i := range v.Len() {
			w.promiseRemoval(n, v.At(i).Dot)
		}
	}
	n.died("remove", err)
}

// hidden returns the letters in a mailbox of which a node has instances without
// a UID: they go with the mailbox, although no client saw them in it.
func (n *node) hidden(mailbox mailstore.GUID) (list []*letter) {
	prefix := append(append([]byte("ma"), n.w.account[:]...), 'p')
	prefix = append(prefix, mailbox[:]...)
	end := append(slices.Clip(prefix), bytes.Repeat([]byte{0xff}, 17)...)
	err := store.Scan(context.Background(), n.kv, prefix, end, 1000, func(_ store.Snapshot, _, record []byte) error {
		for _, l := range n.w.mail.mails {
			if bytes.Contains(record, l.hash[:]) {
				list = append(list, l)
			}
		}
		return nil
	})
	n.died("look for hidden messages", err)
	return list
}

// delivery is one of the gateway's queue, for one recipient.
type delivery struct {
	id     string
	letter *letter
	text   []byte
	box    string
	done   bool // it was told so
}

func (w *world) newDelivery(s step) *delivery {
	l, text := w.newLetter()
	d := &delivery{id: fmt.Sprintf("Q%06d", len(w.gateway)), letter: l, text: text}
	if s.a%5 == 0 && !strings.Contains(*leave, "create") {
		d.box = someNames[int(s.b)%len(someNames)]
	}
	w.gateway = append(w.gateway, d)
	return d
}

// deliver brings a delivery to a node.
func (w *world) deliver(n *node, d *delivery) {
	a, err := n.open()
	if n.died("deliver", err) {
		return
	}
	if err != nil {
		w.tracef("%v refuses delivery %s: %v", n, d.id, err)
		return
	}
	defer a.Close()
	content, err := n.ms.Stage(context.Background(), bytes.NewReader(d.text))
	if n.died("stage", err) || err != nil {
		return
	}
	defer content.Discard()
	if d.letter.adds == 0 || w.wild {
		d.letter.adds++ // by the clock, the first may be long forgotten
	}
	d.letter.tried[n.id] = true
	err = a.Deliver(context.Background(), []mailstore.Delivery{{ID: d.id, Content: content, Mailbox: d.box}})[0]
	w.tracef("%v: deliver %s to %q: %v", n, d.id, d.box, err)
	if err == nil && !d.done {
		d.done = true
		w.promise(n, d.letter)
	}
	n.died("deliver", err)
}

// repeat brings a delivery again: because nobody knows whether it was made, or
// because the answer was lost; then to the other node, too.
func (w *world) repeat(n *node, s step) {
	if len(w.gateway) == 0 {
		return
	}
	recent := w.gateway[max(0, len(w.gateway)-6):]
	w.deliver(n, recent[int(s.a)%len(recent)])
}
