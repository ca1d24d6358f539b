package imapd

import (
	"context"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

type storeArgs struct {
	uid            bool
	set            numSet
	op             mailstore.FlagsOp
	silent         bool
	flags          flagSet
	unchangedSince *uint64
}

func parseStore(uid bool) func(*parser) (storeArgs, error) {
	return func(p *parser) (a storeArgs, err error) {
		a.uid = uid
		if a.set, err = parseSet(p); err != nil {
			return a, err
		}
		if err = p.sp(); err != nil {
			return a, err
		}
		if p.peek() == '(' {
			if err = p.list(func() error { return p.storeModifier(&a) }); err != nil {
				return a, err
			}
			if err = p.sp(); err != nil {
				return a, err
			}
		}
		if err = p.storeItem(&a); err != nil {
			return a, err
		}
		if err = p.sp(); err != nil {
			return a, err
		}
		a.flags, err = p.storeFlags()
		return a, err
	}
}

func (p *parser) storeModifier(a *storeArgs) error {
	word, err := p.word()
	if err != nil || word != "UNCHANGEDSINCE" {
		return orSyntax(err, "unknown store modifier")
	}
	if err := p.sp(); err != nil {
		return err
	}
	n, err := p.number64()
	a.unchangedSince = &n
	return err
}

func (p *parser) storeItem(a *storeArgs) error {
	switch {
	case p.take('+'):
		a.op = mailstore.FlagsAdd
	case p.take('-'):
		a.op = mailstore.FlagsRemove
	default:
		a.op = mailstore.FlagsSet
	}
	word, err := p.word()
	if err != nil {
		return err
	}
	word, a.silent = strings.CutSuffix(word, ".SILENT")
	if word != "FLAGS" {
		return syntax("unknown data item")
	}
	return nil
}

// store is STORE and UID STORE (RFC 3501 section 6.4.6, RFC 7162 section
// 3.1.3). It tells its own changes itself; the sync behind the command then
// finds nothing more of them.
func (s *session) store(ctx context.Context, a storeArgs) (result, error) {
	if a.unchangedSince != nil {
		s.enableCondstore()
	}
	allowed, no, err := s.box.storable(a.op, a.flags)
	if err != nil {
		return result{}, err
	}
	a.flags = allowed
	spans, err := s.box.resolve(a.set, a.uid)
	if err != nil || len(spans) == 0 {
		return result{}, err
	}
	spans, _ = s.cut(spans, nil)
	change := mailstore.FlagsChange{
		Op: a.op, Flags: a.flags.system, Keywords: a.flags.keywords, UnchangedSince: a.unchangedSince,
		Except: no.system, ExceptKeywords: no.keywords,
	}
	var modified []imap.UID
	s.patiently(count(spans), func() { modified, err = s.box.mailbox.StoreFlags(ctx, s.box.uidsOf(spans), change) })
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	echo := &storeEcho{spans: spans, flags: a.flags, op: a.op, silent: a.silent}
	res := result{modSeq: true}
	if len(modified) > 0 {
		res = s.modifiedResult(modified, a.uid)
		echo.spans = s.without(spans, modified)
	}
	return res, s.sync(syncMode{keepNumbers: !a.uid, uid: a.uid, stored: echo, delay: s.quirks.delayNewMail})
}

// modifiedResult names the messages that UNCHANGEDSINCE left alone, by the
// numbers of what the client was told.
func (s *session) modifiedResult(modified []imap.UID, uid bool) result {
	slices.Sort(modified)
	code := []byte("MODIFIED ")
	if uid {
		code = appendSet(code, modified)
	} else {
		var nums []uint32
		for _, u := range modified {
			if i, ok := s.box.told.Find(u); ok {
				nums = append(nums, uint32(i)+1)
			}
		}
		code = appendSet(code, nums)
	}
	return result{code: string(code), text: "Conditional store failed for some messages"}
}

// without takes the messages of uids out of spans.
func (s *session) without(spans []span, uids []imap.UID) []span {
	var out []span
	for _, sp := range spans {
		for i := sp.lo; i < sp.hi; i++ {
			if _, left := slices.BinarySearch(uids, s.box.told.At(i).UID); left {
				continue
			}
			if n := len(out); n > 0 && out[n-1].hi == i {
				out[n-1].hi++
			} else {
				out = append(out, span{i, i + 1})
			}
		}
	}
	return out
}

// expunge is EXPUNGE; the sync behind the command tells what is gone.
func (s *session) expunge(ctx context.Context) (result, error) {
	if err := s.box.may(toExpunge); err != nil {
		return result{}, err
	}
	gone, err := s.expungeUIDs(ctx, nil)
	return result{modSeq: len(gone) > 0}, err
}

// uidExpunge is UID EXPUNGE (RFC 4315 section 2.1).
func (s *session) uidExpunge(ctx context.Context, set numSet) (result, error) {
	if err := s.box.may(toExpunge); err != nil {
		return result{}, err
	}
	spans, err := s.box.resolve(set, true)
	if err != nil {
		return result{}, err
	}
	spans, _ = s.cut(spans, func(i int) bool { return s.box.message(i).Flags&mailstore.FlagDeleted != 0 })
	uids := s.box.uidsOf(spans)
	if len(uids) == 0 { // none named: nil would mean all
		return result{}, nil
	}
	gone, err := s.expungeUIDs(ctx, uids)
	return result{modSeq: len(gone) > 0}, err
}

// expungeUIDs expunges those of uids that have \Deleted, all when uids is nil,
// and audits what went.
func (s *session) expungeUIDs(ctx context.Context, uids []imap.UID) ([]imap.UID, error) {
	where := s.whereabouts()
	gone, err := s.box.mailbox.Expunge(ctx, uids)
	s.recordExpunge(where, gone, "expunge", err)
	return gone, mailboxError(err, "")
}

// maxAuditUIDs bounds the UIDs of one audit record.
const maxAuditUIDs = 500

// whereabouts tells where messages of the selected mailbox lie, also when they
// are gone meanwhile.
func (s *session) whereabouts() func(uids []imap.UID) []mailstore.Whereabouts {
	if v, ok := s.box.mailbox.(*mailstore.Virtual); ok {
		return v.Whereabouts()
	}
	name := s.box.mailbox.Info().Name
	return func(uids []imap.UID) []mailstore.Whereabouts {
		return []mailstore.Whereabouts{{Mailbox: name, UIDs: uids}}
	}
}

// recordExpunge audits what went, by the real mailboxes it lay in, and the error
// that kept the rest.
func (s *session) recordExpunge(where func([]imap.UID) []mailstore.Whereabouts, gone []imap.UID, detail string, err error) {
	e := s.event(mail.EventExpunge)
	e.Owner, e.Result = s.ownerOf(s.box.prefix), "ok"
	shown := s.box.prefix + s.box.mailbox.Info().Name
	for _, real := range where(gone) {
		e.Mailbox, e.Detail = s.box.prefix+real.Mailbox, detail
		if e.Mailbox != shown {
			e.Detail += " in " + shown
		}
		for part := range slices.Chunk(real.UIDs, maxAuditUIDs) {
			e.UIDs = string(appendSet(nil, part))
			s.server.deps.Audit.Record(e)
		}
	}
	if err != nil {
		e.Mailbox, e.Detail = shown, detail
		e.UIDs, e.Result, e.Reason = "", "refused", status.Of(err).String()
		s.server.deps.Audit.Record(e)
	}
}
