package policy

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/table"
)

// Spec is one restriction as it stands in the configuration.
type Spec struct {
	Name string
	// Args are the attributes by name; one that is not a list has one value.
	Args map[string][]string
	// List is where it stands; filled in for restrictions of other rooms.
	List List
	Pos  Pos
}

// Only returns an error when the restriction has attributes other than these.
func (s Spec) Only(names ...string) error {
	for name := range s.Args {
		if !slices.Contains(names, name) {
			return fmt.Errorf("it does not know the attribute %q", name)
		}
	}
	return nil
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
		chain: &Chain{cfg: cfg.withDefaults(), deps: deps, lists: map[List]*list{}, counter: count, trusted: permitNetworks(cfg.Networks)},
		known: restrictionTable(),
	}
	b.chain.opener = b.opener()
	b.makeClasses(cfg.Classes)
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
		b.chain.lists[name] = &list{name: name, about: about, items: b.items(scope{list: name, about: about}, specs)}
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
	ListContent:   aboutEndOfData,
}

// builder collects a chain and what is wrong with it.
type builder struct {
	chain    *Chain
	known    map[string]restriction
	classes  map[string]*class
	mistakes Mistakes
}

// scope is where restrictions stand.
type scope struct {
	list  List
	about subject
	// inTable tells that a line of a table names them.
	inTable bool
	// noPermit tells that a table is asked about what strangers name: no line of
	// it may permit, and all of it may be about addresses.
	noPermit bool
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
	} else if c := b.classes[name]; c != nil {
		it = b.ofClass(at, c, spec)
	} else {
		b.mistake(spec.Pos, fmt.Sprintf("unknown restriction %q", spec.Name), b.suggest(name))
	}
	return it, len(b.mistakes) == known
}

// foreign makes a restriction of another room, which checks its own
// attributes.
func (b *builder) foreign(at scope, make func(Spec) (Stage, error), spec Spec) item {
	spec.List = at.list
	stage, err := make(spec)
	if err != nil {
		b.mistake(spec.Pos, fmt.Sprintf("%s: %v", spec.Name, err), "")
		return item{}
	}
	needs := b.placed(at, stage, spec)
	b.checkPlace(at, spec, stage)
	if actor, ok := stage.(Actor); ok {
		stage = b.acting(at, actor, spec.Pos)
	}
	return item{stage: stage, about: at.about, needs: needs, onError: b.onError(spec)}
}

func (b *builder) ours(at scope, name string, r restriction, spec Spec) item {
	b.checkArgs(spec, r.attributes(canonicalName(name)))
	if r.about != nil {
		at.about = *r.about
	}
	b.checkPhase(at, name, r.needs, spec.Pos)
	for _, need := range r.deps {
		if !need.met(&b.chain.deps) {
			b.mistake(spec.Pos, fmt.Sprintf("%s needs %s", name, need.what), "configure it, or delete the restriction")
			return item{}
		}
	}
	stage := r.make(b, at, canonicalName(name), spec)
	b.checkPlace(at, spec, stage)
	return item{
		stage: stage, about: at.about, input: r.input, needs: r.needs,
		onError: b.onError(spec), said: b.said(spec),
	}
}

// checkPlace reports a stage that looks into messages where there are none. A
// class may be named by the content list.
func (b *builder) checkPlace(at scope, spec Spec, stage Stage) {
	_, follows := stage.(Attender)
	if looksInside(stage) && at.list != ListContent && (at.list != classList || follows) {
		b.mistake(spec.Pos, spec.Name+" looks into the message, which is not there yet", "move it to the content list")
	}
}

// checkPhase reports a restriction in a list that is asked before it can know
// what it needs.
func (b *builder) checkPhase(at scope, name string, needs mail.Phase, pos Pos) {
	if at.list != classList && b.chain.cfg.EarlyReject && listPhase(at.list) < needs {
		b.mistake(pos, fmt.Sprintf("%s is asked before the client has said what it needs", name),
			"move it to a later list, or leave early rejection off")
	}
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
	if strings.HasPrefix(values[0], table.KindCIDR+":") && at.about != aboutClient && at.about != aboutHelo && !at.noPermit && at.about != aboutList {
		b.mistake(spec.Pos, spec.Name+" looks for mail addresses, which a cidr table cannot hold", "use a texthash table")
		return nil
	}
	s, err := newSource(b.chain.opener, values[0], reader{&builder{chain: b.chain, known: b.known, classes: b.classes}, at})
	if err != nil {
		b.mistakes = append(b.mistakes, asMistakes(spec.Pos, err)...)
		return nil
	}
	b.chain.tables = append(b.chain.tables, s)
	return s
}

// opener opens tables, as Deps.Tables does where there is one.
func (b *builder) opener() *table.Opener {
	o := table.Opener{}
	if b.chain.deps.Tables != nil {
		o = *b.chain.deps.Tables
	}
	o.Dir, o.CheckInterval, o.Log = b.chain.cfg.TableDir, b.chain.cfg.TableCheck, b.chain.deps.Logger
	return &o
}

// restrictions turns restriction names in a table into items. It runs again
// whenever the table is read.
func (r reader) restrictions(pos Pos, names []string) ([]item, *Mistake) {
	inner := &builder{chain: r.builder.chain, known: r.builder.known, classes: r.builder.classes}
	items := inner.items(scope{list: r.at.list, about: r.at.about, inTable: true}, specsOf(pos, names))
	if len(inner.mistakes) > 0 {
		return nil, &inner.mistakes[0]
	}
	return items, nil
}

// specsOf reads the words of a table's line: names of restrictions, and after
// sleep its seconds.
func specsOf(pos Pos, words []string) []Spec {
	var specs []Spec
	for i := 0; i < len(words); i++ {
		spec := Spec{Name: words[i], Pos: pos}
		if strings.EqualFold(words[i], "sleep") && i+1 < len(words) {
			i++
			spec.Args = map[string][]string{"seconds": {words[i]}}
		}
		specs = append(specs, spec)
	}
	return specs
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
	l.implied = b.items(scope{list: name, about: l.about}, []Spec{{Name: restriction}})
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
		for spec := range b.flattened(specs, 0) {
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

// flattened yields the restrictions of a list with those of its classes in
// their place.
func (b *builder) flattened(specs []Spec, depth int) iter.Seq[Spec] {
	return func(yield func(Spec) bool) {
		warned := false
		for _, spec := range specs {
			c := b.classes[strings.ToLower(spec.Name)]
			only := warned
			warned = strings.EqualFold(spec.Name, "warn_if_reject")
			if c != nil && only {
				continue // none of it refuses
			}
			if c == nil {
				if !yield(spec) {
					return
				}
				continue
			}
			if depth > maxDepth {
				return
			}
			for inner := range b.flattened(c.specs, depth+1) {
				if !yield(inner) {
					return
				}
			}
		}
	}
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
