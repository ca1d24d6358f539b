// Package dnstest is a recursive name server for tests, on loopback, with zones
// in memory. It sets the AD bit for the zones it is told to, as a validating
// server does for signed ones, and fails as it is told to.
package dnstest

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"
)

// Server is a name server of one test.
type Server struct {
	// Addr is where it listens, UDP and TCP.
	Addr string

	t testing.TB

	mu      sync.Mutex
	records map[string][]wire.RR // by name
	signed  []string
	special map[question]wire.Handler
	asked   map[question]int
}

type question struct {
	name  string
	qtype uint16
}

// New starts a server that knows nothing; it ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	packets, stream := listenBoth(t)
	return serve(t, packets, stream)
}

// NewAt is New at an address of the caller's choice, such as port 53 of a
// private network.
func NewAt(t testing.TB, address string) *Server {
	t.Helper()
	stream, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, packets, stream)
}

func serve(t testing.TB, packets net.PacketConn, stream net.Listener) *Server {
	t.Helper()
	s := &Server{t: t, records: make(map[string][]wire.RR), special: make(map[question]wire.Handler), asked: make(map[question]int)}
	s.Addr = stream.Addr().String()
	const patient = time.Minute // with a client on a busy machine
	for _, server := range []*wire.Server{
		{PacketConn: packets, Handler: s},
		{Listener: stream, Handler: s, ReadTimeout: patient, WriteTimeout: patient, IdleTimeout: func() time.Duration { return patient }},
	} {
		started, done := make(chan struct{}), make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(done)
			if err := server.ActivateAndServe(); err != nil {
				t.Errorf("name server: %v", err)
			}
		}()
		<-started
		t.Cleanup(func() {
			if err := server.Shutdown(); err != nil {
				t.Errorf("stop name server: %v", err)
			}
			<-done
		})
	}
	return s
}

// listenBoth opens one port for UDP and TCP.
func listenBoth(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 50 {
		stream, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		packets, err := net.ListenPacket("udp", stream.Addr().String())
		if err == nil {
			return packets, stream
		}
		_ = stream.Close() // the port is taken for UDP; another one
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

// Add adds records in the notation of zone files, one each.
func (s *Server) Add(records ...string) {
	s.t.Helper()
	for _, text := range records {
		rr, err := wire.NewRR(text)
		if err != nil || rr == nil {
			s.t.Fatalf("record %q: %v", text, err)
		}
		name := strings.ToLower(rr.Header().Name)
		s.mu.Lock()
		s.records[name] = append(s.records[name], rr)
		s.mu.Unlock()
	}
}

// Remove removes all records of a name.
func (s *Server) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, fqdn(name))
}

// Sign makes answers about the zones secure.
func (s *Server) Sign(zones ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, z := range zones {
		s.signed = append(s.signed, fqdn(z))
	}
}

// Fail answers a question with a response code, such as "SERVFAIL".
func (s *Server) Fail(name, qtype, rcode string) {
	s.Answer(name, qtype, func(w wire.ResponseWriter, q *wire.Msg) {
		m := new(wire.Msg).SetRcode(q, wire.StringToRcode[rcode])
		m.RecursionAvailable = true
		_ = w.WriteMsg(m) // the client is gone
	})
}

// HangUp leaves a question without an answer, and keeps nobody waiting for it: a
// client is told to come by TCP, and there the connection ends.
func (s *Server) HangUp(name, qtype string) {
	s.Answer(name, qtype, func(w wire.ResponseWriter, q *wire.Msg) {
		if w.RemoteAddr().Network() != "udp" {
			_ = w.Close()
			return
		}
		m := new(wire.Msg).SetReply(q)
		m.RecursionAvailable, m.Truncated = true, true
		_ = w.WriteMsg(m) // the client is gone
	})
}

// Answer answers a question by f, which may answer with anything or not at all.
func (s *Server) Answer(name, qtype string, f wire.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.special[question{fqdn(name), wire.StringToType[qtype]}] = f
}

// Heal takes back Fail and Answer.
func (s *Server) Heal(name, qtype string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.special, question{fqdn(name), wire.StringToType[qtype]})
}

// Asked tells how often a question came, in UDP and TCP.
func (s *Server) Asked(name, qtype string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[question{fqdn(name), wire.StringToType[qtype]}]
}

func fqdn(name string) string { return strings.ToLower(wire.Fqdn(name)) }

// ServeDNS implements wire.Handler.
func (s *Server) ServeDNS(w wire.ResponseWriter, q *wire.Msg) {
	asked := question{strings.ToLower(q.Question[0].Name), q.Question[0].Qtype}
	s.mu.Lock()
	s.asked[asked]++
	special := s.special[asked]
	s.mu.Unlock()
	if special != nil {
		special.ServeDNS(w, q)
		return
	}
	m := s.Reply(q)
	if w.RemoteAddr().Network() == "udp" {
		size := wire.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
		}
		m.Truncate(size)
	}
	_ = w.WriteMsg(m) // the client is gone
}

// Reply composes the answer to q from the records.
func (s *Server) Reply(q *wire.Msg) *wire.Msg {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := new(wire.Msg).SetReply(q)
	m.RecursionAvailable = true
	name, secure := strings.ToLower(q.Question[0].Name), true
	for range 10 {
		secure = secure && s.signedLocked(name)
		alias := s.fillLocked(m, name, q.Question[0].Qtype)
		if alias == "" {
			break
		}
		name = alias
	}
	m.AuthenticatedData = secure
	return m
}

// fillLocked adds what there is for name, and returns where it is an alias for.
func (s *Server) fillLocked(m *wire.Msg, name string, qtype uint16) (alias string) {
	found := false
	for _, rr := range s.records[name] {
		if rr.Header().Rrtype == qtype {
			m.Answer = append(m.Answer, rr)
			found = true
		} else if c, ok := rr.(*wire.CNAME); ok {
			m.Answer = append(m.Answer, rr)
			return strings.ToLower(c.Target)
		}
	}
	if found {
		return ""
	}
	if !s.existsLocked(name) {
		m.Rcode = wire.RcodeNameError
	}
	labels := wire.SplitDomainName(name)
	zone := wire.Fqdn(strings.Join(labels[max(0, len(labels)-2):], "."))
	m.Ns = append(m.Ns, &wire.SOA{
		Hdr: wire.RR_Header{Name: zone, Rrtype: wire.TypeSOA, Class: wire.ClassINET, Ttl: 600},
		Ns:  "ns." + zone, Mbox: "hostmaster." + zone, Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: 60,
	})
	return ""
}

// existsLocked reports whether name has records, or stands above one that has.
func (s *Server) existsLocked(name string) bool {
	for known := range s.records {
		if wire.IsSubDomain(name, known) {
			return true
		}
	}
	return false
}

func (s *Server) signedLocked(name string) bool {
	for _, zone := range s.signed {
		if wire.IsSubDomain(zone, name) {
			return true
		}
	}
	return false
}
