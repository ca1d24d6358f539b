package smtp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/postern-mail/postern/status"
)

// ClientMessage is one message to hand over.
type ClientMessage struct {
	// From is what MAIL declares, each parameter only to a peer that offers
	// its extension; without REQUIRETLS, or SMTPUTF8 where it is needed, the
	// message is not offered. DeclaredOctets and Auth are not used.
	From MailCommand
	To   []RcptCommand
	// Octets is the exact length of Content; 0 when it is not known. Content
	// of another length is not delivered.
	Octets int64
	// Content is the message with CRLF line ends. Send reads it to its end
	// at most once and does not close it.
	Content io.Reader
	// Probe asks for the recipients alone: MAIL and RCPT are sent, and no
	// content. A result without error then is RCPT's. Reset ends it.
	Probe bool
}

// ClientResult is how one recipient fared.
type ClientResult struct {
	// Reply is what the peer said for this recipient; zero when it said
	// nothing that could be understood.
	Reply status.Reply
	// Err is nil when the peer took responsibility for the message. Else it
	// is a *status.Error: with Remote when the peer refused, and without when
	// the connection was lost or the message could not be offered.
	Err error
	// Uncertain is true when the whole message was handed over and no reply
	// came: the peer may have it. Offering it to another host at once would
	// make a second copy likely.
	Uncertain bool
}

// A pipelined group of commands is cut here: its replies must fit into the
// sockets' buffers while the peer, too, writes before it reads again.
const clientGroupOctets = 8 << 10

// clientSmallMessage is the content that travels in the same write as its
// envelope.
const clientSmallMessage = 64 << 10

var errClientUnusable = errors.New("connection is not usable")

// Send hands over one message and returns one result for each of m.To, in
// order. It never reports success without having read it for that very
// recipient: in SMTP after the end of the data, in LMTP one by one (RFC 2033
// section 4.2). After a failure Usable tells whether the connection lives.
func (c *Client) Send(ctx context.Context, m ClientMessage) []ClientResult {
	t := &clientTransaction{c: c, m: m, results: make([]ClientResult, len(m.To)), pipelined: c.offers("PIPELINING")}
	c.answered = false
	if c.unusable {
		t.failOpen(clientLost("send", errClientUnusable))
		return t.results
	}
	defer c.interruptible(ctx)()
	if err := t.run(ctx); err != nil {
		c.drop()
		t.failOpen(err)
	}
	return t.results
}

// Reset ends whatever the last transaction left open. It is not needed before
// Send, which does so itself.
func (c *Client) Reset(ctx context.Context) error {
	if c.unusable {
		return clientLost("RSET", errClientUnusable)
	}
	defer c.interruptible(ctx)()
	reply, err := c.exchange(ctx, "RSET", c.cfg.Timeouts.Reset)
	if err == nil && reply.Code/100 != 2 {
		err = &status.Error{Reason: status.ConnectionLost, Err: fmt.Errorf("RSET refused: %s", reply)}
	}
	if err != nil {
		c.drop()
		return err
	}
	c.needsReset = false
	return nil
}

// OffersRequireTLS reports whether a message may be sent with REQUIRETLS: the
// peer offers it, and under TLS (RFC 8689 section 4.2.1).
func (c *Client) OffersRequireTLS() bool {
	_, encrypted := c.TLS()
	return encrypted && c.offers("REQUIRETLS")
}

func (c *Client) offers(keyword string) bool {
	_, offered := c.extensions[keyword]
	return offered
}

// clientTransaction is one message on the wire. Commands are appended to the
// connection's output and awaited in the order they were sent.
type clientTransaction struct {
	c         *Client
	m         ClientMessage
	results   []ClientResult
	accepted  []int // indices of results, in the order of RCPT
	awaited   []clientAwaited
	pipelined bool
	refusal   error // MAIL's, DATA's: for all who were not refused themselves
	goAhead   bool  // DATA was answered 354
}

type clientAwaited struct {
	verb  string
	index int // of the recipient
	limit time.Duration
}

// run returns an error when the connection is lost or must be given up.
func (t *clientTransaction) run(ctx context.Context) error {
	if err := t.offer(); err != nil {
		t.failOpen(err)
		return nil
	}
	if !t.anyOffered() {
		return nil
	}
	if t.m.Probe {
		return t.probe(ctx)
	}
	small, err := t.readSmall()
	if err != nil {
		t.failOpen(err)
		return nil
	}
	defer clientReleaseBuffer(small)
	if t.c.needsReset {
		if err := t.command(ctx, "RSET", "RSET", 0, t.c.cfg.Timeouts.Reset); err != nil {
			return err
		}
	}
	if err := t.envelope(ctx); err != nil {
		return err
	}
	t.c.needsReset = true
	if t.c.cfg.Chunking && t.c.offers("CHUNKING") && (small.whole || t.m.Octets > 0) {
		return t.chunk(ctx, small)
	}
	return t.data(ctx, small)
}

// probe sends the envelope and takes the replies to it for the results.
func (t *clientTransaction) probe(ctx context.Context) error {
	if t.c.needsReset {
		if err := t.command(ctx, "RSET", "RSET", 0, t.c.cfg.Timeouts.Reset); err != nil {
			return err
		}
	}
	if err := t.envelope(ctx); err != nil {
		return err
	}
	t.c.needsReset = true
	if err := t.sync(ctx); err != nil {
		return err
	}
	t.settleRefused()
	return nil
}

// offer checks what can be refused without asking the peer.
func (t *clientTransaction) offer() error {
	utf8 := t.c.offers("SMTPUTF8")
	if (t.m.From.SMTPUTF8 || !t.m.From.ReversePath.IsASCII()) && !utf8 {
		return status.Errorf(status.PeerNoSMTPUTF8, "peer does not offer SMTPUTF8")
	}
	if t.m.From.RequireTLS && !t.c.OffersRequireTLS() {
		return status.Errorf(status.PeerNoRequireTLS, "peer does not offer REQUIRETLS under TLS")
	}
	if limit, offered := t.c.Extension("SIZE"); offered && t.m.Octets > 0 {
		// A limit of 0 means that there is none (RFC 1870 section 4).
		if n, err := strconv.ParseInt(limit, 10, 64); err == nil && n > 0 && t.m.Octets > n {
			return status.Errorf(status.MessageTooBig, "%d octets exceed the peer's limit of %d", t.m.Octets, n)
		}
	}
	if clientUnsafe(t.m.From.ReversePath.String()) {
		return status.Errorf(status.BadSenderSyntax, "control character in reverse-path")
	}
	for i, to := range t.m.To {
		switch {
		case clientUnsafe(to.ForwardPath.String()):
			t.results[i].Err = status.Errorf(status.BadAddressSyntax, "control character in forward-path")
		case !to.ForwardPath.IsASCII() && !utf8:
			t.results[i].Err = status.Errorf(status.PeerNoSMTPUTF8, "peer does not offer SMTPUTF8")
		}
	}
	return nil
}

func (t *clientTransaction) anyOffered() bool {
	for _, r := range t.results {
		if r.Err == nil {
			return true
		}
	}
	return false
}

// envelope sends MAIL and RCPT.
func (t *clientTransaction) envelope(ctx context.Context) error {
	if err := t.command(ctx, t.mailCommand(), "MAIL", 0, t.c.cfg.Timeouts.Command); err != nil {
		return err
	}
	for i, to := range t.m.To {
		if t.results[i].Err != nil {
			continue
		}
		if t.refusal != nil {
			return nil
		}
		if err := t.command(ctx, t.rcptCommand(to), "RCPT", i, t.c.cfg.Timeouts.Command); err != nil {
			return err
		}
	}
	return nil
}

// command appends one command. Without PIPELINING (RFC 2920) its reply is
// awaited at once, with it when the group has grown large.
func (t *clientTransaction) command(ctx context.Context, line, verb string, index int, limit time.Duration) error {
	t.c.wire.append(line)
	t.awaited = append(t.awaited, clientAwaited{verb, index, limit})
	if t.pipelined && len(t.c.wire.out) < clientGroupOctets {
		return nil
	}
	return t.sync(ctx)
}

// sync writes what is pending and reads the replies to it.
func (t *clientTransaction) sync(ctx context.Context) error {
	if err := t.c.wire.flush(ctx, t.c.cfg.Timeouts.DataBlock); err != nil {
		return err
	}
	return t.replies(ctx)
}

func (t *clientTransaction) replies(ctx context.Context) error {
	for _, a := range t.awaited {
		reply, err := t.c.wire.readReply(ctx, a.limit)
		if err != nil {
			return err
		}
		t.c.answered = true
		if err := t.take(a, reply); err != nil {
			return err
		}
	}
	t.awaited = t.awaited[:0]
	return nil
}

// take notes a reply to an envelope command.
func (t *clientTransaction) take(a clientAwaited, reply status.Reply) error {
	positive, wanted := reply.Code/100, 2
	if a.verb == "DATA" {
		wanted = 3
	}
	if positive != wanted && reply.Positive() {
		return clientLost(a.verb, fmt.Errorf("%w: %s", errClientReplySyntax, reply))
	}
	if a.verb == "RCPT" {
		reply = clientTooMany(reply)
	}
	refused := clientRefused(a.verb, reply)
	switch a.verb {
	case "RSET":
		if refused != nil {
			return clientLost("RSET", refused)
		}
		t.c.needsReset = false
	case "MAIL":
		if refused != nil {
			t.refusal, t.c.needsReset = refused, true
		}
	case "RCPT":
		t.results[a.index] = ClientResult{Reply: reply, Err: refused}
		if refused == nil {
			t.accepted = append(t.accepted, a.index)
		}
	case "DATA":
		t.goAhead = refused == nil
		if t.refusal == nil {
			t.refusal = refused
		}
	}
	return nil
}

// data sends the content by DATA.
func (t *clientTransaction) data(ctx context.Context, small *clientBuffer) error {
	if len(t.awaited) == 0 && !t.anyAccepted() {
		t.settleRefused()
		return nil
	}
	if err := t.command(ctx, "DATA", "DATA", 0, t.c.cfg.Timeouts.DataInit); err != nil {
		return err
	}
	if err := t.sync(ctx); err != nil {
		return err
	}
	if !t.goAhead {
		t.settleRefused()
		return nil
	}
	if !t.anyAccepted() {
		// The peer awaits content that nobody shall get. Hanging up is the one
		// way to end this that cannot be taken for an empty message.
		t.settleRefused()
		t.c.drop()
		return nil
	}
	if err := t.sendStuffed(ctx, small); err != nil {
		return err
	}
	return t.finalReplies(ctx)
}

// chunk sends the content by BDAT: small content together with the envelope,
// larger content once somebody is there to receive it.
func (t *clientTransaction) chunk(ctx context.Context, small *clientBuffer) error {
	if !t.pipelined || !small.whole || len(t.c.wire.out) == 0 {
		if err := t.sync(ctx); err != nil {
			return err
		}
		if !t.anyAccepted() {
			t.settleRefused()
			return nil
		}
	}
	if err := t.sendChunk(ctx, small); err != nil {
		return err
	}
	if err := t.replies(ctx); err != nil {
		t.uncertain()
		return err
	}
	if !t.anyAccepted() {
		t.settleRefused()
		// The refused chunk has a reply of its own. Peers differ in whether
		// they skip the chunk's octets, so the connection has served.
		t.c.drop()
		return nil
	}
	return t.finalReplies(ctx)
}

// finalReplies reads the replies to the whole message: one for all in SMTP,
// one for each accepted recipient in LMTP.
func (t *clientTransaction) finalReplies(ctx context.Context) error {
	var reply status.Reply
	for n, i := range t.accepted {
		if n == 0 || t.c.cfg.LMTP {
			var err error
			if reply, err = t.c.wire.readReply(ctx, t.c.cfg.Timeouts.DataDone); err == nil && reply.Code/100 == 3 {
				err = clientLost("end of data", fmt.Errorf("%w: %s", errClientReplySyntax, reply))
			}
			if err != nil {
				t.accepted = t.accepted[n:]
				t.uncertain()
				return err
			}
			t.c.answered = true
		}
		t.results[i] = ClientResult{Reply: reply, Err: clientRefused("end of data", reply)}
	}
	t.accepted = nil
	// A farewell ends the connection, whatever became of the message.
	if reply.Code == status.ShuttingDown.Reply().Code {
		t.c.drop()
		return nil
	}
	t.c.needsReset = false
	return nil
}

// uncertain marks those the peer may have the message for.
func (t *clientTransaction) uncertain() {
	for _, i := range t.accepted {
		t.results[i].Uncertain = true
	}
	// Of those whose RCPT was never answered nothing is known either.
	for _, a := range t.awaited {
		if a.verb == "RCPT" && t.results[a.index].Reply.Code == 0 {
			t.results[a.index].Uncertain = true
		}
	}
}

func (t *clientTransaction) anyAccepted() bool { return len(t.accepted) > 0 && t.refusal == nil }

// settleRefused gives the refusal of the whole to those whom nothing else
// befell.
func (t *clientTransaction) settleRefused() {
	if t.refusal != nil {
		t.failOpen(t.refusal)
	}
}

// failOpen gives err to every recipient that has no final result: not
// answered, or accepted by RCPT alone, which promises nothing.
func (t *clientTransaction) failOpen(err error) {
	if t.refusal != nil {
		err = t.refusal
	}
	final := make(map[int]bool, len(t.results))
	for i, r := range t.results {
		final[i] = r.Err != nil || r.Reply.Code != 0
	}
	for _, i := range t.accepted {
		final[i] = false
	}
	for i := range t.results {
		if !final[i] {
			t.results[i].Err = err
			t.results[i].Reply = clientReplyIn(err)
		}
	}
	t.accepted = nil
}

func clientReplyIn(err error) status.Reply {
	var known *status.Error
	if errors.As(err, &known) && known.Remote != nil {
		return *known.Remote
	}
	return status.Reply{}
}

// clientRefused returns the error a reply amounts to; nil when it is positive.
func clientRefused(verb string, reply status.Reply) error {
	if reply.Positive() {
		return nil
	}
	return &status.Error{Reason: status.RemoteReply, Remote: &reply, Err: errors.New(verb + " refused")}
}

// clientTooMany makes transient what RFC 821 wrongly had servers say to a RCPT
// beyond the number they take (RFC 5321 section 4.5.3.1.10).
func clientTooMany(reply status.Reply) status.Reply {
	if reply.Code != status.MessageTooBig.Reply().Code {
		return reply
	}
	reply.Code = status.TooManyRecipients.Reply().Code
	if reply.Enhanced[0] != 0 {
		reply.Enhanced[0] = reply.Code / 100
	}
	return reply
}

// clientBuffer holds the beginning of a message.
type clientBuffer struct {
	octets []byte
	whole  bool // nothing follows
}

var clientBuffers = sync.Pool{New: func() any { return &clientBuffer{octets: make([]byte, 0, clientSmallMessage)} }}

func clientReleaseBuffer(b *clientBuffer) { clientBuffers.Put(b) }

// readSmall reads the beginning of the content before anything is sent, so
// that content that cannot be read costs the peer nothing.
func (t *clientTransaction) readSmall() (*clientBuffer, error) {
	b := clientBuffers.Get().(*clientBuffer)
	n, err := io.ReadFull(t.m.Content, b.octets[:clientSmallMessage])
	b.octets = b.octets[:n]
	b.whole = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	if err != nil && !b.whole {
		clientReleaseBuffer(b)
		return nil, clientContent(err)
	}
	if b.whole && t.m.Octets > 0 && int64(n) != t.m.Octets {
		clientReleaseBuffer(b)
		return nil, clientContent(fmt.Errorf("content has %d octets, not %d", n, t.m.Octets))
	}
	return b, nil
}

// clientContent is the error of content of ours that cannot be read.
func clientContent(err error) error {
	return status.New(status.StoreDown, fmt.Errorf("read content: %w", err))
}
