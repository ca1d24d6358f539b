package mailstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"unicode"

	"github.com/emersion/go-imap/v2"
	"golang.org/x/text/unicode/norm"

	"github.com/postern-mail/postern/backend/mailstore/fulltext"
	"github.com/postern-mail/postern/backend/mailstore/text"
	"github.com/postern-mail/postern/store"
)

// SearchIndex is what an administrator decides about the index of messages'
// text. What it holds is derived and each node's own: it is never replicated,
// and built anew when it is missing or was made otherwise.
type SearchIndex struct {
	// Attachments: text is also what is in attachments of other types than
	// text/*, see text.Options. It counts for searches without the index, too.
	Attachments bool
	// Documents: so is what is in documents of office programs; the same holds.
	Documents bool
	// MaxOctets is how much text of a message is looked at. One that has more is
	// read by every search that gets as far as text. Zero: 4 MiB.
	MaxOctets int64
}

// indexFormat changes when the same messages would be indexed otherwise.
const indexFormat = 1

func (c *SearchIndex) maxOctets() int64 {
	if c.MaxOctets <= 0 {
		return 4 << 20
	}
	return c.MaxOctets
}

// made tells how documents are made, so that an index made otherwise is begun
// anew. The tables of characters are part of that: with those of another Unicode
// a needle might be folded into what was never indexed.
func (c *SearchIndex) made() []byte {
	b := []byte{indexFormat, boolByte(c.Attachments)}
	if c.Documents {
		b[1] |= 2
	}
	b = binary.AppendUvarint(b, uint64(c.maxOctets()))
	return append(b, "Unicode "+unicode.Version+" "+norm.Version...)
}

// TextOptions says what is text, for searches and the index alike.
func (s *Store) TextOptions() text.Options {
	c := s.cfg.SearchIndex
	if c == nil {
		return text.Options{}
	}
	return text.Options{Attachments: c.Attachments, Documents: c.Documents}
}

func (s *Store) indexOf(account GUID) *fulltext.Index {
	return fulltext.New(s.kv, accountKey(account, kindIndex))
}

// TextHints tell which messages of a mailbox cannot have what is looked for. They
// are those of one search.
type TextHints struct {
	answer  *fulltext.Answer
	store   *Store
	account GUID
	marks   indexMarks
	mailbox GUID
	unknown atomic.Bool
	behind  atomic.Bool
}

// TextHints asks the index for needles. It is nil, and so rules out nothing,
// without an index.
func (m *Mailbox) TextHints(ctx context.Context, needles []text.Needle) (*TextHints, error) {
	a := m.box.account
	s := a.store
	if s.index == nil || len(needles) == 0 {
		return nil, nil
	}
	folded := make([][]byte, len(needles))
	for i, n := range needles {
		folded[i] = n.Folded()
	}
	answer, err := s.indexOf(a.id).Ask(ctx, s.cfg.SearchIndex.made(), folded)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		s.log.Warn("search index cannot be read; messages are read instead", "account", a.name, "err", err)
		if fulltext.IsDamaged(err) {
			s.index.want(a.id, wantAnew)
		}
		return nil, nil
	}
	marks, _ := decodeMarks(answer.Marks)
	return &TextHints{answer: answer, store: s, account: a.id, marks: marks, mailbox: m.box.guid}, nil
}

// May reports whether a message may have needle i in one of its texts. Where it
// says no, reading the message would find nothing.
func (h *TextHints) May(m *Message, i int) bool {
	if h == nil {
		return true
	}
	may, known := h.answer.May(fulltext.ID(m.EmailID), i)
	if !known {
		h.unknown.Store(true)
		if m.UID <= h.marks[h.mailbox] {
			h.behind.Store(true)
		}
	}
	return may
}

// Close has the messages indexed that the index did not know.
func (h *TextHints) Close() {
	switch {
	case h == nil || !h.unknown.Load():
	case h.behind.Load():
		h.store.index.want(h.account, wantAll)
	default:
		h.store.index.want(h.account, wantNow)
	}
}

// indexMarks are the UIDs up to which mailboxes were looked at. They only say
// where to go on: what the index knows it knows by identity.
type indexMarks map[GUID]imap.UID

func (k indexMarks) encode() []byte {
	var b []byte
	for _, id := range sortedGUIDs(k) {
		b = append(b, id[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(k[id]))
	}
	return b
}

func decodeMarks(b []byte) (indexMarks, error) {
	k := make(indexMarks)
	if len(b)%20 != 0 {
		return k, fmt.Errorf("marks of the search index: %w", errRecord)
	}
	for ; len(b) > 0; b = b[20:] {
		k[GUID(b)] = imap.UID(binary.BigEndian.Uint32(b[16:]))
	}
	return k, nil
}

// indexWork is one pass over an account.
type indexWork struct {
	store   *Store
	account GUID
	writer  *fulltext.Writer
	marks   indexMarks
	grams   *fulltext.Grams
	options text.Options
	most    int64
	counts  *indexCounts
	// pace is called after each message with the octets that were read.
	pace func(ctx context.Context, octets int64) error
}

// indexCounts are since the start.
type indexCounts struct {
	messages, octets, failed, removed atomic.Int64
}

// indexGrams are used by one pass at a time; they are large.
var indexGrams = sync.Pool{New: func() any { return new(fulltext.Grams) }}

// indexAccount brings an account's index up to date: all of it with whole, else
// from the marks on. It is broken off at any time without harm.
func (s *Store) indexAccount(ctx context.Context, account GUID, whole bool, pace func(context.Context, int64) error) error {
	w := &indexWork{
		store: s, account: account, options: s.TextOptions(), most: s.cfg.SearchIndex.maxOctets(), counts: &s.index.counts, pace: pace,
	}
	var err error
	if w.writer, err = s.indexOf(account).Open(ctx, s.cfg.SearchIndex.made()); err != nil {
		return err
	}
	if w.marks, err = decodeMarks(w.writer.Marks); err != nil || whole {
		w.marks = make(indexMarks)
	}
	w.grams = indexGrams.Get().(*fulltext.Grams)
	defer indexGrams.Put(w.grams)
	messages, err := w.mailboxes(ctx)
	if err != nil {
		return err
	}
	if err := w.flush(ctx); err != nil {
		return err
	}
	for more := true; more; {
		if more, err = w.writer.Merge(ctx, func() (func(fulltext.ID) bool, error) { return w.live(ctx) }); err != nil {
			return err
		}
		if err := pace(ctx, 0); err != nil {
			return err
		}
	}
	return w.compact(ctx, messages)
}

// mailboxes indexes what is new in each, and returns how many messages there
// are.
func (w *indexWork) mailboxes(ctx context.Context) (messages int64, err error) {
	records := make(map[GUID]mailboxRecord)
	err = w.store.kv.View(ctx, func(snap store.Snapshot) error {
		return readRegisters(snap, w.account, records, make(map[string]subscription))
	})
	if err != nil {
		return 0, err
	}
	for id := range w.marks {
		if r, there := records[id]; !there || r.removed {
			delete(w.marks, id)
		}
	}
	for _, id := range sortedGUIDs(records) {
		r := records[id]
		if r.removed {
			continue
		}
		messages += r.messages
		if err := w.mailbox(ctx, id, &r); err != nil {
			return messages, err
		}
	}
	return messages, nil
}

func sortedGUIDs[V any](m map[GUID]V) []GUID {
	ids := make([]GUID, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b GUID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

// indexPage is how many messages are listed at once.
const indexPage = 1000

// mailbox indexes the messages behind its mark.
func (w *indexWork) mailbox(ctx context.Context, mailbox GUID, r *mailboxRecord) error {
	prefix := mailboxKey(w.account, kindMessage, mailbox)
	for {
		var some []Message
		from := messageKey(w.account, kindMessage, mailbox, w.marks[mailbox]+1)
		if w.marks[mailbox]+1 == 0 {
			return nil
		}
		err := w.store.kv.View(ctx, func(snap store.Snapshot) error {
			for pair, err := range snap.Range(from, above(prefix), indexPage, false) {
				if err != nil {
					return err
				}
				var m Message
				if err := decodeMessage(&m, uidOf(pair.Key), pair.Value); err != nil {
					m.UID = uidOf(pair.Key) // fsck tells of it
				}
				some = append(some, m)
			}
			return nil
		})
		if err != nil || len(some) == 0 {
			return err
		}
		for i := range some {
			m := &some[i]
			if m.EmailID != (GUID{}) && !covers(r.erased, m.Dot) && !w.writer.Has(fulltext.ID(m.EmailID)) {
				if err := w.message(ctx, mailbox, m); err != nil {
					return err
				}
			}
			w.marks[mailbox] = m.UID
		}
	}
}

// message indexes one message. One that cannot be read is left out: searches
// read it, and tell.
func (w *indexWork) message(ctx context.Context, mailbox GUID, m *Message) error {
	w.grams.Reset(w.most)
	err := w.store.readTexts(ctx, w.account, mailbox, m, w.options, w.grams)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, store.ErrNotFound): // expunged meanwhile
		return nil
	case errors.Is(err, store.ErrClosed):
		return err
	case err != nil:
		w.counts.failed.Add(1)
		w.store.log.Debug("message is not indexed", "account", w.account, "mailbox", mailbox, "uid", m.UID, "err", err)
		return w.pace(ctx, m.Octets)
	}
	w.counts.messages.Add(1)
	w.counts.octets.Add(m.Octets)
	full := w.writer.Add(fulltext.ID(m.EmailID), w.grams)
	if err := w.pace(ctx, m.Octets); err != nil {
		return err
	}
	if full {
		return w.flush(ctx)
	}
	return nil
}

func (w *indexWork) flush(ctx context.Context) error {
	w.writer.Marks = w.marks.encode()
	if len(w.writer.Marks) > maxMarksOctets { // the index works without, and looks further
		w.writer.Marks = nil
	}
	return w.writer.Flush(ctx)
}

// maxMarksOctets is what the state of the index has room for.
const maxMarksOctets = store.MaxValueOctets - 1<<10

// live returns which documents are messages of the account.
func (w *indexWork) live(ctx context.Context) (func(fulltext.ID) bool, error) {
	there := make(map[fulltext.ID]struct{})
	for _, kind := range []byte{kindMessage, kindPending} {
		prefix := accountKey(w.account, kind)
		err := store.Scan(ctx, w.store.kv, prefix, above(prefix), indexPage, func(_ store.Snapshot, key, value []byte) error {
			var m Message
			if decodeInstance(&m, 0, value) == nil {
				there[fulltext.ID(m.EmailID)] = struct{}{}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return func(id fulltext.ID) bool { _, ok := there[id]; return ok }, nil
}

// compact removes documents that are gone, once they are a third of what is
// there. A document may stand for several messages, never the other way round.
func (w *indexWork) compact(ctx context.Context, messages int64) error {
	if n := int64(w.writer.Documents()); n <= messages+messages/2+64 {
		return nil
	}
	live, err := w.live(ctx)
	if err != nil {
		return err
	}
	gone, err := w.writer.Compact(ctx, live)
	w.counts.removed.Add(int64(gone))
	return err
}

// readTexts reads a message's texts as searches do.
func (s *Store) readTexts(ctx context.Context, account, mailbox GUID, m *Message, o text.Options, sink text.Sink) error {
	var record []byte
	err := s.kv.View(ctx, func(snap store.Snapshot) error {
		value, err := snap.Get(messageKey(account, kindMeta, mailbox, m.UID))
		record = bytes.Clone(value)
		return err
	})
	if err != nil {
		return err
	}
	trace, found, err := decodeMeta(record)
	if err != nil {
		return err
	}
	if found == nil {
		if found, err = scanBody(ctx, m.Body, s.openBody); err != nil {
			return err
		}
	}
	meta := newMeta(trace, found)
	var body store.Body
	defer func() {
		if body != nil {
			_ = body.Close() // only read
		}
	}()
	message := text.Message{Header: meta.Header, Root: meta.Root, Body: func() (io.ReaderAt, error) {
		opened, err := s.openBody(ctx, m.Body)
		if err != nil {
			return nil, err
		}
		body = opened
		if len(trace) > 0 {
			body = &traced{Body: opened, trace: trace}
		}
		return body, nil
	}}
	return message.Texts(o, sink)
}
