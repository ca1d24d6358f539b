package ldap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	goldap "github.com/go-ldap/ldap/v3"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/replica"
)

// The ways to follow a directory.
const (
	FollowAuto    = "auto"    // what the server offers of the next two
	FollowSync    = "sync"    // RFC 4533
	FollowDirSync = "dirsync" // Active Directory
	FollowPoll    = "poll"    // read everything every now and then
)

// FeedConfig says what of a directory is followed and how.
type FeedConfig struct {
	// Needs is what is brought.
	Needs directory.Coverage
	// Mode is one of the constants above; "" is FollowAuto.
	Mode string
	// PollOtherwise reads everything every RefreshInterval from servers that
	// offer nothing else.
	PollOtherwise bool
	// RefreshInterval is that of FollowPoll; 0 means 5 min.
	RefreshInterval time.Duration
	// PollInterval is how often Active Directory is asked for changes; 0 means
	// 1 s.
	PollInterval time.Duration
	// Heartbeat is how often a second connection finds out whether a server
	// that says nothing lives; 0 means 15 s.
	Heartbeat time.Duration
}

// Feed follows a directory's servers for a replica, one at a time. It has
// connections of its own.
type Feed struct {
	cfg    FeedConfig
	ldap   Config
	client *Client
	log    hclog.Logger
}

// Feed returns what follows the client's servers, most preferred first.
func (c *Client) Feed(cfg FeedConfig) *Feed {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&cfg.RefreshInterval, 5*time.Minute)
	set(&cfg.PollInterval, time.Second)
	set(&cfg.Heartbeat, 15*time.Second)
	if cfg.Mode == "" {
		cfg.Mode = FollowAuto
	}
	return &Feed{cfg: cfg, ldap: c.cfg, client: c, log: c.log}
}

const (
	controlSync     = "1.3.6.1.4.1.4203.1.9.1.1"
	controlDirSync  = "1.2.840.113556.1.4.841"
	vendor389       = "389 Project"
	resultSyncAgain = 4096 // e-syncRefreshRequired, RFC 4533 section 2.6
)

// Follow implements replica.Feed. Of several servers the first that can be
// reached is followed until it is lost.
func (f *Feed) Follow(ctx context.Context, s *replica.Session) error {
	servers, err := f.client.roster.servers(ctx)
	if err != nil {
		return err
	}
	var causes []error
	for _, server := range servers {
		err := f.follow(ctx, server.endpoint, s)
		if ctx.Err() != nil {
			return nil
		}
		var unreached *connectError
		if !errors.As(err, &unreached) {
			return fmt.Errorf("%s: %w", server.uri, err)
		}
		causes = append(causes, fmt.Errorf("%s: %w", server.uri, err))
	}
	return errors.Join(causes...)
}

// rootDSE is what a server says of itself.
type rootDSE struct {
	vendor   string
	controls []string
	contexts []string // naming contexts; the domain's alone with Active Directory
	schema   string   // where it is told of
	identity string   // tells servers at one address apart, where they say
}

func (f *Feed) follow(ctx context.Context, e endpoint, s *replica.Session) error {
	c, err := f.dial(ctx, e)
	if err != nil {
		return &connectError{err}
	}
	defer c.discard()
	var dse rootDSE
	if err := f.ask(ctx, c, func(l *goldap.Conn) (err error) {
		dse, err = readRootDSE(l)
		return err
	}); err != nil {
		return &connectError{err}
	}
	mode, err := f.modeFor(dse)
	if err != nil {
		return err
	}
	s.Using(e.uri, mode)
	w := &watched{feed: f, endpoint: e, conn: c, session: s, server: e.uri + dse.identity, classes: directory.StandardClasses}
	if dse.schema != "" && mode != FollowDirSync { // AD shows every class of an entry
		if w.classes, err = f.readClasses(ctx, c, dse.schema); err != nil {
			return &connectError{err}
		}
	}
	switch mode {
	case FollowSync:
		return w.heldUp(ctx, func(ctx context.Context) error { return w.sync(ctx, dse.vendor != vendor389) })
	case FollowDirSync:
		return w.dirSync(ctx, dse)
	default:
		return w.poll(ctx)
	}
}

// modeFor chooses how a server is followed.
func (f *Feed) modeFor(dse rootDSE) (string, error) {
	offered := map[string]bool{
		FollowSync: slices.Contains(dse.controls, controlSync), FollowDirSync: slices.Contains(dse.controls, controlDirSync), FollowPoll: true,
	}
	if f.cfg.Mode != FollowAuto {
		if !offered[f.cfg.Mode] {
			return "", fmt.Errorf("%w: mode %s is configured, and the server has it not", replica.ErrNotOffered, f.cfg.Mode)
		}
		return f.cfg.Mode, nil
	}
	for _, mode := range []string{FollowSync, FollowDirSync} {
		if offered[mode] {
			return mode, nil
		}
	}
	if f.cfg.PollOtherwise {
		return FollowPoll, nil
	}
	return "", replica.ErrNotOffered
}

func readRootDSE(l *goldap.Conn) (rootDSE, error) {
	result, err := l.Search(goldap.NewSearchRequest("", goldap.ScopeBaseObject, goldap.NeverDerefAliases, 1, 0, false, "(objectClass=*)",
		[]string{"vendorName", "supportedControl", "namingContexts", "defaultNamingContext", "dsServiceName", "subschemaSubentry"}, nil))
	if err != nil {
		return rootDSE{}, fmt.Errorf("root DSE: %w", err)
	}
	if len(result.Entries) != 1 {
		return rootDSE{}, errors.New("the server shows no root DSE to this account")
	}
	e := result.Entries[0]
	dse := rootDSE{
		vendor: e.GetEqualFoldAttributeValue("vendorName"), controls: e.GetEqualFoldAttributeValues("supportedControl"),
		contexts: e.GetEqualFoldAttributeValues("namingContexts"), schema: e.GetEqualFoldAttributeValue("subschemaSubentry"),
	}
	if domain := e.GetEqualFoldAttributeValue("defaultNamingContext"); domain != "" {
		dse.contexts = []string{domain}
	}
	if name := e.GetEqualFoldAttributeValue("dsServiceName"); name != "" {
		dse.identity = " " + name
	}
	return dse, nil
}

// readClasses reads which object classes others imply, as the server takes them
// in filters. A server that does not show its schema leaves those that are known
// anyway.
func (f *Feed) readClasses(ctx context.Context, c *conn, schema string) (directory.Classes, error) {
	classes := maps.Clone(directory.StandardClasses)
	err := f.ask(ctx, c, func(l *goldap.Conn) error {
		result, err := l.Search(goldap.NewSearchRequest(schema, goldap.ScopeBaseObject, goldap.NeverDerefAliases, 1, 0, false,
			"(objectClass=subschema)", []string{"objectClasses"}, nil))
		if isResult(err) || err == nil && len(result.Entries) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		for _, definition := range result.Entries[0].GetEqualFoldAttributeValues("objectClasses") {
			names, superiors := directory.ParseClass(definition)
			for _, name := range names {
				if len(superiors) > 0 {
					classes[strings.ToLower(name)] = superiors
				}
			}
		}
		return nil
	})
	return classes, err
}

// dial connects and binds, and has the kernel find out when the other side is
// gone: a server that is followed may say nothing for days.
func (f *Feed) dial(ctx context.Context, e endpoint) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, f.ldap.Timeout)
	defer cancel()
	c, err := dial(ctx, f.ldap, e, true)
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		// A connection that loses these is broken, which reading will tell.
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: f.cfg.Heartbeat, Interval: f.cfg.Heartbeat / 3, Count: 3})
		_ = setUserTimeout(tcp, 2*f.cfg.Heartbeat)
	}
	return c, nil
}

// ask does one bounded operation on a connection that is not used otherwise.
func (f *Feed) ask(ctx context.Context, c *conn, op func(*goldap.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, f.ldap.Timeout)
	defer cancel()
	_, err := c.run(ctx, op)
	return err
}

// watched is a server that is being followed.
type watched struct {
	feed     *Feed
	endpoint endpoint
	conn     *conn
	session  *replica.Session
	server   string // as positions name it
	classes  directory.Classes
}

// heldUp runs follow while the server answers on a second connection. One that
// is frozen, or behind a firewall that forgot us, sends no end.
func (w *watched) heldUp(ctx context.Context, follow func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	beats := make(chan struct{})
	go func() {
		defer close(beats)
		if err := w.beat(ctx); err != nil {
			cancel(err)
		}
	}()
	stop := context.AfterFunc(ctx, w.conn.discard)
	err := follow(ctx)
	stop()
	silent := context.Cause(ctx)
	cancel(nil)
	<-beats
	if silent != nil {
		return silent
	}
	return err
}

// beat asks the server for the least there is, every now and then, and fails
// when it does not answer twice in a row.
func (w *watched) beat(ctx context.Context) error {
	var second *conn
	defer func() {
		if second != nil {
			second.discard()
		}
	}()
	tick := time.NewTicker(w.feed.cfg.Heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var err error
		for range 2 {
			if second == nil {
				if second, err = w.feed.dial(ctx, w.endpoint); err != nil {
					second = nil
					continue
				}
			}
			if err = w.feed.ask(ctx, second, func(l *goldap.Conn) error {
				_, err := readRootDSE(l)
				return err
			}); err == nil {
				break
			}
			second.discard()
			second = nil
		}
		if err != nil {
			return fmt.Errorf("the server does not answer any more: %w", err)
		}
		w.session.Alive()
	}
}

// elsewhere returns an error when a part of the tree that is copied lies on
// other servers: a copy of the rest would not know who does not exist.
func (w *watched) elsewhere(references []string) error {
	if w.feed.ldap.IgnoreReferences {
		return nil
	}
	if err := unanswered(references); err != nil {
		return fmt.Errorf("%w: %w; with ignore_referrals that part is taken as empty", replica.ErrNotOffered, err)
	}
	return nil
}

// attributes returns what is asked for.
func (w *watched) attributes(more ...string) []string {
	return append(slices.Clone(w.feed.cfg.Needs.Attributes), more...)
}

// entryOf makes an entry of what a server sent, without secrets.
func (w *watched) entryOf(found *goldap.Entry) directory.Entry {
	attributes := make(map[string][]string, len(found.Attributes))
	for _, a := range found.Attributes {
		if !directory.IsSecret(a.Name) && len(a.Values) > 0 {
			attributes[a.Name] = append(attributes[a.Name], a.Values...)
		}
	}
	return w.classes.Complete(directory.NewEntry(directory.DN(found.DN), attributes))
}

// refused names the results of a refresh that operators can do something about.
func refused(err error) error {
	var result *goldap.Error
	if !errors.As(err, &result) {
		return err
	}
	switch result.ResultCode {
	case goldap.LDAPResultSizeLimitExceeded, goldap.LDAPResultTimeLimitExceeded, goldap.LDAPResultAdminLimitExceeded:
		return fmt.Errorf("the server cuts short what it tells this account: lift its size and time limits (docs/directory-replica.md): %w", err)
	case goldap.LDAPResultNoSuchObject:
		return fmt.Errorf("the base does not exist, or this account must not see it: %w", err)
	case goldap.LDAPResultInsufficientAccessRights, goldap.LDAPResultUnavailableCriticalExtension:
		return fmt.Errorf("this account must not follow the directory (docs/directory-replica.md): %w", err)
	}
	return err
}

// isResult reports whether err is the server's answer rather than a broken
// connection.
func isResult(err error) bool {
	var result *goldap.Error
	return errors.As(err, &result) && (result.ResultCode < goldap.ErrorNetwork || result.ResultCode == resultSyncAgain)
}

// isSameAttribute compares attribute types without regard to case.
func isSameAttribute(a, b string) bool { return strings.EqualFold(a, b) }
