package smtp

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/emersion/go-sasl"
	"github.com/xdg-go/scram"

	"github.com/postern-mail/postern/status"
)

// The SASL mechanisms a client speaks. Those of SCRAM (RFC 5802, RFC 7677) show
// the server neither the password nor anything it could log in with elsewhere,
// and have it prove that it knows the password, too. With -PLUS the proof is
// bound to this very TLS connection by the tls-exporter of RFC 9266.
const (
	mechanismSCRAM256Plus = "SCRAM-SHA-256-PLUS"
	mechanismSCRAM256     = "SCRAM-SHA-256"
	mechanismSCRAM1Plus   = "SCRAM-SHA-1-PLUS"
	mechanismSCRAM1       = "SCRAM-SHA-1"
)

// ClientMechanisms are all mechanisms a client can log in by, the strongest
// first.
var ClientMechanisms = []string{mechanismSCRAM256Plus, mechanismSCRAM256, mechanismSCRAM1Plus, mechanismSCRAM1, sasl.Plain, sasl.Login}

// clientDefaultMechanisms leave out -PLUS: a server does not tell which channel
// binding it knows, and one that knows another than ours says that the password
// is wrong.
var clientDefaultMechanisms = []string{mechanismSCRAM256, mechanismSCRAM1, sasl.Plain, sasl.Login}

const (
	// clientMaxAuthSteps bounds a SASL exchange; SCRAM needs four.
	clientMaxAuthSteps = 8
	// clientMaxIterations bounds the work a server may ask of us; it takes a
	// second or two.
	clientMaxIterations = 1_000_000
	// clientMaxAuthLine is the longest AUTH command with an initial response
	// (RFC 4954 section 4), without its line end.
	clientMaxAuthLine = 510
)

var (
	errClientUnproven   = errors.New("the server took the login without proving that it knows the password")
	errClientIterations = fmt.Errorf("the server asks for more than %d iterations", clientMaxIterations)
)

// clientMechanism is the client side of a mechanism. verified returns why a
// server that says yes is not believed.
type clientMechanism interface {
	sasl.Client
	verified() error
}

// authenticate logs in when credentials are configured. A refusal is
// transient: it says that our configuration is wrong, not the message.
func (c *Client) authenticate(ctx context.Context) error {
	if c.cfg.Login == "" {
		return nil
	}
	if _, encrypted := c.TLS(); !encrypted && !c.cfg.PlaintextAuth {
		return status.Errorf(status.PeerNeedsTLS, "credentials are not sent in the clear")
	}
	mechanism, err := c.mechanism()
	if err != nil {
		return err
	}
	reply, err := c.sasl(ctx, mechanism)
	if err != nil {
		return err
	}
	if reply.Code/100 != 2 {
		return status.New(status.ConnectionFailed, &HandshakeError{"AUTH", reply})
	}
	if err := mechanism.verified(); err != nil {
		return status.New(status.PeerNotTrusted, err)
	}
	return nil
}

// mechanism picks the first of ours that the peer offers.
func (c *Client) mechanism() (clientMechanism, error) {
	if strings.ContainsRune(c.cfg.Login+c.cfg.Password, 0) {
		return nil, status.Errorf(status.ConfigurationError, "credentials contain NUL")
	}
	parameters, _ := c.Extension("AUTH")
	offered := strings.Fields(strings.ToUpper(parameters))
	allowed := c.cfg.Mechanisms
	if len(allowed) == 0 {
		allowed = clientDefaultMechanisms
	}
	_, encrypted := c.TLS()
	for _, name := range allowed {
		if !slices.Contains(offered, name) || !encrypted && strings.HasSuffix(name, "-PLUS") {
			continue
		}
		switch name {
		case sasl.Plain:
			return clientTrusting{sasl.NewPlainClient("", c.cfg.Login, c.cfg.Password)}, nil
		case sasl.Login:
			return clientTrusting{&clientLogin{answers: []string{c.cfg.Login, c.cfg.Password}}}, nil
		default:
			m, err := c.scram(name)
			if err != nil {
				return nil, status.New(status.ConfigurationError, err)
			}
			return m, nil
		}
	}
	return nil, status.Errorf(status.ConnectionFailed, "peer offers no mechanism of %q, but %q", allowed, parameters)
}

// sasl runs one exchange (RFC 4954 section 4) to its final reply.
func (c *Client) sasl(ctx context.Context, mechanism sasl.Client) (status.Reply, error) {
	name, initial, err := mechanism.Start()
	if err != nil {
		return status.Reply{}, status.New(status.ConfigurationError, err)
	}
	command, late := "AUTH "+name, false
	if initial != nil {
		if with := command + " " + clientBase64(initial); len(with) <= clientMaxAuthLine {
			command = with
		} else {
			late = true
		}
	}
	var failed error
	for range clientMaxAuthSteps {
		reply, err := c.exchange(ctx, command, c.cfg.Timeouts.Greeting)
		if err != nil {
			return reply, err
		}
		if reply.Code != status.AuthContinue.Reply().Code {
			return reply, failed
		}
		if late {
			command, late = base64.StdEncoding.EncodeToString(initial), false
			continue
		}
		// A challenge that is not base64, or not what the mechanism awaits,
		// ends the exchange by the client's "*".
		command = "*"
		challenge, err := base64.StdEncoding.DecodeString(strings.TrimSpace(reply.Text))
		if err == nil {
			var response []byte
			if response, err = mechanism.Next(challenge); err == nil {
				command = base64.StdEncoding.EncodeToString(response)
			}
		}
		if err != nil {
			failed = status.New(status.ConnectionFailed, fmt.Errorf("AUTH %s: %w", name, err))
		}
	}
	return status.Reply{}, clientLost("AUTH", fmt.Errorf("%w: no end to the exchange", errClientReplySyntax))
}

// clientBase64 encodes an initial response, of which an empty one is "=".
func clientBase64(p []byte) string {
	if len(p) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(p)
}

// clientTrusting is a mechanism in which the server proves nothing.
type clientTrusting struct{ sasl.Client }

func (clientTrusting) verified() error { return nil }

// clientLogin is the client side of LOGIN. It gives its two answers in order
// whatever the challenges say: servers word them as they like, and some do
// not take the login as an initial response, which go-sasl's client insists on.
type clientLogin struct{ answers []string }

// Start begins without an initial response.
func (*clientLogin) Start() (mechanism string, initial []byte, err error) {
	return sasl.Login, nil, nil
}

// Next gives the next answer.
func (l *clientLogin) Next([]byte) ([]byte, error) {
	if len(l.answers) == 0 {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	answer := l.answers[0]
	l.answers = l.answers[1:]
	return []byte(answer), nil
}

// clientSCRAM is the client side of SCRAM.
type clientSCRAM struct {
	name         string
	conversation *scram.ClientConversation
}

func (c *Client) scram(name string) (*clientSCRAM, error) {
	hash := scram.SHA256
	if strings.HasPrefix(name, mechanismSCRAM1) {
		hash = scram.SHA1
	}
	client, err := hash.NewClient(c.cfg.Login, c.cfg.Password, "")
	if err != nil {
		return nil, fmt.Errorf("%s: credentials: %w", name, err)
	}
	if c.cfg.nonce != nil {
		client = client.WithNonceGenerator(c.cfg.nonce)
	}
	if !strings.HasSuffix(name, "-PLUS") {
		return &clientSCRAM{name, client.NewConversation()}, nil
	}
	state, _ := c.TLS()
	binding, err := scram.NewTLSExporterBinding(&state)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &clientSCRAM{name, client.NewConversationWithChannelBinding(binding)}, nil
}

// Start gives the client's first message.
func (s *clientSCRAM) Start() (mechanism string, initial []byte, err error) {
	first, err := s.conversation.Step("")
	return s.name, []byte(first), err
}

// Next answers the server's messages. After the last one, which is the server's
// proof, there is nothing to say.
func (s *clientSCRAM) Next(challenge []byte) ([]byte, error) {
	if s.conversation.Done() {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	for attribute := range strings.SplitSeq(string(challenge), ",") {
		if n, ok := strings.CutPrefix(attribute, "i="); ok {
			if i, err := strconv.ParseUint(n, 10, 64); err != nil || i > clientMaxIterations {
				return nil, errClientIterations
			}
		}
	}
	response, err := s.conversation.Step(string(challenge))
	return []byte(response), err
}

func (s *clientSCRAM) verified() error {
	if !s.conversation.Valid() {
		return errClientUnproven
	}
	return nil
}
