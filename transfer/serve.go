package transfer

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// serving is one conversation about one account.
type serving struct {
	store   *mailstore.Store
	account *mailstore.Account
	w       *wire
	staged  []stagedMessage
	picture []mailstore.Pictured
}

// stagedMessage is one that waits for the commit.
type stagedMessage struct {
	folder   string
	incoming mailstore.Incoming
	err      error // why it cannot be stored
}

// Serve answers a Client at the other end of conn from an account of s, until
// the client ends the conversation, which is no error. It closes conn, not the
// account.
func Serve(ctx context.Context, conn net.Conn, s *mailstore.Store, account *mailstore.Account) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	v := &serving{store: s, account: account, w: newWire(conn)}
	defer v.drop()
	for {
		var q request
		err := v.w.get(&q)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = v.answer(ctx, &q)
		}
		if err != nil {
			return err
		}
	}
}

func (v *serving) drop() {
	v.discard()
	v.closePicture()
}

func (v *serving) discard() {
	for _, m := range v.staged {
		if m.incoming.Content != nil {
			m.incoming.Content.Discard()
		}
	}
	v.staged = v.staged[:0]
}

func (v *serving) closePicture() {
	for _, p := range v.picture {
		p.Close()
	}
	v.picture = nil
}

// answer does one request. Its error is about the conversation.
func (v *serving) answer(ctx context.Context, q *request) error {
	if q.Do == "stage" {
		return v.stage(ctx, q)
	}
	var err error
	if name := q.Do; q.Folder == nil && (name == "ensure" || name == "reserve" || name == "flags" || name == "index" || name == "texts") {
		err = errors.New("no folder is named")
	} else {
		err = v.do(ctx, q)
	}
	var lost *lostConversation
	if errors.As(err, &lost) {
		return lost.err
	}
	last := answer{End: true}
	if err != nil {
		last.Error = err.Error()
	}
	if err := v.w.put(last); err != nil {
		return err
	}
	return v.w.bw.Flush()
}

// lostConversation is an error of the connection, not of what was asked for.
type lostConversation struct{ err error }

func (l *lostConversation) Error() string { return l.err.Error() }

func (v *serving) do(ctx context.Context, q *request) error {
	switch q.Do {
	case "folders":
		return v.folders(ctx)
	case "ensure":
		return v.ensure(ctx, q.Folder, q.Keep)
	case "reserve":
		return v.reserve(ctx, q.Folder)
	case "commit":
		return v.commit(ctx)
	case "flags":
		return v.flags(ctx, q.Folder.Name, q.Changes)
	case "picture":
		return v.takePicture(ctx)
	case "index":
		return v.index(ctx, q.Folder.Name, q.Keys)
	case "texts":
		return v.texts(ctx, q.Folder.Name, q.UIDs)
	}
	return fmt.Errorf("this server knows no request %q; is it of another version?", q.Do)
}

func (v *serving) tell(a answer) error {
	if err := v.w.put(a); err != nil {
		return &lostConversation{err}
	}
	return nil
}

func (v *serving) folders(ctx context.Context) error {
	list, err := v.account.List(ctx)
	if err != nil {
		return err
	}
	for _, info := range list {
		f, err := v.folder(ctx, info)
		if err != nil {
			return err
		}
		if err := v.tell(answer{Folder: &f}); err != nil {
			return err
		}
	}
	return nil
}

func (v *serving) folder(ctx context.Context, info mailstore.MailboxInfo) (Folder, error) {
	f := Folder{Name: info.Name, Subscribed: info.Subscribed, SpecialUse: string(info.SpecialUse), Absent: !info.Exists}
	if !info.Exists {
		return f, nil
	}
	st, err := v.account.Status(ctx, info.Name)
	if errors.Is(err, mailstore.ErrNoMailbox) {
		f.Absent = true
		return f, nil
	}
	f.ID = info.GUID.String()
	f.UIDValidity, f.UIDNext, f.ModSeq, f.Messages = st.UIDValidity, uint32(st.UIDNext), st.HighestModSeq, st.Messages
	return f, err
}

// ensure makes a mailbox where there is none. A special use goes to it if no
// other mailbox has it.
func (v *serving) ensure(ctx context.Context, f *Folder, keep bool) error {
	if !f.Absent {
		_, err := v.account.Create(ctx, f.Name, imap.MailboxAttr(f.SpecialUse))
		if errors.Is(err, mailstore.ErrSpecialUse) {
			_, err = v.account.Create(ctx, f.Name, "")
		}
		if err != nil && !errors.Is(err, mailstore.ErrMailboxExists) {
			return err
		}
	}
	if f.Subscribed {
		if err := v.account.Subscribe(ctx, f.Name, true); err != nil {
			return err
		}
	}
	if f.Absent {
		return v.tell(answer{Folder: f})
	}
	m, err := v.account.Mailbox(ctx, f.Name)
	if err != nil {
		return err
	}
	defer m.Close()
	var note string
	if keep {
		switch err := m.KeepUIDs(ctx, f.UIDValidity); {
		case errors.Is(err, mailstore.ErrKept):
			note = err.Error()
		case err != nil:
			return err
		}
	}
	now, err := v.folder(ctx, m.Info())
	if err != nil {
		return err
	}
	return v.tell(answer{Folder: &now, Note: note})
}

// reserve keeps UIDs of what was expunged elsewhere from being given out.
func (v *serving) reserve(ctx context.Context, f *Folder) error {
	m, err := v.account.Mailbox(ctx, f.Name)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.ReserveUIDs(ctx, imap.UID(f.UIDNext))
}

// stage takes a text in; what is wrong with it is told by the commit.
func (v *serving) stage(ctx context.Context, q *request) error {
	in := &text{w: v.w}
	if q.Folder == nil || q.Message == nil || len(v.staged) >= 2*stageMessages {
		return errors.New("malformed request to stage a message")
	}
	content, err := v.store.Stage(ctx, in)
	if errors.Is(err, errAbandoned) {
		return nil
	}
	if finished := in.finish(); finished != nil {
		return finished
	}
	m := stagedMessage{folder: q.Folder.Name, err: err}
	if err == nil {
		flags, keywords := flagsOf(q.Message.Flags)
		m.incoming = mailstore.Incoming{
			Append: mailstore.Append{Content: content, Flags: flags, Keywords: keywords, InternalDate: storedDate(q.Message.Date)},
			ID:     q.Message.ID, UID: imap.UID(q.Message.UID),
		}
	}
	v.staged = append(v.staged, m)
	return nil
}

// storedDate is a date that IMAP can write: years have four digits.
func storedDate(t time.Time) time.Time {
	if t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

// commit stores what was staged, by runs of one folder.
func (v *serving) commit(ctx context.Context) error {
	defer v.discard()
	for start := 0; start < len(v.staged); {
		end := start + 1
		for end < len(v.staged) && v.staged[end].folder == v.staged[start].folder {
			end++
		}
		stored, err := v.commitTo(ctx, v.staged[start:end])
		if err != nil {
			return err
		}
		for i := range stored {
			if err := v.tell(answer{Stored: &stored[i]}); err != nil {
				return err
			}
		}
		start = end
	}
	return nil
}

func (v *serving) commitTo(ctx context.Context, some []stagedMessage) ([]Stored, error) {
	stored := make([]Stored, len(some))
	var ready []mailstore.Incoming
	var at []int
	for i, m := range some {
		if m.err != nil {
			stored[i].Error = m.err.Error()
			stored[i].Final = outage(m.err)
			continue
		}
		ready, at = append(ready, m.incoming), append(at, i)
	}
	m, err := v.account.Mailbox(ctx, some[0].folder)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	results, err := m.TakeIn(ctx, ready)
	if err != nil {
		return nil, err
	}
	for k, r := range results {
		s := &stored[at[k]]
		s.UID, s.Repeated = uint32(r.UID), r.Repeated
		if r.Err != nil {
			s.Error, s.Final = r.Err.Error(), outage(r.Err)
		}
	}
	return stored, nil
}

// outage reports whether other messages fare no better.
func outage(err error) bool {
	switch status.Of(err) {
	case status.MailboxFull, status.MailSystemFull, status.StoreDown:
		return true
	}
	return false
}

func (v *serving) flags(ctx context.Context, folder string, changes []FlagsChange) error {
	m, err := v.account.Mailbox(ctx, folder)
	if err != nil {
		return err
	}
	defer m.Close()
	for _, c := range changes {
		for op, names := range map[mailstore.FlagsOp][]string{mailstore.FlagsAdd: c.Add, mailstore.FlagsRemove: c.Remove} {
			flags, keywords := flagsOf(names)
			if flags == 0 && len(keywords) == 0 {
				continue
			}
			if _, err := m.StoreFlags(ctx, []imap.UID{imap.UID(c.UID)}, mailstore.FlagsChange{Op: op, Flags: flags, Keywords: keywords}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *serving) takePicture(ctx context.Context) error {
	v.closePicture()
	var err error
	if v.picture, err = v.account.Picture(ctx); err != nil {
		return err
	}
	subscribed, err := v.account.List(ctx)
	if err != nil {
		return err
	}
	uses := make(map[string]string)
	for _, info := range subscribed {
		uses[info.Name] = string(info.SpecialUse)
		if info.Exists {
			continue
		}
		if err := v.tell(answer{Folder: &Folder{Name: info.Name, Subscribed: true, Absent: true}}); err != nil {
			return err
		}
	}
	for _, p := range v.picture {
		err := v.tell(answer{Folder: &Folder{
			Name: p.Info.Name, Subscribed: p.Info.Subscribed, SpecialUse: uses[p.Info.Name], UIDValidity: p.View.UIDValidity(),
			UIDNext: uint32(p.View.UIDNext()), ModSeq: p.View.HighestModSeq(), Messages: p.View.Len(),
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *serving) pictured(folder string) (*mailstore.Pictured, error) {
	for i := range v.picture {
		if v.picture[i].Info.Name == folder {
			return &v.picture[i], nil
		}
	}
	return nil, fmt.Errorf("there is no mailbox %q", folder)
}

// indexBatch is of how many messages what is kept beside them is read at once.
const indexBatch = 100

func (v *serving) index(ctx context.Context, folder string, keys bool) error {
	p, err := v.pictured(folder)
	if err != nil {
		return err
	}
	for start := 0; start < p.View.Len(); start += indexBatch {
		var list []*mailstore.Message
		for i := start; i < min(start+indexBatch, p.View.Len()); i++ {
			list = append(list, p.View.At(i))
		}
		metas, err := p.Metas(ctx, list)
		if err != nil {
			return err
		}
		for i, m := range list {
			if metas[i] == nil {
				continue
			}
			told := v.message(m)
			if n := m.Trace(); n <= int64(len(metas[i].Header)) {
				told.Trace = metas[i].Header[:n]
			}
			if keys {
				told.Key = KeyOf(messageID(metas[i]), m.Octets, m.InternalDate)
			}
			if err := v.tell(answer{Message: &told}); err != nil {
				return err
			}
		}
	}
	return nil
}

func messageID(meta *mailstore.Meta) string {
	return MessageID(meta.Header)
}

// MessageID returns the Message-ID field of a header, "" for none.
func MessageID(header []byte) string {
	field := mime.Fields(header, []string{"Message-ID"}, false)
	_, value, _ := strings.Cut(string(field), ":")
	if id, _, found := strings.Cut(value, ">"); found { // the first of several fields
		value = id + ">"
	}
	return strings.TrimSpace(value)
}

func (v *serving) message(m *mailstore.Message) Message {
	return Message{
		UID: uint32(m.UID), Flags: flagNames(m.Flags, m.Keywords), Date: m.InternalDate, Octets: m.Octets,
		Body: hex.EncodeToString(m.Body.Hash[:]), EmailID: m.EmailID.String(),
	}
}

func (v *serving) texts(ctx context.Context, folder string, uids []uint32) error {
	p, err := v.pictured(folder)
	if err != nil {
		return err
	}
	for _, uid := range uids {
		i, found := p.View.Find(imap.UID(uid))
		if !found {
			continue
		}
		if err := v.sendText(ctx, p, p.View.At(i)); err != nil {
			return err
		}
	}
	return nil
}

func (v *serving) sendText(ctx context.Context, p *mailstore.Pictured, m *mailstore.Message) error {
	body, err := p.Body(ctx, m)
	if errors.Is(err, mailstore.ErrNoMessage) || errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return fmt.Errorf("mailbox %q, UID %d: %w", p.Info.Name, m.UID, err)
	}
	defer body.Close()
	told := v.message(m)
	if err := v.tell(answer{Message: &told, Text: true}); err != nil {
		return err
	}
	_, readErr, err := v.w.putText(body)
	if err != nil {
		return &lostConversation{err}
	}
	if readErr != nil {
		return fmt.Errorf("mailbox %q, UID %d: %w", p.Info.Name, m.UID, readErr)
	}
	return nil
}
