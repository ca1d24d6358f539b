package process

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/authn/gssapi"
)

// maxExchanges bounds tickets that were taken and wait for their clients to go
// on, and exchangeTimeout for how long each may. Only who has a valid ticket
// gets as far.
const (
	maxExchanges    = 1024
	exchangeTimeout = 30 * time.Second
)

// Between the helper and its workers a Begin goes as it came. What comes back
// is the state of the context, its length first, and the reply; a confirmation
// is the state, in the same way, and the token.
const kindChoice = 'S'

// exchange serves one GSSAPI exchange: both of its questions on the connection
// that message came on. In between no worker is held; what the second needs of
// the first stays here.
func (s *Server) exchange(ctx context.Context, conn *net.UnixConn, message []byte, release func()) error {
	reply, state := s.begin(ctx, message)
	defer func() { clear(state) }()
	if reply.Outcome == gssapi.Challenge {
		select {
		case s.exchanges <- struct{}{}:
			defer func() { <-s.exchanges }()
		default:
			reply = unsure("too many exchanges have begun and not ended")
		}
	}
	if err := s.reply(conn, reply); err != nil || reply.Outcome != gssapi.Challenge {
		return err
	}
	release() // a client that thinks keeps nobody from asking
	if err := conn.SetDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	buf := make([]byte, gssapi.MaxConfirmOctets+1)
	n, err := conn.Read(buf)
	if err != nil || n == 0 {
		s.log.Debug("exchange was not ended", "principal", reply.Principal, "err", err)
		return nil
	}
	final := s.confirm(ctx, state, buf[:n])
	final.Principal = reply.Principal
	return s.reply(conn, final)
}

// begin has a worker judge the first token.
func (s *Server) begin(ctx context.Context, message []byte) (gssapi.Reply, []byte) {
	var begin gssapi.Begin
	if err := begin.UnmarshalBinary(message); err != nil {
		return unsure(err.Error()), nil
	}
	if s.tickets == nil {
		return unsure("tickets are not served here: the helper was started without --keytab"), nil
	}
	answer, err := s.tickets.ask(ctx, message)
	if err != nil {
		s.log.Error("worker failed", "kind", workTickets, "err", err)
		return unsure(err.Error()), nil
	}
	state, rest, err := cutState(answer)
	var reply gssapi.Reply
	if err == nil {
		err = reply.UnmarshalBinary(rest)
	}
	if err != nil {
		return unsure("worker answered: " + err.Error()), nil
	}
	if reply.Outcome == gssapi.Unknown {
		s.log.Error("ticket cannot be judged", "service", begin.Service, "err", reply.Detail)
	}
	return reply, slices.Clone(state)
}

// confirm has a worker judge the client's choice.
func (s *Server) confirm(ctx context.Context, state, message []byte) gssapi.Reply {
	var confirm gssapi.Confirm
	if err := confirm.UnmarshalBinary(message); err != nil {
		return unsure(err.Error())
	}
	question := appendState([]byte{kindChoice}, state)
	question = append(question, confirm.Token...)
	defer clear(question)
	answer, err := s.tickets.ask(ctx, question)
	if err != nil {
		s.log.Error("worker failed", "kind", workTickets, "err", err)
		return unsure(err.Error())
	}
	_, rest, err := cutState(answer)
	var reply gssapi.Reply
	if err == nil {
		err = reply.UnmarshalBinary(rest)
	}
	if err != nil {
		return unsure("worker answered: " + err.Error())
	}
	return reply
}

func (s *Server) reply(conn *net.UnixConn, reply gssapi.Reply) error {
	message, err := reply.AppendBinary(nil)
	if err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	return write(conn, message)
}

// workOnTickets is what a worker does: it answers one message of the helper.
func workOnTickets(keytab string) func(message []byte) ([]byte, error) {
	return func(message []byte) ([]byte, error) {
		reply, state := judge(keytab, message)
		defer clear(state)
		return reply.AppendBinary(appendState(nil, state))
	}
}

func judge(keytab string, message []byte) (gssapi.Reply, []byte) {
	if len(message) > 0 && message[0] == kindChoice {
		state, token, err := cutState(message[1:])
		if err != nil {
			return unsure(err.Error()), nil
		}
		return judgeChoice(state, token), nil
	}
	var begin gssapi.Begin
	if err := begin.UnmarshalBinary(message); err != nil {
		return unsure(err.Error()), nil
	}
	if !isKerberos(begin.Token) {
		return refusal("not a token of Kerberos"), nil
	}
	return takeTicket(keytab, begin)
}

// kerberosOID is the mechanism's name as it stands in a token: 1.2.840.113554.1.2.2.
const kerberosOID = "\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02"

// isKerberos reports whether a token is framed as the first one of Kerberos (RFC
// 2743 section 3.1): what is not, the library takes for a fault of ours.
func isKerberos(token []byte) bool {
	if len(token) < 2 || token[0] != 0x60 {
		return false
	}
	length, rest := int(token[1]), token[2:]
	if length >= 0x80 {
		digits := length - 0x80
		if digits < 1 || digits > 3 || len(rest) < digits {
			return false
		}
		length = 0
		for _, c := range rest[:digits] {
			length = length<<8 | int(c)
		}
		rest = rest[digits:]
	}
	return length == len(rest) && strings.HasPrefix(string(rest[:min(len(rest), len(kerberosOID))]), kerberosOID)
}

func appendState(buf, state []byte) []byte {
	return append(binary.BigEndian.AppendUint32(buf, uint32(len(state))), state...)
}

var errState = errors.New("malformed state of an exchange")

func cutState(message []byte) (state, rest []byte, err error) {
	if len(message) < 4 {
		return nil, nil, errState
	}
	n := binary.BigEndian.Uint32(message)
	if message = message[4:]; uint64(n) > uint64(len(message)) {
		return nil, nil, errState
	}
	return message[:n], message[n:], nil
}

// unsure is a reply that says nothing about a person.
func unsure(detail string) gssapi.Reply { return gssapi.Reply{Detail: clip(detail)} }

func refusal(detail string) gssapi.Reply {
	return gssapi.Reply{Outcome: gssapi.Refused, Detail: clip(detail)}
}

// isFor reports whether a principal is service/host@REALM with one of hosts,
// or any host when there are none. Host names are compared without regard to
// case; realms are the keytab's own.
func isFor(principal, service string, hosts []string) bool {
	name, _, _ := strings.Cut(principal, "@")
	first, host, ok := strings.Cut(name, "/")
	if !ok || first != service || host == "" || strings.Contains(host, "/") {
		return false
	}
	return len(hosts) == 0 || slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// noLayer is the bit of RFC 4752 section 3.3 for "no security layer".
const noLayer = 1

// chosen judges what the client chose, unwrapped.
func chosen(choice []byte) gssapi.Reply {
	switch {
	case len(choice) < 4:
		return refusal("choice of a security layer: too short")
	case choice[0] != noLayer:
		return refusal(fmt.Sprintf("the client chose security layer %#x, which was not offered", choice[0]))
	case len(choice) > 4+gssapi.MaxConfirmOctets || !utf8.Valid(choice[4:]) || slices.ContainsFunc(choice[4:], isControl):
		return refusal("authorization identity is no text")
	}
	return gssapi.Reply{Outcome: gssapi.Accepted, Authorization: string(choice[4:])}
}

func isControl(c byte) bool { return c < ' ' || c == 0x7f }
