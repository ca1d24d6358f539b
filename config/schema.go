package config

import (
	"net/netip"
	"time"

	"github.com/postern-mail/postern/mail"
)

// File is the whole configuration as it is written. The tags are its grammar,
// its defaults and, in docs/config.md, its documentation.
type File struct {
	block
	sources []string // every file read, the first one first

	Include  []string      `conf:"include" doc:"Further files, and folders of which every *.hcl file is read in order of name; relative to the file that names them. What they hold is read as if it stood in one file."`
	Hostname string        `conf:"hostname" doc:"Name of this machine in greetings, trace headers and reports. Empty: the system's host name."`
	DataDir  string        `conf:"data_dir" default:"/var/lib/postern" doc:"Folder of the queue and the mailboxes. One process at a time may have it open."`
	Grace    time.Duration `conf:"shutdown_grace" default:"30s" doc:"How long transfers under way may go on after a stop was asked for."`

	Log         *Log         `conf:"log,block" doc:"What is logged."`
	Audit       *Audit       `conf:"audit,block" doc:"Where the audit is kept."`
	Control     *Control     `conf:"control,block" doc:"How commands such as postern queue reach the running server."`
	TLS         *TLS         `conf:"tls,block" doc:"Certificate of the listeners that have none of their own."`
	DNS         *DNS         `conf:"dns,block" doc:"How names are looked up."`
	Directories []*Directory `conf:"directory,block" example:"directory \"ldap\" \"corp\" { ... }" doc:"Where people, aliases and groups are looked up. First label: ldap, ldif or aliases. Second: a name of your choice."`
	Authn       []*Authn     `conf:"authn,block" example:"authn \"ldap\" { directory = directory.corp }" doc:"Verifiers of logins, asked in order. Label: ldap, pam, file or ldif."`
	Gateway     *Gateway     `conf:"gateway,block" doc:"The gateway role: SMTP in, policy, queue, delivery."`
	Backend     *Backend     `conf:"backend,block" doc:"The backend role: LMTP in, mailboxes, IMAP."`
}

// Log says what is logged.
type Log struct {
	block
	Level  string `conf:"level" default:"info" oneof:"trace debug info warn error off" doc:"Least severe level that is written."`
	Format string `conf:"format" default:"text" oneof:"text json" doc:"Shape of a line."`
	File   string `conf:"file" doc:"File to append to; opened again on reload. Empty: standard error."`
}

// Audit says where the audit is kept.
type Audit struct {
	block
	File string        `conf:"file" doc:"File of JSON lines, each chained to the one before; opened again on reload. Empty: audit.log in data_dir."`
	Sync time.Duration `conf:"sync_interval" default:"1s" doc:"Longest time a written line waits for the disk."`
}

// Control says how commands reach the running server.
type Control struct {
	block
	Socket  string `conf:"socket" doc:"Unix socket of the control commands, readable by its owner and group. Empty: control.sock in data_dir."`
	Metrics string `conf:"metrics" doc:"Address such as 127.0.0.1:9125 to serve Prometheus metrics and /healthz on. Empty: not served."`
}

// TLS names a certificate.
type TLS struct {
	block
	CertFile   string `conf:"cert_file" required:"the server's certificate with its chain, PEM" doc:"Certificate with its chain, PEM. Read again on reload."`
	KeyFile    string `conf:"key_file" required:"the certificate's private key, PEM" doc:"Private key, PEM. Read again on reload."`
	MinVersion string `conf:"min_version" default:"1.2" oneof:"1.2 1.3" doc:"Oldest TLS version accepted."`

	Others []*Pair `conf:"certificate,block" example:"certificate { cert_file = \"/etc/postern/rsa.pem\" key_file = \"/etc/postern/rsa.key\" }" doc:"Further certificates: for other names, which clients ask for by SNI, or with another kind of key, such as RSA for those that know no ECDSA. The first that fits what a client says is shown, beginning with cert_file, and cert_file where none does."`
}

// DNS says how names are looked up.
type DNS struct {
	block
	Servers  []string      `conf:"servers" doc:"Recursive name servers, address or address:port. None: those of /etc/resolv.conf."`
	Trust    string        `conf:"trust" default:"loopback" oneof:"loopback all none" doc:"Whose word on DNSSEC (the AD bit) is believed, without which there is no DANE. loopback: servers on this host, and all when resolv.conf says trust-ad. all: every server; the way to them must be safe. none: nobody, as behind a forwarder on this host that does not validate itself and passes on what others say, such as Docker's."`
	Timeout  time.Duration `conf:"timeout" default:"5s" doc:"Longest wait for one server's answer."`
	Attempts int           `conf:"attempts" default:"2" doc:"How often the list of servers is gone through."`
}

// Directory is a source of accounts, aliases and groups.
type Directory struct {
	block
	Kind string `conf:"kind,label"`
	Name string `conf:"name,label"`

	Preset string `conf:"preset" default:"openldap" oneof:"openldap openldap-qmail openldap-postfixbook freeipa ad" doc:"Which attributes mean what; each can be changed below."`
	Base   string `conf:"base" doc:"DN under which everything lies. Required."`

	File       string        `conf:"file" doc:"File of a directory of kind ldif, or of kind aliases in the notation of Postfix's virtual(5) and aliases(5); read again when it changes."`
	AliasFiles []string      `conf:"alias_files" doc:"Files of aliases that are asked before the entries, in order, in the notation of Postfix's virtual(5) and aliases(5); read again when they change."`
	Tables     []*QueryTable `conf:"table,block" example:"table \"virtual\" { query_filter = \"(mail=%s)\" }" doc:"Lookups with the keys of Postfix's ldap_table(5), asked after alias_files and before the entries, in order. An address they know is an alias. Label: a name of your choice."`

	URIs             []string      `conf:"uris" doc:"Servers of a directory of kind ldap, in order of preference: ldaps://, ldap:// or ldapi://."`
	StartTLS         bool          `conf:"starttls" default:"false" doc:"Protect ldap:// connections by STARTTLS."`
	CAFile           string        `conf:"ca_file" doc:"CA certificates to trust, PEM. Empty: the system's."`
	ServerName       string        `conf:"server_name" doc:"Name the server's certificate must hold. Empty: the host of the URI."`
	InsecureNoVerify bool          `conf:"insecure_skip_verify" default:"false" doc:"Do not verify the server's certificate: whoever is in between then reads every password."`
	AllowPlaintext   bool          `conf:"allow_plaintext" default:"false" doc:"Send passwords over ldap:// without TLS to hosts other than this one."`
	BindDN           string        `conf:"bind_dn" doc:"DN of the service account that searches. Empty: anonymous."`
	BindPasswordFile string        `conf:"bind_password_file" doc:"File that holds the service account's password in its first line."`
	IgnoreReferrals  bool          `conf:"ignore_referrals" default:"false" doc:"Take parts of the tree that a server refers elsewhere for as empty. Referrals are not followed; without this an address not found beside one is not unknown but waits (451). Active Directory's own partitions do not count."`
	Timeout          time.Duration `conf:"timeout" default:"5s" doc:"Longest time one operation may take on one server."`
	MaxConns         int           `conf:"max_connections" default:"8" doc:"Connections to each server for searches; as many again verify passwords."`
	CacheTTL         time.Duration `conf:"cache_ttl" default:"60s" doc:"How long a found entry is used again without asking. 0s: always ask."`
	NegativeTTL      time.Duration `conf:"negative_cache_ttl" default:"10s" doc:"How long it is believed without asking that there is no entry."`
	StaleTTL         time.Duration `conf:"stale_ttl" default:"1h" doc:"How long a found entry may still be used while the directory does not answer. 0s: never."`

	UserBase        string   `conf:"user_base" doc:"DN under which people lie; \"{base}\" stands for base. Empty, here and below: the preset's; \"-\": none."`
	UserFilter      string   `conf:"user_filter" doc:"Filter of people, RFC 4515."`
	NameAttr        string   `conf:"name_attribute" doc:"Attribute that names the account and owns its mailboxes."`
	LoginAttrs      []string `conf:"login_attributes" doc:"Attributes of what a person may type as login, beside an address."`
	LoginFilter     string   `conf:"login_filter" doc:"Filter that finds a login instead of the one made from login_attributes."`
	AddressAttrs    []string `conf:"address_attributes" doc:"Attributes of an account's addresses; the first that an entry has gives the primary one. A value @domain makes it the domain's catch-all."`
	ForwardAttrs    []string `conf:"forward_attributes" doc:"Attributes of addresses mail goes to instead of the mailbox."`
	HostAttr        string   `conf:"host_attribute" doc:"Attribute that names the backend of an account; host blocks say which target that is."`
	TransportAttr   string   `conf:"transport_attribute" doc:"Attribute that says where an account's mail goes, before host_attribute: \"NAME\" for target.NAME, or \"NAME:NEXTHOP\" for its settings towards another next hop, such as \"lmtp:unix:/run/lmtp\" or \"lmtp:[mail2.example.com]:24\". Without a target \"lmtp\" that means LMTP without TLS. Mail for a target that does not exist waits."`
	UnknownHost     string   `conf:"unknown_host" default:"" oneof:"defer domain connect" doc:"Where mail for accounts goes whose host_attribute names no host below and no lmtp target by its name, its address or our own hostname. defer: it waits, and the log says why; domain: where their domain goes; connect: to that host, with the settings of the domain's target. Empty: defer where there are host blocks, else host_attribute is not looked at."`
	QuotaAttr       string   `conf:"quota_attribute" doc:"Attribute of the mailbox limit."`
	DisabledFilter  string   `conf:"disabled_filter" doc:"Filter of entries that may not log in."`
	DisabledReceive string   `conf:"disabled_receive" default:"accept" oneof:"accept reject defer" doc:"What becomes of mail to a disabled account."`
	GroupBase       string   `conf:"group_base" doc:"DN under which groups lie."`
	GroupFilter     string   `conf:"group_filter" doc:"Filter of groups and aliases."`
	GroupAddresses  []string `conf:"group_address_attributes" doc:"Attributes of a group's addresses."`
	MemberDNs       []string `conf:"member_dn_attributes" doc:"Attributes that name a group's members by DN."`
	MemberAddresses []string `conf:"member_address_attributes" doc:"Attributes that name a group's members by address."`
	SendAs          []string `conf:"send_as_attributes" doc:"Attributes, of accounts and groups, that name who may send under their addresses."`
	SharedFilter    string   `conf:"shared_filter" doc:"Filter of groups whose members may send under their address."`

	Hosts []*Host `conf:"host,block" example:"host \"mail2.example.com\" { deliver = target.mail2 }" doc:"Where mail for accounts of one backend goes. Label: the value of host_attribute. Accounts without one go where their domain goes; unknown_host is about those with another."`

	Domains       []mail.Domain `conf:"domains" doc:"Domains whose addresses are looked up here. Empty: those of the domains blocks that name this directory."`
	Delimiter     string        `conf:"recipient_delimiter" default:"+" doc:"Characters that separate a plus-address's detail. Empty: none."`
	MaxRecipients int           `conf:"max_expansion" default:"10000" doc:"Recipients one address may expand to."`
	MaxDepth      int           `conf:"max_depth" default:"32" doc:"How deep groups and aliases nest."`
}

// Authn is a verifier of logins.
type Authn struct {
	block
	Kind string `conf:"kind,label"`

	Directory  string `conf:"directory" doc:"ldap, ldif: the directory asked, as directory.NAME. pam, file: the directory that maps the login to its account; optional."`
	DNTemplate string `conf:"dn_template" doc:"ldap: DN to bind as without a search, such as uid={local},ou=people,dc=example,dc=com. {login} is what was typed, {local} and {domain} its parts."`

	Service    string        `conf:"service" default:"postern" doc:"pam: name of the service in /etc/pam.d."`
	ServiceDir string        `conf:"service_dir" doc:"pam: folder of service files other than /etc/pam.d."`
	Socket     string        `conf:"socket" doc:"pam: socket of a pam-helper that runs on its own. Empty: the server starts one."`
	Workers    int           `conf:"workers" default:"8" doc:"pam: verifications at a time."`
	Timeout    time.Duration `conf:"timeout" default:"30s" doc:"pam: longest time one verification may take."`

	Additional bool `conf:"additional" default:"false" doc:"Ask the next verifier when a password is wrong here: these stand beside the others, like passwords for applications. Otherwise a wrong password here is final."`

	File           string `conf:"file" doc:"file: password file of lines login:{SCHEME}hash; read again when it changes."`
	AllowCleartext bool   `conf:"allow_cleartext" default:"false" doc:"file, ldif: accept passwords stored as they are."`
}

// Gateway is the gateway role.
type Gateway struct {
	block
	Listeners []*SMTPListener `conf:"listener,block" example:"listener \"mx\" { bind = [\":25\"] }" doc:"Where SMTP is spoken. Label: a name; mx, submission, submissions and local set the mode too."`
	Domains   []*Domains      `conf:"domains,block" example:"domains \"local\" { names = [\"example.com\"] }" doc:"Domains mail is accepted for. Label: local (our people) or relay (passed on)."`
	Targets   []*Target       `conf:"target,block" example:"target \"lmtp\" \"mail1\" { address = [\"unix:/run/postern/lmtp.sock\"] }" doc:"Where mail is delivered. First label: lmtp or smtp. Second: a name."`
	TLSPolicy []*TLSPolicy    `conf:"tls_policy,block" example:"tls_policy \"example.org\" { tls = \"secure\" }" doc:"TLS towards single next hops, in place of what the smtp target says. Label: the next hop: example.org, .example.org for all domains below it, [host] or [host]:port."`
	Relay     string          `conf:"relay" doc:"Target for every domain that is not ours, as target.NAME. Empty: by the domain's MX."`

	Transports       []*TransportRule `conf:"transport,block" example:"transport \".example.org\" { deliver = target.partner }" doc:"Where mail for single addresses and domains goes, before anything but what the directory says of an account. Label, the first that fits decides, as in Postfix's transport(5): user+detail@example.com, user@example.com, example.com, .example.com for all domains below it, * for everything."`
	TransportFiles   []string         `conf:"transport_files" doc:"Files of such rules in the notation of Postfix's transport(5), key and target:next_hop; target may be error, retry or discard. Read again when they change."`
	Senders          []*SenderRule    `conf:"sender,block" example:"sender \"@example.net\" { deliver = target.isp2 }" doc:"Where mail of single senders goes when its recipients are not ours and have no rule. Label: user+detail@example.com, user@example.com, @example.com, or <> for reports."`
	SenderFiles      []string         `conf:"sender_transport_files" doc:"Files of such rules, key and target:next_hop, as Postfix's sender_dependent_default_transport_maps. Read again when they change."`
	SenderRelayFiles []string         `conf:"sender_relay_files" doc:"Files of keys and next hops, as Postfix's sender_dependent_relayhost_maps; asked when nothing else has a rule for the sender. Mail goes by the target smtp. Read again when they change."`
	Delimiter        string           `conf:"recipient_delimiter" default:"+" doc:"Characters of which the first in a local-part begins its detail, for the labels and keys of transport and sender rules and of logins_file. Those of directories and of rewrite are settings there. Empty: none."`
	ProxyInterfaces  []netip.Prefix   `conf:"proxy_interfaces" doc:"Addresses outside of this machine under which its mx listeners are reached, by a proxy or address translator: MX records that lead there lead to us."`

	Policies   []*Policy   `conf:"policy,block" example:"policy \"recipient\" { permit_mynetworks {} reject_unauth_destination {} }" doc:"What is decided when. Label: client, helo, sender, relay, recipient, data or end_of_data. Steps are Postfix's restrictions. They hold for listeners of mode mx; submission has lists of its own."`
	Queue      *Queue      `conf:"queue,block" doc:"How mail waits."`
	Reports    *Reports    `conf:"reports,block" doc:"What senders and the postmaster are told."`
	Rewrite    *Rewrite    `conf:"rewrite,block" doc:"How addresses are rewritten, and who gets copies. Without it they stay as they are."`
	SRS        *SRS        `conf:"srs,block" doc:"Sender rewriting for mail that is forwarded to other domains. Without it the sender stays."`
	HopLimit   int         `conf:"hopcount_limit" default:"50" doc:"Received fields a message may come with; more is a loop, and refused."`
	TLSReports *TLSReports `conf:"tls_reports,block" doc:"Reports to other domains on the TLS of their mail servers, once a day, where they ask for them (TLSRPT). Without this block none are made."`

	MessageSize Octets `conf:"message_size_limit" default:"50 MiB" doc:"Largest message, where the listener does not say max_message. Postfix's default, 10240000, is less than people send today. queue_minfree is at least one and a half of the largest."`
	HeaderSize  Octets `conf:"header_size_limit" default:"102400" doc:"Largest field of a message's header; the whole header may have four times that. A message beyond is refused (552 5.3.4) where Postfix cuts the field."`
	LineLength  int    `conf:"line_length_limit" default:"2048" doc:"Longest command line, 512 to 12288 octets. Lines of messages may have any length."`

	MyNetworks     []netip.Prefix `conf:"mynetworks" default:"127.0.0.0/8 ::1/128" doc:"Networks whose clients may send anywhere without login. Wrong passwords of many people, as a web mailer brings them, do not shut out such a network."`
	DelayReject    bool           `conf:"delay_reject" default:"true" doc:"Decide client, helo and sender lists at RCPT, so that the log tells the recipient."`
	UnlistedRcpt   bool           `conf:"reject_unlisted_recipient" default:"true" doc:"Refuse recipients in our domains that the directory does not know, after the recipient list."`
	UnlistedSender bool           `conf:"reject_unlisted_sender" default:"false" doc:"Refuse senders in our domains that the directory does not know."`
}

// SMTPListener is where the gateway speaks SMTP.
type SMTPListener struct {
	block
	Name string `conf:"name,label"`

	Bind         []string `conf:"bind" required:"where to listen, such as [\":25\"], or for local [\"unix:/run/postern/submit.sock\"]" doc:"Addresses host:port to listen on. local: sockets, unix:PATH."`
	Mode         string   `conf:"mode" oneof:"mx submission submissions local" doc:"mx: mail from other servers. submission: from our people, STARTTLS. submissions: the same with TLS from the start. local: from users of this machine, as the sendmail command submits it; the kernel tells who they are, and they write as USER@hostname or as the directory lets them. Empty: the listener's name."`
	TLS          *TLS     `conf:"tls,block" doc:"Certificate of this listener."`
	Auth         string   `conf:"auth" oneof:"none optional required" doc:"Whether logins are offered or demanded. Empty: none on mx, required on submission."`
	InsecureAuth bool     `conf:"allow_plaintext_auth" default:"false" doc:"Offer logins without TLS."`

	Priority    int    `conf:"priority" default:"0" doc:"Priority (RFC 6710), from -9 to 9, of messages that ask for none."`
	MaxPriority string `conf:"max_priority" doc:"Highest priority that a message may ask for (MT-PRIORITY, RFC 6710), from -9 to 9, or none: it cannot. submission, submissions, local: for those who are known; mx: for every client. Empty: none on mx, else 4."`

	MaxMessage     Octets        `conf:"max_message" doc:"Largest message. Empty: message_size_limit."`
	MaxRecipients  int           `conf:"max_recipients" default:"1000" doc:"Recipients in one transaction."`
	MaxSessions    int           `conf:"max_sessions" default:"1000" doc:"Sessions at a time."`
	MaxPerClient   int           `conf:"max_sessions_per_client" default:"50" doc:"Sessions at a time from one address; 0 for no limit. Clients in mynetworks are not counted."`
	CommandTimeout time.Duration `conf:"command_timeout" default:"5m" doc:"Longest wait for a command."`
	DataTimeout    time.Duration `conf:"data_timeout" default:"3m" doc:"Longest wait for more of a message."`
	BareNewlines   string        `conf:"bare_newlines" default:"normalize" oneof:"normalize reject" doc:"normalize: a bare newline counts as a line end, but never ends a message. reject: refuse the message."`
	Policies       []*Policy     `conf:"policy,block" example:"policy \"recipient\" { permit_authenticated {} }" doc:"Lists for this listener in the place of the gateway's, or of the defaults for submission."`
	HeloRequired   bool          `conf:"helo_required" default:"true" doc:"Refuse MAIL before HELO or EHLO."`
	LookupNames    bool          `conf:"lookup_client_names" default:"false" doc:"Look up the client's name in the DNS, forth and back, before the greeting."`
	Discard        []string      `conf:"discard_ehlo_keywords" doc:"Extensions that are not offered."`
	SocketMode     string        `conf:"socket_mode" default:"0666" oneof:"0666 0660 0600" doc:"local: who may connect to the socket: every user, or only its owner and group, or its owner."`
	TrustedUsers   []string      `conf:"trusted_users" doc:"local: users who may write under any address, beside root."`
}

// Domains is a set of domains mail is accepted for.
type Domains struct {
	block
	Class string `conf:"class,label"`

	Names      []mail.Domain `conf:"names" required:"the domains, such as [\"example.com\"]" doc:"The domains."`
	Recipients string        `conf:"recipients" doc:"local: the directory that knows who is there, as directory.NAME. relay: optional; empty accepts every address."`
	Deliver    string        `conf:"deliver" doc:"Target the mail goes to, as target.NAME. relay: empty means the domain's MX."`
}

// Target is where mail is delivered.
type Target struct {
	block
	Protocol string `conf:"protocol,label"`
	Name     string `conf:"name,label"`

	Address      []string      `conf:"address" doc:"Where to connect, tried in order: host:port, unix:PATH; smtp also host without port. smtp without any delivers by the MX records of the recipient's domain; the target smtp does so for all mail that goes nowhere else."`
	Fallback     []string      `conf:"fallback" doc:"smtp: relay hosts, written as in address, that are tried when the next hops cannot be found or reached or take no mail now; not for domains whose MX we are."`
	TLS          string        `conf:"tls" oneof:"none may encrypt dane dane-only fingerprint verify secure implicit" doc:"Level, as Postfix's smtp_tls_security_level. none. may: STARTTLS where offered, in the clear where that fails. encrypt: STARTTLS, any certificate. dane: by TLSA records where there are any, else may. dane-only: by TLSA records. fingerprint: a given certificate or key. verify: trusted certificate for the host. secure: trusted certificate for the next hop, whatever the DNS says. implicit: TLS from the start, verified. lmtp knows none, may, encrypt, verify, implicit. Empty: none for lmtp, dane for smtp without address, else may."`
	TLSMatch     []string      `conf:"tls_match" doc:"verify, secure: hostname, nexthop, dot-nexthop, a name, or .example.com; the certificate must have one. Empty: hostname for verify, nexthop and dot-nexthop for secure. fingerprint: SHA-256 digests of certificate or public key."`
	MTASTS       bool          `conf:"mta_sts" default:"true" doc:"smtp by MX: keep to the MTA-STS policies of destinations where tls is may, encrypt or dane."`
	CAFile       string        `conf:"ca_file" doc:"CA certificates to trust, PEM. Empty: the system's."`
	CertFile     string        `conf:"cert_file" doc:"Certificate with its chain to show a server that asks for one, PEM. Read again on reload."`
	KeyFile      string        `conf:"key_file" doc:"Its private key, PEM."`
	ServerName   string        `conf:"server_name" doc:"Name the certificate must hold. Empty: the host."`
	User         string        `conf:"user" doc:"Login at the next hop."`
	PasswordFile string        `conf:"password_file" doc:"File that holds the password in its first line."`
	LoginsFile   string        `conf:"logins_file" doc:"File of logins that depend on the sender, or on the host: lines of a sender (user@example.com, @example.com), host or next hop, and login:password, as Postfix's smtp_sasl_password_maps with smtp_sender_dependent_authentication. They come before user. Hosts found by the MX of a recipient's domain get only what stands there for their own name. Read again when it changes."`
	Mechanisms   []string      `conf:"mechanisms" doc:"SASL mechanisms to log in by, the first one that is offered: SCRAM-SHA-256-PLUS, SCRAM-SHA-256, SCRAM-SHA-1-PLUS, SCRAM-SHA-1, PLAIN, LOGIN. Empty: these in this order, without -PLUS, whose channel binding not every server shares with us. A login that is refused is not tried again for five minutes, then for longer, up to an hour."`
	InsecureAuth bool          `conf:"allow_plaintext_auth" default:"false" doc:"Log in without TLS on hosts other than this one."`
	Convert8Bit  bool          `conf:"convert_8bit" default:"true" doc:"smtp: turn what has eight bits into quoted-printable or base64 for servers that do not offer 8BITMIME; what is signed or encrypted is refused then (5.6.3). false: send it as it is."`
	Chunking     bool          `conf:"chunking" default:"false" doc:"smtp: send content by BDAT where CHUNKING is offered, one round trip fewer. lmtp always does."`
	MaxConns     int           `conf:"max_connections" default:"0" doc:"Connections, and deliveries, at a time. 0: 100 where the first address is a unix socket, else 20."`
	CutThrough   string        `conf:"cut_through" default:"auto" oneof:"auto always never" doc:"Whether mail is brought to the next hop while the client waits, without a stay in the queue. lmtp only. auto: where the next hop drops a repeated delivery, as our backend does; always: to any; never: all mail is queued first."`
	Timeout      time.Duration `conf:"timeout" default:"5m" doc:"Longest wait for one reply."`
	IdleTime     time.Duration `conf:"idle_time" default:"30s" doc:"How long an idle connection is kept."`
}

// TLSPolicy is the TLS towards one next hop.
type TLSPolicy struct {
	block
	NextHop string `conf:"next_hop,label"`

	TLS        string   `conf:"tls" required:"the level, such as secure" oneof:"none may encrypt dane dane-only fingerprint verify secure" doc:"Level, as in a target."`
	Match      []string `conf:"match" doc:"As tls_match in a target."`
	CAFile     string   `conf:"ca_file" doc:"CA certificates to trust, PEM. Empty: the system's."`
	ServerName string   `conf:"server_name" doc:"Name to ask for (SNI) and to expect. Empty: the host."`
}

// Policy is one restriction list.
type Policy struct {
	block
	List  string  `conf:"list,label"`
	Steps ordered `conf:",ordered"`
}

// Queue says how mail waits.
type Queue struct {
	block
	MinimalBackoff time.Duration `conf:"minimal_backoff" default:"300s" doc:"Shortest wait before another attempt."`
	MaximalBackoff time.Duration `conf:"maximal_backoff" default:"4000s" doc:"Longest wait before another attempt."`
	Lifetime       time.Duration `conf:"maximal_queue_lifetime" default:"5d" doc:"When delivery is given up and the sender is told. 0s: after one attempt."`
	BounceLifetime time.Duration `conf:"bounce_queue_lifetime" default:"5d" doc:"The same for reports."`
	DelayWarning   time.Duration `conf:"delay_warning_time" default:"0s" doc:"When the sender is told of a delay. 0s: never."`
	MinFree        Octets        `conf:"queue_minfree" default:"100 MiB" doc:"Free space below which mail is put off with 452; at least one and a half of the largest message, as in Postfix."`
	MaxMessages    int           `conf:"max_queue_messages" default:"0" doc:"Messages in the queue from which on mail is put off with 452 that its next hop does not take at once; reports are always taken. 0: any number, as room on the disk is bounded anyway."`
	FlowDelay      time.Duration `conf:"in_flow_delay" default:"1s" doc:"How long the answer to a queued message waits while mail comes in faster than it goes out: when memory has no room for all that could be tried, or four fifths of max_queue_messages are queued. Not for clients in mynetworks and users of this machine. 0s: not at all."`
	Workers        int           `conf:"workers" default:"64" doc:"Deliveries at a time."`
	PerDestination int           `conf:"destination_concurrency" default:"20" doc:"Deliveries at a time to one destination."`
}

// Backend is the backend role.
type Backend struct {
	block
	Directory string             `conf:"directory" doc:"The directory that knows whose account an address is, as directory.NAME. Empty: the first one."`
	Listeners []*BackendListener `conf:"listener,block" example:"listener \"imap\" { bind = [\":143\"] }" doc:"Where the backend listens. Label: lmtp, imap or imaps."`
	Mailboxes []*MailboxRole     `conf:"mailbox,block" example:"mailbox \"Trash\" { special_use = \"trash\" }" doc:"Mailboxes every account has, and is subscribed to, from the start. None: Drafts, Sent, Junk, Trash."`
	MinFree   Octets             `conf:"minfree" default:"100 MiB" doc:"Free space below which mail is put off."`
	Detail    bool               `conf:"detail_mailboxes" default:"false" doc:"Deliver user+Detail into the mailbox Detail where it exists."`
}

// BackendListener is where the backend listens.
type BackendListener struct {
	block
	Kind string `conf:"kind,label"`

	Bind         []string      `conf:"bind" required:"where to listen, such as [\":143\"] or [\"unix:/run/postern/lmtp.sock\"]" doc:"Addresses host:port or unix:PATH to listen on."`
	TLS          *TLS          `conf:"tls,block" doc:"Certificate of this listener."`
	InsecureAuth bool          `conf:"allow_plaintext_auth" default:"false" doc:"imap: offer logins without TLS."`
	MaxMessage   Octets        `conf:"max_message" default:"64 MiB" doc:"Largest message."`
	MaxSessions  int           `conf:"max_sessions" default:"10000" doc:"Sessions at a time."`
	MaxPerClient int           `conf:"max_sessions_per_client" default:"100" doc:"imap: sessions at a time from one address; 0 for no limit, such as where a webmail server is the client."`
	MaxPerLogin  int           `conf:"max_sessions_per_login" default:"100" doc:"imap: sessions at a time of one account; 0 for no limit."`
	IdleTimeout  time.Duration `conf:"idle_timeout" default:"30m" doc:"imap: longest silence of a logged-in client."`
}

// MailboxRole is a mailbox every account has.
type MailboxRole struct {
	block
	Name       string `conf:"name,label"`
	SpecialUse string `conf:"special_use" oneof:"drafts sent junk trash archive none" default:"none" doc:"Its role (RFC 6154)."`
}
