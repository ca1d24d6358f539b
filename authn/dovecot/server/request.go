package server

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/authn/dovecot/wire"
	"github.com/postern-mail/postern/authn/sasl"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// request is one exchange that a client has open.
type request struct {
	id       uint64
	exchange *sasl.Exchange
	end      context.CancelFunc
	expiry   *time.Timer

	busy bool // a worker has it; guarded by session.mu
	gone bool // nobody wants the answer any more; guarded by session.mu
	late bool // its time ended while a worker had it; guarded by session.mu
}

// auth begins a request: AUTH id mechanism parameters. An error is a client
// that cannot be understood.
func (s *session) auth(id uint64, fields []string) error {
	if len(fields) == 0 || fields[0] == "" {
		return errors.New("AUTH without a mechanism")
	}
	s.mu.Lock()
	_, taken := s.requests[id]
	full := len(s.requests) >= s.cfg.MaxRequests
	s.mu.Unlock()
	switch {
	case taken:
		return fmt.Errorf("request %d is under way already", id)
	case full:
		s.refuse(id, status.Errorf(status.AuthTemporary, "more than %d requests on one connection", s.cfg.MaxRequests))
		return nil
	}
	parameters, initial, given := cutResponse(fields[1:])
	var response []byte // nil without an initial response
	if given {
		var err error
		if response, err = decode(initial); err != nil {
			s.refuse(id, err)
			return nil
		}
	}
	r, err := s.open(id, fields[0], parameters)
	if err != nil {
		s.refuse(id, err)
		return nil
	}
	return s.decide(r, response)
}

// cutResponse splits off resp=..., which is last by definition: what a client
// lets a stranger put behind it is no parameter.
func cutResponse(fields []string) (parameters []string, response string, given bool) {
	for i, field := range fields {
		if response, given = strings.CutPrefix(field, "resp="); given {
			return fields[:i], response, true
		}
	}
	return fields, "", false
}

// decode reads a response; "=" stands for an empty one, as in SMTP.
func decode(text string) ([]byte, error) {
	if text == "=" {
		text = ""
	}
	response, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, status.New(status.BadBase64, err)
	}
	return response, nil
}

// open starts the exchange of a request.
func (s *session) open(id uint64, mechanism string, parameters []string) (*request, error) {
	mechanisms, err := s.server.mechanisms()
	if err != nil {
		return nil, err
	}
	client := clientOf(parameters)
	client.Listener = s.cfg.Name
	ctx, end := context.WithTimeout(s.live, s.cfg.RequestTimeout)
	exchange, err := mechanisms.Start(ctx, mechanism, serviceOf(parameters), client)
	if err != nil {
		end()
		return nil, err
	}
	r := &request{id: id, exchange: exchange, end: end, busy: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[id] = r
	r.expiry = time.AfterFunc(s.cfg.RequestTimeout, func() { s.expire(r) })
	return r, nil
}

// clientOf is whom the client asks for.
func clientOf(parameters []string) mail.Client {
	id := make([]byte, 8)
	rand.Read(id)
	client := mail.Client{
		Session: mail.SessionID(hex.EncodeToString(id)),
		Remote:  addressOf(parameters, "rip", "rport"), Local: addressOf(parameters, "lip", "lport"),
	}
	for _, p := range parameters {
		if p == "secured" || strings.HasPrefix(p, "secured=") {
			client.TLS = &mail.TLSInfo{}
		}
	}
	if client.TLS != nil {
		client.TLS.Version, _ = wire.Value(parameters, "tls_protocol")
		client.TLS.Cipher, _ = wire.Value(parameters, "tls_cipher")
	}
	return client
}

// addressOf reads an address and, where it is told, a port. What is neither is
// not known.
func addressOf(parameters []string, ip, port string) netip.AddrPort {
	text, _ := wire.Value(parameters, ip)
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.AddrPort{}
	}
	text, _ = wire.Value(parameters, port)
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		number = 0
	}
	return netip.AddrPortFrom(addr.Unmap().WithZone(""), uint16(number))
}

// maxServiceOctets is longer than any service's name.
const maxServiceOctets = 32

// serviceOf is what the client logs people in for; "smtp" is Postfix.
func serviceOf(parameters []string) string {
	service, _ := wire.Value(parameters, "service")
	service = strings.ToLower(service)
	odd := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }
	if service == "" || len(service) > maxServiceOctets || strings.ContainsFunc(service, odd) {
		return "unknown"
	}
	return service
}

// take makes a request that no worker has the caller's own; nil when there is
// none, or one that is being decided.
func (s *session) take(id uint64) (r *request, busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r = s.requests[id]
	if r == nil || r.busy {
		return nil, r != nil
	}
	r.busy = true
	return r, false
}

// proceed goes on with a request: CONT id response.
func (s *session) proceed(id uint64, fields []string) error {
	r, busy := s.take(id)
	switch {
	case busy:
		return fmt.Errorf("request %d was not answered yet and goes on", id)
	case r == nil:
		s.refuse(id, status.Errorf(status.AuthTemporary, "request %d is unknown, or took too long", id))
		return nil
	}
	text := ""
	if len(fields) > 0 {
		text = fields[0]
	}
	response, err := decode(text)
	if err != nil {
		s.finish(r)
		s.refuse(id, err)
		return nil
	}
	return s.decide(r, response)
}

// decide has a worker take the response. It blocks while all are busy.
func (s *session) decide(r *request, response []byte) error {
	select {
	case s.slots <- struct{}{}:
	case <-s.live.Done():
		s.finish(r)
		return nil // what ended it is told elsewhere
	}
	s.work.Go(func() {
		defer func() { <-s.slots }()
		s.step(r, response)
	})
	return nil
}

// step takes one response of a request and answers.
func (s *session) step(r *request, response []byte) {
	challenge, done, err := r.exchange.Next(response)
	s.mu.Lock()
	gone := r.gone
	if r.late && !done && err == nil {
		err = status.Errorf(status.AuthTemporary, "request %d took too long", r.id)
	}
	ended := gone || done || err != nil
	r.busy = ended // and nobody else takes it
	s.mu.Unlock()
	id := strconv.FormatUint(r.id, 10)
	if !ended {
		s.send("CONT", id, base64.StdEncoding.EncodeToString(challenge))
		return
	}
	s.finish(r)
	switch {
	case gone, s.live.Err() != nil:
		s.count(ResultAbandoned)
	case err != nil:
		s.refuse(r.id, err)
	default:
		s.count(ResultOK)
		s.send("OK", id, "user="+r.exchange.Identity().Authorization)
	}
}

// finish forgets a request that is the caller's own.
func (s *session) finish(r *request) {
	s.mu.Lock()
	delete(s.requests, r.id)
	s.mu.Unlock()
	r.expiry.Stop()
	_ = r.exchange.Close()
	r.end()
}

// refuse answers a request that failed. An outage, and having to wait, are no
// wrong password: see the package.
func (s *session) refuse(id uint64, err error) {
	reason := status.Of(err)
	fields := []string{"FAIL", strconv.FormatUint(id, 10)}
	if !reason.Permanent() {
		s.server.log.Warn("request cannot be decided", "listener", s.cfg.Name, "remote", s.conn.RemoteAddr(), "err", err)
		s.count(ResultTemporary)
		if s.terse {
			s.hangUp()
			return
		}
		s.send(append(fields, "temp", "code=temp_fail", "reason="+status.AuthTemporary.Reply().Text)...)
		return
	}
	switch reason {
	case status.AccountDisabled, status.ParameterSyntax:
		reason = status.AuthFailed
	case status.AuthorizationDenied:
		fields = append(fields, "authz", "code=authz_fail")
	case status.AuthMechanism:
		fields = append(fields, "code=auth_mech_invalid")
	case status.AuthNeedsTLS:
		fields = append(fields, "code=auth_mech_ssl_required")
	case status.BadBase64:
		fields = append(fields, "code=invalid_base64")
	}
	s.count(ResultRefused)
	s.send(append(fields, "reason="+reason.Reply().Text)...)
}

// cancel ends a request that its client wants no more.
func (s *session) cancel(id uint64) {
	if r, busy := s.take(id); r != nil {
		s.finish(r)
		s.count(ResultAbandoned)
	} else if busy {
		s.interrupt(id)
	}
}

// interrupt has a worker end early and say nothing.
func (s *session) interrupt(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.requests[id]; r != nil {
		r.gone = true
		r.end()
	}
}

// expire forgets a request that its client does not go on with. One that is
// being decided ends with that, at the latest by its own deadline.
func (s *session) expire(r *request) {
	s.mu.Lock()
	waiting := s.requests[r.id] == r && !r.busy
	r.busy, r.late = r.busy || waiting, true
	s.mu.Unlock()
	if waiting {
		s.finish(r)
		s.count(ResultAbandoned)
	}
}

// abandon ends all that is left when the connection ends; no worker runs.
func (s *session) abandon() {
	s.mu.Lock()
	left := slices.Collect(maps.Values(s.requests))
	s.mu.Unlock()
	for _, r := range left {
		s.expire(r)
	}
}

func (s *session) count(r Result) { s.server.results[r].Add(1) }
