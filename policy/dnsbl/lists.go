package dnsbl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/background"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/policy"
)

// Resolver asks the DNS; *dns.Resolver is one.
type Resolver interface {
	A(ctx context.Context, name string) (dns.Answer[netip.Addr], error)
	TXT(ctx context.Context, name string) (dns.Answer[string], error)
}

// Config is what holds for all lists.
type Config struct {
	// Lists are the settings of single lists; others have those of the zero
	// ListConfig.
	Lists []ListConfig
	// Reply is what a listed client reads, where neither the restriction nor
	// the list says; "" means DefaultReply.
	Reply string
}

// ListConfig is one list.
type ListConfig struct {
	Domain string
	// Key goes into the names that are asked about, between what is asked and
	// Domain. It stands in no reply and no log.
	Key string
	// Timeout bounds one lookup; 0 means 5 s.
	Timeout time.Duration
	// Reply and Code are what a listed client reads; "" and 0 mean those of all
	// lists, and 554.
	Reply string
	Code  int
	// Refusals are answers by which the list refuses to answer us; nil means
	// 127.255.255.*.
	Refusals *Filter
	// Untested leaves out the test entries: then a list that went down is tried
	// by the next lookup after a pause.
	Untested bool
	// TestName is a name that a list of names has an entry for; "" knows none,
	// and then only what must not have one is tested.
	TestName string
}

// Bounds of what is asked at a time; what comes on top waits for its turn, and
// what was only to be known early is left out.
const (
	maxInFlight    = 1000
	maxListFlights = 100
	defaultTimeout = 5 * time.Second
)

// The errors of a lookup: both are no listing.
var (
	errSkipped = errors.New("the list is left out while it is out of order")
	errUseless = errors.New("the answer makes no sense")
	errEnded   = errors.New("the server stops, or has a new configuration")
)

// Lists asks lists. It may be used concurrently.
type Lists struct {
	resolver Resolver
	memory   *Memory
	log      hclog.Logger
	metrics  *metrics
	reply    string
	slots    chan struct{}
	work     *background.Work // the flights

	mu    sync.Mutex
	lists map[string]*dnsList
}

// dnsList is one list.
type dnsList struct {
	cfg    ListConfig
	zone   string // what is asked below, with the key
	health *health
	slots  chan struct{}

	mu        sync.Mutex
	flights   map[string]*flight // by label
	addresses bool               // a restriction asks it about addresses
	names     bool               // and about names
	texts     bool               // somebody wants the entries' texts
}

// flight is a lookup under way.
type flight struct {
	done   chan struct{}
	answer Answer
	err    error
}

// New returns Lists. A nil registry counts nowhere.
func New(cfg Config, resolver Resolver, memory *Memory, log hclog.Logger, registry prometheus.Registerer) (*Lists, error) {
	m, err := newMetrics(registry)
	if err != nil {
		return nil, err
	}
	l := &Lists{resolver: resolver, memory: memory, log: log, metrics: m, slots: make(chan struct{}, maxInFlight), work: background.New(), lists: make(map[string]*dnsList)}
	l.reply = cfg.Reply
	if l.reply == "" {
		l.reply = DefaultReply
	}
	if err := checkReply(l.reply); err != nil {
		return nil, err
	}
	for _, list := range cfg.Lists {
		if list.Reply != "" {
			if err := checkReply(list.Reply); err != nil {
				return nil, fmt.Errorf("list %s: %w", list.Domain, err)
			}
		}
		l.lists[list.Domain] = l.make(list)
	}
	return l, nil
}

func (l *Lists) make(cfg ListConfig) *dnsList {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Refusals == nil {
		cfg.Refusals = publicResolver
	}
	zone := cfg.Domain
	if cfg.Key != "" {
		zone = cfg.Key + "." + zone
	}
	return &dnsList{cfg: cfg, zone: zone, health: l.memory.health(cfg.Domain), slots: make(chan struct{}, maxListFlights), flights: make(map[string]*flight)}
}

// publicResolver are the codes by which lists say that they do not answer
// whoever asks through a public resolver, or too much.
var publicResolver = &Filter{octets: [4]octets{one(127), one(255), one(255), every()}}

func one(n int) (o octets) { o.add(n); return o }

func every() (o octets) {
	for n := range 256 {
		o.add(n)
	}
	return o
}

// list returns the list of a domain for a restriction that asks it.
func (l *Lists) list(domain string, ofNames, texts bool) *dnsList {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.lists[domain]
	if d == nil {
		d = l.make(ListConfig{Domain: domain})
		l.lists[domain] = d
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addresses = d.addresses || !ofNames
	d.names = d.names || ofNames
	d.texts = d.texts || texts
	return d
}

// begin starts to look a label up, or joins who does, or finds what is known.
// Without urgency it does so only when there is room.
func (l *Lists) begin(d *dnsList, label string, urgent bool) *flight {
	now := time.Now()
	if a, ok := l.memory.get(question{d.zone, label}, now); ok {
		return landed(a, nil)
	}
	if !d.health.usable(now, !d.cfg.Untested) {
		return landed(Answer{}, errSkipped)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.flights[label]; f != nil {
		return f
	}
	if !urgent && (len(d.slots) == cap(d.slots) || len(l.slots) == cap(l.slots)) {
		return nil
	}
	f := &flight{done: make(chan struct{})}
	if !l.work.Go(func(ctx context.Context) { l.fly(ctx, d, label, f) }) {
		return landed(Answer{}, errEnded)
	}
	d.flights[label] = f
	return f
}

// rehearse looks a label up as begin does, for who only wants to know what would
// happen: how the list does and what it says is not noted.
func (l *Lists) rehearse(d *dnsList, label string) *flight {
	if a, ok := l.memory.get(question{d.zone, label}, time.Now()); ok {
		return landed(a, nil)
	}
	if d.health.state(d.cfg.Domain).Down {
		return landed(Answer{}, errSkipped)
	}
	f := &flight{done: make(chan struct{})}
	if !l.work.Go(func(ctx context.Context) {
		defer close(f.done)
		ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
		defer cancel()
		f.answer, f.err = l.withSlots(ctx, d, func() (Answer, error) {
			a, _, err := l.query(ctx, d, label)
			if reason := d.nonsense(a.Codes); err == nil && reason != "" {
				return Answer{}, fmt.Errorf("%w: %s", errUseless, reason)
			}
			if len(a.Codes) > 0 {
				a.Text = l.text(ctx, d, label)
			}
			return a, err
		})
	}) {
		return landed(Answer{}, errEnded)
	}
	return f
}

// look is begin, or rehearse where ctx is of a rehearsal.
func (l *Lists) look(ctx context.Context, d *dnsList, label string) *flight {
	if policy.IsRehearsal(ctx) {
		return l.rehearse(d, label)
	}
	return l.begin(d, label, true)
}

func landed(a Answer, err error) *flight {
	f := &flight{done: make(chan struct{}), answer: a, err: err}
	close(f.done)
	return f
}

// fly looks a label up and lands the flight, within the list's timeout. It
// belongs to no session: several wait for it, and who began it may be gone.
func (l *Lists) fly(ctx context.Context, d *dnsList, label string, f *flight) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	f.answer, f.err = l.withSlots(ctx, d, func() (Answer, error) { return l.ask(ctx, d, label) })
	d.mu.Lock()
	delete(d.flights, label)
	d.mu.Unlock()
	close(f.done)
}

// withSlots runs f when there is room for one more.
func (l *Lists) withSlots(ctx context.Context, d *dnsList, f func() (Answer, error)) (Answer, error) {
	for _, slots := range []chan struct{}{d.slots, l.slots} {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-ctx.Done():
			return Answer{}, fmt.Errorf("%w: too many lookups at once", context.Cause(ctx))
		}
	}
	return f()
}

// wait waits for a flight.
func (f *flight) wait(ctx context.Context) (Answer, error) {
	select {
	case <-f.done:
		return f.answer, f.err
	case <-ctx.Done():
		return Answer{}, context.Cause(ctx)
	}
}

// ask puts the question, and notes how the list does.
func (l *Lists) ask(ctx context.Context, d *dnsList, label string) (Answer, error) {
	a, expires, err := l.query(ctx, d, label)
	now := time.Now()
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return Answer{}, errEnded // by us: the list is not to blame
	}
	if err != nil {
		l.metrics.asked(d.cfg.Domain, resultFailed)
		l.changed(d, d.health.failed(now, err))
		return Answer{}, err
	}
	if reason := d.nonsense(a.Codes); reason != "" {
		l.metrics.asked(d.cfg.Domain, resultUseless)
		l.changed(d, d.health.lies(now, reason))
		return Answer{}, fmt.Errorf("%w: %s", errUseless, reason)
	}
	l.changed(d, d.health.answered(now, !d.cfg.Untested))
	result := resultMissing
	if len(a.Codes) > 0 {
		result = resultListed
		a.Text = l.text(ctx, d, label)
	}
	l.metrics.asked(d.cfg.Domain, result)
	l.memory.put(question{d.zone, label}, a, expires, now)
	return a, nil
}

// query asks for the codes of a label.
func (l *Lists) query(ctx context.Context, d *dnsList, label string) (Answer, time.Time, error) {
	found, err := l.resolver.A(ctx, label+"."+d.zone)
	if err != nil {
		return Answer{}, time.Time{}, errors.New(d.redact(err.Error()))
	}
	if found.Outcome != dns.Found {
		return Answer{}, found.Expires, nil
	}
	return Answer{Codes: found.Records[:min(len(found.Records), maxCodes)]}, found.Expires, nil
}

// Bounds of what is taken of an entry.
const (
	maxCodes = 64
	maxTexts = 10
	maxText  = 500 // octets, as in Postfix
)

// nonsense says what is wrong with an answer that no list may give.
func (d *dnsList) nonsense(codes []netip.Addr) string {
	for _, c := range codes {
		switch {
		case !c.Is4() || c.As4()[0] != 127:
			return fmt.Sprintf("answers with %s, which is no code of a list: it may be gone, and its domain for sale", c)
		case d.cfg.Refusals.Match(c):
			return fmt.Sprintf("refuses to answer us, with %s: lists that say so do not serve public resolvers, or think we ask too much", c)
		}
	}
	return ""
}

// text asks what the list says of an entry. It can do without.
func (l *Lists) text(ctx context.Context, d *dnsList, label string) string {
	d.mu.Lock()
	wanted := d.texts
	d.mu.Unlock()
	if !wanted {
		return ""
	}
	found, err := l.resolver.TXT(ctx, label+"."+d.zone)
	if err != nil || found.Outcome != dns.Found {
		return ""
	}
	text := d.redact(strings.Join(found.Records[:min(len(found.Records), maxTexts)], " / "))
	return text[:min(len(text), maxText)]
}

// redact takes the key out of a text.
func (d *dnsList) redact(text string) string {
	if d.cfg.Key == "" {
		return text
	}
	for at := 0; at+len(d.cfg.Key) <= len(text); at++ {
		if strings.EqualFold(text[at:at+len(d.cfg.Key)], d.cfg.Key) {
			text = text[:at] + "***" + text[at+len(d.cfg.Key):]
		}
	}
	return text
}

// changed tells of a list that went down or came up, once.
func (l *Lists) changed(d *dnsList, c change) {
	st := d.health.state(d.cfg.Domain)
	switch c {
	case wentDown:
		l.memory.forget(d.zone)
		l.log.Warn("a DNS list is out of order and left out", "list", d.cfg.Domain, "reason", st.Reason, "retry", time.Until(st.Retry).Round(time.Second))
	case cameUp:
		l.log.Info("a DNS list is asked again", "list", d.cfg.Domain)
	}
	l.metrics.up(d.cfg.Domain, !st.Down)
}

// States returns how the lists do that restrictions ask, by name.
func (l *Lists) States() []State {
	var all []State
	for _, d := range l.inUse() {
		all = append(all, d.health.state(d.cfg.Domain))
	}
	return all
}

func (l *Lists) inUse() []*dnsList {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*dnsList
	for _, d := range l.lists {
		d.mu.Lock()
		if d.addresses || d.names {
			all = append(all, d)
		}
		d.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b *dnsList) int { return strings.Compare(a.cfg.Domain, b.cfg.Domain) })
	return all
}
