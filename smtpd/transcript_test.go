package smtpd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/tools/txtar"

	"github.com/postern-mail/postern/internal/smtptest"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/rewrite"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/table"
)

// scene is the "config" file of a transcript.
type scene struct {
	Submission   bool                // the defaults of a submission listener
	Lists        map[string][]string // restriction lists other than the default
	Classes      map[string][]string // restriction classes
	Early        bool
	SoftBounce   bool
	RejectFooter string
	// KeepAddresses takes addresses as they are, AcceptUnlisted all of ours.
	KeepAddresses, AcceptUnlisted bool
	TraceLogin                    bool
	MaxEnvelope                   int
	MaxMessage                    int64
	IPv6                          bool // the client's address
	Hostname                      string
	DirectoryOff                  bool // the directory is down
	QueueFull                     bool
	AcceptFails                   bool
	NextHop                       string // "takes" or "refuses" mail while the client waits
	Trusted                       bool   // the client is in our networks
	Networks                      []string
	// As in policy.Config and smtp.ServerConfig.
	RecipientBeforeRelay, RejectUnlistedSender, ShowUnknownTable, HeloRequired, LooseEnvelopes bool
	MaxRecipients                                                                              int
	Priority                                                                                   int8 // of what asks for none; others may ask for up to 4
	// Canonical maps addresses; "down" as result is a table that does not
	// answer. AlwaysBcc get copies.
	Canonical map[string]string
	AlwaysBcc []string

	// SenderLogins are tables of who may send as whom, asked in the place of the
	// directory. AuthInClear offers logins without TLS.
	SenderLogins []string
	AuthInClear  bool

	outside *outside // nil asks nobody
	cast    *cast    // of the replay only
	walked  func(*mail.Transaction, []policy.Step, mail.Decision)
}

// from gives connections of a pipe an address.
type from struct {
	net.Listener
	remote netip.AddrPort
}

func (f from) Accept() (net.Conn, error) {
	conn, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return addressed{conn, net.TCPAddrFromAddrPort(f.remote)}, nil
}

type addressed struct {
	net.Conn
	remote net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.remote }

// stage is a running server with what is around it.
type stage struct {
	queue *fakeQueue
	audit *recorder
	stop  func()
}

func (sc scene) build(t testing.TB, q *fakeQueue, audit Auditor) *Handler {
	t.Helper()
	lists := policy.DefaultMX()
	if sc.Submission {
		lists = policy.DefaultSubmission()
	}
	for name, restrictions := range sc.Lists {
		lists[policy.List(name)] = specsOf(restrictions)
	}
	var classes []policy.Class
	for name, restrictions := range sc.Classes {
		classes = append(classes, policy.Class{Name: name, Specs: specsOf(restrictions)})
	}
	directory := &fakeDirectory{down: sc.DirectoryOff}
	// Policy asks about rewritten recipients by itself, in front of the
	// directory; here smtpd alone does.
	cfg := policy.Config{EarlyReject: sc.Early, TableDir: "testdata", AcceptUnlisted: sc.Canonical != nil || sc.AcceptUnlisted, Classes: classes}
	cfg.RecipientBeforeRelay, cfg.RejectUnlistedSender, cfg.ShowUnknownTable = sc.RecipientBeforeRelay, sc.RejectUnlistedSender, sc.ShowUnknownTable
	for _, n := range sc.Networks {
		cfg.Networks = append(cfg.Networks, netip.MustParsePrefix(n))
	}
	if sc.Trusted {
		cfg.Networks = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	}
	deps := policy.Deps{
		Domains: directory, Recipients: directory, Owners: directory, Audit: audit, Logger: hclog.NewNullLogger(),
		Routes: fakeRoutes,
	}
	if sc.SenderLogins != nil {
		deps.Owners = sc.senderLogins(t)
	}
	if sc.outside != nil {
		deps.Resolver, deps.Stages = sc.outside.resolver, sc.outside.stages(t, directory)
	}
	chain, err := policy.Build(cfg, lists, deps)
	if err != nil {
		t.Fatal(err)
	}
	q.full, q.acceptFails, q.nextHop = sc.QueueFull, sc.AcceptFails, sc.NextHop
	service := "mx"
	if sc.Submission {
		service = "submission"
	}
	handler, err := New(Config{
		Hostname: "mx.example.com", Service: service, RequireAuth: sc.Submission, CompleteHeader: sc.Submission,
		Priority: sc.Priority, TraceLogin: sc.TraceLogin, MaxEnvelope: sc.MaxEnvelope, MaxHops: 3,
		Postmaster: mailAddress("bob@example.com"), KeepAddresses: sc.KeepAddresses,
	}, Deps{
		Policy: chain, Domains: directory, Recipients: directory, Authn: fakeAuthn{inClear: sc.AuthInClear}, Queue: q, Audit: audit, Logger: hclog.NewNullLogger(),
		Rewrite: sc.rewriter(t), Walked: sc.walked,
	})
	if err != nil {
		t.Fatal(err)
	}
	handler.newID = q.newID // the same in every run
	return handler
}

// specsOf makes restrictions of "NAME", "NAME TABLE" and "NAME ATTRIBUTE=VALUE;
// ATTRIBUTE=VALUE".
func specsOf(restrictions []string) []policy.Spec {
	specs := []policy.Spec{}
	for _, r := range restrictions {
		word, rest, _ := strings.Cut(r, " ")
		spec := policy.Spec{Name: word, Args: map[string][]string{}}
		for attribute := range strings.SplitSeq(rest, "; ") {
			name, value, given := strings.Cut(attribute, "=")
			switch {
			case given && !strings.Contains(name, ":"):
				spec.Args[name] = append(spec.Args[name], value)
			case name != "":
				spec.Args["table"] = append(spec.Args["table"], attribute)
			}
		}
		specs = append(specs, spec)
	}
	return specs
}

func (sc scene) senderLogins(t testing.TB) policy.SenderLogins {
	t.Helper()
	opener := table.Opener{Dir: "testdata", Default: "texthash", Log: hclog.NewNullLogger()}
	logins := policy.SenderLogins{Order: table.Order{Delimiters: "+"}}
	for _, name := range sc.SenderLogins {
		opened, err := opener.Open(name, table.Use{Value: policy.ParseLogins})
		if err != nil {
			t.Fatal(err)
		}
		logins.Tables = append(logins.Tables, opened)
	}
	return logins
}

// fakeRoutes knows the target scan.
func fakeRoutes(text string) (mail.Route, error) {
	target, next, _ := strings.Cut(text, ":")
	if target != "scan" {
		return mail.Route{}, fmt.Errorf("there is no target %q", target)
	}
	return mail.Route{Transport: target, NextHop: next}, nil
}

// rewriter is nil where a transcript speaks of no rewriting.
func (sc scene) rewriter(t testing.TB) *rewrite.Rewriter {
	t.Helper()
	if sc.Canonical == nil && sc.AlwaysBcc == nil {
		return nil
	}
	cfg := rewrite.Config{
		Origin: "example.com", Delimiter: "+",
		Canonical: rewrite.Map{Tables: []table.Table{fakeTable(sc.Canonical)}, Classes: []rewrite.Class{
			rewrite.EnvelopeSender, rewrite.EnvelopeRecipient, rewrite.HeaderSender, rewrite.HeaderRecipient,
		}},
	}
	if sc.Trusted {
		cfg.HeaderClients.Networks = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	}
	for _, a := range sc.AlwaysBcc {
		cfg.AlwaysBcc = append(cfg.AlwaysBcc, mailAddress(a))
	}
	r, err := rewrite.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (sc scene) serve(t *testing.T, l net.Listener, serverTLS *tls.Config) stage {
	t.Helper()
	st := stage{queue: &fakeQueue{}, audit: &recorder{}}
	cfg := smtp.ServerConfig{Name: "test", Hostname: "mx.example.com", TLS: serverTLS, MaxMessageOctets: sc.MaxMessage, SoftBounce: sc.SoftBounce, RejectFooter: sc.RejectFooter}
	if sc.Submission {
		cfg.Mode = smtp.ModeSubmission
	}
	if sc.Priority != 0 {
		cfg.Priorities, cfg.MaxPriority = smtp.PriorityForAll, 4
	}
	if sc.Hostname != "" {
		cfg.LookupHostname = func(context.Context, netip.Addr) mail.ClientName {
			return mail.ClientName{Hostname: sc.Hostname, Reverse: sc.Hostname, Naming: mail.NameVerified}
		}
	}
	server, err := smtp.NewServer(cfg, sc.build(t, st.queue, st.audit), nil)
	if err != nil {
		t.Fatal(err)
	}
	remote := netip.MustParseAddrPort("198.51.100.7:4711")
	if sc.IPv6 {
		remote = netip.MustParseAddrPort("[2001:db8::7]:4711")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, from{l, remote}) }()
	stopped := false
	st.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
	t.Cleanup(st.stop)
	return st
}

// testTLS makes a certificate that holds in synthetic time. The cipher is
// fixed, so that trace header fields are the same on every machine.
func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		DNSNames:     []string{"mx.example.com"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		MaxVersion:   tls.VersionTLS12,
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	}, &tls.Config{RootCAs: pool, ServerName: "mx.example.com"}
}

// TestTranscripts plays the dialogues of testdata against the real engine.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	serverTLS, clientTLS := testTLS(t)
	smtptest.Run(t, "testdata/*.txtar", func(t *testing.T, archive *txtar.Archive) smtptest.Peer {
		var sc scene
		for _, f := range archive.Files {
			if f.Name != "config" {
				continue
			}
			decoder := json.NewDecoder(strings.NewReader(string(f.Data)))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&sc); err != nil {
				t.Fatal(err)
			}
		}
		l := smtptest.NewListener()
		st := sc.serve(t, l, serverTLS)
		return smtptest.Peer{
			Dial: l.Dial,
			TLS:  clientTLS,
			Finish: func() map[string]string {
				st.stop()
				return map[string]string{"queue": st.queue.String(), "audit": st.audit.String()}
			},
		}
	})
}
