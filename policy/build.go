package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Spec is one restriction as it stands in the configuration.
type Spec struct {
	Name string
	// Args are the attributes by name; one that is not a list has one value.
	Args map[string][]string
	Pos  Pos
}

// DefaultMX returns the lists of a listener that takes mail from anywhere.
func DefaultMX() map[List][]Spec {
	return map[List][]Spec{
		ListSender:    {{Name: "reject_non_fqdn_sender"}},
		ListRelay:     defaultRelay(),
		ListRecipient: {{Name: "reject_non_fqdn_recipient"}},
	}
}

// DefaultSubmission returns the lists of a listener for our own people: they
// log in, and write under addresses that are theirs.
func DefaultSubmission() map[List][]Spec {
	return map[List][]Spec{
		ListSender:    {{Name: "reject_non_fqdn_sender"}, {Name: "reject_sender_login_mismatch"}},
		ListRelay:     {{Name: "permit_authenticated"}, {Name: "reject"}},
		ListRecipient: {{Name: "reject_non_fqdn_recipient"}},
	}
}

// DefaultLocal returns the lists of a listener for the users of this machine,
// who are known without a login.
func DefaultLocal() map[List][]Spec {
	return map[List][]Spec{
		ListSender:    {{Name: "reject_sender_login_mismatch"}},
		ListRelay:     {{Name: "permit_authenticated"}, {Name: "reject"}},
		ListRecipient: {{Name: "reject_non_fqdn_recipient"}},
	}
}

func defaultRelay() []Spec {
	return []Spec{{Name: "permit_mynetworks"}, {Name: "permit_authenticated"}, {Name: "reject_unauth_destination"}}
}

// Build makes a chain of the lists. A list that is absent is empty, except
// relay: permit_mynetworks, permit_authenticated, reject_unauth_destination;
// to empty that one, give it without restrictions. Tables are read from
// disk. The error is Mistakes: everything that is wrong, each with its place.
func Build(cfg Config, lists map[List][]Spec, deps Deps) (*Chain, error) {
	if deps.Domains == nil || deps.Logger == nil || deps.Audit == nil {
		return nil, errors.New("policy needs domains, a logger and an audit")
	}
	count, err := newCounters(deps.Metrics)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	b := &builder{
		chain: &Chain{cfg: cfg.withDefaults(), deps: deps, lists: map[List]*list{}, counter: count},
		known: restrictionTable(),
	}
	for name, specs := range lists {
		if !slices.Contains(Lists(), name) {
			b.mistake(firstPos(specs), fmt.Sprintf("unknown restriction list %q", name), suggestList(string(name)))
		}
	}
	for _, name := range Lists() {
		specs, given := lists[name]
		if !given && name == ListRelay {
			specs = defaultRelay()
		}
		about := listSubject[name]
		b.chain.lists[name] = &list{name: name, about: about, items: b.items(scope{name, about, false}, specs)}
	}
	b.implied()
	b.chain.arrange()
	b.checkRelay(lists)
	if err := b.mistakes.orNil(); err != nil {
		return nil, err
	}
	return b.chain, nil
}

var listSubject = map[List]subject{
	ListClient:    aboutClient,
	ListHelo:      aboutHelo,
	ListSender:    aboutSender,
	ListRelay:     aboutRecipient,
	ListRecipient: aboutRecipient,
	ListData:      aboutData,
	ListEndOfData: aboutEndOfData,
}

// builder collects a chain and what is wrong with it.
type builder struct {
	chain    *Chain
	known    map[string]restriction
	mistakes Mistakes
}

// scope is where restrictions stand.
type scope struct {
	list  List
	about subject
	// inTable tells that a line of a table names them.
	inTable bool
}

func (b *builder) mistake(pos Pos, problem, remedy string) {
	b.mistakes = append(b.mistakes, Mistake{pos, problem, remedy})
}

// items makes the restrictions of a list, in order.
func (b *builder) items(at scope, specs []Spec) []item {
	var items []item
	var end string // the restriction that always decides
	warn := false
	for _, spec := range specs {
		name := strings.ToLower(spec.Name)
		if end != "" {
			b.mistake(spec.Pos, fmt.Sprintf("%s is never reached: %s before it always decides", name, end), "delete one of them")
			break
		}
		if name == "warn_if_reject" {
			b.checkArgs(spec, nil)
			warn = true
			continue
		}
		it, ok := b.item(at, name, spec)
		if ok {
			it.warn = warn
			items = append(items, it)
		}
		if slices.Contains([]string{"permit", "reject", "defer"}, name) && !warn {
			end = name
		}
		warn = false
	}
	if warn {
		b.mistake(specs[len(specs)-1].Pos, "warn_if_reject stands at the end of its list", "write the restriction it is for after it")
	}
	return items
}

func (b *builder) item(at scope, name string, spec Spec) (item, bool) {
	known := len(b.mistakes)
	var it item
	if make, ok := b.chain.deps.Stages[name]; ok {
		it = b.foreign(at, make, spec)
	} else if r, ok := b.known[canonicalName(name)]; ok {
		it = b.ours(at, name, r, spec)
	} else {
		b.mistake(spec.Pos, fmt.Sprintf("unknown restriction %q", spec.Name), b.suggest(name))
	}
	return it, len(b.mistakes) == known
}

// foreign makes a restriction of another room, which checks its own
// attributes.
func (b *builder) foreign(at scope, make func(Spec) (Stage, error), spec Spec) item {
	stage, err := make(spec)
	if err != nil {
		b.mistake(spec.Pos, fmt.Sprintf("%s: %v", spec.Name, err), "")
	}
	return item{stage: stage, about: at.about, onError: b.onError(spec)}
}

func (b *builder) ours(at scope, name string, r restriction, spec Spec) item {
	b.checkArgs(spec, r.args)
	if r.about != nil {
		at.about = *r.about
	}
	if b.chain.cfg.EarlyReject && listPhase(at.list) < r.needs {
		b.mistake(spec.Pos, fmt.Sprintf("%s is asked before the client has said what it needs", name),
			"move it to a later list, or leave early rejection off")
	}
	for _, need := range r.deps {
		if !need.met(&b.chain.deps) {
			b.mistake(spec.Pos, fmt.Sprintf("%s needs %s", name, need.what), "configure it, or delete the restriction")
			return item{}
		}
	}
	return item{stage: r.make(b, at, canonicalName(name), spec), about: at.about, onError: b.onError(spec)}
}

// checkArgs reports attributes that the restriction does not know.
func (b *builder) checkArgs(spec Spec, known []string) {
	names := make([]string, 0, len(spec.Args))
	for name := range spec.Args {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if name != "on_error" && !slices.Contains(known, name) {
			remedy := "it takes none"
			if len(known) > 0 {
				remedy = "it takes " + strings.Join(known, ", ")
			}
			b.mistake(spec.Pos, fmt.Sprintf("%s does not know the attribute %q", spec.Name, name), remedy)
		}
	}
}

// onError reads what a failure of the stage leads to.
func (b *builder) onError(spec Spec) errorMeaning {
	values, ok := spec.Args["on_error"]
	if !ok {
		return errorDefers
	}
	if at := slices.Index(errorMeanings[:], strings.Join(values, " ")); at >= 0 {
		return errorMeaning(at)
	}
	b.mistake(spec.Pos, fmt.Sprintf("on_error of %s is %q", spec.Name, strings.Join(values, " ")),
		"use "+strings.Join(errorMeanings[:], ", "))
	return errorDefers
}

// table opens the table of an access restriction.
func (b *builder) table(at scope, spec Spec) *source {
	values := spec.Args["table"]
	if len(values) != 1 {
		b.mistake(spec.Pos, spec.Name+" needs one table", `write table = "cidr:FILE" or table = "texthash:FILE"`)
		return nil
	}
	s, err := newSource(values[0], b.chain.cfg.TableDir)
	if err != nil {
		b.mistake(spec.Pos, err.Error(), "use texthash:FILE or cidr:FILE")
		return nil
	}
	if s.kind == tableCIDR && at.about != aboutClient && at.about != aboutHelo {
		b.mistake(spec.Pos, spec.Name+" looks for mail addresses, which a cidr table cannot hold", "use a texthash table")
		return nil
	}
	s.compile = b.compiler(at)
	if _, err := s.load(); err != nil {
		b.mistakes = append(b.mistakes, asMistakes(s.file, err)...)
		return nil
	}
	for _, w := range s.table().warnings {
		b.chain.deps.Logger.Warn("table", "position", w.Pos.String(), "problem", w.Problem)
	}
	b.chain.tables = append(b.chain.tables, s)
	return s
}

// compiler returns what turns restriction names in a table into items. It
// runs again whenever the table is read.
func (b *builder) compiler(at scope) compiler {
	return func(pos Pos, names []string) ([]item, *Mistake) {
		inner := &builder{chain: b.chain, known: b.known}
		specs := make([]Spec, len(names))
		for i, name := range names {
			specs[i] = Spec{Name: name, Pos: pos}
		}
		items := inner.items(scope{at.list, at.about, true}, specs)
		if len(inner.mistakes) > 0 {
			return nil, &inner.mistakes[0]
		}
		return items, nil
	}
}

// implied adds the checks that follow lists by themselves.
func (b *builder) implied() {
	cfg := b.chain.cfg
	last := ListRecipient
	if cfg.RecipientBeforeRelay {
		last = ListRelay
	}
	if !cfg.AcceptUnlisted {
		b.imply(last, "reject_unlisted_recipient")
	}
	if cfg.RejectUnlistedSender {
		b.imply(ListSender, "reject_unlisted_sender")
	}
}

func (b *builder) imply(name List, restriction string) {
	l := b.chain.lists[name]
	l.implied = b.items(scope{name, l.about, false}, []Spec{{Name: restriction}})
}

// checkRelay makes sure that strangers cannot relay: as in Postfix the relay
// or the recipient list must hold a restriction that refuses what is not
// ours. Unlike Postfix one that only warns, or is never reached, does not count.
func (b *builder) checkRelay(lists map[List][]Spec) {
	safe := []string{"reject_unauth_destination", "defer_unauth_destination", "reject", "defer", "defer_if_permit"}
	for _, name := range []List{ListRelay, ListRecipient} {
		specs, given := lists[name]
		if !given && name == ListRelay {
			return // the default is safe
		}
		warn := false
		for _, spec := range specs {
			restriction := strings.ToLower(spec.Name)
			if !warn && slices.Contains(safe, restriction) {
				return
			}
			if restriction == "permit" {
				break
			}
			warn = restriction == "warn_if_reject"
		}
	}
	b.mistake(firstPos(lists[ListRelay]), "anybody could relay mail through this listener: neither the relay nor the recipient list refuses foreign destinations",
		"add reject_unauth_destination to the relay list")
}

func firstPos(specs []Spec) Pos {
	if len(specs) == 0 {
		return Pos{}
	}
	return specs[0].Pos
}

// listPhase is where a list runs with EarlyReject.
func listPhase(name List) mail.Phase {
	switch name {
	case ListClient:
		return mail.PhaseConnect
	case ListHelo:
		return mail.PhaseHelo
	case ListSender:
		return mail.PhaseMail
	default:
		return mail.PhaseRecipient
	}
}
