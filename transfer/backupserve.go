package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

// BackupHost is what ServeBackup does for a BackupClient besides what the store
// does.
type BackupHost struct {
	Store *mailstore.Store
	// Owner finds whose mailboxes are meant: by the account's name, a login, or an
	// address.
	Owner func(ctx context.Context, user string) (account string, err error)
	// Account opens the account of a user as the directory knows it.
	Account func(ctx context.Context, user string) (*mailstore.Account, error)
	// Finished takes note of a backup that is complete.
	Finished func(BackupDone) error
	// Restoring is told before an account is restored: whoever is connected to it
	// is to go.
	Restoring func(account string)
}

// BackupDone is what is known of a backup that is complete.
type BackupDone struct {
	Run      string    `json:"run"`
	Place    string    `json:"place"`
	Begun    time.Time `json:"begun"`
	Finished time.Time `json:"finished"`
	// Whole: it has all accounts.
	Whole    bool  `json:"whole"`
	Accounts int   `json:"accounts"`
	Messages int64 `json:"messages"`
	// Octets are those of all messages, Written those that were new, as written.
	Octets  int64 `json:"octets"`
	Written int64 `json:"written"`
	// Failed are accounts that could not be read.
	Failed int `json:"failed"`
}

// backupRequest is what a BackupClient asks for; its answers end with End.
type backupRequest struct {
	Do      string      `json:"do"`
	Account string      `json:"account,omitempty"` // identity or, to put back, login
	Mailbox string      `json:"mailbox,omitempty"`
	From    string      `json:"from,omitempty"`
	Row     *Row        `json:"row,omitempty"`
	Bodies  []BodyRef   `json:"bodies,omitempty"`
	Done    *BackupDone `json:"done,omitempty"`
}

// BodyRef names a body.
type BodyRef struct {
	Hash   string `json:"hash"`
	Octets int64  `json:"octets"`
}

type backupAnswer struct {
	End     bool            `json:"end,omitempty"`
	Error   string          `json:"error,omitempty"`
	Account *KnownAccount   `json:"account,omitempty"`
	Row     json.RawMessage `json:"row,omitempty"`
	Body    *BodyRef        `json:"body,omitempty"`
	Gone    string          `json:"gone,omitempty"` // why there is no text
	Text    bool            `json:"text,omitempty"` // one follows
	Reached *ReachedMailbox `json:"reached,omitempty"`
	There   *PutBackKey     `json:"there,omitempty"`
	Stored  int             `json:"stored,omitempty"`
}

// KnownAccount is an account that is there.
type KnownAccount struct {
	Name     string `json:"name"`
	ID       string `json:"id"`
	Position string `json:"position"`
	Octets   int64  `json:"octets"`
	// Restoring is what it is being restored from.
	Restoring string `json:"restoring,omitempty"`
}

// ReachedMailbox is up to which UID a mailbox was restored.
type ReachedMailbox struct {
	ID  string `json:"id"`
	UID uint32 `json:"uid"`
}

// PutBackKey tells a message that was put back: its email id and body.
type PutBackKey struct {
	EmailID string `json:"email_id"`
	Body    string `json:"body"`
}

// keeping is one conversation with a BackupClient.
type keeping struct {
	host BackupHost
	w    *wire

	restoration *mailstore.Restoration
	mailboxes   []mailstore.PhotoMailbox
	subs        []string
	entries     []mailstore.Entry
	deliveries  []mailstore.PhotoDelivery
	messages    []mailstore.RestoredMessage
	into        mailstore.GUID // of a restoration
	account     *mailstore.Account
	mailbox     *mailstore.Mailbox // to put back into
	err         error              // why what was sent since the last answer is of no use
}

// ServeBackup answers a BackupClient at the other end of conn until that ends
// the conversation, which is no error. It closes conn.
func ServeBackup(ctx context.Context, conn net.Conn, host BackupHost) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	k := &keeping{host: host, w: newWire(conn)}
	defer k.end()
	for {
		var q backupRequest
		err := k.w.get(&q)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = k.answer(ctx, &q)
		}
		if err != nil {
			return err
		}
	}
}

func (k *keeping) end() {
	k.discard()
	k.leave()
}

func (k *keeping) leave() {
	if k.restoration != nil {
		k.restoration.Close()
	}
	if k.mailbox != nil {
		k.mailbox.Close()
	}
	if k.account != nil {
		k.account.Close()
	}
	k.restoration, k.mailbox, k.account = nil, nil, nil
	k.mailboxes, k.subs, k.entries, k.deliveries = nil, nil, nil, nil
}

func (k *keeping) discard() {
	for _, m := range k.messages {
		m.Content.Discard()
	}
	k.messages = k.messages[:0]
}

// answer does one request. Rows and messages are taken without an answer: what
// is wrong with them is told at the next.
func (k *keeping) answer(ctx context.Context, q *backupRequest) error {
	switch q.Do {
	case "row":
		k.fail(k.takeRow(q.Row))
		return nil
	case "message":
		return k.takeMessage(ctx, q)
	}
	err := k.err
	k.err = nil
	if err == nil {
		err = k.do(ctx, q)
	}
	var lost *lostConversation
	if errors.As(err, &lost) {
		return lost.err
	}
	last := backupAnswer{End: true}
	if err != nil {
		last.Error = err.Error()
	}
	if err := k.w.put(last); err != nil {
		return err
	}
	return k.w.bw.Flush()
}

func (k *keeping) fail(err error) {
	if k.err == nil {
		k.err = err
	}
}

func (k *keeping) do(ctx context.Context, q *backupRequest) error {
	switch q.Do {
	case "accounts":
		return k.accounts(ctx)
	case "owner":
		name, err := k.host.Owner(ctx, q.Account)
		if err != nil {
			return err
		}
		return k.tell(backupAnswer{Account: &KnownAccount{Name: name, ID: mailstore.AccountGUID(name).String()}})
	case "photograph":
		return k.photograph(ctx, q.Account)
	case "bodies":
		return k.bodies(ctx, q.Bodies)
	case "finished":
		if q.Done == nil {
			return errors.New("malformed request")
		}
		return k.host.Finished(*q.Done)
	case "restore":
		return k.restore(ctx, q)
	case "tree":
		return k.tree(ctx)
	case "into":
		return k.putInto(ctx, q)
	case "store":
		return k.storeMessages(ctx)
	case "finish":
		return k.finish(ctx)
	case "give up":
		return k.host.Store.GiveUpRestoration(ctx, q.Account)
	}
	return fmt.Errorf("this server knows no request %q; is it of another version?", q.Do)
}

func (k *keeping) tell(a backupAnswer) error {
	if err := k.w.put(a); err != nil {
		return &lostConversation{err}
	}
	return nil
}

func (k *keeping) accounts(ctx context.Context) error {
	var list []mailstore.Head
	if err := k.host.Store.Heads(ctx, func(h mailstore.Head) error {
		if h.Name != "" {
			list = append(list, mailstore.Head{Account: h.Account, Name: h.Name, Octets: h.Octets})
		}
		return nil
	}); err != nil {
		return err
	}
	for _, h := range list {
		position, err := k.host.Store.Position(ctx, h.Account)
		if err != nil {
			return err
		}
		from, err := k.host.Store.Restoring(ctx, h.Name)
		if err != nil {
			return err
		}
		if err := k.tell(backupAnswer{Account: &KnownAccount{h.Name, h.Account.String(), position, h.Octets, from}}); err != nil {
			return err
		}
	}
	return nil
}

func (k *keeping) photograph(ctx context.Context, account string) error {
	id, err := guidOf(account)
	if err != nil {
		return err
	}
	now := time.Now()
	var end EndRow
	put := func(r Row) error {
		end.Rows++
		raw, err := json.Marshal(r)
		if err != nil {
			return err
		}
		return k.tell(backupAnswer{Row: raw})
	}
	err = k.host.Store.Photograph(ctx, id, mailstore.Photographer{
		Account: func(p mailstore.Photo) error { return put(Row{Account: accountRow(p, now)}) },
		Mailbox: func(m mailstore.PhotoMailbox) error { end.Mailboxes++; return put(Row{Mailbox: mailboxRow(m)}) },
		Message: func(m *mailstore.PhotoMessage) error {
			end.Messages++
			end.Octets += m.Octets
			return put(Row{Message: messageRow(m)})
		},
		Subscription: func(name string) error { return put(Row{Subscription: name}) },
		Entry:        func(e mailstore.Entry) error { return put(Row{Entry: entryRow(e)}) },
		Delivery:     func(d mailstore.PhotoDelivery) error { return put(Row{Delivery: deliveryRow(d)}) },
	})
	if err != nil {
		return err
	}
	last := end // which does not count itself
	return put(Row{End: &last})
}

func (k *keeping) bodies(ctx context.Context, list []BodyRef) error {
	for _, b := range list {
		ref, err := refOf(b.Hash, b.Octets)
		if err != nil {
			return err
		}
		if err := k.sendBody(ctx, b, ref); err != nil {
			return err
		}
	}
	return nil
}

// sendBody sends what can be read of a body; one that cannot be does not keep
// others from being sent.
func (k *keeping) sendBody(ctx context.Context, b BodyRef, ref store.Ref) error {
	body, err := k.host.Store.OpenBody(ctx, ref)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		gone := err.Error()
		if errors.Is(err, mailstore.ErrNoMessage) {
			gone = goneBody
		}
		return k.tell(backupAnswer{Body: &b, Gone: gone})
	}
	defer body.Close()
	if err := k.tell(backupAnswer{Body: &b, Text: true}); err != nil {
		return err
	}
	_, readErr, err := k.w.putText(body)
	if err != nil {
		return &lostConversation{err}
	}
	if readErr != nil { // what was sent is dropped at the other end
		return k.tell(backupAnswer{Body: &b, Gone: readErr.Error()})
	}
	return nil
}

// goneBody is the reason of a body that no message has any more.
const goneBody = "no message has it any more"

// restore begins to make an account again.
func (k *keeping) restore(ctx context.Context, q *backupRequest) error {
	k.leave()
	if q.Row == nil || q.Row.Account == nil {
		return errors.New("malformed request")
	}
	photo, err := q.Row.Account.photo()
	if err != nil {
		return err
	}
	if k.restoration, err = k.host.Store.BeginRestoration(ctx, photo, q.From); err != nil {
		return err
	}
	k.host.Restoring(photo.Name)
	return nil
}

// maxHeldRows bounds what a restoration holds of an account's rows: mailboxes,
// subscriptions, entries and deliveries.
const maxHeldRows = 1 << 20

func (k *keeping) takeRow(r *Row) error {
	if r == nil || k.restoration == nil || len(k.mailboxes)+len(k.subs)+len(k.entries)+len(k.deliveries) > maxHeldRows {
		return errors.New("malformed row, or too many of them")
	}
	if err := r.Check(); err != nil {
		return err
	}
	switch {
	case r.Mailbox != nil:
		m, err := r.Mailbox.photo()
		k.mailboxes = append(k.mailboxes, m)
		return err
	case r.Subscription != "":
		k.subs = append(k.subs, r.Subscription)
	case r.Entry != nil:
		e, err := r.Entry.entry()
		k.entries = append(k.entries, e)
		return err
	case r.Delivery != nil:
		k.deliveries = append(k.deliveries, mailstore.PhotoDelivery{Mark: r.Delivery.Mark, Expires: r.Delivery.Expires})
	}
	return nil
}

func (k *keeping) tree(ctx context.Context) error {
	if k.restoration == nil {
		return errors.New("no account is being restored")
	}
	if err := k.restoration.Tree(ctx, k.mailboxes); err != nil {
		return err
	}
	for _, m := range k.mailboxes {
		if m.Buried {
			continue
		}
		if err := k.tell(backupAnswer{Reached: &ReachedMailbox{m.GUID.String(), uint32(k.restoration.Reached(m.GUID))}}); err != nil {
			return err
		}
	}
	return nil
}

// takeMessage takes a message's body in, for the next "store".
func (k *keeping) takeMessage(ctx context.Context, q *backupRequest) error {
	in := &text{w: k.w}
	if q.Row == nil || q.Row.Message == nil || len(k.messages) >= 2*stageMessages || k.restoration == nil && k.mailbox == nil {
		return errors.New("malformed request to restore a message")
	}
	m, err := q.Row.Message.restored()
	into := mailstore.GUID{}
	if err == nil && k.restoration != nil {
		into, err = guidOf(q.Mailbox)
	}
	if err == nil && len(k.messages) > 0 && into != k.into {
		err = errors.New("messages of two mailboxes at once")
	}
	if err == nil {
		m.Content, err = k.host.Store.Stage(ctx, in)
	}
	if finished := in.finish(); finished != nil {
		return finished
	}
	if errors.Is(err, errAbandoned) {
		return nil // it cannot be read at the other end, which tells of it
	}
	if err == nil {
		ref, _ := q.Row.Message.Ref() // restored looked at it
		if m.Content.Ref() != ref {
			m.Content.Discard()
			err = fmt.Errorf("the body of UID %d came in damaged", m.UID)
		}
	}
	if k.fail(err); err == nil {
		k.messages, k.into = append(k.messages, m), into
	}
	return nil
}

func (k *keeping) storeMessages(ctx context.Context) error {
	defer k.discard()
	if len(k.messages) == 0 {
		return nil
	}
	if k.restoration != nil {
		if err := k.restoration.Add(ctx, k.into, k.messages); err != nil {
			return err
		}
		return k.tell(backupAnswer{Stored: len(k.messages)})
	}
	results, err := k.mailbox.PutBack(ctx, k.messages)
	n := 0
	for _, r := range results {
		if err == nil {
			err = r.Err
		}
		if r.Err == nil && r.UID != 0 {
			n++
		}
	}
	if err != nil {
		return err
	}
	return k.tell(backupAnswer{Stored: n})
}

func (k *keeping) finish(ctx context.Context) error {
	if k.restoration == nil {
		return errors.New("no account is being restored")
	}
	defer k.leave()
	return k.restoration.Finish(ctx, k.mailboxes, k.subs, k.entries, k.deliveries)
}

// putInto opens a mailbox to put messages back into, making it where it is not
// there, and tells which it holds.
func (k *keeping) putInto(ctx context.Context, q *backupRequest) (err error) {
	k.leave()
	if k.account, err = k.host.Account(ctx, q.Account); err != nil {
		return err
	}
	if _, err := k.account.Create(ctx, q.Mailbox, ""); err == nil {
		err = k.account.Subscribe(ctx, q.Mailbox, true)
		if err != nil {
			return err
		}
	} else if !errors.Is(err, mailstore.ErrMailboxExists) {
		return err
	}
	if k.mailbox, err = k.account.Mailbox(ctx, q.Mailbox); err != nil {
		return err
	}
	view := k.mailbox.View()
	for i := range view.Len() {
		m := view.At(i)
		if err := k.tell(backupAnswer{There: &PutBackKey{m.EmailID.String(), fmt.Sprintf("%x", m.Body.Hash)}}); err != nil {
			return err
		}
	}
	return nil
}
