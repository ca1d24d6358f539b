package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// maxDepth bounds restrictions named by tables that name restrictions.
const maxDepth = 100

var errTooDeep = errors.New("restrictions are nested too deeply")

// run is the evaluation of one command.
type run struct {
	session          *Session
	chain            *Chain
	tx               *mail.Transaction
	memo             *memory
	current          *list
	ifPermit         *mail.Verdict // the first raised defer_if_permit
	ifReject         *mail.Verdict // the first raised defer_if_reject of this list
	effects          effects
	relayPermittedBy string
	start            time.Time
	quiet            bool // neither logs, counts nor audits
}

// branching is a stage whose answer is itself a list of restrictions: an
// access table's value that names some.
type branching interface {
	branch(ctx context.Context, tx *mail.Transaction) (mail.Verdict, []item, error)
}

// list evaluates one list and returns the verdict that refuses, when there is
// one. A permit ends this list only.
func (r *run) list(ctx context.Context, l *list) (refusal mail.Verdict, refused bool) {
	r.current, r.ifReject = l, nil
	r.memo.about = l.about
	v := r.items(ctx, l.items, false, 0)
	if v.Action == mail.Permit && l.name == ListRelay {
		r.relayPermittedBy = v.Stage
	}
	// What is deferred anyway is not looked for, as in Postfix: who it is for may
	// be known when the client comes back.
	deferred := r.ifPermit != nil && l.name != ListSender
	if v.Action != mail.Reject && !r.effects.discard && !deferred {
		if implied := r.items(ctx, l.implied, false, 0); implied.Action == mail.Reject {
			v = implied
		}
	}
	return v, v.Action == mail.Reject
}

// items goes through restrictions until one permits or rejects, and returns
// that verdict, or a Dunno at the end.
func (r *run) items(ctx context.Context, items []item, warn bool, depth int) mail.Verdict {
	for i := range items {
		it := &items[i]
		v := r.item(ctx, it, warn || it.warn, depth)
		if v.Action == mail.Permit || v.Action == mail.Reject {
			return v
		}
		if r.effects.discard {
			return mail.Verdict{Action: mail.Permit, Stage: v.Stage}
		}
		if r.ifPermit != nil && r.ifReject != nil {
			break // whatever follows, the outcome is to defer
		}
	}
	return mail.Verdict{}
}

// item asks one restriction and settles everything but Permit and Reject.
func (r *run) item(ctx context.Context, it *item, warn bool, depth int) mail.Verdict {
	began := time.Since(r.start) // reads one clock, where time.Now reads two
	v, nested, err := r.ask(ctx, it, depth)
	if err == nil {
		it.said.replace(r.about(it), r.tx, &v)
		v = r.possible(it, v)
		err = r.edit(it, v)
	}
	r.session.step(r, it, v, err, began)
	if err != nil {
		return r.broken(it, err)
	}
	return r.settle(ctx, it, v, nested, warn, depth)
}

// possible takes out of a verdict what needs a message, as long as there is none:
// at the connection and at HELO.
func (r *run) possible(it *item, v mail.Verdict) mail.Verdict {
	if r.tx.Phase >= mail.PhaseMail || v.Action != mail.Hold && v.Action != mail.Discard && len(v.Edits) == 0 {
		return v
	}
	r.chain.deps.Logger.Warn("no message yet to hold, discard or edit", r.keys("list", string(r.current.name), "stage", it.stage.Name(), "detail", v.Detail)...)
	if v.Action == mail.Hold || v.Action == mail.Discard {
		v.Action = mail.Dunno
	}
	v.Edits, v.Detail = nil, ""
	return v
}

// settle does what a verdict asks for, and returns it when it ends the list.
func (r *run) settle(ctx context.Context, it *item, v mail.Verdict, nested []item, warn bool, depth int) mail.Verdict {
	v.Stage = it.stage.Name()
	r.note(v)
	switch v.Action {
	case mail.Dunno:
		if v.Detail != "" {
			r.report(resultOf(&v), v)
		}
		if nested != nil {
			return r.branch(ctx, it, nested, warn, depth+1)
		}
	case mail.Permit:
		return v
	case mail.Reject:
		return r.reject(v, warn)
	case mail.DeferIfPermit:
		if warn {
			r.report(resultWarned, v)
		} else {
			raise(&r.ifPermit, v)
		}
	case mail.DeferIfReject:
		raise(&r.ifReject, v)
	case mail.Hold:
		r.effects.hold = true
		r.report(resultHeld, v)
	case mail.Discard:
		r.effects.discard = true
		r.report(resultDiscarded, v)
	}
	return mail.Verdict{Stage: v.Stage}
}

// guarded is a branching stage whose branches must not permit: what led to
// them is in the hands of strangers. It says what is wrong with one that does.
type guarded interface {
	noBranchPermits() error
}

// branch goes through the restrictions that a stage named.
func (r *run) branch(ctx context.Context, it *item, nested []item, warn bool, depth int) mail.Verdict {
	v := r.items(ctx, nested, warn, depth)
	if g, ok := it.stage.(guarded); ok && v.Action == mail.Permit && !r.effects.discard {
		if err := g.noBranchPermits(); err != nil {
			return r.broken(it, err)
		}
	}
	return v
}

func (r *run) ask(ctx context.Context, it *item, depth int) (mail.Verdict, []item, error) {
	if b, ok := it.stage.(branching); ok {
		if depth > maxDepth {
			return mail.Verdict{}, nil, status.New(status.ConfigurationError, errTooDeep)
		}
		return b.branch(ctx, r.tx)
	}
	if a := r.attendance(it); a != nil {
		v, err := a.Content(ctx, r.tx)
		return v, nil, err
	}
	v, err := it.stage.Evaluate(ctx, r.tx)
	return v, nil, err
}

// reject settles a rejection: under warn_if_reject it is only logged, and
// when something raised defer_if_reject a 5xx becomes that deferral.
func (r *run) reject(v mail.Verdict, warn bool) mail.Verdict {
	if warn {
		r.report(resultWarned, v)
		return mail.Verdict{Stage: v.Stage}
	}
	if r.ifReject != nil && v.WireReply().Permanent() {
		v = *r.ifReject
		v.Action = mail.Reject
	}
	return v
}

// broken decides what a failed stage leads to. warn_if_reject does not hide
// trouble of ours: mail is not let through because a table is missing.
func (r *run) broken(it *item, err error) mail.Verdict {
	v := outage(r.about(it), r.tx, err)
	v.Stage = it.stage.Name()
	if !r.quiet {
		r.chain.deps.Logger.Warn("stage could not decide",
			r.keys("stage", v.Stage, "list", string(r.current.name), "reason", v.Reason.String(), "error", err)...)
	}
	switch it.onError {
	case errorIsOverlooked:
		return mail.Verdict{Stage: v.Stage}
	case errorHolds:
		r.effects.hold = true
		v.Action = mail.Hold
		r.report(resultHeld, v)
		return mail.Verdict{Stage: v.Stage}
	case errorShutsDown:
		v.Reply.Code, v.Reply.Enhanced = 421, [3]int{4, 3, 0}
		return v
	case errorDefersPermit:
		raise(&r.ifPermit, v)
		return mail.Verdict{Stage: v.Stage}
	default:
		return v
	}
}

// about is what an item speaks of; in a class, what its list does.
func (r *run) about(it *item) subject {
	if it.about == aboutList {
		return r.current.about
	}
	return it.about
}

// raise sets a flag, unless it is up: the first reason is kept.
func raise(flag **mail.Verdict, v mail.Verdict) {
	if *flag == nil {
		*flag = &v
	}
}

// edit applies what a verdict asks to change: in the message at once, so that
// the stages after it see that, and in the envelope when the command is done.
// When one of the edits cannot be, none is.
func (r *run) edit(it *item, v mail.Verdict) error {
	if len(v.Edits) == 0 {
		return nil
	}
	if r.tx.Message != nil {
		if err := applyAll(r.tx.Message, v.Edits); err != nil {
			return fmt.Errorf("%s: change the message: %w", it.stage.Name(), err)
		}
	}
	for _, e := range v.Edits {
		switch {
		case e.OfEnvelope():
			r.effects.envelope = append(r.effects.envelope, e)
		case r.tx.Message != nil:
		case e.PrependHeader != "":
			r.effects.headers = append(r.effects.headers, e.PrependHeader)
		default:
			return status.Errorf(status.ConfigurationError, "%s: no message here to change", it.stage.Name())
		}
	}
	return nil
}

// applyAll changes a message, at once where it knows how.
func applyAll(m mail.Message, edits []mail.Edit) error {
	if whole, ok := m.(interface{ ApplyAll([]mail.Edit) error }); ok {
		return whole.ApplyAll(edits)
	}
	for _, e := range edits {
		if e.OfEnvelope() {
			continue
		}
		if err := m.Apply(e); err != nil {
			return err
		}
	}
	return nil
}

// note keeps the findings of a stage in the place of those it gave before, at an
// earlier recipient.
func (r *run) note(v mail.Verdict) {
	if len(v.Findings) == 0 {
		return
	}
	r.tx.Findings = slices.DeleteFunc(r.tx.Findings, func(f mail.Finding) bool { return f.Stage == v.Stage })
	for _, f := range v.Findings {
		f.Stage = v.Stage
		r.tx.Findings = append(r.tx.Findings, f)
	}
}

// sameEdit reports whether two edits of the envelope ask for the same.
func sameEdit(a, b mail.Edit) bool {
	return same(a.ReversePath, b.ReversePath) && same(a.Remove, b.Remove) && same(a.Redirect, b.Redirect) &&
		same(a.Copy, b.Copy) && same(a.Route, b.Route) && same(a.Add, b.Add) && a.RequireTLS == b.RequireTLS
}

// same compares what is asked for, if it is.
func same[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
