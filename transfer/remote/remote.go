// Package remote reads mailboxes from another IMAP server, which need not be
// able to do more than RFC 3501. It changes nothing there: mailboxes are
// examined, texts peeked at.
//
// A lost connection is made anew, with growing pauses, and the work goes on
// where it was. Mailboxes are named as ours are; those of other namespaces than
// the personal one are left out.
package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/foreign/imap"
	"github.com/postern-mail/postern/internal/utf7"
	"github.com/postern-mail/postern/transfer"
)

// Config says where mailboxes are and how to log in.
type Config struct {
	// Address is host:port, or unix: and a path.
	Address string
	// TLS protects the connection, from its first octet or with StartTLS after
	// it. Nil: in the clear.
	TLS      *tls.Config
	StartTLS bool
	// User logs in with Password for Account; Account is "" without a master user.
	User, Account, Password string
	// JoinWith, unless "", has a master user log in under the name
	// Account+JoinWith+User, as "*" does with Dovecot, instead of by SASL's own
	// way of saying it.
	JoinWith string
	// Keys has messages get the Key by which repeats are known.
	Keys bool
	// Timeout bounds each wait for the server. Zero: 5 minutes.
	Timeout time.Duration
	// Attempts is how often in a row a connection is tried. Zero: 8; FirstPause
	// comes after the first, the next are twice as long. Zero: 1 s.
	Attempts   int
	FirstPause time.Duration
	// Tell, unless nil, is told of trouble that is being worked round.
	Tell func(string)
}

// Source is a connection to a server as one account.
type Source struct {
	cfg     Config
	client  *imap.Client
	raw     map[string]string // names as the server writes them
	in      string            // the mailbox that is selected, "" for none
	current *imap.Selected
}

var _ transfer.Source = (*Source)(nil)

// Open connects and logs in.
func Open(ctx context.Context, cfg Config) (*Source, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Minute
	}
	if cfg.Attempts <= 0 {
		cfg.Attempts = 8
	}
	if cfg.FirstPause <= 0 {
		cfg.FirstPause = time.Second
	}
	if cfg.Tell == nil {
		cfg.Tell = func(string) {}
	}
	s := &Source{cfg: cfg, raw: make(map[string]string)}
	return s, s.connect(ctx)
}

// Close says goodbye.
func (s *Source) Close(ctx context.Context) {
	if s.client != nil {
		s.client.Logout(ctx)
	}
}

// Name implements transfer.Source.
func (s *Source) Name() string {
	account := s.cfg.Account
	if account == "" {
		account = s.cfg.User
	}
	return "imap " + s.cfg.Address + " " + account
}

func (s *Source) connect(ctx context.Context) error {
	s.in, s.current = "", nil
	secure := s.cfg.TLS
	if s.cfg.StartTLS {
		secure = nil
	}
	c, err := imap.Dial(ctx, s.cfg.Address, secure, s.cfg.Timeout)
	if err != nil {
		return err
	}
	if err := s.login(ctx, c); err != nil {
		_ = c.Close() // it is of no use
		return err
	}
	s.client = c
	return nil
}

func (s *Source) login(ctx context.Context, c *imap.Client) error {
	if s.cfg.StartTLS {
		if err := c.StartTLS(ctx, s.cfg.TLS); err != nil {
			return err
		}
	}
	user, account := s.cfg.User, s.cfg.Account
	if s.cfg.JoinWith != "" && account != "" {
		user, account = account+s.cfg.JoinWith+user, ""
	}
	if err := c.Login(ctx, user, account, s.cfg.Password); err != nil {
		return fmt.Errorf("login: %w", err)
	}
	return nil
}

// again does something until it is done or was refused, with new connections.
// progress tells that an attempt brought something: then counting begins anew.
func (s *Source) again(ctx context.Context, do func() (progress bool, err error)) error {
	pause := s.cfg.FirstPause
	for failed := 0; ; {
		var err error
		if s.client == nil {
			err = s.connect(ctx)
		}
		progress := false
		if err == nil {
			progress, err = do()
		}
		if progress {
			failed, pause = 0, s.cfg.FirstPause
		}
		var kept *keptError
		switch _, refused := imap.Refused(err); {
		case err == nil:
			return nil
		case errors.As(err, &kept):
			s.drop()
			return kept.err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case refused:
			return err
		}
		s.drop()
		if failed++; failed >= s.cfg.Attempts {
			return fmt.Errorf("after %d attempts: %w", failed, err)
		}
		s.cfg.Tell(fmt.Sprintf("the server was lost (%v); connecting again in %s", err, pause))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		pause = min(2*pause, 2*time.Minute)
	}
}

func (s *Source) drop() {
	if s.client != nil {
		_ = s.client.Close() // it is of no use
	}
	s.client, s.in, s.current = nil, "", nil
}

// keptError is one of ours, which another connection does not help with.
type keptError struct{ err error }

func (k *keptError) Error() string { return k.err.Error() }

// Folders implements transfer.Source.
func (s *Source) Folders(ctx context.Context) (all []transfer.Folder, skipped []transfer.Skip, err error) {
	err = s.again(ctx, func() (bool, error) {
		all, skipped, err = s.folders(ctx)
		return false, err
	})
	return all, skipped, err
}

func (s *Source) folders(ctx context.Context) (all []transfer.Folder, skipped []transfer.Skip, err error) {
	prefix, delimiter, err := s.client.Namespace(ctx)
	if err != nil {
		return nil, nil, err
	}
	list, err := s.client.List(ctx, prefix)
	if err != nil {
		return nil, nil, err
	}
	clear(s.raw)
	for _, m := range list {
		name, ok := mailboxName(m.Name, prefix, delimiter)
		switch {
		case !ok:
			skipped = append(skipped, transfer.Skip{Folder: m.Name, Why: "its name is no mailbox name here"})
			continue
		case s.raw[name] != "":
			skipped = append(skipped, transfer.Skip{Folder: m.Name, Why: "another mailbox is called " + name + " already"})
			continue
		case m.SpecialUse == `\All` || m.SpecialUse == `\Flagged`:
			skipped = append(skipped, transfer.Skip{Folder: m.Name, Why: "it shows messages of other mailboxes (" + m.SpecialUse + ")"})
			continue
		case !m.Selectable && !m.Subscribed:
			continue // only a level above others
		}
		s.raw[name] = m.Name
		all = append(all, transfer.Folder{
			Name: name, Subscribed: m.Subscribed, SpecialUse: m.SpecialUse, UIDValidity: m.UIDValidity, UIDNext: m.UIDNext,
			Messages: int(m.Messages), Absent: !m.Selectable,
		})
	}
	slices.SortFunc(all, func(a, b transfer.Folder) int { return strings.Compare(a.Name, b.Name) })
	return all, skipped, nil
}

// mailboxName is how we call a mailbox: without the prefix of the namespace,
// levels separated by "/".
func mailboxName(raw, prefix, delimiter string) (string, bool) {
	if raw == "INBOX" {
		return raw, true
	}
	raw, ok := strings.CutPrefix(raw, prefix)
	if !ok || raw == "" {
		return "", false
	}
	levels := []string{raw}
	if delimiter != "" {
		levels = strings.Split(strings.TrimSuffix(raw, delimiter), delimiter)
	}
	for i, level := range levels {
		if name, err := utf7.Decode(level); err == nil {
			level = name
		}
		if level == "" || !utf8.ValidString(level) {
			return "", false
		}
		levels[i] = strings.ReplaceAll(level, "/", "_")
	}
	name := strings.Join(levels, "/")
	if strings.EqualFold(name, "INBOX") {
		return "", false
	}
	return name, true
}

// window is of how many messages is asked at once.
const window = 500

// use examines a folder where it is not selected already.
func (s *Source) use(ctx context.Context, folder string) (*imap.Selected, error) {
	if s.in == folder && s.current != nil {
		return s.current, nil
	}
	s.in, s.current = "", nil
	selected, err := s.client.Examine(ctx, s.raw[folder])
	if err != nil {
		return nil, err
	}
	s.in, s.current = folder, selected
	return selected, nil
}

// Messages implements transfer.Source. A mailbox that the server refuses to
// open is skipped.
func (s *Source) Messages(ctx context.Context, folder string, each func([]transfer.Item) error, skip func(transfer.Skip)) error {
	var selected imap.Selected
	var uids imap.Set
	err := s.again(ctx, func() (bool, error) {
		now, err := s.use(ctx, folder)
		if err != nil {
			return false, err
		}
		selected = *now
		if selected.UIDNext == 0 {
			selected.UIDNext = 1<<32 - 1
			if st, err := s.client.Status(ctx, s.raw[folder]); err == nil && st.UIDNext > 0 {
				selected.UIDNext = st.UIDNext
			}
		}
		uids, err = s.client.UIDs(ctx, selected.UIDNext)
		return false, err
	})
	if code, refused := imap.Refused(err); refused {
		skip(transfer.Skip{Folder: folder, Why: fmt.Sprintf("the server refuses it: %v %s", err, code)})
		return nil
	} else if err != nil {
		return err
	}
	for some := range windows(uids, window) {
		items, err := s.summaries(ctx, folder, selected.UIDValidity, some)
		if err != nil {
			return err
		}
		if err := each(items); err != nil {
			return err
		}
	}
	return nil
}

// windows cuts a set, which is in order, into pieces.
func windows(set imap.Set, size uint32) func(func(imap.Set) bool) {
	return func(yield func(imap.Set) bool) {
		var piece imap.Set
		left := size
		for _, r := range set {
			for {
				n := min(left, r.Last-r.First+1)
				piece = append(piece, imap.Range{First: r.First, Last: r.First + n - 1})
				if left -= n; left == 0 {
					if !yield(piece) {
						return
					}
					piece, left = nil, size
				}
				if r.First+n-1 == r.Last {
					break
				}
				r.First += n
			}
		}
		if len(piece) > 0 {
			yield(piece)
		}
	}
}

// summaries asks about some messages.
func (s *Source) summaries(ctx context.Context, folder string, validity uint32, some imap.Set) (items []transfer.Item, err error) {
	err = s.again(ctx, func() (bool, error) {
		items = items[:0]
		now, err := s.use(ctx, folder)
		if err != nil {
			return false, err
		}
		if now.UIDValidity != validity {
			return false, &keptError{fmt.Errorf("UIDVALIDITY of %s changed from %d to %d: its UIDs are others now; begin again", folder, validity, now.UIDValidity)}
		}
		return false, s.client.Summaries(ctx, some.String(), s.cfg.Keys, func(m imap.Message) error {
			if !some.Contains(m.UID) || len(items) > 2*window {
				return nil // told by itself
			}
			items = append(items, s.item(validity, m))
			return nil
		})
	})
	slices.SortFunc(items, func(a, b transfer.Item) int { return int(int64(a.UID) - int64(b.UID)) })
	items = slices.CompactFunc(items, func(a, b transfer.Item) bool { return a.UID == b.UID })
	return items, err
}

func (s *Source) item(validity uint32, m imap.Message) transfer.Item {
	it := transfer.Item{
		Key: fmt.Sprintf("%d:%d", validity, m.UID),
		Message: transfer.Message{
			UID: m.UID, Date: parseDate(m.Date), Octets: m.Size,
			Flags: slices.DeleteFunc(slices.Clone(m.Flags), func(f string) bool { return strings.HasPrefix(f, `\`) && !isSystem(f) }),
		},
	}
	if s.cfg.Keys {
		it.Message.Key = transfer.KeyOf(transfer.MessageID([]byte(m.Header)), m.Size, it.Date)
	}
	return it
}

func isSystem(flag string) bool {
	return slices.Contains([]string{`\Answered`, `\Deleted`, `\Draft`, `\Flagged`, `\Seen`}, flag)
}

// parseDate reads INTERNALDATE; the zero time for what is none.
func parseDate(text string) time.Time {
	t, err := time.Parse("_2-Jan-2006 15:04:05 -0700", text)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// Texts implements transfer.Source.
func (s *Source) Texts(ctx context.Context, folder string, items []transfer.Item, take func(*transfer.Item, io.Reader) error) error {
	left := make(map[uint32]*transfer.Item, len(items))
	for i := range items {
		left[items[i].UID] = &items[i]
	}
	return s.again(ctx, func() (progress bool, err error) {
		if _, err := s.use(ctx, folder); err != nil {
			return false, err
		}
		var uids []uint32
		for i := range items {
			if left[items[i].UID] != nil {
				uids = append(uids, items[i].UID)
			}
		}
		err = s.client.Texts(ctx, uids, func(uid uint32, size int64, r io.Reader) error {
			it := left[uid]
			whole := &exact{r: r, left: size}
			if err := take(it, whole); err != nil {
				if whole.lost != nil {
					return whole.lost // the server's, not ours
				}
				return &keptError{err}
			}
			delete(left, uid)
			progress = true
			return nil
		})
		return progress, err
	})
}

// exact reads a text of a known length; that it ends early is an error.
type exact struct {
	r    io.Reader
	left int64
	lost error
}

func (e *exact) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	if err != nil && e.left > 0 {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		e.lost = err
		return n, err
	}
	return n, nil
}
