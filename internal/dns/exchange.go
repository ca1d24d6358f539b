package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	wire "github.com/miekg/dns"
)

// udpOctets is the size of UDP answers asked for: what passes without
// fragments everywhere (DNS flag day 2020).
const udpOctets = 1232

// maxStray bounds the datagrams that are looked at while waiting for the one
// that answers: others may be forged or late.
const maxStray = 100

// exchanger puts one question to one server. The message returned answers the
// question, or is a refusal of it.
type exchanger interface {
	exchange(ctx context.Context, server string, question *wire.Msg, tcp bool) (*wire.Msg, error)
}

// askOne gets an answer from one server by UDP, or TCP when it is too long for
// that.
func (r *Resolver) askOne(ctx context.Context, server string, k key, trusted bool, timeout time.Duration) (*wire.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	q := question(k, trusted)
	msg, err := r.exchange.exchange(ctx, server, q, false)
	if err == nil && (msg.Rcode == wire.RcodeFormatError || msg.Rcode == wire.RcodeNotImplemented || msg.Rcode == wire.RcodeBadVers) {
		// RFC 6891 section 6.2.2: a server from before EDNS.
		q = question(k, trusted)
		q.Extra = nil
		msg, err = r.exchange.exchange(ctx, server, q, false)
	}
	if err == nil && msg.Truncated {
		msg, err = r.exchange.exchange(ctx, server, q, true)
	}
	if err != nil {
		return nil, err
	}
	if msg.Rcode != wire.RcodeSuccess && msg.Rcode != wire.RcodeNameError {
		return nil, fmt.Errorf("%w: %s", ErrServerFailure, wire.RcodeToString[msg.Rcode])
	}
	if msg.Truncated {
		return nil, fmt.Errorf("%w: truncated by TCP", ErrBadAnswer)
	}
	return msg, nil
}

// question composes a query. Of a server whose AD bit would not be believed
// no signatures are asked for.
func question(k key, validated bool) *wire.Msg {
	q := new(wire.Msg)
	q.Id = wire.Id()
	q.RecursionDesired = true
	q.AuthenticatedData = validated
	q.Question = []wire.Question{{Name: k.name, Qtype: k.qtype, Qclass: wire.ClassINET}}
	q.SetEdns0(udpOctets, validated)
	return q
}

// answers reports whether m is an answer to q rather than something a stranger
// or an earlier question left on the way.
func answers(m, q *wire.Msg) bool {
	if !m.Response || m.Id != q.Id || m.Opcode != wire.OpcodeQuery {
		return false
	}
	if len(m.Question) == 0 {
		// Some servers refuse what they cannot read without repeating it.
		return m.Rcode != wire.RcodeSuccess && m.Rcode != wire.RcodeNameError
	}
	asked := q.Question[0]
	got := m.Question[0]
	return len(m.Question) == 1 && got.Qtype == asked.Qtype && got.Qclass == asked.Qclass && strings.EqualFold(got.Name, asked.Name)
}

// network is the exchanger of the real world. Every question has a socket, and
// so a port, of its own.
type network struct{}

func (network) exchange(ctx context.Context, server string, q *wire.Msg, tcp bool) (*wire.Msg, error) {
	packed, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	transport, talk := "udp", talkUDP
	if tcp {
		transport, talk = "tcp", talkTCP
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, transport, server)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	defer conn.Close()
	// The context carries the deadline; it may end before.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
		}
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, ctx.Err())
	}
	return talk(conn, packed, q)
}

func talkUDP(conn net.Conn, packed []byte, q *wire.Msg) (*wire.Msg, error) {
	if _, err := conn.Write(packed); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	buf := make([]byte, 4096)
	for range maxStray {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
		}
		m := new(wire.Msg)
		if err := m.Unpack(buf[:n]); err == nil && answers(m, q) {
			return m, nil
		} else if err != nil && truncatedAnswer(buf[:n], q) {
			// Cut in the middle of a record: what counts is the TC bit.
			return &wire.Msg{MsgHdr: wire.MsgHdr{Id: q.Id, Response: true, Truncated: true}}, nil
		}
	}
	return nil, fmt.Errorf("%w: nothing but strays", ErrNoAnswer)
}

// truncatedAnswer reports whether an unreadable datagram has the header of an
// answer to q that was truncated.
func truncatedAnswer(p []byte, q *wire.Msg) bool {
	const response, truncated = 0x80, 0x02
	return len(p) >= 12 && binary.BigEndian.Uint16(p) == q.Id && p[2]&response != 0 && p[2]&truncated != 0
}

func talkTCP(conn net.Conn, packed []byte, q *wire.Msg) (*wire.Msg, error) {
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, len(packed)+2), uint16(len(packed)))
	if _, err := conn.Write(append(framed, packed...)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	m := new(wire.Msg)
	if err := m.Unpack(buf); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	if !answers(m, q) {
		return nil, fmt.Errorf("%w: another question's", ErrBadAnswer)
	}
	return m, nil
}

// trusts reports whether the AD bit of server is believed.
func (r *Resolver) trusts(server string, conf resolvConf) bool {
	switch r.cfg.Trust {
	case TrustAll:
		return true
	case TrustNone:
		return false
	}
	addr, err := netip.ParseAddrPort(server)
	return err == nil && addr.Addr().Unmap().IsLoopback() || conf.trustAD
}
