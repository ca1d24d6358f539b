package imapd

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/backend/sessions"
)

// capability is a row of the table of what the server says it can do.
type capability struct {
	name   string
	states state
	// when narrows the states down; nil means always.
	when func(*session) bool
	// value, unless nil, is appended to the name.
	value func(*session) string
}

const loggedIn = authenticated | selected

// capabilityTable lists all there is to offer, in the order in which it is told
// (RFC 3501 section 6.1.1). docs/rfc.md says what stands behind each name.
// Mechanisms are offered behind it.
var capabilityTable = []capability{
	{name: "IMAP4rev1", states: anyState},
	{name: "IMAP4rev2", states: anyState},
	{name: "LITERAL+", states: anyState},
	{name: "SASL-IR", states: anyState},
	{name: "ENABLE", states: anyState},
	{name: "ID", states: anyState},
	{name: "IDLE", states: loggedIn},
	{name: "NAMESPACE", states: loggedIn},
	{name: "UIDPLUS", states: loggedIn},
	{name: "MOVE", states: loggedIn},
	{name: "SPECIAL-USE", states: loggedIn},
	{name: "CREATE-SPECIAL-USE", states: loggedIn},
	{name: "XLIST", states: loggedIn, when: (*session).offersXLIST},
	{name: "CHILDREN", states: loggedIn},
	{name: "LIST-EXTENDED", states: loggedIn},
	{name: "LIST-STATUS", states: loggedIn},
	{name: "ACL", states: loggedIn, when: (*session).shares},
	{name: "RIGHTS=" + acl.Capability, states: loggedIn, when: (*session).shares},
	{name: "LIST-MYRIGHTS", states: loggedIn, when: (*session).shares},
	{name: "METADATA", states: loggedIn},
	{name: "LIST-METADATA", states: loggedIn},
	{name: "QUOTA", states: loggedIn},
	{name: "QUOTA=RES-STORAGE", states: loggedIn},
	{name: "QUOTA=RES-MESSAGE", states: loggedIn},
	{name: "STATUS=SIZE", states: loggedIn},
	{name: "ESEARCH", states: loggedIn},
	{name: "SEARCHRES", states: loggedIn},
	{name: "WITHIN", states: loggedIn},
	{name: "SEARCH=FUZZY", states: loggedIn},
	{name: "PARTIAL", states: loggedIn},
	{name: "SORT", states: loggedIn},
	{name: "SORT=DISPLAY", states: loggedIn},
	{name: "ESORT", states: loggedIn},
	{name: "THREAD=ORDEREDSUBJECT", states: loggedIn},
	{name: "THREAD=REFERENCES", states: loggedIn},
	{name: "CONTEXT=SEARCH", states: loggedIn},
	{name: "CONTEXT=SORT", states: loggedIn},
	{name: "MULTISEARCH", states: loggedIn},
	{name: "I18NLEVEL=1", states: loggedIn},
	{name: "UNSELECT", states: loggedIn},
	{name: "CONDSTORE", states: loggedIn},
	{name: "QRESYNC", states: loggedIn},
	{name: "OBJECTID", states: loggedIn},
	{name: "MULTIAPPEND", states: loggedIn},
	{name: "APPENDLIMIT=", states: loggedIn, value: (*session).appendLimit},
	{name: "MESSAGELIMIT=", states: loggedIn, when: (*session).limitsWork, value: (*session).announcedLimit},
	{name: "SAVELIMIT=", states: loggedIn, when: (*session).limitsSaves, value: (*session).announcedLimit},
	{name: "BINARY", states: loggedIn},
	{name: "CATENATE", states: loggedIn},
	{name: "URL-PARTIAL", states: loggedIn},
	{name: "REPLACE", states: loggedIn},
	{name: "PREVIEW", states: loggedIn},
	{name: "SAVEDATE", states: loggedIn},
	{name: "UTF8=ACCEPT", states: loggedIn},
	{name: "UIDONLY", states: loggedIn},
	{name: "INPROGRESS", states: loggedIn},
	{name: "NOTIFY", states: loggedIn},
	{name: "UNAUTHENTICATE", states: loggedIn, when: (*session).mayUnauthenticate},
	{name: "COMPRESS=DEFLATE", states: loggedIn, when: (*session).offersCompression},
	{name: "STARTTLS", states: notAuthenticated, when: (*session).offersTLS},
	{name: "LOGINDISABLED", states: notAuthenticated, when: (*session).loginDisabled},
}

// capabilities lists what the client may use in the present state.
func (s *session) capabilities() string {
	var b strings.Builder
	for i := range capabilityTable {
		c := &capabilityTable[i]
		if c.states&s.state == 0 || c.when != nil && !c.when(s) || s.withholds(c.name) {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(c.name)
		if c.value != nil {
			b.WriteString(c.value(s))
		}
	}
	if s.state == notAuthenticated {
		for _, m := range s.mechanisms() {
			b.WriteString(" AUTH=" + m)
		}
	}
	return b.String()
}

func (s *session) capabilityCode() string { return "CAPABILITY " + s.capabilities() }

func (s *session) capability(context.Context) (result, error) {
	s.w.line("* CAPABILITY " + s.capabilities())
	return result{}, nil
}

func (s *session) appendLimit() string { return strconv.FormatInt(s.cfg.AppendLimitOctets, 10) }

func (s *session) offersTLS() bool {
	return s.cfg.TLS != nil && s.client.TLS == nil && !s.isCompressed()
}

func (s *session) loginDisabled() bool { return !sessions.TakesPasswords(s.mechanisms()) }

// extension is a row of the table of what ENABLE switches on (RFC 5161).
type extension struct {
	name    string
	enabled func(*session) bool
	enable  func(*session)
}

// extensionTable lists what can be enabled, in the order in which it is told.
// Other names are passed over, as the RFC wants it.
var extensionTable = []extension{
	{"CONDSTORE", func(s *session) bool { return s.condstore }, (*session).enableCondstore},
	{"QRESYNC", func(s *session) bool { return s.qresync }, (*session).enableQresync},
	{"IMAP4rev2", func(s *session) bool { return s.rev2 }, (*session).enableRev2},
	{"UTF8=ACCEPT", func(s *session) bool { return s.accepts }, (*session).enableUTF8},
	{"UIDONLY", func(s *session) bool { return s.uidOnly }, (*session).enableUIDOnly},
}

// parseEnable reads ENABLE's capabilities.
func parseEnable(p *parser) ([]string, error) {
	var names []string
	for p.take(' ') {
		name, err := p.word()
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil, syntax("expected a capability")
	}
	return names, nil
}

// enable is ENABLE. What is new is told before anything follows from it.
func (s *session) enable(_ context.Context, names []string) (result, error) {
	s.w.str("* ENABLED")
	var fresh []func(*session)
	for i := range extensionTable {
		e := &extensionTable[i]
		if slices.Contains(names, strings.ToUpper(e.name)) && !e.enabled(s) {
			s.w.str(" " + e.name)
			fresh = append(fresh, e.enable)
		}
	}
	s.w.line("")
	for _, enable := range fresh {
		enable(s)
	}
	return result{}, nil
}
