package policy

import (
	"context"
	"slices"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// List names a restriction list.
type List string

// The lists, in the order in which they run.
const (
	ListClient    List = "client"
	ListHelo      List = "helo"
	ListSender    List = "sender"
	ListRelay     List = "relay"
	ListRecipient List = "recipient"
	ListData      List = "data"
	ListEndOfData List = "end_of_data"
)

// Lists returns the names of all lists, in order.
func Lists() []List {
	return []List{ListClient, ListHelo, ListSender, ListRelay, ListRecipient, ListData, ListEndOfData}
}

// Chain holds the lists. It is made by Build and safe for concurrent use.
type Chain struct {
	cfg     Config
	deps    Deps
	lists   map[List]*list
	phases  [mail.PhaseEndOfData + 1][]*list // what runs at each phase
	tables  []*source
	counter *counters
}

// list is one restriction list as it is evaluated.
type list struct {
	name    List
	about   subject // of restrictions that name nothing themselves
	items   []item
	implied []item // run when the list did not reject, even if it permitted
}

// item is one restriction in a list.
type item struct {
	stage   Stage
	about   subject
	warn    bool // preceded by warn_if_reject
	onError errorMeaning
}

// errorMeaning is what a stage that failed leads to.
type errorMeaning uint8

const (
	errorDefers        errorMeaning = iota // refuse at once, transiently
	errorDefersPermit                      // raise defer_if_permit
	errorIsOverlooked                      // go on as if the stage were absent
	errorMeaningsCount                     // ends the enumeration
)

var errorMeanings = [errorMeaningsCount]string{"defer", "defer_if_permit", "dunno"}

// Session is one connection's way through the chain. Its calls come one at a
// time.
type Session struct {
	chain *Chain
	// inherited are the defer_if_permit verdicts raised early, at connection,
	// HELO and MAIL, with EarlyReject.
	inherited [mail.PhaseMail + 1]*mail.Verdict
	effects   effects // of the transaction
	before    effects // the last evaluation
}

// effects is what verdicts asked for that concerns the whole message.
type effects struct {
	hold, discard bool
	headers       []string
}

// Session returns the state for one connection.
func (c *Chain) Session() *Session { return &Session{chain: c} }

// Evaluate decides at the phase tx.Phase. A MAIL begins a transaction anew.
// It may ask the directory and the DNS, and returns within Config.Timeout
// when they honour their context. tx is read only during the call.
func (s *Session) Evaluate(ctx context.Context, tx *mail.Transaction) mail.Decision {
	lists := s.listsAt(tx)
	if tx.Phase <= mail.PhaseMail {
		s.inherited[tx.Phase] = nil
		s.effects = effects{}
	}
	s.before = s.effects
	if s.effects.discard || len(lists) == 0 {
		return s.permit(nil)
	}
	ctx, cancel := context.WithTimeout(ctx, s.chain.cfg.Timeout)
	defer cancel()
	memo := &memory{}
	r := &run{chain: s.chain, tx: tx, memo: memo, ifPermit: s.flagFor(tx.Phase)}
	ctx = context.WithValue(ctx, memoryKey{}, memo)
	for _, l := range lists {
		if refusal, refused := r.list(ctx, l); refused {
			return s.refuse(r, refusal)
		}
		if r.effects.discard {
			break
		}
	}
	if tx.Phase <= mail.PhaseMail {
		s.inherited[tx.Phase] = r.ifPermit
	} else if r.ifPermit != nil {
		return s.refuse(r, *r.ifPermit)
	}
	s.keep(r)
	return s.permit(r)
}

// Undo takes back what the last evaluation asked for the message: its recipient
// was refused after all, by somebody else.
func (s *Session) Undo() { s.effects = s.before }

// listsAt returns the lists to run at tx's phase.
func (s *Session) listsAt(tx *mail.Transaction) []*list {
	// RFC 5321 section 4.5.1: this one is always accepted.
	if tx.Phase == mail.PhaseRecipient && tx.Recipient != nil && tx.Recipient.Address.IsPostmaster() {
		return nil
	}
	return s.chain.phases[tx.Phase]
}

// arrange decides which lists run at which phase. Those with nothing to ask
// are left out.
func (c *Chain) arrange() {
	atRcpt := []List{ListRelay, ListRecipient}
	if c.cfg.RecipientBeforeRelay {
		atRcpt = []List{ListRecipient, ListRelay}
	}
	if c.cfg.EarlyReject {
		c.runAt(mail.PhaseConnect, ListClient)
		c.runAt(mail.PhaseHelo, ListHelo)
		c.runAt(mail.PhaseMail, ListSender)
	} else {
		c.runAt(mail.PhaseRecipient, ListClient, ListHelo, ListSender)
	}
	c.runAt(mail.PhaseRecipient, atRcpt...)
	c.runAt(mail.PhaseData, ListData)
	c.runAt(mail.PhaseEndOfData, ListEndOfData)
}

func (c *Chain) runAt(phase mail.Phase, names ...List) {
	for _, name := range names {
		if l := c.lists[name]; len(l.items)+len(l.implied) > 0 {
			c.phases[phase] = append(c.phases[phase], l)
		}
	}
}

// flagFor returns the flag a command starts with: what was raised early in
// the dialogue counts at each RCPT; DATA and the end of data start clean.
func (s *Session) flagFor(phase mail.Phase) *mail.Verdict {
	if phase != mail.PhaseRecipient {
		return nil
	}
	for _, raised := range s.inherited {
		if raised != nil {
			return raised
		}
	}
	return nil
}

// keep takes over what the run asked for the message, once it is certain that
// the command is not refused.
func (s *Session) keep(r *run) {
	switch {
	case r.tx.Phase < mail.PhaseMail:
		if r.effects.hold || r.effects.discard || len(r.effects.headers) > 0 {
			r.chain.deps.Logger.Warn("no message yet to hold, discard or edit", r.keys("list", string(r.current.name))...)
		}
		return
	case r.tx.Phase == mail.PhaseEndOfData && len(r.effects.headers) > 0:
		r.chain.deps.Logger.Warn("too late to prepend a header", r.keys("list", string(r.current.name))...)
		r.effects.headers = nil
	}
	s.effects.hold = s.effects.hold || r.effects.hold
	s.effects.discard = s.effects.discard || r.effects.discard
	for _, header := range r.effects.headers {
		// Each RCPT runs the lists again; one header is enough.
		if !slices.Contains(s.effects.headers, header) {
			s.effects.headers = append(s.effects.headers, header)
		}
	}
}

func (s *Session) permit(r *run) mail.Decision {
	d := mail.Decision{
		Verdict: mail.Verdict{Action: mail.Permit},
		Hold:    s.effects.hold,
		Discard: s.effects.discard,
		Headers: s.effects.headers,
	}
	if r != nil {
		d.PermittedBy = r.relayPermittedBy
		d.Resolved = r.memo.of(r.tx)
		s.chain.counter.permitted()
	}
	return d
}

func (s *Session) refuse(r *run, v mail.Verdict) mail.Decision {
	reply := wire(v, r.tx.Envelope.SMTPUTF8)
	v.Action, v.Reply = mail.Reject, &reply
	result := resultRefused
	if reply.Transient() {
		result = resultDeferred
	}
	r.report(result, v)
	return mail.Decision{Refused: true, Verdict: v}
}

// Error returns the refusal in d as an error for the wire.
func Error(d mail.Decision) error {
	reply := d.Verdict.WireReply()
	return &status.Error{Reason: d.Verdict.Reason, Wire: &reply}
}
