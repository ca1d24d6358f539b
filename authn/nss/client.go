package nss

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn/helper"
)

// Config of a Client.
type Config struct {
	// Name of whose users they are, in logs.
	Name string
	// Socket is where a helper listens that somebody else runs; default: the
	// daemon runs it, which suffices: no rights are needed.
	Socket string
	// Sources of the name service switch to ask, in order, such as files and
	// sss; default those of the line "passwd" (or "group") of
	// /etc/nsswitch.conf. Only for a helper the daemon runs itself.
	Sources []string
	// Timeout bounds one question; default 10 s.
	Timeout time.Duration
	// Command starts the helper; default "/proc/self/exe auth-helper".
	Command []string
}

// Client asks the helper. Safe for concurrent use. Run keeps the helper alive
// where the daemon runs it.
type Client struct {
	cfg    Config
	helper *helper.Client
}

// New returns a client. It starts and makes nothing.
func New(cfg Config, log hclog.Logger) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Timeout < 0 {
		return nil, errors.New("nss: timeout must not be negative")
	}
	args := []string{"--users"}
	for _, source := range cfg.Sources {
		if !isSource(source) {
			return nil, fmt.Errorf("nss: %q is no source of the name service switch", source)
		}
		args = append(args, "--users-from="+source)
	}
	return &Client{cfg: cfg, helper: helper.New(helper.Config{Name: cfg.Name, Socket: cfg.Socket, Command: cfg.Command, Args: args}, log)}, nil
}

// isSource holds names of modules, of which file names are made (libnss_NAME).
func isSource(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	})
}

// Run keeps the helper running until ctx ends.
func (c *Client) Run(ctx context.Context) error { return c.helper.Run(ctx) }

// Ask asks for one name. An answer is Found or Absent; everything else is an
// error, and not known. A name that nobody can have is Absent.
func (c *Client) Ask(ctx context.Context, kind Kind, name string) (Answer, error) {
	var answer Answer
	message, err := Question{Kind: kind, Name: name}.AppendBinary(nil)
	if errors.Is(err, errName) {
		return Answer{Outcome: Absent}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	conn, err := c.helper.Dial(ctx)
	if err != nil {
		return answer, fmt.Errorf("ask auth helper: %w", err)
	}
	defer conn.Close()
	reply, err := conn.Ask(message, MaxMessageOctets, 0)
	if err == nil {
		err = answer.UnmarshalBinary(reply)
	}
	switch {
	case err != nil:
		return Answer{}, fmt.Errorf("ask auth helper: %w", err)
	case answer.Outcome == Unknown:
		return Answer{}, fmt.Errorf("auth helper: %s", answer.Detail)
	}
	return answer, nil
}
