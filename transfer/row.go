package transfer

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

// RowFormat is the version of rows. A reader refuses a higher one.
const RowFormat = 1

// Row is one of the lines that an account is written down in: first Account,
// then each Mailbox with its Messages behind it, then the rest in any order, at
// last End. One of its fields is set.
type Row struct {
	Account      *AccountRow  `json:"account,omitempty"`
	Mailbox      *MailboxRow  `json:"mailbox,omitempty"`
	Message      *MessageRow  `json:"message,omitempty"`
	Subscription string       `json:"subscription,omitempty"`
	Entry        *EntryRow    `json:"entry,omitempty"`
	Delivery     *DeliveryRow `json:"delivery,omitempty"`
	Lost         *LostRow     `json:"lost,omitempty"`
	End          *EndRow      `json:"end,omitempty"`
}

// LostRow is a message in the place of which there is only this: its body could
// not be read, or was expunged before it was.
type LostRow struct {
	UID     uint32 `json:"uid"`
	EmailID string `json:"email_id"`
	Body    string `json:"body"`
	Octets  int64  `json:"octets"`
	Why     string `json:"why"`
}

// AccountRow is the account as a whole.
type AccountRow struct {
	Format   int       `json:"format"`
	Name     string    `json:"name"`
	ID       string    `json:"id"`
	Position string    `json:"position"`
	Taken    time.Time `json:"taken"`
	// Journal is up to where the operations of each origin are in it.
	Journal     []JournalRow `json:"journal"`
	ModSeq      uint64       `json:"modseq"`
	UIDValidity uint32       `json:"uid_validity"`
	Octets      int64        `json:"octets"`
}

// JournalRow is how far the journal of one origin goes.
type JournalRow struct {
	Origin string `json:"origin"`
	Seq    uint64 `json:"seq"`
}

// MailboxRow is a mailbox. Of a deleted one only ID, Name and UIDValidity count.
type MailboxRow struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	SpecialUse  string `json:"special_use,omitempty"`
	Subscribed  bool   `json:"subscribed,omitempty"`
	UIDValidity uint32 `json:"uid_validity"`
	UIDNext     uint32 `json:"uid_next"`
	ModSeq      uint64 `json:"modseq"`
	Messages    int    `json:"messages"`
	Deleted     bool   `json:"deleted,omitempty"`
}

// MessageRow is a message of the mailbox before it.
type MessageRow struct {
	// UID is 0 for one that waited for its UID.
	UID     uint32 `json:"uid"`
	ModSeq  uint64 `json:"modseq"`
	EmailID string `json:"email_id"`
	// Flags are system flags as RFC 9051 writes them, and keywords.
	Flags []string `json:"flags,omitempty"`
	// Date is INTERNALDATE, Saved SAVEDATE.
	Date  time.Time `json:"date"`
	Saved time.Time `json:"saved"`
	// Trace stands before the body.
	Trace []byte `json:"trace,omitempty"`
	// Body is the SHA-256 of the rest of the message, which has Octets.
	Body     string       `json:"body"`
	Octets   int64        `json:"octets"`
	Delivery *DeliveryRow `json:"delivery,omitempty"`
}

// EntryRow is a register: metadata, access rights, options.
type EntryRow struct {
	// Space is the kind: one letter.
	Space string `json:"space"`
	// Mailbox is the ID of the one it belongs to, "" for the account's own.
	Mailbox string `json:"mailbox,omitempty"`
	Key     []byte `json:"key"`
	Value   []byte `json:"value"`
}

// DeliveryRow is a delivery that is not made again until Expires.
type DeliveryRow struct {
	Mark    []byte    `json:"mark"`
	Expires time.Time `json:"expires"`
}

// EndRow counts the rows before it.
type EndRow struct {
	Mailboxes int   `json:"mailboxes"`
	Messages  int   `json:"messages"`
	Rows      int   `json:"rows"`
	Octets    int64 `json:"octets"`
}

// Check refuses a row that no photograph makes.
func (r *Row) Check() error {
	set := 0
	for _, is := range []bool{r.Account != nil, r.Mailbox != nil, r.Message != nil, r.Subscription != "", r.Entry != nil, r.Delivery != nil, r.Lost != nil, r.End != nil} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		return errors.New("a row is of no kind that is known, or of several")
	case r.Account != nil:
		if r.Account.Format != RowFormat {
			return fmt.Errorf("the account is written in format %d, this program knows %d", r.Account.Format, RowFormat)
		}
		_, err := r.Account.photo()
		return err
	case r.Mailbox != nil:
		_, err := r.Mailbox.photo()
		return err
	case r.Message != nil:
		_, err := r.Message.restored()
		return err
	case r.Entry != nil:
		_, err := r.Entry.entry()
		return err
	}
	return nil
}

func guidOf(text string) (g mailstore.GUID, err error) {
	n, err := hex.Decode(g[:], []byte(text[:min(len(text), 2*len(g))]))
	if err != nil || n != len(g) || len(text) != 2*len(g) {
		return g, fmt.Errorf("malformed identity %.40q", text)
	}
	return g, nil
}

// Ref names the body of a message.
func (m *MessageRow) Ref() (ref store.Ref, err error) { return refOf(m.Body, m.Octets) }

func refOf(body string, octets int64) (ref store.Ref, err error) {
	if len(body) != 2*len(ref.Hash) || octets < 0 {
		return ref, fmt.Errorf("malformed body %.80q of %d octets", body, octets)
	}
	if _, err := hex.Decode(ref.Hash[:], []byte(body)); err != nil {
		return ref, fmt.Errorf("malformed body %.80q", body)
	}
	ref.Octets = octets
	return ref, nil
}

func accountRow(p mailstore.Photo, now time.Time) *AccountRow {
	r := &AccountRow{
		Format: RowFormat, Name: p.Name, ID: p.Account.String(), Position: p.Position, Taken: now.UTC().Truncate(time.Second),
		ModSeq: p.ModSeq, UIDValidity: p.LastUIDValidity, Octets: p.Octets,
	}
	for _, e := range p.Vector {
		r.Journal = append(r.Journal, JournalRow{fmt.Sprintf("%016x", uint64(e.Origin)), e.Seq})
	}
	return r
}

func (r *AccountRow) photo() (p mailstore.Photo, err error) {
	p = mailstore.Photo{Name: r.Name, Position: r.Position, ModSeq: r.ModSeq, LastUIDValidity: r.UIDValidity, Octets: r.Octets}
	if p.Account, err = guidOf(r.ID); err == nil && r.Name == "" {
		err = errors.New("an account without a name")
	}
	return p, err
}

func mailboxRow(m mailstore.PhotoMailbox) *MailboxRow {
	if m.Buried {
		return &MailboxRow{ID: m.GUID.String(), Name: m.Name, UIDValidity: m.UIDValidity, Deleted: true}
	}
	return &MailboxRow{
		ID: m.GUID.String(), Name: m.Name, SpecialUse: string(m.SpecialUse), Subscribed: m.Subscribed, UIDValidity: m.UIDValidity,
		UIDNext: uint32(m.UIDNext), ModSeq: m.HighestModSeq, Messages: m.Messages + m.Pending,
	}
}

func (r *MailboxRow) photo() (m mailstore.PhotoMailbox, err error) {
	m = mailstore.PhotoMailbox{
		MailboxInfo: mailstore.MailboxInfo{Name: r.Name, SpecialUse: imap.MailboxAttr(r.SpecialUse), Subscribed: r.Subscribed, Exists: true},
		UIDValidity: r.UIDValidity, UIDNext: imap.UID(r.UIDNext), HighestModSeq: r.ModSeq, Messages: r.Messages, Buried: r.Deleted,
	}
	if m.GUID, err = guidOf(r.ID); err == nil && (r.Name == "" || r.Messages < 0) {
		err = errors.New("a mailbox without a name, or with less than no messages")
	}
	return m, err
}

func messageRow(m *mailstore.PhotoMessage) *MessageRow {
	r := &MessageRow{
		UID: uint32(m.UID), ModSeq: m.ModSeq, EmailID: m.EmailID.String(), Flags: flagNames(m.Flags, m.Keywords), Date: m.InternalDate,
		Saved: m.SaveDate, Trace: m.TraceHeader, Body: hex.EncodeToString(m.Body.Hash[:]), Octets: m.Body.Octets,
	}
	if m.Delivery != nil {
		r.Delivery = deliveryRow(*m.Delivery)
	}
	return r
}

// restored is the message without its body.
func (r *MessageRow) restored() (m mailstore.RestoredMessage, err error) {
	m = mailstore.RestoredMessage{TraceHeader: r.Trace, UID: imap.UID(r.UID), InternalDate: storedDate(r.Date), SaveDate: r.Saved}
	m.Flags, m.Keywords = flagsOf(r.Flags)
	if r.Delivery != nil {
		m.Delivery = &mailstore.PhotoDelivery{Mark: r.Delivery.Mark, Expires: r.Delivery.Expires}
	}
	if len(r.Trace) > mailstore.MaxTraceOctets {
		return m, errors.New("a trace header is too long")
	}
	if m.EmailID, err = guidOf(r.EmailID); err != nil {
		return m, err
	}
	_, err = r.Ref()
	return m, err
}

func entryRow(e mailstore.Entry) *EntryRow {
	r := &EntryRow{Space: string(e.Space), Key: []byte(e.Key), Value: e.Value}
	if e.Mailbox != (mailstore.GUID{}) {
		r.Mailbox = e.Mailbox.String()
	}
	return r
}

func (r *EntryRow) entry() (e mailstore.Entry, err error) {
	if len(r.Space) != 1 || r.Space[0] > 0x7e || len(r.Key) > mailstore.MaxEntryKeyOctets || len(r.Value) > mailstore.MaxEntryValueOctets {
		return e, fmt.Errorf("malformed entry %.20q of kind %.20q", r.Key, r.Space)
	}
	e = mailstore.Entry{Space: r.Space[0], Key: string(r.Key), Value: append([]byte{}, r.Value...)}
	if r.Mailbox != "" {
		e.Mailbox, err = guidOf(r.Mailbox)
	}
	return e, err
}

func deliveryRow(d mailstore.PhotoDelivery) *DeliveryRow {
	return &DeliveryRow{Mark: d.Mark, Expires: d.Expires.UTC()}
}
