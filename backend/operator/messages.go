package operator

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/imapd"
	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
)

// found are messages of one mailbox, in the order of UIDs.
type found struct {
	*mailstore.Mailbox
	info     mailstore.MailboxInfo
	view     mailstore.View
	messages []*mailstore.Message
}

// eachMailbox calls fn for every mailbox in which the program finds something.
func (w *work) eachMailbox(fn func(*found) error) error {
	list, err := w.account.List(w.ctx)
	if err != nil {
		return err
	}
	if err := w.checkNames(list); err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(m mailstore.MailboxInfo) bool { return !m.Exists || m.GUID == w.except || !w.program.MayMatch(m) })
	for _, info := range list {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.oneMailbox(info.Name, fn); err != nil {
			return fmt.Errorf("mailbox %q: %w", info.Name, err)
		}
	}
	return nil
}

// checkNames refuses a program with a name that one person's mailboxes do not
// have: it was mistyped. Of many people not all have all mailboxes.
func (w *work) checkNames(list []mailstore.MailboxInfo) error {
	if w.many() {
		return nil
	}
	for _, name := range w.program.Mailboxes() {
		if !slices.ContainsFunc(list, func(m mailstore.MailboxInfo) bool { return m.Exists && imapd.NameFits(name, m.Name) }) {
			return fmt.Errorf("%s has no mailbox %q", w.account.Name(), name)
		}
	}
	return nil
}

func (w *work) oneMailbox(name string, fn func(*found) error) error {
	m, err := w.account.Mailbox(w.ctx, name)
	if errors.Is(err, mailstore.ErrNoMailbox) {
		return nil // it went meanwhile
	} else if err != nil {
		return err
	}
	defer m.Close()
	w.at = w.account.Name() + ", mailbox " + name
	f := &found{Mailbox: m, info: m.Info(), view: m.View()}
	if f.messages, err = w.Searches.Search(w.ctx, w.program, m, f.view); err != nil || len(f.messages) == 0 {
		return err
	}
	return fn(f)
}

// pieceMessages is how many messages are changed or told of between two looks
// whether to go on.
const pieceMessages = 200

// pieces calls fn with some messages at a time.
func (w *work) pieces(f *found, fn func([]*mailstore.Message) error) error {
	told := int64(0)
	for some := range slices.Chunk(f.messages, pieceMessages) {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := fn(some); err != nil {
			return err
		}
		told += int64(len(some))
		w.tell(told, int64(len(f.messages)))
	}
	return nil
}

func uidsOf(messages []*mailstore.Message) []imap.UID {
	uids := make([]imap.UID, len(messages))
	for i, m := range messages {
		uids[i] = m.UID
	}
	return uids
}

// change does something to all messages found, piece by piece, and tells of
// each mailbox.
func (w *work) change(verb string, do func(*found, []imap.UID) (changed int, err error)) error {
	total := 0
	err := w.eachMailbox(func(f *found) error {
		n := 0
		err := w.pieces(f, func(some []*mailstore.Message) error {
			if w.q.DryRun {
				n += len(some)
				return nil
			}
			changed, err := do(f, uidsOf(some))
			n += changed
			w.done += int64(changed)
			return err
		})
		total += n
		if n > 0 {
			w.say("%s: %d message(s) %s", f.info.Name, n, w.would(verb))
		}
		return err
	})
	if total == 0 && err == nil {
		w.say("no message is like that")
	}
	return err
}

// say writes a line of the answer.
func (w *work) say(format string, args ...any) {
	w.rows.say(w.account.Name() + ": " + fmt.Sprintf(format, args...))
}

// would is what is told of a dry run.
func (w *work) would(verb string) string {
	if w.q.DryRun {
		return "would be " + verb
	}
	return verb
}

// expunge removes messages, whatever their flags.
func (w *work) expunge() error {
	return w.change("expunged", func(f *found, uids []imap.UID) (int, error) {
		gone, err := f.Remove(w.commitContext(), uids)
		w.recordExpunge(f.info.Name, "expunge", gone, err)
		return len(gone), err
	})
}

// recordExpunge audits what went.
func (w *work) recordExpunge(mailbox, detail string, gone []imap.UID, err error) {
	if len(gone) > 0 {
		w.record(mail.Event{Kind: mail.EventExpunge, Mailbox: mailbox, UIDs: uidSet(gone), Detail: detail}, nil)
	}
	if err != nil {
		w.record(mail.Event{Kind: mail.EventExpunge, Mailbox: mailbox, Detail: detail}, err)
	}
}

// uidSet writes UIDs in ascending order as a sequence set.
func uidSet(uids []imap.UID) string {
	var b []byte
	for i := 0; i < len(uids); {
		last := i
		for last+1 < len(uids) && uids[last+1] == uids[last]+1 {
			last++
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(uids[i]), 10)
		if last > i {
			b = strconv.AppendUint(append(b, ':'), uint64(uids[last]), 10)
		}
		i = last + 1
	}
	return string(b)
}

// flags changes flags.
func (w *work) flags() error {
	system, keywords, err := flagsNamed(w.q.Flags)
	if err != nil {
		return err
	}
	c := mailstore.FlagsChange{Flags: system, Keywords: keywords}
	switch w.q.Change {
	case "add":
		c.Op = mailstore.FlagsAdd
	case "remove":
		c.Op = mailstore.FlagsRemove
	}
	verb := map[string]string{"add": "given", "remove": "freed of", "set": "set to"}[w.q.Change] + " " + strings.Join(w.q.Flags, " ")
	return w.change(verb, func(f *found, uids []imap.UID) (int, error) {
		_, err := f.StoreFlags(w.commitContext(), uids, c)
		if err != nil {
			return 0, err
		}
		return len(uids), nil
	})
}

var systemFlags = []struct {
	flag mailstore.Flags
	name string
}{
	{mailstore.FlagAnswered, `\Answered`}, {mailstore.FlagFlagged, `\Flagged`}, {mailstore.FlagDeleted, `\Deleted`},
	{mailstore.FlagSeen, `\Seen`}, {mailstore.FlagDraft, `\Draft`},
}

// flagsNamed reads system flags, with or without their backslash, and keywords.
func flagsNamed(names []string) (system mailstore.Flags, keywords []string, err error) {
next:
	for _, name := range names {
		for _, f := range systemFlags {
			if strings.EqualFold(name, f.name) {
				system |= f.flag
				continue next
			}
		}
		if strings.HasPrefix(name, `\`) {
			return 0, nil, fmt.Errorf(`no flag is called %s; there are \Answered, \Flagged, \Deleted, \Seen and \Draft, and keywords without a backslash`, name)
		}
		keywords = append(keywords, name)
	}
	return system, keywords, nil
}

func flagNames(m *mailstore.Message) []string {
	names := []string{}
	for _, f := range systemFlags {
		if m.Flags&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	return append(names, m.Keywords...)
}

// copyOver copies messages, or moves them.
func (w *work) copyOver() error {
	dest, name, err := w.destination()
	if err != nil {
		return err
	}
	if dest != nil {
		defer dest.close()
		w.except = dest.Info().GUID // what is there stays
	}
	verb, detail := "copied to "+name, "move to "+name
	move := w.q.Do == "move"
	if move {
		verb = "moved to " + name
	}
	return w.change(verb, func(f *found, uids []imap.UID) (int, error) {
		if !move {
			done, err := f.Copy(w.commitContext(), uids, dest.Mailbox)
			return len(done.Source), err
		}
		done, err := f.Move(w.commitContext(), uids, dest.Mailbox)
		w.recordExpunge(f.info.Name, detail, done.Source, err)
		return len(done.Source), err
	})
}

// target is a mailbox that messages go to.
type target struct {
	*mailstore.Mailbox
	account *mailstore.Account // nil: that of the work
}

func (t *target) close() {
	t.Mailbox.Close()
	if t.account != nil {
		t.account.Close()
	}
}

// destination opens where messages go, and says how that is called. A dry run
// only looks, and has none where it would be made.
func (w *work) destination() (*target, string, error) {
	t := &target{}
	account, name := w.account, w.q.To
	if w.q.ToUser != "" {
		var err error
		if t.account, err = w.open(w.ctx, w.q.ToUser, !w.q.DryRun); err != nil {
			return nil, name, err
		}
		account, name = t.account, w.q.ToUser+"'s "+name
	}
	var err error
	t.Mailbox, err = account.Mailbox(w.ctx, w.q.To)
	if errors.Is(err, mailstore.ErrNoMailbox) && w.q.Create && !w.q.DryRun {
		if err = w.makeMailbox(account, w.q.To, ""); err == nil {
			t.Mailbox, err = account.Mailbox(w.ctx, w.q.To)
		}
	}
	if err == nil {
		return t, name, nil
	}
	if t.account != nil {
		t.account.Close()
	}
	if errors.Is(err, mailstore.ErrNoMailbox) {
		if w.q.Create && w.q.DryRun {
			return nil, name, nil
		}
		err = fmt.Errorf("%s has no mailbox %q; --create makes it", account.Name(), w.q.To)
	}
	return nil, name, err
}

// deduplicate removes messages that a mailbox holds more than once, but for the
// first.
func (w *work) deduplicate() error {
	total := 0
	err := w.eachMailbox(func(f *found) error {
		again, err := w.repeated(f)
		if err != nil || len(again) == 0 {
			return err
		}
		f.messages = again
		n := 0
		err = w.pieces(f, func(some []*mailstore.Message) error {
			if w.q.DryRun {
				n += len(some)
				return nil
			}
			gone, err := f.Remove(w.commitContext(), uidsOf(some))
			w.recordExpunge(f.info.Name, "deduplicate", gone, err)
			n += len(gone)
			w.done += int64(len(gone))
			return err
		})
		total += n
		w.say("%s: %d repeated message(s) %s", f.info.Name, n, w.would("expunged"))
		return err
	})
	if total == 0 && err == nil {
		w.say("no message is there twice")
	}
	return err
}

// repeated are those of the messages found before which the same one was found.
// Without a Message-ID, or of another size, none is the same as another.
func (w *work) repeated(f *found) (again []*mailstore.Message, err error) {
	seen := make(map[string]bool, len(f.messages))
	note := func(m *mailstore.Message, key string) {
		if key != "" && seen[key] {
			again = append(again, m)
		}
		seen[key] = true
	}
	for some := range slices.Chunk(f.messages, metaMessages) {
		if !w.q.ByMessageID {
			for _, m := range some {
				note(m, string(m.Body.Hash[:]))
			}
			continue
		}
		if err := w.ctx.Err(); err != nil {
			return nil, err
		}
		metas, err := f.SomeOfMetas(w.ctx, some, mailstore.MetaHeader)
		if err != nil {
			return nil, err
		}
		for i, m := range some {
			if metas[i] != nil {
				note(m, headerValue(metas[i].Header, "Message-ID"))
			}
		}
	}
	return again, nil
}
