package mailstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// Lost is a message whose content, or record, is lost, and what is left of it.
type Lost struct {
	Account string
	Mailbox string
	UID     imap.UID
	Why     error
	// Message is nil when its record cannot be read; Record is that record.
	Message *Message
	Record  []byte
	// Header is the message's header, nil when that is lost, too.
	Header []byte
}

// MarshalJSON tells what is known, for who looks after the loss.
func (l Lost) MarshalJSON() ([]byte, error) {
	out := struct {
		Account  string     `json:"account"`
		Mailbox  string     `json:"mailbox"`
		UID      imap.UID   `json:"uid"`
		Why      string     `json:"why"`
		Email    string     `json:"email_id,omitempty"`
		Body     string     `json:"body,omitempty"` // SHA-256
		Octets   int64      `json:"octets,omitempty"`
		Internal *time.Time `json:"internal_date,omitempty"`
		Keywords []string   `json:"keywords,omitempty"`
		Record   []byte     `json:"record,omitempty"` // base64
		Header   string     `json:"header,omitempty"`
	}{Account: l.Account, Mailbox: l.Mailbox, UID: l.UID, Why: l.Why.Error(), Record: l.Record, Header: string(l.Header)}
	if m := l.Message; m != nil {
		out.Email, out.Body = m.EmailID.String(), fmt.Sprintf("%x", m.Body.Hash)
		out.Octets, out.Internal, out.Keywords = m.Octets, &m.InternalDate, m.Keywords
	}
	return json.Marshal(out)
}

// RemoveLost takes messages out of mailboxes whose body isLost gives a reason
// for, and those whose record cannot be read and Repair could not make again.
// Each is given to keep first, and goes only when that returned nil, having
// made it durable. Clients see it expunged. Accounts must have been repaired,
// and nobody may use the store meanwhile. The error joins what kept it from a
// message, or from going on.
func (s *Store) RemoveLost(ctx context.Context, isLost func(context.Context, store.Ref) error, keep func(Lost) error) error {
	var failed []error
	err := s.eachAccount(ctx, func(id GUID, name string, damage error) error {
		if damage != nil {
			return ctx.Err() // it cannot be opened
		}
		err := s.removeUnreadable(ctx, id, name, keep)
		if err == nil {
			err = s.removeLostOf(ctx, name, isLost, keep)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("account %q: %w", name, err))
		}
		return ctx.Err()
	})
	return errors.Join(append(failed, err)...)
}

// removeUnreadable removes messages whose records cannot be read: a mailbox
// with such a one cannot be opened. The journal does not tell of it.
func (s *Store) removeUnreadable(ctx context.Context, id GUID, name string, keep func(Lost) error) error {
	var unreadable []Lost
	boxes := make(map[GUID][]imap.UID)
	c := checker{store: s, id: id}
	err := c.each(ctx, kindMessage, func(snap store.Snapshot, key, value []byte) error {
		var m Message
		err := decodeMessage(&m, uidOf(key), value)
		if err == nil || len(key) != messageKeyOctets || newer(value, messageVersion) {
			return nil
		}
		mailbox := GUID(key[accountPrefixOctets+1:][:16])
		l := Lost{Account: name, Mailbox: mailbox.String(), UID: uidOf(key), Why: err, Record: bytes.Clone(value)}
		if meta, err := snap.Get(messageKey(id, kindMeta, mailbox, l.UID)); err == nil {
			l.Header = headerOf(meta)
		}
		unreadable = append(unreadable, l)
		boxes[mailbox] = append(boxes[mailbox], l.UID)
		return nil
	})
	if err != nil || len(unreadable) == 0 {
		return err
	}
	for _, l := range unreadable {
		if err := keep(l); err != nil {
			return err
		}
	}
	a := s.hold(id, name)
	defer s.release(a)
	if err := a.open(ctx); err != nil {
		return err
	}
	for mailbox, uids := range boxes {
		for some := range slices.Chunk(uids, expungePerCommit) {
			if err := a.changeAlone(ctx, func(t *txn) error { return t.forget(mailbox, some) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// headerOf returns the header in a Meta record, as far as it is there.
func headerOf(record []byte) []byte {
	trace, found, err := decodeMeta(record)
	if err != nil {
		return nil
	}
	header := bytes.Clone(trace)
	if found != nil {
		header = append(header, found.Header...)
	}
	return header
}

// forget expunges messages of which nothing is known, nor was counted.
func (t *txn) forget(mailbox GUID, uids []imap.UID) error {
	a := t.account
	for _, uid := range uids {
		t.batch.Delete(messageKey(a.id, kindMessage, mailbox, uid))
		t.batch.Delete(messageKey(a.id, kindMeta, mailbox, uid))
	}
	t.dropSortKeys(mailbox, uids)
	if b := a.boxes[mailbox]; b != nil {
		v := t.draft(b)
		v.expunged = append(v.expunged, uids...)
		if a.link == nil {
			v.digest, v.summed, v.quick = [16]byte{}, false, false // see repairer.tree
		}
		v.modseq, v.dirty = t.nextModSeq(), true
	}
	return nil
}

// removeLostOf expunges the messages of an account whose bodies are lost.
func (s *Store) removeLostOf(ctx context.Context, name string, isLost func(context.Context, store.Ref) error, keep func(Lost) error) error {
	a, err := s.Account(ctx, mail.Account{Name: name})
	if err != nil {
		return err
	}
	defer a.Close()
	list, err := a.List(ctx)
	if err != nil {
		return err
	}
	for _, info := range list {
		if !info.Exists {
			continue
		}
		m, err := a.Mailbox(ctx, info.Name)
		if err != nil {
			return err
		}
		err = m.removeLost(ctx, name, isLost, keep)
		m.Close()
		if err != nil {
			return fmt.Errorf("mailbox %q: %w", info.Name, err)
		}
	}
	return nil
}

func (m *Mailbox) removeLost(ctx context.Context, account string, isLost func(context.Context, store.Ref) error, keep func(Lost) error) error {
	v := m.View()
	var uids []imap.UID
	for i := range v.Len() {
		message := v.At(i)
		why := isLost(ctx, message.Body)
		if why == nil {
			continue
		}
		l := Lost{Account: account, Mailbox: m.Info().Name, UID: message.UID, Why: why, Message: message}
		if records, err := m.box.readMeta(ctx, []*Message{message}); err == nil && records[0] != nil {
			l.Header = headerOf(records[0])
		}
		if err := keep(l); err != nil {
			return err
		}
		uids = append(uids, message.UID)
	}
	if m.box.account.link != nil {
		return m.lose(ctx, uids)
	}
	_, err := m.remove(ctx, uids, false)
	return err
}

// lose takes messages out without a word to the partner: it has them still, and
// the kept digest, which goes on telling of them, has the next state merge bring
// them back.
func (m *Mailbox) lose(ctx context.Context, uids []imap.UID) error {
	for some := range slices.Chunk(uids, expungePerCommit) {
		err := m.box.account.change(ctx, func(t *txn) error {
			lost := t.peek(m.box).present(some)
			if len(lost) == 0 {
				return nil
			}
			v := t.draft(m.box)
			digest, dots := v.digest, v.expungedDots
			t.takeOut(m.box, lost, false)
			v = t.draft(m.box)
			v.digest, v.expungedDots = digest, dots
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
