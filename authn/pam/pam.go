package pam

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Config of a Verifier.
type Config struct {
	// Name of the verifier in logs and audit; default "pam".
	Name string
	// Service is the PAM service asked, a file in /etc/pam.d; default
	// "postern".
	Service string
	// Socket is where a helper listens that somebody else runs, usually
	// systemd as root. Default: the daemon runs the helper itself, with its
	// own rights, which suffice for modules such as pam_sss but not for
	// pam_unix.
	Socket string
	// Timeout bounds one question, waiting for the helper included; default
	// 30 s.
	Timeout time.Duration

	// The rest is for a helper the daemon runs itself.

	// Command starts it; default "/proc/self/exe pam-helper". Arguments are
	// added.
	Command []string
	// ServiceDir holds the PAM services in the place of /etc/pam.d; default
	// that one.
	ServiceDir string
	// Workers bounds PAM transactions at one time; default the helper's.
	Workers int
}

// Verifier asks PAM through the helper. Safe for concurrent use. Run keeps the
// helper alive where the daemon runs it.
type Verifier struct {
	cfg    Config
	uids   []int   // whom the helper may run as
	helper *helper // nil with Config.Socket
}

// New returns a verifier. It starts and makes nothing: without Config.Socket
// questions wait for the helper that Run starts.
func New(cfg Config, log hclog.Logger) (*Verifier, error) {
	if cfg.Name == "" {
		cfg.Name = "pam"
	}
	if cfg.Service == "" {
		cfg.Service = "postern"
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Timeout < 0 || cfg.Workers < 0 {
		return nil, errors.New("authn pam: timeout and workers must not be negative")
	}
	if strings.ContainsAny(cfg.Service, "/\x00") {
		return nil, fmt.Errorf("authn pam: service %q is not a file name", cfg.Service)
	}
	v := &Verifier{cfg: cfg, uids: []int{0, os.Geteuid()}}
	if cfg.Socket == "" {
		v.helper = newHelper(cfg, log)
	}
	return v, nil
}

// Name implements authn.Verifier.
func (v *Verifier) Name() string { return v.cfg.Name }

// Run keeps the helper running until ctx ends; with Config.Socket there is
// nothing to do and it only waits.
func (v *Verifier) Run(ctx context.Context) error {
	if v.helper == nil {
		<-ctx.Done()
		return nil
	}
	return v.helper.run(ctx)
}

// Verify implements authn.Verifier. The identity is PAM_USER as the modules
// left it, in canonical form.
func (v *Verifier) Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error) {
	if err := authn.CheckPassword(a.Password); err != nil {
		return mail.Identity{}, status.New(status.AuthFailed, err)
	}
	request := Request{Service: v.cfg.Service, User: a.Login, Password: a.Password}
	if a.Remote.IsValid() {
		request.RemoteHost = a.Remote.Addr().Unmap().WithZone("").String()
	}
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	response, err := v.ask(ctx, request)
	if err != nil {
		return mail.Identity{}, fmt.Errorf("ask PAM helper: %w", err)
	}
	if err := verdict(response); err != nil {
		return mail.Identity{}, err
	}
	name, err := authn.CanonicalLogin(response.User)
	if err != nil {
		return mail.Identity{}, fmt.Errorf("PAM calls the user %q: %w", response.User, err)
	}
	return mail.Identity{Authentication: name, Authorization: name}, nil
}

// ask puts one question on a connection of its own.
func (v *Verifier) ask(ctx context.Context, request Request) (Response, error) {
	message, err := request.AppendBinary(make([]byte, 0, 256))
	if err != nil {
		return Response{}, err
	}
	defer clear(message)
	path := v.cfg.Socket
	if v.helper != nil {
		if path, err = v.helper.socket(ctx); err != nil {
			return Response{}, err
		}
	}
	var dialer net.Dialer
	dialed, err := dialer.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return Response{}, err
	}
	defer dialed.Close()
	conn := dialed.(*net.UnixConn)
	if err := CheckPeer(conn, v.uids); err != nil {
		return Response{}, err
	}
	// Expiring the deadline ends a read or write under way.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	return exchange(conn, message)
}

func exchange(conn *net.UnixConn, message []byte) (Response, error) {
	if _, err := conn.Write(message); err != nil {
		return Response{}, err
	}
	buf := make([]byte, MaxMessageOctets+1)
	n, err := conn.Read(buf)
	if err != nil {
		return Response{}, err
	}
	var response Response
	if err := response.UnmarshalBinary(buf[:n]); err != nil {
		return Response{}, err
	}
	return response, nil
}
