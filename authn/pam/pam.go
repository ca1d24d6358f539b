package pam

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/helper"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Config of a Verifier.
type Config struct {
	// Name of the verifier in logs and audit; default "pam".
	Name string
	// Service is the PAM service asked, a file in /etc/pam.d; default
	// "postern". "{protocol}" in it stands for one of authn.Protocols.
	Service string
	// Services are the PAM services of single protocols, in the place of
	// Service.
	Services map[string]string
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
	helper *helper.Client
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
	for protocol := range cfg.Services {
		if !slices.Contains(authn.Protocols(), protocol) {
			return nil, fmt.Errorf("authn pam: %q is no protocol (known: %s)", protocol, strings.Join(authn.Protocols(), ", "))
		}
	}
	var args []string
	for _, service := range cfg.services() {
		if service == "" || strings.ContainsAny(service, "/{}\x00") {
			return nil, fmt.Errorf("authn pam: service %q is not a file name", service)
		}
		args = append(args, "--service="+service)
	}
	if cfg.ServiceDir != "" {
		args = append(args, "--service-dir="+cfg.ServiceDir)
	}
	if cfg.Workers > 0 {
		args = append(args, "--workers="+strconv.Itoa(cfg.Workers))
	}
	return &Verifier{cfg: cfg, helper: helper.New(helper.Config{Name: cfg.Name, Socket: cfg.Socket, Command: cfg.Command, Args: args}, log)}, nil
}

// service returns the PAM service of a protocol.
func (cfg Config) service(protocol string) string {
	if service, ok := cfg.Services[protocol]; ok {
		return service
	}
	return strings.ReplaceAll(cfg.Service, "{protocol}", protocol)
}

// services lists every service that can be asked, each once.
func (cfg Config) services() []string {
	var services []string
	for _, protocol := range authn.Protocols() {
		if service := cfg.service(protocol); !slices.Contains(services, service) {
			services = append(services, service)
		}
	}
	return services
}

// Name implements authn.Verifier.
func (v *Verifier) Name() string { return v.cfg.Name }

// Run keeps the helper running until ctx ends; with Config.Socket there is
// nothing to do and it only waits.
func (v *Verifier) Run(ctx context.Context) error { return v.helper.Run(ctx) }

// Verify implements authn.Verifier. The identity is PAM_USER as the modules
// left it, in canonical form.
func (v *Verifier) Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error) {
	if err := authn.CheckPassword(a.Password); err != nil {
		return mail.Identity{}, status.New(status.AuthFailed, err)
	}
	request := Request{Service: v.cfg.service(authn.Protocol(a.Service)), User: a.Login, Password: a.Password}
	if a.Remote.IsValid() {
		request.RemoteHost = a.Remote.Addr().Unmap().WithZone("").String()
	}
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	response, err := v.ask(ctx, request)
	if err != nil {
		return mail.Identity{}, fmt.Errorf("ask auth helper: %w", err)
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
	conn, err := v.helper.Dial(ctx)
	if err != nil {
		return Response{}, err
	}
	defer conn.Close()
	answer, err := conn.Ask(message, MaxMessageOctets, 0)
	if err != nil {
		return Response{}, err
	}
	var response Response
	if err := response.UnmarshalBinary(answer); err != nil {
		return Response{}, err
	}
	return response, nil
}
