package policy

import (
	"context"
	"errors"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// maxDepth bounds restrictions named by tables that name restrictions.
const maxDepth = 100

var errTooDeep = errors.New("restrictions are nested too deeply")

// run is the evaluation of one command.
type run struct {
	chain            *Chain
	tx               *mail.Transaction
	memo             *memory
	current          *list
	ifPermit         *mail.Verdict // the first raised defer_if_permit
	ifReject         *mail.Verdict // the first raised defer_if_reject of this list
	effects          effects
	relayPermittedBy string
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
	v := r.items(ctx, l.items, false, 0)
	if v.Action == mail.Permit && l.name == ListRelay {
		r.relayPermittedBy = v.Stage
	}
	if v.Action != mail.Reject && !r.effects.discard {
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
	v, nested, err := r.ask(ctx, it, depth)
	if err != nil {
		return r.broken(it, err)
	}
	v.Stage = it.stage.Name()
	r.edit(v)
	switch v.Action {
	case mail.Dunno:
		if v.Detail != "" {
			r.report(resultWarned, v)
		}
		if nested != nil {
			return r.items(ctx, nested, warn, depth+1)
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

func (r *run) ask(ctx context.Context, it *item, depth int) (mail.Verdict, []item, error) {
	if b, ok := it.stage.(branching); ok {
		if depth > maxDepth {
			return mail.Verdict{}, nil, status.New(status.ConfigurationError, errTooDeep)
		}
		return b.branch(ctx, r.tx)
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
	v := outage(it.about, r.tx, err)
	v.Stage = it.stage.Name()
	r.chain.deps.Logger.Warn("stage could not decide",
		r.keys("stage", v.Stage, "list", string(r.current.name), "reason", v.Reason.String(), "error", err)...)
	switch it.onError {
	case errorIsOverlooked:
		return mail.Verdict{Stage: v.Stage}
	case errorDefersPermit:
		raise(&r.ifPermit, v)
		return mail.Verdict{Stage: v.Stage}
	default:
		return v
	}
}

// raise sets a flag, unless it is up: the first reason is kept.
func raise(flag **mail.Verdict, v mail.Verdict) {
	if *flag == nil {
		*flag = &v
	}
}

func (r *run) edit(v mail.Verdict) {
	for _, e := range v.Edits {
		if e.PrependHeader != "" {
			r.effects.headers = append(r.effects.headers, e.PrependHeader)
		}
	}
}
