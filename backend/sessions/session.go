package sessions

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/postern-mail/postern/mail"
)

// Session is one connection, as its protocol tells of it. Its methods may be
// called concurrently.
type Session struct {
	door   *Door
	group  *group
	cfg    *Config // as it was when the connection came
	socket counted
	cancel context.CancelFunc // ends the context of its command
	// ending is closed when the session is asked to go; why tells the reason.
	ending chan struct{}

	// What follows is guarded by Registry.mu.
	client   netip.Prefix // as whose it is counted; not valid for none
	account  string       // the same
	why      Reason
	lastWord *time.Timer // cuts off one that was kicked

	mu       sync.Mutex // guards the fields below; taken inside Registry.mu
	info     Info
	waiting  bool   // with nothing to lose
	onEnding func() // nil for nobody
}

// counted is a connection whose octets are counted.
type counted struct {
	net.Conn
	in, out atomic.Uint64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.in.Add(uint64(n))
	}
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if n > 0 {
		c.out.Add(uint64(n))
	}
	return n, err
}

// SyscallConn implements syscall.Conn, for those who look at the socket itself:
// whether the other end is still there.
func (c *counted) SyscallConn() (syscall.RawConn, error) { return rawOf(c.Conn) }

// rawOf is the socket under a connection, if it says which.
func rawOf(conn net.Conn) (syscall.RawConn, error) {
	if conn, ok := conn.(syscall.Conn); ok {
		return conn.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

func newSession(d *Door, cfg *Config, g *group, conn net.Conn, cancel context.CancelFunc) *Session {
	return &Session{
		door: d, group: g, cfg: cfg, socket: counted{Conn: conn}, cancel: cancel, ending: make(chan struct{}),
		info: Info{
			ID: newID(), Protocol: d.protocol.Name, Listener: cfg.Listener,
			Remote: AddrPort(conn.RemoteAddr()), Since: time.Now(),
		},
	}
}

func newID() mail.SessionID {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails since Go 1.24
	return mail.SessionID(hex.EncodeToString(id[:]))
}

// AddrPort returns the address of a TCP connection; zero for other kinds. An
// IPv4 address in IPv6 form is the IPv4 address.
func AddrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// Conn is the connection as accepted. It is closed when the session's function
// has returned, and earlier where that does not return in time.
func (s *Session) Conn() net.Conn { return &s.socket }

// ID is the session's name in logs, audit and lists.
func (s *Session) ID() mail.SessionID { return s.Info().ID }

// Remote is where the client is.
func (s *Session) Remote() netip.AddrPort { return s.Info().Remote }

// Info is the session as it is now.
func (s *Session) Info() Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	info := s.info
	info.In, info.Out = s.socket.in.Load(), s.socket.out.Load()
	info.Ending = s.isEnding()
	return info
}

// change changes what is known of the session.
func (s *Session) change(with func(*Info)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	with(&s.info)
}

// Secured tells that the connection is encrypted with a version of TLS.
func (s *Session) Secured(version string) { s.change(func(i *Info) { i.TLS = version }) }

// Compressed tells that the connection is compressed from now on.
func (s *Session) Compressed() { s.change(func(i *Info) { i.Compressed = true }) }

// Enter tells the session's state, and the mailbox that is selected in it.
func (s *Session) Enter(state State, mailbox string) {
	s.change(func(i *Info) {
		i.State, i.Mailbox, i.IdleSince = state, mailbox, time.Time{}
		if state == Idle {
			i.IdleSince = time.Now()
		}
	})
}

// Begin tells that a command is under way. name comes from a closed set: lists
// show it, and no argument of a client's.
func (s *Session) Begin(name string) {
	s.change(func(i *Info) {
		i.Command, i.IdleSince = name, time.Time{}
		i.Commands++
	})
}

// Wait marks that nothing is under way and sets the deadline by which the
// client has to send something; the zero time is for none. It reports false,
// and sets nothing, where the session has been asked to go. Whoever asks it to
// go later interrupts the read, which then fails with a timeout.
func (s *Session) Wait(deadline time.Time) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isEnding() {
		return false, nil
	}
	s.waiting = true
	if s.info.IdleSince.IsZero() {
		s.info.IdleSince = time.Now()
	}
	return true, s.socket.SetReadDeadline(deadline)
}

// Wake interrupts what Wait began: the read fails with a timeout. Elsewhere it
// does nothing.
func (s *Session) Wake() { s.interrupt() }

// Resume ends what Wait began.
func (s *Session) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = false
}

// interrupt ends the session's wait.
func (s *Session) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting {
		_ = s.socket.SetReadDeadline(time.Unix(1, 0))
	}
	if s.onEnding != nil {
		go s.onEnding()
	}
}

// OnEnding has f called once, on a goroutine of its own, when the session is
// asked to go, or now if it has been: for sessions that do not wait by Wait.
func (s *Session) OnEnding(f func()) {
	once := sync.OnceFunc(f)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onEnding = once
	if s.isEnding() {
		go once()
	}
}

// cut ends the session whatever it is at: a command that writes nothing would
// not see that the connection is closed.
func (s *Session) cut() {
	s.cancel()
	_ = s.socket.Close()
}

// Ending returns a channel that is closed when the session is asked to go,
// which it does as soon as the command under way is answered.
func (s *Session) Ending() <-chan struct{} { return s.ending }

func (s *Session) isEnding() bool {
	select {
	case <-s.ending:
		return true
	default:
		return false
	}
}

// Why tells why the session is asked to go; GoesOn where it is not.
func (s *Session) Why() Reason {
	r := s.door.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	return s.why
}

// Behalf takes over what a proxy says of its client: where it is, and where id
// is not "", the name of its session there. From now on the session counts as
// the client's, and nobody else's. It reports false where that has too many.
func (s *Session) Behalf(remote netip.AddrPort, id mail.SessionID) bool {
	s.change(func(i *Info) {
		i.Via, i.Remote = i.Remote, remote
		if id != "" {
			i.ID = id
		}
	})
	return s.door.registry.countClient(s, remote.Addr())
}

// Login counts the session as one of an account's. It reports false where that
// has too many; then the session is nobody's. It may be called again.
func (s *Session) Login(account string) bool { return s.door.registry.admit(s, account) }

// LoggedIn tells who authenticated, after Login.
func (s *Session) LoggedIn(login, account string) {
	s.change(func(i *Info) { i.Login, i.Account, i.State = login, account, Authenticated })
}

// Logout undoes Login and LoggedIn, for a session that goes on as nobody's (RFC
// 8437).
func (s *Session) Logout() {
	s.door.registry.dismiss(s)
	s.change(func(i *Info) { i.Login, i.Account, i.Mailbox, i.State = "", "", "", NotAuthenticated })
}

// Event begins an audit record that names the connection and who logged in.
func (s *Session) Event(kind mail.EventKind) mail.Event {
	i := s.Info()
	return mail.Event{
		Kind: kind, Service: i.Protocol, Session: i.ID, Remote: i.Remote, Login: i.Login, TLS: i.TLS, Detail: i.Listener,
	}
}
