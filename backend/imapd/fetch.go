package imapd

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// Metas are read for so many messages at once, or for fewer when they may be
// large: a Meta is bounded by its message and by what mime keeps of one.
const (
	metaBatch       = 100
	maxMetaOctets   = 1 << 20
	metaBatchOctets = 8 << 20
)

// metaOctets is the most a message's Meta can take.
func metaOctets(m *mailstore.Message) int64 { return min(2*m.Octets, maxMetaOctets) }

// fetchPlan is what a FETCH needs, worked out once.
type fetchPlan struct {
	items  []fetchItem
	meta   bool // some item is answered from Meta
	want   mailstore.MetaParts
	header bool // some item is answered from the header in Meta
	body   bool // some item needs the body
	seen   bool // some item sets \Seen
	shown  bool // FLAGS are among the items
	made   bool // a preview that is missing is to be made
	binary bool // some item is to be decoded
	// undecoded says that a message was left out because a part of it cannot be
	// decoded.
	undecoded bool
	// unread is why messages were left out whose Meta cannot be read.
	unread error
	since  uint64
	// marked holds the messages that \Seen was set on, as they are now.
	marked map[imap.UID]*mailstore.Message
}

func newFetchPlan(a fetchArgs, condstore bool) *fetchPlan {
	f := &fetchPlan{items: a.items}
	if condstore && !a.has(fetchModSeqItem) { // RFC 7162 section 3.1: in every FETCH response
		f.items = append(f.items, fetchItem{kind: fetchModSeqItem})
	}
	for i := range a.items {
		switch it := &a.items[i]; it.kind {
		case fetchFlagsItem:
			f.shown = true
		case fetchEnvelope:
			f.meta, f.want = true, f.want|mailstore.MetaEnvelope
		case fetchBodyStructure:
			f.meta, f.want = true, f.want|mailstore.MetaBodyStructure
		case fetchBody:
			f.meta, f.want = true, f.want|mailstore.MetaBody
		case fetchThreadID:
			f.meta, f.want = true, f.want|mailstore.MetaHeader
		case fetchPreview:
			f.meta, f.made, f.want = true, f.made || !it.lazy, f.want|mailstore.MetaPreview
		case fetchBinary, fetchBinarySize:
			f.meta, f.body, f.binary = true, true, true
			f.want |= mailstore.MetaRoot
			f.seen = f.seen || !it.section.peek
		case fetchSection:
			f.meta = f.meta || !it.section.whole()
			f.want |= it.section.wants()
			f.header = f.header || it.section.fromHeader()
			f.body = f.body || !it.section.fromHeader()
			f.seen = f.seen || !it.section.peek
		}
	}
	return f
}

// fetch is FETCH and UID FETCH (RFC 3501 section 6.4.5). Messages that were
// expunged by others meanwhile are left out, and the tagged NO tells it.
func (s *session) fetch(ctx context.Context, a fetchArgs) (result, error) {
	if a.vanished {
		if err := s.needQresync(); err != nil {
			return result{}, err
		}
	}
	if a.modSeq {
		s.enableCondstore()
	}
	spans, err := s.box.resolve(a.set, a.uid)
	if err == nil && a.partial != nil {
		err = s.pageWithin(*a.partial)
	}
	if err != nil {
		return result{}, err
	}
	if s.uidOnly && a.implied { // UIDFETCH names it already
		a.items = a.items[1:]
	}
	f := newFetchPlan(a, s.condstore)
	if a.changedSince > 0 {
		from := s.baselineOf(a.changedSince)
		f.since = from.modSeq
		if a.vanished {
			s.vanishedSince(from, s.askedVanished(a.set, from))
		}
	}
	if a.partial != nil {
		spans = s.box.paged(spans, *a.partial, f.since)
	}
	spans, short := s.cut(spans, func(i int) bool { return f.since == 0 || s.box.message(i).ModSeq > f.since })
	if short {
		spans = descending(spans)
	}
	if f.seen && s.box.may(acl.Seen) == nil {
		s.markSeen(ctx, f, spans)
	}
	missing := false
	for _, sp := range spans {
		lost, err := s.fetchSpan(ctx, f, sp)
		if err != nil {
			return result{}, err
		}
		missing = missing || lost
	}
	switch {
	case f.unread != nil:
		return result{}, f.unread
	case missing:
		return result{}, refuse("EXPUNGEISSUED", "Some messages are gone")
	case f.undecoded:
		return result{}, refuse("UNKNOWN-CTE", "Some parts have an unknown transfer encoding")
	}
	return result{}, nil
}

// markSeen sets \Seen on what is about to be read, in one commit. A store that
// cannot write now does not keep anybody from reading.
func (s *session) markSeen(ctx context.Context, f *fetchPlan, spans []span) {
	var unseen []imap.UID
	for _, sp := range spans {
		for i := sp.lo; i < sp.hi; i++ {
			if m := s.box.message(i); m.Flags&mailstore.FlagSeen == 0 && (f.since == 0 || m.ModSeq > f.since) {
				unseen = append(unseen, m.UID)
			}
		}
	}
	if len(unseen) == 0 {
		return
	}
	change := mailstore.FlagsChange{Op: mailstore.FlagsAdd, Flags: mailstore.FlagSeen}
	if _, err := s.box.mailbox.StoreFlags(ctx, unseen, change); err != nil {
		s.log.Warn(`cannot set \Seen`, "sid", s.client.Session, "login", s.login(), "error", err)
		return
	}
	now := s.box.mailbox.View()
	f.marked = make(map[imap.UID]*mailstore.Message, len(unseen))
	for _, uid := range unseen {
		if i, ok := now.Find(uid); ok {
			f.marked[uid] = now.At(i)
		}
	}
}

// fetchSpan answers a run of messages, reading their Metas in batches.
func (s *session) fetchSpan(ctx context.Context, f *fetchPlan, sp span) (missing bool, err error) {
	var batch []*mailstore.Message
	var metas []*mailstore.Meta
	for lo := sp.lo; lo < sp.hi; lo += len(batch) {
		batch = batch[:0]
		var octets int64
		for i := lo; i < sp.hi && len(batch) < metaBatch && octets < metaBatchOctets; i++ {
			batch = append(batch, s.box.message(i))
			octets += metaOctets(batch[len(batch)-1])
		}
		needed, want := f.metaFor(batch)
		if needed {
			var unread error
			if metas, unread, err = someOfMetas(ctx, s.box.mailbox, batch, want); err != nil {
				return missing, err
			}
			f.unread = cmp.Or(f.unread, unread)
		}
		if f.made {
			s.completePreviews(ctx, batch, metas)
		}
		for i, m := range batch {
			if f.since > 0 && m.ModSeq <= f.since {
				continue
			}
			var meta *mailstore.Meta
			if needed {
				if meta = metas[i]; meta == nil && (f.meta || m.Trace() > 0) {
					missing = true
					continue
				}
			}
			lost, err := s.fetchMessage(ctx, f, lo+i, m, meta)
			if err != nil {
				return missing, err
			}
			missing = missing || lost
		}
		if err := s.goOn(ctx); err != nil {
			return missing, err
		}
	}
	return missing, nil
}

// metaFor tells what is needed of the Metas of messages. A body begins with its
// trace header, which is in the Meta: those of many are read at once.
func (f *fetchPlan) metaFor(batch []*mailstore.Message) (needed bool, want mailstore.MetaParts) {
	if f.body && slices.ContainsFunc(batch, func(m *mailstore.Message) bool { return m.Trace() > 0 }) {
		return true, f.want | mailstore.MetaHeader
	}
	return f.meta, f.want
}

// bodyOf opens a message, whose Meta may have been read.
func (s *session) bodyOf(ctx context.Context, m *mailstore.Message, meta *mailstore.Meta) (store.Body, error) {
	if meta == nil {
		return s.box.mailbox.Body(ctx, m)
	}
	return s.box.mailbox.BodyOf(ctx, m, meta)
}

// goOn ends long work for a client that is gone, or a server that is ending.
func (s *session) goOn(ctx context.Context) error {
	if s.w.err != nil {
		return &connError{s.w.err}
	}
	s.inProgress()
	return ctx.Err()
}

// someOfMetas reads the Metas of messages; nil stands for those of messages gone.
// One that is damaged does not keep those beside it from being read: it is nil,
// too, and unread tells.
func someOfMetas(ctx context.Context, mailbox mailbox, ms []*mailstore.Message, want mailstore.MetaParts) (metas []*mailstore.Meta, unread, err error) {
	metas, err = mailbox.SomeOfMetas(ctx, ms, want)
	if !errors.Is(err, mailstore.ErrNoMessage) && !mailstore.IsDamaged(err) {
		return metas, nil, err
	}
	metas = make([]*mailstore.Meta, len(ms))
	for i := range ms {
		one, err := mailbox.SomeOfMetas(ctx, ms[i:i+1], want)
		switch {
		case err == nil:
			metas[i] = one[0]
		case mailstore.IsDamaged(err):
			unread = err
		case !errors.Is(err, mailstore.ErrNoMessage):
			return nil, nil, err
		}
	}
	return metas, unread, nil
}

// fetchMessage writes one FETCH response. The body is opened before the first
// octet is written, so that a message that is gone leaves no half response.
func (s *session) fetchMessage(ctx context.Context, f *fetchPlan, i int, m *mailstore.Message, meta *mailstore.Meta) (missing bool, err error) {
	if !f.decodable(meta) {
		f.undecoded = true
		return false, nil
	}
	var body store.Body
	if f.body || f.header && meta.Header == nil {
		if body, err = s.bodyOf(ctx, m, meta); errors.Is(err, mailstore.ErrNoMessage) || errors.Is(err, store.ErrNotFound) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		defer func() { _ = body.Close() }()
	}
	now := m
	if marked := f.marked[m.UID]; marked != nil {
		now = marked
	}
	s.box.noteShown(now)
	s.fetchHead(i, m)
	for k := range f.items {
		if k > 0 {
			s.w.char(' ')
		}
		if err := s.fetchItem(ctx, &f.items[k], now, meta, body); err != nil {
			return false, err
		}
	}
	if now != m {
		s.fetchMarked(f, now)
	}
	s.w.line(")")
	return false, nil
}

// fetchMarked adds the flags that the FETCH itself changed.
func (s *session) fetchMarked(f *fetchPlan, m *mailstore.Message) {
	s.box.noteAhead(m)
	if !f.shown {
		s.w.str(" FLAGS ")
		s.w.flags(m)
	}
}

func (s *session) fetchItem(ctx context.Context, it *fetchItem, m *mailstore.Message, meta *mailstore.Meta, body store.Body) error {
	w := &s.w
	switch it.kind {
	case fetchUID:
		w.str("UID ")
		w.num(uint64(m.UID))
	case fetchFlagsItem:
		w.str("FLAGS ")
		w.flags(m)
	case fetchEmailID:
		w.str("EMAILID (")
		w.objectID(emailPrefix, m.EmailID)
		w.char(')')
	case fetchThreadID:
		w.str("THREADID (")
		w.objectID(threadPrefix, threadID(m, meta.Header))
		w.char(')')
	case fetchInternalDate:
		w.str("INTERNALDATE ")
		w.dateTime(m.InternalDate)
	case fetchSaveDate:
		w.str("SAVEDATE ")
		w.dateTime(m.SaveDate)
	case fetchPreview:
		w.preview(meta)
	case fetchSize:
		w.str("RFC822.SIZE ")
		w.num(uint64(m.Octets))
	case fetchModSeqItem:
		w.modSeq(m)
	case fetchEnvelope:
		w.str("ENVELOPE ")
		w.raw(meta.Envelope)
	case fetchBodyStructure:
		w.str("BODYSTRUCTURE ")
		w.raw(meta.BodyStructure)
	case fetchBody:
		w.str("BODY ")
		w.raw(meta.Body)
	case fetchSection:
		return s.fetchSection(&it.section, meta, body)
	case fetchBinary:
		return s.fetchBinary(ctx, &it.section, m, meta, body)
	case fetchBinarySize:
		return s.fetchBinarySize(ctx, &it.section, m, meta, body)
	}
	return nil
}

// dateTime appends a date and time in UTC, quoted (RFC 3501 section 9,
// date-time).
func (w *writer) dateTime(t time.Time) {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	w.grow()
	b := append(w.buf, '"', ' ', byte('0'+day%10), '-')
	if day > 9 {
		b[len(b)-3] = byte('0' + day/10)
	}
	b = append(b, month.String()[:3]...)
	b = append(b, '-', byte('0'+year/1000%10), byte('0'+year/100%10), byte('0'+year/10%10), byte('0'+year%10), ' ')
	b = append(b, byte('0'+hour/10), byte('0'+hour%10), ':', byte('0'+minute/10), byte('0'+minute%10), ':')
	w.buf = append(b, byte('0'+second/10), byte('0'+second%10), ' ', '+', '0', '0', '0', '0', '"')
}

// fetchSection writes one BODY[...] item.
func (s *session) fetchSection(sec *section, meta *mailstore.Meta, body store.Body) error {
	s.w.str(sec.response)
	s.w.char(' ')
	if sec.whole() {
		return s.sectionStream(sec, mime.Span{End: body.Size()}, body)
	}
	if sec.fromHeader() && meta.Header != nil {
		s.sectionBytes(sec, meta.Header)
		return nil
	}
	at, ok := meta.Root.Section(sec.path, sec.specifier)
	if !ok { // no such part
		s.w.str("NIL")
		return nil
	}
	if len(sec.fields) > 0 {
		header, err := readHeader(body, at)
		if err != nil {
			return s.streamFailed(err)
		}
		s.sectionBytes(sec, header)
		return nil
	}
	return s.sectionStream(sec, at, body)
}

// sectionBytes writes a section that is in memory, after picking fields.
func (s *session) sectionBytes(sec *section, b []byte) {
	if len(sec.fields) > 0 {
		b = mime.Fields(b, sec.fields, sec.not)
	}
	b = sec.cut(b)
	s.w.literal(int64(len(b)))
	s.w.raw(b)
}

// cut takes what the section wants of the octets of b.
func (sec *section) cut(b []byte) []byte {
	if !sec.partial {
		return b
	}
	lo := min(sec.offset, int64(len(b)))
	return b[lo : lo+min(sec.octets, int64(len(b))-lo)]
}

// sectionStream copies a section from the body in bounded memory.
func (s *session) sectionStream(sec *section, at mime.Span, body store.Body) error {
	if sec.partial {
		at.Start = min(at.Start+min(sec.offset, at.Len()), at.End)
		at.End = at.Start + min(sec.octets, at.Len())
	}
	s.w.literal(at.Len())
	for at.Len() > 0 {
		n := min(at.Len(), bodyStepOctets)
		from := len(s.w.buf)
		s.w.buf = slices.Grow(s.w.buf, int(n))[:from+int(n)]
		if _, err := body.ReadAt(s.w.buf[from:], at.Start); err != nil && !errors.Is(err, io.EOF) {
			s.w.buf = s.w.buf[:from]
			return s.streamFailed(err)
		}
		at.Start += n
		if len(s.w.buf) >= flushOctets {
			if err := s.w.flush(); err != nil {
				return &connError{err}
			}
		}
	}
	return nil
}

// streamFailed ends the session: the length of the literal was announced, and
// filling it with anything else would be a lie.
func (s *session) streamFailed(err error) error {
	s.log.Error("cannot read a message", "sid", s.client.Session, "login", s.login(), "reason", status.Of(err), "error", err)
	return errStream
}

// readSpan reads a range that is known to be short.
func readSpan(body store.Body, at mime.Span) ([]byte, error) {
	b := make([]byte, at.Len())
	if _, err := body.ReadAt(b, at.Start); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}
