package config

import (
	"cmp"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/audit"
	authnfile "github.com/postern-mail/postern/authn/file"
	authnldap "github.com/postern-mail/postern/authn/ldap"
	"github.com/postern-mail/postern/backend/imapd"
	"github.com/postern-mail/postern/backend/lmtpd"
	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldif"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/logs"
	"github.com/postern-mail/postern/internal/unixsock"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/queue"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/smtpd"
)

// Room returns the logger's configuration.
func (l *Log) Room() logs.Config { return logs.Config{Level: l.Level, Format: logs.Format(l.Format)} }

// Room returns the audit's configuration.
func (a *Audit) Room() audit.Config { return audit.Config{File: a.File, SyncInterval: a.Sync} }

// Room returns the control socket's configuration.
func (c *Control) Room() admin.Config { return admin.Config{Socket: c.Socket, Listen: c.Metrics} }

// Room returns what the directory's entries mean. domains are those of the
// domains blocks that name it, used when it lists none itself.
func (d *Directory) Room(domains []mail.Domain) directory.Config {
	if len(d.Domains) > 0 {
		domains = d.Domains
	}
	return directory.Config{
		Name:   d.Name,
		Preset: d.shape(),
		BaseDN: directory.DN(d.BaseDN()),
		Mapping: d.further(directory.Mapping{
			UserBase: directory.DN(d.UserBase), UserFilter: d.UserFilter, NameAttribute: d.NameAttr,
			LoginAttributes: d.LoginAttrs, LoginFilter: d.LoginFilter, AddressAttributes: d.AddressAttrs,
			LocalPartAttributes: d.LocalPartAttrs, ForwardAttributes: d.ForwardAttrs, HostAttribute: d.HostAttr, TransportAttribute: d.TransportAttr, QuotaAttribute: d.QuotaAttr,
			DisabledFilter: d.DisabledFilter, GroupBase: directory.DN(d.GroupBase), GroupFilter: d.GroupFilter,
			GroupAddressAttributes: d.GroupAddresses, MemberDNAttributes: d.MemberDNs,
			MemberAddressAttributes: d.MemberAddresses, SendAsAttributes: d.SendAs, SharedFilter: d.SharedFilter, CredentialAttributes: d.CredentialAttrs,
			MembersOnlyFilter: d.MembersOnly, LoginOnlyFilter: d.LoginOnly, PosterAttributes: d.Posters,
			DeniedPosterAttributes: d.DeniedPosters, PosterDomainAttributes: d.PosterDomains,
			RelayFilter: d.RelayFilter, PolicyAttributes: d.PolicyAttrs, ModeratorAttributes: d.Moderators, ModeratedFilter: d.Moderated,
		}),
		Domains:            domains,
		RecipientDelimiter: cmp.Or(d.Delimiter, "off"),
		DisabledReceive:    d.DisabledReceive,
		MaxDepth:           d.MaxDepth,
		MaxRecipients:      d.MaxRecipients,
		Cache: directory.CacheConfig{
			Disabled: d.CacheTTL == 0, PositiveTTL: d.CacheTTL, NegativeTTL: d.NegativeTTL, StaleTTL: orNever(d.StaleTTL),
		},
	}
}

// orNever turns a written zero into the rooms' notation of "never".
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// LDIF returns the file of a directory of kind ldif.
func (d *Directory) LDIF() ldif.Config { return ldif.Config{File: d.File} }

// LDAP returns the configuration of a verifier of kind ldap, for addresses in
// domains.
func (a *Authn) LDAP(domains []mail.Domain) authnldap.Config {
	return authnldap.Config{DNTemplate: a.DNTemplate, Domains: domains}
}

// PasswordFile returns the configuration of a verifier of kind file.
func (a *Authn) PasswordFile() authnfile.Config { return authnfile.Config{Path: a.File} }

// Room returns a listener's dialect and limits, without certificate. Names of
// clients are looked up by resolver.
func (l *SMTPListener) Room(f *File, resolver smtpd.Resolver) smtp.ServerConfig {
	c := smtp.ServerConfig{
		Name: l.Name, Mode: smtp.ModeMX, Hostname: f.Hostname,
		ImplicitTLS: l.Mode == ModeSubmissions, AllowInsecureAuth: l.SASL.withoutTLS(l.InsecureAuth),
		HeloRequired: l.HeloRequired, DiscardEHLO: l.Discard,
		MaxMessageOctets: int64(l.MaxMessage), MaxRecipients: l.MaxRecipients, MaxLineOctets: f.Gateway.LineLength,
		MaxSessions: l.MaxSessions, MaxSessionsPerClient: orNoLimit(l.MaxPerClient),
		CommandTimeout: l.CommandTimeout, BlockTimeout: l.DataTimeout, Grace: f.Grace, RequireTLS: l.RequireTLS,
		LooseEnvelopes: !l.strictPaths(f.Gateway),
		SoftBounce:     l.softBounce(f.Gateway), RejectFooter: l.footer(f.Gateway),
		XClientHosts: l.XClientHosts, XForwardHosts: l.XForwardHosts,
	}
	f.Gateway.limitsOf(l).apply(&c, l.networks(f.Gateway))
	l.Pregreet.apply(&c)
	if l.Mode != ModeMX {
		c.Mode = smtp.ModeSubmission
	}
	if l.LookupNames || f.Gateway.asksNames(l) {
		c.LookupHostname = smtpd.ClientNames(resolver)
	}
	if l.Mode == ModeLocal {
		c.PeerIdentity = localUser
	}
	c.Priorities, c.MaxPriority = l.priorities()
	if r := f.Gateway.Rewrite; r != nil {
		c.Origin = r.originFor(f)
	}
	if l.BareNewlines == "reject" {
		c.BareNewline = smtp.BareNewlineReject
	}
	return c
}

// localUser knows a user of this machine by what the kernel says of the
// connection. One without a name is called by number; the colon keeps that
// from being anybody's login.
func localUser(conn net.Conn) *mail.Identity {
	uid, err := unixsock.Peer(conn)
	if err != nil {
		return nil
	}
	name := cmp.Or(unixsock.UserName(uid), "uid:"+strconv.FormatUint(uint64(uid), 10))
	if uid == 0 {
		name = rootUser
	}
	return &mail.Identity{Authentication: name, Authorization: name, Mechanism: "SO_PEERCRED", Verifier: "kernel"}
}

const rootUser = "root"

// Trusts reports whether a user may write under any address on the listener.
func (l *SMTPListener) Trusts(user string) bool {
	return user == rootUser || slices.Contains(l.TrustedUsers, user)
}

// Lists returns the restriction lists of a listener: those of its mode, with
// what was written in their place.
func (g *Gateway) Lists(l *SMTPListener) map[policy.List][]policy.Spec {
	lists := policy.DefaultSubmission()
	switch l.Mode {
	case ModeMX:
		lists = policy.DefaultMX()
		overlay(lists, g.Policies)
	case ModeLocal:
		lists = policy.DefaultLocal()
	}
	overlay(lists, l.Policies)
	l.leaveOut(lists)
	return lists
}

func overlay(lists map[policy.List][]policy.Spec, policies []*Policy) {
	for _, p := range policies {
		lists[policy.List(p.List)] = p.Steps.specs()
	}
}

// SocketPermissions returns who may connect to the listener's sockets.
func (l *SMTPListener) SocketPermissions() fs.FileMode { return permissions(l.SocketMode) }

func permissions(octal string) fs.FileMode {
	mode, err := strconv.ParseUint(octal, 8, 9)
	if err != nil {
		panic(err) // the grammar lists the values
	}
	return fs.FileMode(mode)
}

// Submission reports whether a listener is for our own people.
func (l *SMTPListener) Submission() bool { return l.Mode != ModeMX }

// Policy returns what holds for the chain as a whole.
func (f *File) Policy() policy.Config {
	g := f.Gateway
	return policy.Config{
		EarlyReject: !g.DelayReject, AcceptUnlisted: !g.UnlistedRcpt, RejectUnlistedSender: g.UnlistedSender,
		RecipientBeforeRelay: !g.RelayFirst, ShowUnknownTable: g.ShowUnknown,
		Hostname: f.Hostname, Networks: g.MyNetworks, TableDir: f.TableDir(), Classes: g.classes(), ContentTimeout: g.Content.Timeout, Steps: f.policySteps(),
	}
}

// Delivery returns where mail goes.
func (f *File) Delivery() delivery.Config {
	c := delivery.Config{TableDir: f.TableDir(),
		Hostname: f.Hostname, Domains: make(map[mail.Domain]string), Relayhost: f.Gateway.Relay,
		Recipients: f.Gateway.recipientRules(), Senders: f.Gateway.senderRules(),
		RecipientDelimiter: cmp.Or(f.Gateway.Delimiter, "off"), SoftBounce: f.Gateway.SoftBounce,
	}
	c.Hosts, c.UnknownHost = f.waitingHosts()
	us := f.Gateway.Ourselves()
	for _, t := range f.Gateway.Targets {
		room := t.Room()
		room.RecipientDelimiter = c.RecipientDelimiter
		if room.Protocol == delivery.SMTP {
			room.Policies, room.Ourselves = f.Gateway.tlsPolicies(), us
		}
		c.Targets = append(c.Targets, room)
	}
	if !slices.ContainsFunc(c.Targets, func(t delivery.Target) bool { return t.Name == delivery.Outbound }) {
		c.Targets = append(c.Targets, delivery.Target{Name: delivery.Outbound, Protocol: delivery.SMTP, Policies: f.Gateway.tlsPolicies(), Ourselves: us})
	}
	if f.localTarget() {
		c.Targets = append(c.Targets, delivery.Target{Name: delivery.Local, Protocol: delivery.LMTP, TLS: tlspolicy.None})
	}
	for _, d := range f.Gateway.Domains {
		if d.Deliver == "" {
			continue
		}
		for _, name := range d.Names {
			c.Domains[name] = d.Deliver
		}
	}
	return c
}

// Room returns a target as delivery knows it.
func (t *Target) Room() delivery.Target {
	r := delivery.Target{
		Name: t.Name, Protocol: delivery.Protocol(t.Protocol), Addresses: t.Address, Fallback: t.Fallback, TLS: tlspolicy.Level(t.TLS),
		CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile, ServerName: t.ServerName, Login: t.User, PasswordFile: t.PasswordFile,
		LoginsFile: t.LoginsFile, Mechanisms: t.Mechanisms, PlaintextAuth: t.InsecureAuth, KeepEightBit: !t.Convert8Bit, Chunking: t.Chunking,
		MaxConnections: t.MaxConns, IdleTime: t.IdleTime, CutThrough: delivery.CutThrough(t.CutThrough),
		Timeouts: smtp.ClientTimeouts{Greeting: t.Timeout, Command: t.Timeout, DataInit: t.Timeout, DataBlock: t.Timeout, DataDone: 2 * t.Timeout},
	}
	switch {
	case t.TLS == "implicit":
		r.TLS, r.ImplicitTLS = tlspolicy.Verify, true
	case t.TLS == "" && r.Protocol == delivery.LMTP:
		r.TLS = tlspolicy.None
	}
	r.TLSMatch, r.IgnoreMTASTS = t.TLSMatch, !t.MTASTS
	if len(t.Address) == 0 && !t.wrote("idle_time") {
		r.IdleTime = 0 // connections to the world are kept for less long
	}
	return r
}

func (g *Gateway) tlsPolicies() map[string]tlspolicy.Rule {
	rules := make(map[string]tlspolicy.Rule)
	for _, p := range g.TLSPolicy {
		rules[p.NextHop] = p.Room()
	}
	return rules
}

// Room returns a rule as tlspolicy knows it.
func (p *TLSPolicy) Room() tlspolicy.Rule {
	return tlspolicy.Rule{Level: tlspolicy.Level(p.TLS), Match: p.Match, CAFile: p.CAFile, ServerName: p.ServerName}
}

// Room returns how names are looked up.
func (d *DNS) Room() dns.Config {
	return dns.Config{Servers: d.Servers, Trust: dns.Trust(d.Trust), Timeout: d.Timeout, Attempts: d.Attempts}
}

var specialUses = map[string]imap.MailboxAttr{
	"none": "", "drafts": imap.MailboxAttrDrafts, "sent": imap.MailboxAttrSent, "junk": imap.MailboxAttrJunk,
	"trash": imap.MailboxAttrTrash, "archive": imap.MailboxAttrArchive,
	"important": imap.MailboxAttrImportant,
}

// homeClasses are the values of home in a replica block; nil spreads accounts.
var homeClasses = map[string]*uint8{"hash": nil, "node0": new(uint8(0)), "node1": new(uint8(1))}

// Room returns what holds for all mailboxes.
func (b *Backend) Room() mailstore.Config {
	c := mailstore.Config{Node: uint16(b.Node), SearchIndex: b.Index.Room()}
	if b.Replica != nil {
		c.Pair, c.JournalRetention, c.Home = true, b.Replica.Retention, homeClasses[b.Replica.Home]
	}
	for _, m := range b.Mailboxes {
		c.Mailboxes = append(c.Mailboxes, m.room())
	}
	b.Limits.set(&c)
	return c
}

// MinFree is the free space, in octets, that the store of a role keeps.
func (f *File) MinFree(role string) int64 {
	if role == "queue" {
		return f.queueMinFree()
	}
	if f.Backend == nil || role == "mirror" || role == "authn" || role == "policy" {
		return 0
	}
	return int64(f.Backend.MinFree)
}

// Queue returns how mail waits.
func (f *File) Queue() queue.Config {
	q := f.Gateway.Queue
	return queue.Config{
		MinimalBackoff: q.MinimalBackoff, MaximalBackoff: q.MaximalBackoff, Lifetime: orNever(q.Lifetime), BounceLifetime: orNever(q.BounceLifetime),
		DelayWarning: q.DelayWarning, Workers: q.Workers, MaximalConcurrency: q.PerDestination, Grace: f.Grace,
		MaxMessages: int64(q.MaxMessages),
	}
}

// SMTPListener returns the gateway's listener of that name, or nil.
func (f *File) SMTPListener(name string) *SMTPListener {
	for _, l := range f.Gateway.Listeners {
		if l.Name == name {
			return l
		}
	}
	return nil
}

// Sessions returns what a listener does with its sessions.
func (l *SMTPListener) Sessions(f *File) smtpd.Config {
	return smtpd.Config{
		Hostname: mail.Domain(f.Hostname), Service: l.Name, RequireAuth: l.Auth == "required",
		Priority: int8(l.Priority), CompleteHeader: l.Submission(), TraceLogin: l.TraceLogin || l.Mode == ModeLocal, Postmaster: f.Postmaster(),
		MaxHops:        f.Gateway.HopLimit,
		KeepAddresses:  l.leavesOut(noAddressMappings),
		MaxHeaderField: int(f.Gateway.HeaderSize), FlowDelay: f.Gateway.Queue.FlowDelay, FlowExempt: l.networks(f.Gateway),
		IPv4Bits: f.Gateway.limitsOf(l).IPv4Bits, IPv6Bits: f.Gateway.limitsOf(l).IPv6Bits,
	}
}

// Postmaster gets what is written to "postmaster" without a domain: that of
// the first local domain. Null where there is none.
func (f *File) Postmaster() mail.Address {
	for _, d := range f.Gateway.Domains {
		if d.Class == "local" && len(d.Names) > 0 {
			return mail.Address{Local: mail.Postmaster, Domain: d.Names[0]}
		}
	}
	return mail.Address{}
}

// LMTP returns the dialect and limits of a listener of kind lmtp.
func (l *BackendListener) LMTP(f *File) smtp.ServerConfig {
	return smtp.ServerConfig{
		Name: l.Kind, Mode: smtp.ModeLMTP, Hostname: f.Hostname, MaxMessageOctets: int64(l.MaxMessage),
		MaxSessions: l.MaxSessions, MaxSessionsPerClient: -1, Grace: f.Grace,
	}
}

// IMAP returns the dialect and limits of a listener of kind imap or imaps.
func (l *BackendListener) IMAP(f *File) imapd.Config {
	return imapd.Config{
		Terms: l.terms(f, l.IdleTimeout), AppendLimitOctets: int64(l.MaxMessage),
		Separator: f.Backend.separator(), Sharing: f.Backend.sharing(), Virtual: f.Backend.virtual(), Messages: f.Backend.messageLimits(), Clients: f.Backend.imapClients(),
	}
}

// terms returns what a listener of any protocol that people log in by is told.
func (l *BackendListener) terms(f *File, idle time.Duration) sessions.Terms {
	return sessions.Terms{
		Listener: l.Kind, Hostname: f.Hostname, ImplicitTLS: l.implicitTLS(), AllowInsecureAuth: l.SASL.withoutTLS(l.InsecureAuth),
		MaxSessions: l.MaxSessions, MaxSessionsPerClient: orNoLimit(l.MaxPerClient), MaxSessionsPerAccount: orNoLimit(l.MaxPerLogin),
		IdleTimeout: idle, Grace: f.Grace, Proxies: f.Backend.proxies(),
	}
}

func (l *BackendListener) implicitTLS() bool { return l.Kind == KindIMAPS || l.Kind == KindPOP3S }

// proxies returns where the proxies in front are.
func (b *Backend) proxies() []netip.Prefix {
	if b == nil || b.Proxy == nil {
		return nil
	}
	return b.Proxy.Networks
}

// orNoLimit turns the 0 of the configuration into what rooms call no bound.
func orNoLimit(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// Addresses lists every listener with its addresses.
func (f *File) Addresses() []string {
	var all []string
	if f.Gateway != nil {
		for _, l := range f.Gateway.Listeners {
			all = append(all, strings.Join(append([]string{l.Name, l.Mode, l.SocketMode}, l.Bind...), " "))
		}
		for _, p := range f.Gateway.PolicyServers {
			all = append(all, strings.Join(append([]string{"policy_server", p.Name, p.SocketMode}, p.Bind...), " "))
		}
	}
	if f.Backend != nil {
		for _, l := range f.Backend.Listeners {
			all = append(all, l.Kind+" "+strings.Join(l.Bind, " "))
		}
	}
	if f.Proxy != nil {
		for _, l := range f.Proxy.Listeners {
			all = append(all, "proxy "+l.Kind+" "+strings.Join(l.Bind, " "))
		}
	}
	for _, l := range f.AuthServers {
		all = append(all, strings.Join(append([]string{"auth_server", l.Name, l.SocketMode}, l.Bind...), " "))
	}
	return all
}

// Deliveries returns how the backend takes mail in.
func (f *File) Deliveries() lmtpd.Config {
	return lmtpd.Config{Hostname: f.Hostname, DetailMailboxes: f.Backend.Detail, DetailNeedsPost: f.Backend.Post, Access: f.Backend.publicAccess()}
}
