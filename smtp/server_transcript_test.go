package smtp

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/postern-mail/postern/internal/smtptest"
	"github.com/postern-mail/postern/mail"
)

// transcriptConfig is the "config" file of an archive.
type transcriptConfig struct {
	Mode         string
	TLS          bool
	InsecureAuth bool
	HeloRequired bool
	RequireTLS   bool
	Loose        bool
	RejectLF     bool
	Tolerate     bool
	Message      int64
	Recipients   int
	Line         int
	SoftErrors   int
	Priorities   PriorityPolicy
	Origin       mail.Domain // of those who logged in
	MaxPriority  int8
	HardErrors   int
	Junk         int
	Discard      []string
	GreetDelay   string
	Connect      string // reason to refuse the connection for
}

func (c transcriptConfig) server(t *testing.T, serverTLS *tls.Config) ServerConfig {
	cfg := ServerConfig{
		Hostname: "mx.test", AllowInsecureAuth: c.InsecureAuth, HeloRequired: c.HeloRequired, RequireTLS: c.RequireTLS, LooseEnvelopes: c.Loose,
		MaxMessageOctets: c.Message, MaxRecipients: c.Recipients, MaxLineOctets: c.Line,
		Priorities: c.Priorities, MaxPriority: c.MaxPriority, SoftErrors: c.SoftErrors, HardErrors: c.HardErrors, MaxJunkCommands: c.Junk, DiscardEHLO: c.Discard,
	}
	for _, m := range []Mode{ModeMX, ModeSubmission, ModeLMTP} {
		if m.String() == c.Mode {
			cfg.Mode = m
		}
	}
	if c.TLS {
		cfg.TLS = serverTLS
	}
	if c.Origin != "" {
		cfg.Origin = func(client *mail.Client) mail.Domain {
			if client.Identity == nil {
				return ""
			}
			return c.Origin
		}
	}
	if c.RejectLF {
		cfg.BareNewline = BareNewlineReject
	}
	if c.Tolerate {
		cfg.Pipelining = PipeliningTolerate
	}
	if c.GreetDelay != "" {
		d, err := time.ParseDuration(c.GreetDelay)
		if err != nil {
			t.Fatal(err)
		}
		cfg.GreetDelay = d
	}
	return cfg
}

// TestTranscripts plays the dialogues of testdata.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	serverTLS, clientTLS := testTLS(t)
	smtptest.Run(t, "testdata/server/*.txtar", func(t *testing.T, archive *txtar.Archive) smtptest.Peer {
		var c transcriptConfig
		for _, f := range archive.Files {
			if f.Name != "config" {
				continue
			}
			if err := json.Unmarshal(f.Data, &c); err != nil {
				t.Fatal(err)
			}
		}
		h := &fakeHandler{}
		if c.Connect != "" {
			if h.connect = reasonIn(c.Connect); h.connect == nil {
				h.connect = errors.New(c.Connect)
			}
		}
		l := smtptest.NewListener()
		_, stop := startServer(t, c.server(t, serverTLS), h, l)
		return smtptest.Peer{
			Dial: l.Dial,
			TLS:  clientTLS,
			Finish: func() map[string]string {
				stop()
				return map[string]string{"handler": h.seen()}
			},
		}
	})
}
