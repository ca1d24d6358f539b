package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// Attempt offers d at endpoints in order, those lately out of reach last,
// until every recipient has an answer that another host would not change. It
// returns one outcome per recipient, in order, and blocks no longer than the
// configured times of each step or until ctx ends.
//
// A recipient goes on to the next endpoint when the connection could not be
// made or was lost before the message was handed over, and by SMTP
// also after a transient refusal. When the whole message was handed over and
// no reply came, the recipient is Deferred and nobody else is asked; by LMTP
// not in later attempts either, for maxDoubt. The nodes of a replication pair
// keep each delivery id once between them: there the partner is asked at once,
// after a failure to begin within the failover time, too, and when the node is
// found dead while the message is with it.
func (p *Pool) Attempt(ctx context.Context, d mail.Delivery, endpoints []Endpoint) []mail.Outcome {
	release, err := p.enter(ctx)
	if err != nil {
		return AllFailed(d, err)
	}
	defer release()
	a := &attempt{pool: p, d: d, pair: d.ID != "" && p.pair(endpoints), sessions: make(map[string]int, 1), outcomes: AllFailed(d, status.Errorf(status.ConnectionFailed, "no address to connect to"))}
	for i := range d.Envelope.Recipients {
		a.open = append(a.open, i)
	}
	for _, e := range a.candidates(endpoints) {
		if len(a.open) == 0 || ctx.Err() != nil {
			break
		}
		if a.sessions[e.Hop] < p.cfg.MaxSessions {
			a.try(ctx, e)
		}
	}
	return a.outcomes
}

type attempt struct {
	pool     *Pool
	d        mail.Delivery
	pair     bool // the endpoints are the nodes of a replication pair
	doubtful bool // a node of the pair may have the message
	outcomes []mail.Outcome
	open     []int          // indices of recipients worth another endpoint
	sessions map[string]int // conversations about the message, by next hop
}

// try offers the message to the open recipients at one endpoint.
func (a *attempt) try(ctx context.Context, e Endpoint) {
	what := demandOf(&a.d.Envelope)
	e, err := e.planned(ctx, what)
	if err != nil {
		a.pool.tellRefused(e, err)
		a.failOpen(err, e)
		return
	}
	e.login = a.pool.loginFor(a.d.Routed().ReversePath, e)
	c, err := a.pool.connect(ctx, e)
	if err != nil {
		a.failOpen(unprotected(err, what), e)
		return
	}
	if a.doubtful && !a.dropsRepeats(c.Client) {
		a.pool.put(c) // it could not tell the message from a second one
		return
	}
	if a.pair {
		watched, w := a.pool.watch(ctx, e)
		defer w.stop()
		ctx = watched
	}
	results := a.send(ctx, c.Client)
	if a.d.Probe && c.Client.Usable() {
		_ = c.Client.Reset(ctx) // a connection that breaks here has answered
	}
	if c.reused && !foundDead(ctx) && a.staleConnection(c.Client, results) {
		c, results = a.sendAgain(ctx, e, c, results)
	}
	if c == nil {
		return
	}
	a.doubtful = a.doubtful || slices.ContainsFunc(results, func(r smtp.ClientResult) bool { return r.Uncertain })
	if slices.ContainsFunc(results, func(r smtp.ClientResult) bool { return !lacks(r.Err) }) {
		a.sessions[e.Hop]++ // who was not asked to take anything does not count
	}
	a.note(c, results)
	a.pool.put(c)
}

// sendAgain offers the message on a new connection to the endpoint whose idle
// one was lost. What may have been handed over on the first stays in doubt
// until the server has answered.
func (a *attempt) sendAgain(ctx context.Context, e Endpoint, stale *Conn, before []smtp.ClientResult) (*Conn, []smtp.ClientResult) {
	_ = stale.Client.Close()
	c, err := a.pool.dial(ctx, e)
	if err != nil {
		if slices.ContainsFunc(before, func(r smtp.ClientResult) bool { return r.Uncertain }) {
			return stale, before
		}
		a.failOpen(unprotected(err, demandOf(&a.d.Envelope)), e)
		return nil, nil
	}
	results := a.send(ctx, c.Client)
	for i := range results {
		if before[i].Uncertain && status.Of(results[i].Err) == status.ConnectionLost {
			results[i].Uncertain = true
		}
	}
	return c, results
}

// candidates returns endpoints in the order in which the delivery is offered
// to them: those lately out of reach last, and where one may have it already,
// that one only. A pair is asked whole: whoever may have it first.
func (a *attempt) candidates(endpoints []Endpoint) []Endpoint {
	p, id := a.pool, a.d.ID
	switch {
	case !p.cfg.Client.LMTP:
		return p.order(endpoints)
	case a.pair:
		return p.impatient(p.order(p.doubts.inDoubtFirst(id, endpoints)))
	case id == "":
		return p.order(endpoints)
	default:
		return p.doubts.choose(id, p.order(endpoints), time.Now())
	}
}

// noteDoubt remembers whether the server at e may have the delivery: it was
// handed over, and no reply came for somebody.
func (a *attempt) noteDoubt(e Endpoint, results []smtp.ClientResult) {
	if !a.pool.cfg.Client.LMTP || a.d.ID == "" {
		return
	}
	if slices.ContainsFunc(results, func(r smtp.ClientResult) bool { return r.Uncertain }) {
		a.pool.doubts.note(a.d.ID, e.Address, time.Now())
	} else if !slices.ContainsFunc(results, func(r smtp.ClientResult) bool { return r.Err != nil && !r.Reply.Permanent() }) {
		a.pool.doubts.clear(a.d.ID) // there will be no other attempt
	}
}

// staleConnection reports whether the peer had most likely closed the idle
// connection before it heard of the message, so that a new connection to the
// same endpoint is no new risk: no reply was read, and the message was not
// handed over whole, or the peer drops a repeat.
func (a *attempt) staleConnection(c *smtp.Client, results []smtp.ClientResult) bool {
	if c.Answered() || status.Of(results[0].Err) != status.ConnectionLost {
		return false
	}
	dropsRepeats := a.dropsRepeats(c)
	for _, r := range results {
		if r.Uncertain && !dropsRepeats {
			return false
		}
	}
	return true
}

// dropsRepeats reports whether the peer drops this delivery when it has it.
func (a *attempt) dropsRepeats(c *smtp.Client) bool {
	_, offered := c.Extension("XPOSTERN")
	return offered && a.d.ID != ""
}

// send hands the message to c for the open recipients.
func (a *attempt) send(ctx context.Context, c *smtp.Client) []smtp.ClientResult {
	if a.d.Probe {
		return a.probe(ctx, c)
	}
	content, octets, err := a.content()
	if err != nil {
		return allResults(len(a.open), status.New(status.StoreDown, err))
	}
	defer content.Close()
	env := a.d.Envelope
	m := smtp.ClientMessage{
		From: smtp.MailCommand{
			ReversePath: env.ReversePath,
			Body:        env.Body,
			SMTPUTF8:    env.SMTPUTF8,
			Return:      env.Return,
			EnvelopeID:  env.EnvelopeID,
			DeliveryID:  a.d.ID,
			Keep:        a.d.ID != "",
			RequireTLS:  a.pool.asksRequireTLS(&env, c),
			Priority:    env.Priority,
		},
		To:      make([]smtp.RcptCommand, len(a.open)),
		Octets:  octets,
		Content: content,
	}
	if err := a.pool.downgrade(&m, c, content, a.d.QueueID); err != nil {
		return allResults(len(a.open), err)
	}
	if _, offered := c.Extension("SMTPUTF8"); env.SMTPUTF8 && !offered {
		m.From.SMTPUTF8 = headerNeedsUTF8(content)
	}
	for n, i := range a.open {
		rcpt := env.Recipients[i]
		m.To[n] = smtp.RcptCommand{ForwardPath: rcpt.Address, Original: rcpt.Original, Notify: rcpt.Notify}
	}
	ctx, cancel := context.WithTimeout(ctx, sendPatience(m.Octets))
	defer cancel()
	return c.Send(ctx, m)
}

// probe asks c whether it would take the open recipients.
func (a *attempt) probe(ctx context.Context, c *smtp.Client) []smtp.ClientResult {
	m := smtp.ClientMessage{
		From: smtp.MailCommand{ReversePath: a.d.Envelope.ReversePath, SMTPUTF8: a.d.Envelope.SMTPUTF8},
		To:   make([]smtp.RcptCommand, len(a.open)), Probe: true,
	}
	for n, i := range a.open {
		m.To[n] = smtp.RcptCommand{ForwardPath: a.d.Envelope.Recipients[i].Address}
	}
	return c.Send(ctx, m)
}

// allResults are those of a conversation that could not begin because of err.
func allResults(n int, err error) []smtp.ClientResult {
	results := make([]smtp.ClientResult, n)
	for i := range results {
		results[i].Err = err
	}
	return results
}

// content opens the message and checks that it is whole.
func (a *attempt) content() (mail.Content, int64, error) {
	content, err := a.d.Open()
	if err != nil {
		return nil, 0, fmt.Errorf("open content: %w", err)
	}
	octets, err := content.Seek(0, io.SeekEnd)
	if err == nil && a.d.Octets > 0 && octets != a.d.Octets {
		err = fmt.Errorf("content has %d octets, not %d", octets, a.d.Octets)
	}
	if err == nil {
		_, err = content.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = content.Close()
		return nil, 0, err
	}
	return content, octets, nil
}

// maxHeaderOctets is how far a header is searched for the need of SMTPUTF8.
const maxHeaderOctets = 64 << 10

// headerNeedsUTF8 reports whether the message header holds octets above 127:
// a message that was only declared SMTPUTF8 can go to a peer without it (RFC
// 6531 section 3.2 asks for the extension where it is needed). A header that
// cannot be read, or has no end, is taken to need it.
func headerNeedsUTF8(content io.ReaderAt) bool {
	buf := make([]byte, maxHeaderOctets)
	n, err := content.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return true
	}
	header, _, ended := bytes.Cut(buf[:n], []byte("\r\n\r\n"))
	for _, c := range header {
		if c > 127 {
			return true
		}
	}
	return !ended && n == len(buf)
}

// note turns results into outcomes and keeps those open that another
// endpoint may serve.
func (a *attempt) note(c *Conn, results []smtp.ClientResult) {
	_, dsn := c.Client.Extension("DSN")
	dropsRepeats := a.dropsRepeats(c.Client)
	now := time.Now()
	a.noteDoubt(c.endpoint, results)
	still := a.open[:0:0]
	for n, i := range a.open {
		r := results[n]
		o := outcome(a.d.Envelope.Recipients[i].Address, r, now)
		if c.endpoint.wantsLogin(r) {
			o.Class = mail.Deferred
		}
		// A peer that offers DSN reports itself. Of the others LMTP is the end
		// of the way (RFC 2033 section 1).
		reportHere := o.Class == mail.Delivered && !dsn
		o.Relayed, o.Final = reportHere && !a.pool.cfg.Client.LMTP, reportHere && a.pool.cfg.Client.LMTP
		if o.Class == mail.Delivered && a.asksToKeep(c.Client, r.Reply) {
			o.Class = mail.Deferred // see mail.Outcome.Kept
		}
		o.Uncertain = r.Uncertain && !dropsRepeats
		o.Remote, o.TLS = c.endpoint.String(), c.tls
		if o.RemoteMTA = c.endpoint.Host; o.RemoteMTA == "" {
			o.RemoteMTA = c.Client.PeerName()
		}
		if !lacks(r.Err) || !outage(a.outcomes[i]) {
			a.outcomes[i] = o
		}
		if a.worthAnother(r) || c.endpoint.wantsLogin(r) {
			still = append(still, i)
		}
		if a.pair && r.Reply.Code == status.ShuttingDown.Reply().Code {
			a.pool.markDown(c.endpoint, r.Err) // it is drained: nobody else has to ask
		}
	}
	a.open = still
}

// wantsLogin reports whether a host of our own choice takes the mail only of
// who logged in, or under TLS (RFC 4954 section 6, RFC 3207 section 4): that
// is for our configuration to give, and judges no recipient.
func (e Endpoint) wantsLogin(r smtp.ClientResult) bool {
	return e.OwnName != OwnNameLoops && status.Of(r.Err) == status.RemoteReply && r.Reply.Code == status.AuthRequired.Reply().Code
}

// worthAnother reports whether another endpoint may take what this one did not.
func (a *attempt) worthAnother(r smtp.ClientResult) bool {
	if r.Err == nil || r.Uncertain {
		return r.Uncertain && a.pair
	}
	switch status.Of(r.Err) {
	case status.ConnectionLost, status.PeerNo8BitMIME, status.PeerNoSMTPUTF8, status.PeerNoRequireTLS:
		return true
	case status.RemoteReply:
		// A farewell is a connection lost with notice.
		return r.Reply.Code == status.ShuttingDown.Reply().Code || a.pool.cfg.retryRefused && r.Reply.Transient()
	default:
		return false
	}
}

// failOpen gives the open recipients the outcome of a connection that did not
// come about. They stay open. It also takes the place of a peer's lack of
// SMTPUTF8 or REQUIRETLS: who is down now may offer it later. One for good, as a
// loop back to ourselves, does not take the place of another host's outage.
func (a *attempt) failOpen(err error, e Endpoint) {
	now := time.Now()
	for _, i := range a.open {
		o := failed(a.d.Envelope.Recipients[i].Address, err, now)
		if o.Class == mail.Bounced && outage(a.outcomes[i]) {
			continue
		}
		o.Remote, o.RemoteMTA = e.String(), e.Host
		a.outcomes[i] = o
	}
}

// outage reports whether a host that was tried may take the mail later.
func outage(o mail.Outcome) bool { return o.Class == mail.Deferred && o.Remote != "" }

// lacks reports whether a peer lacks an extension that the message needs, which
// another host may have.
func lacks(err error) bool {
	reason := status.Of(err)
	return reason == status.PeerNo8BitMIME || reason == status.PeerNoSMTPUTF8 || reason == status.PeerNoRequireTLS
}

// outcome classes the result of a conversation.
func outcome(to mail.Address, r smtp.ClientResult, now time.Time) mail.Outcome {
	if r.Err == nil {
		return mail.Outcome{Recipient: to, Class: mail.Delivered, Reply: r.Reply, FromPeer: true, At: now}
	}
	return failed(to, r.Err, now)
}

// failed classes an error: Bounced only when it is permanent. What a peer
// says before any mail was spoken of judges us, not the message, so it never
// bounces, but its words are kept.
func failed(to mail.Address, err error, now time.Time) mail.Outcome {
	o := mail.Outcome{Recipient: to, Class: mail.Deferred, Reply: status.ReplyOf(err), At: now}
	var handshake *smtp.HandshakeError
	if errors.As(err, &handshake) {
		o.Reply, o.FromPeer = handshake.Reply, true
		return o
	}
	var known *status.Error
	o.FromPeer = errors.As(err, &known) && known.Remote != nil
	if o.Reply.Permanent() {
		o.Class = mail.Bounced
	}
	return o
}
