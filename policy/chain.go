package policy

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
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
	ListContent   List = "content"
)

// Lists returns the names of all lists, in order.
func Lists() []List {
	return []List{ListClient, ListHelo, ListSender, ListRelay, ListRecipient, ListData, ListEndOfData, ListContent}
}

// Chain holds the lists. It is made by Build and safe for concurrent use.
type Chain struct {
	cfg     Config
	deps    Deps
	lists   map[List]*list
	phases  [mail.PhaseEndOfData + 1][]*list // what runs at each phase
	opener  *table.Opener
	tables  []*source
	watched []table.Opened // tables that are no access tables
	counter *counters
	// trusted permits the clients of Config.Networks.
	trusted decider
	// attended are the restrictions of the content list that follow whole
	// sessions, by their place in it.
	attended []attended
	// starters begin their work when a client connects.
	starters []Starter
	// slack is what sleeps add to Config.Timeout, in nanoseconds.
	slack atomic.Int64
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
	input   func(*mail.Transaction) string // what the stage looks at; nil is what it is about
	warn    bool                           // preceded by warn_if_reject
	onError errorMeaning
	needs   mail.Phase // the earliest place in the dialogue where it can answer
	said    said       // in the place of its own words
}

// errorMeaning is what a stage that failed leads to.
type errorMeaning uint8

const (
	errorDefers        errorMeaning = iota // refuse at once, transiently
	errorDefersPermit                      // raise defer_if_permit
	errorIsOverlooked                      // go on as if the stage were absent
	errorHolds                             // go on, and keep the message in the queue until it is released
	errorShutsDown                         // refuse with 421 and close
	errorMeaningsCount                     // ends the enumeration
)

var errorMeanings = [errorMeaningsCount]string{"defer", "defer_if_permit", "dunno", "hold", "shutdown"}

// Session is one connection's way through the chain. Its calls come one at a
// time.
type Session struct {
	chain *Chain
	// inherited are the defer_if_permit verdicts raised early, at connection,
	// HELO and MAIL, with EarlyReject.
	inherited [mail.PhaseMail + 1]*mail.Verdict
	effects   effects // of the transaction
	before    effects // the last evaluation
	attending []Attendance
	steps     []Step // of the last evaluation
	ring      ring   // keys of the tables
}

// effects is what verdicts asked for that concerns the whole message.
type effects struct {
	hold, discard bool
	headers       []string
	envelope      []mail.Edit
}

// none reports whether nothing was asked for.
func (e *effects) none() bool {
	return !e.hold && !e.discard && len(e.headers)+len(e.envelope) == 0
}

// Session returns the state for one connection. Close ends it.
func (c *Chain) Session() *Session { return &Session{chain: c} }

// WantsMessage reports whether the chain looks into messages: then the
// transaction at the end of data has to have its Message.
func (c *Chain) WantsMessage() bool { return len(c.lists[ListContent].items) > 0 }

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
	s.steps = s.steps[:0]
	if !IsRehearsal(ctx) {
		s.chain.start(tx)
	}
	if s.effects.discard || len(lists)+len(s.chain.attended) == 0 {
		return s.permit(nil)
	}
	timeout := s.chain.timeout()
	if tx.Message != nil {
		timeout = s.chain.cfg.ContentTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	memo := &memory{from: s.Poster(tx), ring: &s.ring}
	r := &run{session: s, chain: s.chain, tx: tx, memo: memo, ifPermit: s.flagFor(tx.Phase), start: time.Now(), quiet: IsRehearsal(ctx)}
	ctx = context.WithValue(ctx, memoryKey{}, memo)
	for _, l := range lists {
		if refusal, refused := r.list(ctx, l); refused {
			s.witness(ctx, tx, refusal)
			return s.refuse(r, refusal)
		}
		if r.effects.discard {
			break
		}
	}
	if tx.Message != nil && ctx.Err() != nil {
		// Whatever on_error says of a stage: what was to be looked into was not,
		// or not in the time a client waits.
		return s.refuse(r, outage(aboutEndOfData, tx, status.New(status.ServerBusy, ctx.Err())))
	}
	if tx.Phase > mail.PhaseMail && r.ifPermit != nil {
		s.witness(ctx, tx, *r.ifPermit) // who attends is not told that it passed
		return s.refuse(r, *r.ifPermit)
	}
	if refusal, refused := s.attend(ctx, r); refused {
		return s.refuse(r, refusal)
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

// Poster returns who sends tx. Of clients of ours the reverse-path is believed.
func (s *Session) Poster(tx *mail.Transaction) *mail.Poster {
	return &mail.Poster{
		Identity: tx.Client.Identity,
		Address:  tx.Envelope.ReversePath,
		Trusted:  s.chain.trusted(tx).Action == mail.Permit,
	}
}

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
	c.runAt(mail.PhaseEndOfData, ListEndOfData, ListContent)
	for at, it := range c.lists[ListContent].items {
		if stage, ok := it.stage.(Attender); ok {
			c.attended = append(c.attended, attended{at, stage})
		}
	}
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
		if !r.effects.none() {
			r.chain.deps.Logger.Warn("no message yet to hold, discard or edit", r.keys("list", string(r.current.name))...)
		}
		return
	case r.tx.Phase == mail.PhaseEndOfData && r.tx.Message == nil && len(r.effects.headers) > 0:
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
	for _, edit := range r.effects.envelope {
		// Of several routes and redirections the last one counts, also when it was
		// asked for before.
		s.effects.envelope = append(slices.DeleteFunc(slices.Clone(s.effects.envelope), func(e mail.Edit) bool {
			return sameEdit(e, edit) || e.Route != nil && edit.Route != nil || e.Redirect != nil && edit.Redirect != nil
		}), edit)
	}
}

func (s *Session) permit(r *run) mail.Decision {
	d := mail.Decision{
		Verdict: mail.Verdict{Action: mail.Permit},
		Hold:    s.effects.hold,
		Discard: s.effects.discard,
		Headers: s.effects.headers, Envelope: s.effects.envelope,
	}
	if r != nil {
		d.PermittedBy = r.relayPermittedBy
		d.Resolved = r.memo.of(r.tx)
		if !r.quiet {
			s.chain.counter.permitted()
		}
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
