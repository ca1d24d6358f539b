package config

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/backend/imapd"
)

// IMAP is how mailboxes look to IMAP clients.
type IMAP struct {
	block
	MessageLimit  int           `conf:"message_limit" default:"0" doc:"How many messages one command may work on, announced as MESSAGELIMIT (RFC 9738); 1000 or more. 0: any number. A client that does not know this extension, and most do not, sees only the last messages of a larger mailbox: docs/imap-clients.md."`
	LimitEnforced int           `conf:"message_limit_enforced" default:"0" doc:"From how many messages on commands are cut short, where that is more than message_limit. 0: message_limit."`
	Clients       []*IMAPClient `conf:"client,block" example:"client \"Outlook 2013\" { match_name = \"Microsoft Outlook*\" match_version = \"<16\" workarounds = [\"xlist\"] }" doc:"Mail programs that need something done otherwise: docs/imap-clients.md. Label: a name for the log."`
	LimitCommands string        `conf:"message_limit_commands" oneof:"all save" default:"all" doc:"all: every command but EXPUNGE, CLOSE and STATUS. save: COPY and APPEND alone, announced as SAVELIMIT; a larger one is refused, and nothing is ever left out."`
}

// minMessageLimit is the least that RFC 9738 section 3 would have announced.
const minMessageLimit = 1000

func (c checker) imap(i *IMAP) {
	for _, cl := range i.Clients {
		c.imapClient(cl)
	}
	if n := i.MessageLimit; n != 0 && n < minMessageLimit {
		c.errorf(i.rangeOf("message_limit"), "Too small", "message_limit is %d; RFC 9738 asks for %d at least, and 0 is no limit.", n, minMessageLimit)
	}
	if n := i.LimitEnforced; n != 0 && n < i.MessageLimit || i.MessageLimit == 0 && n != 0 {
		c.errorf(i.rangeOf("message_limit_enforced"), "Contradiction", "message_limit_enforced is %d, and message_limit %d; it is the higher of the two.", n, i.MessageLimit)
	}
	if i.LimitCommands == "save" && i.MessageLimit == 0 {
		c.errorf(i.rangeOf("message_limit_commands"), "No effect", "message_limit_commands needs a message_limit.")
	}
}

// messageLimits returns how many messages a command works on. It is nil-safe,
// as proxies is.
func (b *Backend) messageLimits() imapd.MessageLimits {
	if b == nil {
		return imapd.MessageLimits{}
	}
	i := b.IMAP
	return imapd.MessageLimits{Most: i.MessageLimit, Enforced: i.LimitEnforced, SavesOnly: i.LimitCommands == "save"}
}

// IMAPClient is what is done otherwise for some mail programs.
type IMAPClient struct {
	block
	Label string `conf:"client,label"`

	Name      string `conf:"match_name" doc:"Pattern for the name in the client's ID (RFC 2971), such as \"Microsoft Outlook*\"; * and ? are wildcards, letter case is one. All patterns must match; a block without any is for every client."`
	Version   string `conf:"match_version" doc:"The same for the version, or a comparison, such as \"<16\"."`
	Vendor    string `conf:"match_vendor" doc:"The same for the vendor."`
	OS        string `conf:"match_os" doc:"The same for the operating system."`
	OSVersion string `conf:"match_os_version" doc:"The same for its version, or a comparison."`

	Workarounds []string `conf:"workarounds" doc:"delay_new_mail: new messages are told only behind NOOP, CHECK, EXPUNGE and MOVE, and in IDLE. idle_alive: a word every two minutes of IDLE. lsub_flags: LSUB with the flags of LIST. xlist: XLIST, the forerunner of SPECIAL-USE."`
	Without     []string `conf:"without" doc:"Capabilities that these clients are not told of, such as \"COMPRESS=DEFLATE\". With SPECIAL-USE, LIST shows no special uses either."`
}

// rule returns what holds for these clients.
func (cl *IMAPClient) rule() imapd.ClientRule {
	r := imapd.ClientRule{Name: cl.Label, Workarounds: cl.Workarounds, Without: cl.Without, Match: make(map[string]string)}
	for field, pattern := range cl.patterns() {
		if pattern != "" {
			r.Match[field] = pattern
		}
	}
	return r
}

func (cl *IMAPClient) patterns() map[string]string {
	return map[string]string{"name": cl.Name, "version": cl.Version, "vendor": cl.Vendor, "os": cl.OS, "os-version": cl.OSVersion}
}

func (c checker) imapClient(cl *IMAPClient) {
	for field, pattern := range cl.patterns() {
		key := "match_" + strings.ReplaceAll(field, "-", "_")
		rule := imapd.ClientRule{Match: map[string]string{field: pattern}}
		if err := rule.Check(); err != nil && cl.wrote(key) && pattern != "" {
			c.errorf(cl.rangeOf(key), "Wrong pattern", "%v.", err)
		}
	}
	known := imapd.Workarounds()
	for _, name := range cl.Workarounds {
		if !slices.Contains(known, name) {
			c.errorf(cl.rangeOf("workarounds"), "Wrong value", "There is no workaround %q; there are %s.%s", name, quoteList(known), didYouMean(name, known))
		}
	}
	offered := imapd.Capabilities()
	for _, name := range cl.Without {
		if !slices.ContainsFunc(offered, func(o string) bool { return strings.EqualFold(o, name) }) {
			c.errorf(cl.rangeOf("without"), "Wrong value", "%q is no capability that clients can be without.%s", name, didYouMean(strings.ToUpper(name), offered))
		}
	}
	if len(cl.Workarounds)+len(cl.Without) == 0 {
		c.errorf(cl.at, "No effect", "The client block %q has neither workarounds nor without.", cl.Label)
	}
}

// imapClients is nil-safe, as proxies is.
func (b *Backend) imapClients() []imapd.ClientRule {
	if b == nil {
		return nil
	}
	var rules []imapd.ClientRule
	for _, cl := range b.IMAP.Clients {
		rules = append(rules, cl.rule())
	}
	return rules
}
