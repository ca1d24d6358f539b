package policy

import (
	"context"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Attender is a Stage of the content list that follows sessions from their
// beginning, as milters do: it is told each step of the dialogue, and asked for
// its verdict on the message at its place in the list, instead of by Evaluate.
type Attender interface {
	Stage
	// Attend begins with one session. It does nothing that takes time.
	Attend() Attendance
}

// Inspector is a Stage that looks into the message: it stands in the content
// list only.
type Inspector interface {
	Stage
	InspectsMessage()
}

// looksInside reports whether a stage belongs into the content list.
func looksInside(stage Stage) bool {
	switch stage.(type) {
	case Inspector, Attender:
		return true
	}
	return false
}

// Attendance is an Attender's part in one session. Its calls come one at a time.
type Attendance interface {
	// Step is told the step tx.Phase of the dialogue, up to DATA, when the lists
	// have let it pass. Its verdict counts like that of a restriction.
	Step(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error)
	// Content is asked about the whole message, tx.Message.
	Content(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error)
	// Abort is told that the transaction ended without Content, by RSET or a
	// refusal; also when there was none.
	Abort()
	// Close ends the attendance.
	Close()
}

// Witness is an Attendance that wants to hear of recipients that the lists
// refused, too. There is nothing it could say to that.
type Witness interface {
	Refused(ctx context.Context, tx *mail.Transaction, reply status.Reply)
}

// CommandWitness is an Attendance that wants to hear of commands that the server
// does not know, too. They are refused in any case; a verdict that rejects has
// the words for it.
type CommandWitness interface {
	Unknown(ctx context.Context, tx *mail.Transaction, line string) mail.Verdict
}

// Share returns a context that ends when nine tenths of what is left of ctx are
// over: a stage that waits for others takes no more of a command's time, so that
// its on_error still decides and the stages after it have their turn.
func Share(ctx context.Context) (context.Context, context.CancelFunc) {
	end, bounded := ctx.Deadline()
	if !bounded {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(end)/10*9)
}

// attended is an Attender at its place in the content list.
type attended struct {
	at    int
	stage Attender
}

// attend tells all who attend of the step that the lists let pass.
func (s *Session) attend(ctx context.Context, r *run) (refusal mail.Verdict, refused bool) {
	if len(s.chain.attended) == 0 || r.tx.Phase == mail.PhaseEndOfData || r.effects.discard {
		return mail.Verdict{}, false
	}
	if s.attending == nil {
		for _, a := range s.chain.attended {
			s.attending = append(s.attending, a.stage.Attend())
		}
	}
	r.current = s.chain.lists[ListContent]
	for i, a := range s.chain.attended {
		it := &r.current.items[a.at]
		v := r.told(ctx, it, s.attending[i])
		if v.Action == mail.Reject {
			return v, true
		}
		if r.effects.discard {
			break
		}
	}
	return mail.Verdict{}, false
}

// witness tells those who want to hear of it that a recipient was refused.
func (s *Session) witness(ctx context.Context, tx *mail.Transaction, refusal mail.Verdict) {
	if tx.Phase != mail.PhaseRecipient {
		return
	}
	for _, a := range s.attending {
		if w, ok := a.(Witness); ok {
			w.Refused(ctx, tx, refusal.WireReply())
		}
	}
}

// Unknown tells those who want to hear of it of a command line that the server
// does not know, until one of them has words of its own to refuse it with. tx has
// the client.
func (s *Session) Unknown(ctx context.Context, tx *mail.Transaction, line string) mail.Decision {
	ctx, cancel := context.WithTimeout(ctx, s.chain.timeout())
	defer cancel()
	r := &run{session: s, chain: s.chain, tx: tx, start: time.Now(), quiet: IsRehearsal(ctx)}
	s.steps = s.steps[:0]
	for i, a := range s.attending {
		w, ok := a.(CommandWitness)
		if !ok {
			continue
		}
		r.current = s.chain.lists[ListContent]
		it := &r.current.items[s.chain.attended[i].at]
		began := time.Since(r.start)
		v := w.Unknown(ctx, tx, line)
		s.step(r, it, v, nil, began)
		if v = r.settle(ctx, it, v, nil, it.warn, 0); v.Action == mail.Reject {
			return s.refuse(r, v)
		}
	}
	return s.permit(nil)
}

// told tells one attendance of a step and settles its verdict.
func (r *run) told(ctx context.Context, it *item, a Attendance) mail.Verdict {
	began := time.Since(r.start)
	v, err := a.Step(ctx, r.tx)
	if err == nil {
		err = r.edit(it, v)
	}
	r.session.step(r, it, v, err, began)
	if err != nil {
		return r.broken(it, err)
	}
	return r.settle(ctx, it, v, nil, it.warn, 0)
}

// attendance returns who attends for an item, nil for the others.
func (r *run) attendance(it *item) Attendance {
	for i, a := range r.chain.attended {
		if &r.chain.lists[ListContent].items[a.at] == it && i < len(r.session.attending) {
			return r.session.attending[i]
		}
	}
	return nil
}

// Abort is told that the transaction ended without a message.
func (s *Session) Abort() {
	s.effects, s.before = effects{}, effects{}
	for _, a := range s.attending {
		a.Abort()
	}
}

// Close ends the session.
func (s *Session) Close() {
	for _, a := range s.attending {
		a.Close()
	}
	s.attending = nil
}
