package imapd

import (
	"context"
	"errors"
	"math"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

// resyncArgs are the parameters of QRESYNC (RFC 7162 section 3.2.5): the state
// of a mailbox that the client remembers.
type resyncArgs struct {
	uidValidity uint32
	modSeq      uint64
	known       numSet // UIDs; nil when not given
	// matchNumbers and matchUIDs are a sample of message numbers and the UIDs
	// that they had, nil when not given.
	matchNumbers, matchUIDs numSet
}

// resyncParameter reads what follows "QRESYNC".
func (p *parser) resyncParameter() (*resyncArgs, error) {
	if err := p.sp(); err != nil {
		return nil, err
	}
	if err := p.want('('); err != nil {
		return nil, err
	}
	a := &resyncArgs{}
	var err error
	if a.uidValidity, err = p.number(); err != nil || a.uidValidity == 0 {
		return nil, orSyntax(err, "0 is not a UIDVALIDITY")
	}
	if err = p.sp(); err != nil {
		return nil, err
	}
	if a.modSeq, err = p.modSeqValue(); err != nil {
		return nil, err
	}
	if p.peek() == ' ' && !p.follows(" (") {
		p.i++
		if a.known, err = p.knownSet(); err != nil {
			return nil, err
		}
	}
	if p.take(' ') {
		if err = p.matchData(a); err != nil {
			return nil, err
		}
	}
	return a, p.want(')')
}

// follows reports whether s comes next.
func (p *parser) follows(s string) bool {
	return len(p.b)-p.i >= len(s) && string(p.b[p.i:p.i+len(s)]) == s
}

// matchData reads seq-match-data: as many numbers as UIDs.
func (p *parser) matchData(a *resyncArgs) (err error) {
	p.sequence = true
	if err = p.want('('); err != nil {
		return err
	}
	if a.matchNumbers, err = p.knownSet(); err != nil {
		return err
	}
	if err = p.sp(); err != nil {
		return err
	}
	if a.matchUIDs, err = p.knownSet(); err != nil {
		return err
	}
	if !a.matchNumbers.ascends() || !a.matchUIDs.ascends() || a.matchNumbers.size() != a.matchUIDs.size() {
		return syntax("message numbers and UIDs must ascend, and be as many")
	}
	return p.want(')')
}

// knownSet reads a sequence set without "*" and "$", which are nothing anybody
// knows.
func (p *parser) knownSet() (numSet, error) {
	set, err := p.numSet()
	for _, r := range set {
		if r.first == star || r.last == star {
			return nil, syntax(`"*" and "$" are not allowed here`)
		}
	}
	return set, err
}

// modSeqValue reads mod-sequence-value: 63 bits, and never 0.
func (p *parser) modSeqValue() (uint64, error) {
	n, err := p.number64()
	if err == nil && n == 0 {
		err = syntax("0 is not a mod-sequence")
	}
	return n, err
}

// enableQresync is ENABLE QRESYNC, and with it CONDSTORE.
func (s *session) enableQresync() {
	s.qresync = true
	s.enableCondstore()
}

// needQresync refuses what may only be used after ENABLE QRESYNC.
func (s *session) needQresync() error {
	if !s.qresync {
		return syntax("QRESYNC is not enabled")
	}
	return nil
}

// baseline is where a client's knowledge of a mailbox ends.
type baseline struct {
	// modSeq is ours: what changed above it, the client must be told.
	modSeq uint64
	// exact says that the client was told of this mailbox by this node, as it
	// was at modSeq. Otherwise it may know messages that were never here.
	exact bool
}

// baselineOf judges a mod-sequence that the client presents.
func (s *session) baselineOf(presented uint64) baseline {
	b := baseline{modSeq: s.box.mailbox.Base(presented)}
	b.exact = b.modSeq == presented && !s.box.mailbox.IsForeign(presented)
	return b
}

// raise keeps HIGHESTMODSEQ from going down before the eyes of a client that
// comes from the partner. A store that cannot write does not keep it from
// reading.
func (s *session) raise(ctx context.Context, mailbox mailbox, presented uint64) {
	if err := mailbox.RaiseModSeq(ctx, presented); err != nil {
		s.log.Warn("cannot raise HIGHESTMODSEQ", "sid", s.client.Session, "login", s.login(), "error", err)
	}
}

// resync tells what happened to a mailbox since the client knew it (RFC 7162
// section 3.2.5): first the expunges, then the flags.
func (s *session) resync(ctx context.Context, a *resyncArgs, b baseline) error {
	v := s.box.told
	known := everKnown(v, b)
	if a.known != nil {
		known = s.possible(a.known.ranges(math.MaxUint32), b)
	}
	if from := s.matchedUpTo(a, b); from > 0 {
		known = cutBelow(known, from)
	}
	s.vanishedSince(b, known)
	if a.known == nil {
		return s.changedSince(ctx, b.modSeq, []span{{0, v.Len()}})
	}
	spans := a.known.uids(v)
	if b.exact {
		return s.changedSince(ctx, b.modSeq, spans)
	}
	// The partner may have told that messages are gone which are still here.
	next := 0
	for _, sp := range append(spans, span{v.Len(), v.Len()}) {
		if err := errors.Join(s.changedSince(ctx, 0, []span{{next, sp.lo}}), s.changedSince(ctx, b.modSeq, []span{sp})); err != nil {
			return err
		}
		next = sp.hi
	}
	return nil
}

// changedSince tells the flags of messages that changed after a mod-sequence.
func (s *session) changedSince(ctx context.Context, modSeq uint64, spans []span) error {
	v := s.box.told
	for _, sp := range spans {
		for i := sp.lo; i < sp.hi; i++ {
			if m := v.At(i); m.ModSeq > modSeq {
				s.fetchFlags(i, m, true)
			}
			if i%fetchStep == 0 {
				if err := s.goOn(ctx); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// fetchStep is after how many messages long work looks whether to go on.
const fetchStep = 1000

// foreignUIDs is how far above UIDNEXT a client may know UIDs that it was told
// by the partner while the two were apart: what the partner allocates in one
// separation with some 20,000 new messages in a mailbox.
const foreignUIDs = 1 << 16

// everKnown are the UIDs that a client may know when it does not say which.
func everKnown(v mailstore.View, b baseline) []uidRange {
	last := uint64(v.UIDNext()) - 1
	if !b.exact {
		last = min(last+foreignUIDs, math.MaxUint32)
	}
	if last == 0 {
		return nil
	}
	return []uidRange{{1, uint32(last)}}
}

// possible leaves out UIDs that no client with this baseline can know.
func (s *session) possible(known []uidRange, b baseline) []uidRange {
	if !b.exact {
		return known
	}
	return cutAbove(known, uint32(s.box.told.UIDNext()-1))
}

// askedVanished are the UIDs of UID FETCH with VANISHED, which may have "*".
func (s *session) askedVanished(set numSet, b baseline) []uidRange {
	ever := everKnown(s.box.told, b)
	if len(ever) == 0 {
		return nil
	}
	if set.isSaved() { // none of these is gone, or it would not be among them
		return nil
	}
	return s.possible(set.ranges(ever[0].last), b)
}

// matchedUpTo returns the highest UID of the client's sample that has the same
// number as then, 0 for none: below it nothing was expunged (RFC 7162 section
// 3.2.5.2). It says nothing about a state of the partner, where other messages
// may have had these numbers.
func (s *session) matchedUpTo(a *resyncArgs, b baseline) uint32 {
	if a.matchNumbers == nil || !b.exact {
		return 0
	}
	v := s.box.told
	var top uint32
	numbers, uids := a.matchNumbers.walk(), a.matchUIDs.walk()
	for {
		number, more := numbers.next()
		uid, _ := uids.next()
		if !more || uint64(number) > uint64(v.Len()) {
			return top
		}
		if v.At(int(number)-1).UID == imap.UID(uid) {
			top = max(top, uid)
		}
	}
}

// vanishedSince tells which of the known UIDs were expunged after a baseline.
// Where the log of expunges reaches back that far, it names these; otherwise
// all that are not there.
func (s *session) vanishedSince(b baseline, known []uidRange) {
	w := vanished{w: &s.w, earlier: true}
	defer w.end()
	if b.exact {
		if uids, complete := s.box.mailbox.ExpungedSince(b.modSeq); complete {
			s.vanishedOf(&w, uids, known)
			return
		}
	}
	s.vanishedBut(&w, known)
}

// vanishedOf names those of uids, in ascending order, that are known and gone.
func (s *session) vanishedOf(w *vanished, uids []imap.UID, known []uidRange) {
	v := s.box.told
	for _, uid := range uids {
		for len(known) > 0 && known[0].last < uint32(uid) {
			known = known[1:]
		}
		if len(known) == 0 || uid >= v.UIDNext() {
			return
		}
		if _, found := v.Find(uid); !found && known[0].first <= uint32(uid) {
			w.add(uint32(uid), uint32(uid))
		}
	}
}

// vanishedBut names all known UIDs that no message has.
func (s *session) vanishedBut(w *vanished, known []uidRange) {
	v := s.box.told
	for _, r := range known {
		next := uint64(r.first)
		for i, _ := v.Find(imap.UID(r.first)); i < v.Len() && uint32(v.At(i).UID) <= r.last; i++ {
			uid := uint64(v.At(i).UID)
			if next < uid {
				w.add(uint32(next), uint32(uid-1))
			}
			next = uid + 1
		}
		if next <= uint64(r.last) {
			w.add(uint32(next), r.last)
		}
	}
}

// maxVanishedOctets is where a VANISHED response ends and the next begins:
// clients read lines of limited length.
const maxVanishedOctets = 8 << 10

// vanished writes VANISHED responses (RFC 7162 section 3.2.10). Nothing is
// written without a UID.
type vanished struct {
	w       *writer
	earlier bool
	octets  int // of the response under way; 0 for none
	// first and last are a run that may still grow; 0 for none.
	first, last uint32
}

// add names the UIDs from first to last, which lie above those before.
func (v *vanished) add(first, last uint32) {
	if v.first != 0 && first == v.last+1 {
		v.last = last
		return
	}
	v.put()
	v.first, v.last = first, last
}

// put writes the run.
func (v *vanished) put() {
	if v.first == 0 {
		return
	}
	if v.octets > maxVanishedOctets {
		v.w.line("")
		v.octets = 0
	}
	switch {
	case v.octets > 0:
		v.w.char(',')
	case v.earlier:
		v.w.str("* VANISHED (EARLIER) ")
	default:
		v.w.str("* VANISHED ")
	}
	from := len(v.w.buf)
	v.w.num(uint64(v.first))
	if v.last > v.first {
		v.w.char(':')
		v.w.num(uint64(v.last))
	}
	v.octets += 1 + len(v.w.buf) - from
	v.first = 0
}

// end ends the last response.
func (v *vanished) end() {
	v.put()
	if v.octets > 0 {
		v.w.line("")
		v.octets = 0
	}
}

// tellVanished is EXPUNGE for clients that enabled QRESYNC; gone are indexes.
func (s *session) tellVanished(told mailstore.View, gone []int) {
	w := vanished{w: &s.w}
	for _, i := range gone {
		uid := uint32(told.At(i).UID)
		w.add(uid, uid)
	}
	w.end()
}

// noteShown notes that FETCH shows a message as it is now, which may be later than
// all that the client knows of the mailbox: where it does not want to be told, it
// asks for itself.
func (b *selection) noteShown(m *mailstore.Message) {
	b.beyond = b.beyond || m.ModSeq > b.knownModSeq()
}

// withheld tells a client that keeps a state, when expunges could not be told
// in this command, or flags it did not want to be told of, that the mod-sequences
// it has just seen are beyond what it knows: without this it would skip the rest
// after a lost connection (RFC 7162 section 3.2).
func (s *session) withheld() {
	b := s.box
	if !s.qresync || b == nil {
		return
	}
	if b.beyond || b.now != b.told && !s.quiet() {
		s.highestModSeq()
		b.beyond = false
	}
}

// owesModSeq reports whether the tagged response names HIGHESTMODSEQ: behind
// commands that expunge (RFC 7162 sections 3.2.7 to 3.2.9), and wherever others'
// expunges were told, which carry no mod-sequence of their own.
func (s *session) owesModSeq(res result) bool {
	told := s.box != nil && s.box.vanished
	if told {
		s.box.vanished = false
	}
	return s.qresync && res.code == "" && (res.modSeq || told)
}

// currentModSeq is that response code: up to where the client knows the
// mailbox now.
func (s *session) currentModSeq() string {
	if s.box == nil || s.box.now != s.box.told {
		return ""
	}
	return modSeqCode(s.box.knownModSeq())
}

// searchedAbove turns the value of SEARCH MODSEQ, "at or above", into one of
// ours to be above. A client looks for the value that it knows or for the next,
// and the next to one of the partner's looks like one of ours.
func searchedAbove(mailbox mailbox, value uint64) uint64 {
	if value == 0 {
		return 0
	}
	above := value - 1
	switch {
	case mailbox.IsForeign(value):
		return min(above, mailbox.Base(value-min(value, 2)))
	case mailbox.IsForeign(above):
		return min(above, mailbox.Base(above))
	}
	return above
}
