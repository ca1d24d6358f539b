package imapd

import (
	"context"
	"strconv"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

type copyArgs struct {
	uid  bool
	set  numSet
	dest string
}

func parseCopy(uid bool) func(*parser) (copyArgs, error) {
	return func(p *parser) (a copyArgs, err error) {
		a.uid = uid
		if a.set, err = parseSet(p); err != nil {
			return a, err
		}
		a.dest, err = parseMailbox(p)
		return a, err
	}
}

// copyTo resolves the messages and the destination and runs one of mailstore's
// two ways to copy.
func (s *session) copyTo(ctx context.Context, a copyArgs, limit func([]span) ([]span, error), run func(context.Context, []imap.UID, *mailstore.Mailbox) (mailstore.CopyResult, error)) (mailstore.CopyResult, error) {
	var none mailstore.CopyResult
	spans, err := s.box.resolve(a.set, a.uid)
	if err == nil {
		spans, err = limit(spans)
	}
	if err != nil {
		return none, err
	}
	dest, err := s.open(ctx, a.dest, toAdd)
	if err != nil {
		return none, mailboxError(err, "TRYCREATE")
	}
	defer dest.close()
	s.refreshLimits(ctx, &dest.place)
	if except := dest.forbidden(); except != (forbiddenFlags{}) {
		dest.mailbox.DropFlags(except.system, except.keywords)
	}
	if len(spans) == 0 {
		return none, nil
	}
	var done mailstore.CopyResult
	s.patiently(count(spans), func() { done, err = run(ctx, s.box.uidsOf(spans), dest.mailbox) })
	s.noteOwn(&dest, done.Dest)
	return done, mailboxError(err, "TRYCREATE")
}

// copyUID is the response code of RFC 4315, or "" when nothing was copied: the
// grammar has no empty set.
func copyUID(done mailstore.CopyResult) string {
	if len(done.Source) == 0 || len(done.Source) != len(done.Dest) {
		return ""
	}
	code := strconv.AppendUint([]byte("COPYUID "), uint64(done.UIDValidity), 10)
	code = appendSet(append(code, ' '), done.Source)
	return string(appendSet(append(code, ' '), done.Dest))
}

// copy is COPY and UID COPY (RFC 3501 section 6.4.7).
func (s *session) copy(ctx context.Context, a copyArgs) (result, error) {
	done, err := s.copyTo(ctx, a, s.allOrNothing, s.box.mailbox.Copy)
	return result{code: copyUID(done)}, err
}

// move is MOVE and UID MOVE (RFC 6851): COPYUID comes before the expunges,
// which the sync behind the command tells. When it fails midway that goes for
// what was moved until then.
func (s *session) move(ctx context.Context, a copyArgs) (result, error) {
	if err := s.box.may(toMoveAway); err != nil {
		return result{}, err
	}
	where := s.whereabouts()
	done, err := s.copyTo(ctx, a, s.asManyAsMay, s.box.mailbox.Move)
	if code := copyUID(done); code != "" {
		s.response("*", "OK", code, "Moved")
		s.recordExpunge(where, done.Source, "move to "+a.dest, err)
	}
	return result{modSeq: len(done.Source) > 0}, err
}
