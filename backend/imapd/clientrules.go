package imapd

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/emersion/go-imap/v2"
)

// ClientRule is what is done otherwise for some mail programs.
type ClientRule struct {
	// Name stands in the log.
	Name string
	// Match are patterns, as of path.Match and in any letter case, for fields of
	// the client's ID (RFC 2971), by name. All must match. Patterns for a
	// version, "version" and "os-version", may also compare: "<16", ">=10.2".
	// No patterns match every client, also those that send no ID.
	Match map[string]string
	// Workarounds are to be known ones, see Workarounds.
	Workarounds []string
	// Without names capabilities that these clients are not told of. Their
	// commands are answered all the same.
	Without []string
}

// workarounds are the ones that a session knows of.
type workarounds struct {
	// delayNewMail tells of new messages only behind NOOP, CHECK and what
	// expunges, and in IDLE.
	delayNewMail bool
	// lsubFlags gives LSUB the flags of LIST.
	lsubFlags bool
	// idleAlive says something in IDLE every few minutes.
	idleAlive bool
	// xlist offers XLIST, from before SPECIAL-USE.
	xlist bool
}

var workaroundTable = map[string]func(*workarounds){
	"delay_new_mail": func(w *workarounds) { w.delayNewMail = true },
	"lsub_flags":     func(w *workarounds) { w.lsubFlags = true },
	"idle_alive":     func(w *workarounds) { w.idleAlive = true },
	"xlist":          func(w *workarounds) { w.xlist = true },
}

// Workarounds lists the names of all there are.
func Workarounds() []string {
	var names []string
	for name := range workaroundTable {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Capabilities lists the names that ClientRule.Without may have.
func Capabilities() []string {
	var names []string
	for i := range capabilityTable {
		if name := capabilityTable[i].name; !lasting[name] {
			names = append(names, strings.TrimSuffix(name, "="))
		}
	}
	return names
}

// lasting are capabilities that no client can be without: what they say of the
// protocol goes on to hold, or keeps passwords from being sent in the clear.
var lasting = map[string]bool{"IMAP4rev1": true, "STARTTLS": true, "LOGINDISABLED": true}

// Check returns what is wrong with the rule.
func (r *ClientRule) Check() error {
	var errs []error
	for field, text := range r.Match {
		if _, err := parsePattern(field, text); err != nil {
			errs = append(errs, err)
		}
	}
	for _, name := range r.Workarounds {
		if workaroundTable[name] == nil {
			errs = append(errs, fmt.Errorf("there is no workaround %q", name))
		}
	}
	for _, name := range r.Without {
		if !slices.ContainsFunc(Capabilities(), func(known string) bool { return strings.EqualFold(known, name) }) {
			errs = append(errs, fmt.Errorf("%q is no capability that a client can be without", name))
		}
	}
	return errors.Join(errs...)
}

// idPattern is a pattern for one field of an ID.
type idPattern struct {
	glob    string
	compare string // "<", "<=", ">", ">=" or "" for the glob
	version []int
}

var comparisons = []string{"<=", ">=", "<", ">"}

func parsePattern(field, text string) (p idPattern, err error) {
	for _, sign := range comparisons {
		rest, found := strings.CutPrefix(text, sign)
		if !found {
			continue
		}
		p.compare, p.version = sign, versionOf(rest)
		if !strings.EqualFold(field, "version") && !strings.EqualFold(field, "os-version") {
			return p, fmt.Errorf("%s %q: only version and os-version can be compared", field, text)
		}
		if len(p.version) == 0 || strings.Trim(rest, ".0123456789") != "" {
			return p, fmt.Errorf("%s %q: %q is no version", field, text, rest)
		}
		return p, nil
	}
	p.glob = strings.ToLower(text)
	if _, err := path.Match(p.glob, ""); err != nil || text == "" {
		return p, fmt.Errorf("%s %q is no pattern", field, text)
	}
	return p, nil
}

// versionOf reads the numbers at the start of a version; it has none where that
// begins with something else.
func versionOf(text string) []int {
	end := strings.IndexFunc(text, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end >= 0 {
		text = text[:end]
	}
	var version []int
	for part := range strings.SplitSeq(text, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			break
		}
		version = append(version, n)
	}
	return version
}

// match reports whether a field fits. A version that has no numbers compares
// with none.
func (p *idPattern) match(value string) bool {
	if p.compare == "" {
		// A slash is a letter like others here.
		ok, _ := path.Match(strings.ReplaceAll(p.glob, "/", "\x00"), strings.ReplaceAll(strings.ToLower(value), "/", "\x00"))
		return ok
	}
	version := versionOf(value)
	if len(version) == 0 {
		return false
	}
	have, want := version, p.version
	for len(have) < len(want) {
		have = append(have, 0)
	}
	order := slices.Compare(have[:len(want)], want) // 16.0.1 is a 16
	switch p.compare {
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	}
	return order >= 0
}

// matches reports whether the rule is about a client with this ID; fields are
// by lower-case name.
func (r *ClientRule) matches(fields map[string]string) bool {
	for field, text := range r.Match {
		p, err := parsePattern(field, text)
		value, told := fields[strings.ToLower(field)]
		if err != nil || !told || !p.match(value) {
			return false
		}
	}
	return true
}

// adapt goes by the rules for a client with this ID, in place of those before.
func (s *session) adapt(fields map[string]string) {
	s.quirks, s.hidden = workarounds{}, nil
	for i := range s.cfg.Clients {
		r := &s.cfg.Clients[i]
		if !r.matches(fields) {
			continue
		}
		for _, name := range r.Workarounds {
			workaroundTable[name](&s.quirks)
		}
		for _, name := range r.Without {
			if s.hidden == nil {
				s.hidden = make(map[string]bool)
			}
			s.hidden[strings.ToUpper(name)] = true
		}
		if len(r.Match) > 0 {
			s.log.Debug("client has a rule of its own", "sid", s.client.Session, "login", s.login(), "rule", r.Name)
		}
	}
}

// identified is adapt for a client that told who it is. What it was offered
// before is corrected.
func (s *session) identified(fields map[string]string) {
	if len(s.cfg.Clients) == 0 {
		return
	}
	before := s.capabilities()
	s.adapt(fields)
	if after := s.capabilities(); after != before {
		s.w.line("* CAPABILITY " + after)
	}
}

// withholds reports whether the client is not told of a capability.
func (s *session) withholds(name string) bool {
	return s.hidden[strings.ToUpper(strings.TrimSuffix(name, "="))]
}

// withoutSpecialUse reports whether the client is to see no special uses, which
// are shown in every LIST otherwise.
func (s *session) withoutSpecialUse() bool { return s.withholds("SPECIAL-USE") }

// tellsNewMail are the commands behind which a client with delayNewMail is told
// of new messages.
var tellsNewMail = map[string]bool{
	"NOOP": true, "CHECK": true, "EXPUNGE": true, "UID EXPUNGE": true, "MOVE": true, "UID MOVE": true, "IDLE": true,
}

// delays reports whether new messages are not to be told behind a command.
func (s *session) delays(command string) bool { return s.quirks.delayNewMail && !tellsNewMail[command] }

func (s *session) offersXLIST() bool { return s.quirks.xlist }

// xlistUses are the flags of XLIST where they are not those of RFC 6154.
var xlistUses = map[string]string{`\Junk`: `\Spam`, `\Flagged`: `\Starred`, `\All`: `\AllMail`}

// xlist is XLIST, as Gmail had it before RFC 6154: LIST with the special uses,
// INBOX among them. Outlook 2013 asks for it, and for nothing newer.
func (s *session) xlist(ctx context.Context, a listArgs) (result, error) {
	if !s.offersXLIST() {
		return result{}, syntax("unknown command")
	}
	infos, err := s.mailboxes(ctx, a.patterns)
	if err != nil {
		return result{}, mailboxError(err, "")
	}
	a.onlySubscribed = false
	for _, l := range tree(infos) {
		if !a.wants(l) {
			continue
		}
		attrs := a.attributes(l)
		for i, attr := range attrs {
			if old := xlistUses[string(attr)]; old != "" {
				attrs[i] = imap.MailboxAttr(old)
			}
		}
		if l.Name == inbox {
			attrs = append(attrs, `\Inbox`)
		}
		s.writeList("XLIST", l, attrs)
		s.w.line("")
	}
	return result{}, nil
}
