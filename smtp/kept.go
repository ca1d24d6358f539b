package smtp

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/status"
)

// Standing is how it stands with a message that a client keeps for the partner
// of a server in a replication pair.
type Standing byte

// The standings, as they are written in the reply to KEPT.
const (
	// StandingUnknown: the server has no such message. It is to be offered
	// again, under the same delivery id.
	StandingUnknown Standing = '?'
	// StandingWaits: the partner does not have it yet.
	StandingWaits Standing = '-'
	// StandingReplicated: both have it.
	StandingReplicated Standing = '+'
)

// KEPT asks after some tokens at once: as many as fit into a command line of
// RFC 5321 section 4.5.3.1.4.
const (
	maxKeptTokens = 32
	maxKeptOctets = 500
	maxKeptToken  = 100
)

// keepWord is the last word of a reply that asks the client to keep a message.
const keepWord = "KEEP="

// KeepText is the text of a positive reply by which the client is asked to keep
// the message, and given the token to ask by: printable ASCII without blanks.
func KeepText(text, token string) string { return strings.TrimSpace(text + " " + keepWord + token) }

// KeepToken returns the token of a positive reply that asks to keep the message.
func KeepToken(r status.Reply) (token string, asked bool) {
	last := r.Text[strings.LastIndexAny(r.Text, " \n")+1:]
	if token, asked = strings.CutPrefix(last, keepWord); !asked || r.Code/100 != 2 || !isKeptToken(token) {
		return "", false
	}
	return token, true
}

func isKeptToken(token string) bool {
	return token != "" && len(token) <= maxKeptToken && !strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })
}

// kept answers KEPT: "250 2.0.0 KEPT" and one sign for each token.
func (s *serverSession) kept(arg string) error {
	session, able := s.policy.(KeptSession)
	if !able {
		return s.unimplemented(arg)
	}
	tokens := strings.Fields(arg)
	if len(tokens) == 0 || len(tokens) > maxKeptTokens || slices.ContainsFunc(tokens, func(t string) bool { return !isKeptToken(t) }) {
		return s.refuse(status.Errorf(status.SyntaxError, "KEPT with %d tokens", len(tokens)))
	}
	standings, err := session.Kept(s.ctx, tokens)
	if err != nil {
		return s.refuse(err)
	}
	reply := status.OK.Reply()
	reply.Text = "KEPT " + string(standings)
	s.answer(reply)
	return nil
}

// OffersKeep reports whether the peer asks its clients to keep mail until its
// partner has it, and answers KEPT.
func (c *Client) OffersKeep() bool {
	params, offered := c.Extension("XPOSTERN")
	return c.cfg.LMTP && offered && slices.Contains(strings.Fields(params), "KEEP")
}

// Kept asks the peer how it stands with messages that are kept for its partner.
// It returns one answer for each token, in order. An error is a *status.Error;
// after one that is not the peer's word the connection is closed.
func (c *Client) Kept(ctx context.Context, tokens []string) ([]Standing, error) {
	if c.unusable {
		return nil, clientLost("KEPT", errClientUnusable)
	}
	defer c.interruptible(ctx)()
	if c.needsReset {
		// KEPT has no place in a transaction.
		if _, err := c.exchange(ctx, "RSET", c.cfg.Timeouts.Reset); err != nil {
			c.drop()
			return nil, err
		}
		c.needsReset = false
	}
	all := make([]Standing, 0, len(tokens))
	for len(tokens) > 0 {
		n := keptLine(tokens)
		got, err := c.keptSome(ctx, tokens[:n])
		if err != nil {
			return nil, err
		}
		all, tokens = append(all, got...), tokens[n:]
	}
	return all, nil
}

// keptLine is how many tokens share the next command.
func keptLine(tokens []string) int {
	n, octets := 0, len("KEPT")
	for n < len(tokens) && n < maxKeptTokens {
		if octets += 1 + len(tokens[n]); n > 0 && octets > maxKeptOctets {
			break
		}
		n++
	}
	return n
}

func (c *Client) keptSome(ctx context.Context, tokens []string) ([]Standing, error) {
	reply, err := c.exchange(ctx, "KEPT "+strings.Join(tokens, " "), c.cfg.Timeouts.Command)
	if err != nil {
		c.drop()
		return nil, err
	}
	if reply.Code/100 != 2 {
		return nil, &status.Error{Reason: status.RemoteReply, Remote: &reply}
	}
	signs, found := strings.CutPrefix(reply.Text, "KEPT ")
	if !found || len(signs) != len(tokens) {
		c.drop()
		return nil, status.New(status.ConnectionLost, fmt.Errorf("reply to KEPT is %q", reply.Text))
	}
	return []Standing(signs), nil
}
