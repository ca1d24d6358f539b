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

	Log         *Log           `conf:"log,block" doc:"What is logged."`
	Audit       *Audit         `conf:"audit,block" doc:"Where the audit is kept."`
	Control     *Control       `conf:"control,block" doc:"How commands such as postern queue reach the running server."`
	TLS         *TLS           `conf:"tls,block" doc:"Certificate of the listeners that have none of their own."`
	DNS         *DNS           `conf:"dns,block" doc:"How names are looked up."`
	Directories []*Directory   `conf:"directory,block" example:"directory \"ldap\" \"corp\" { ... }" doc:"Where people, aliases and groups are looked up. First label: ldap, ldif, sql, nss (the users of this machine) or aliases. Second: a name of your choice."`
	Databases   []*Database    `conf:"database,block" example:"database \"postgresql\" \"main\" { ... }" doc:"Databases that tables, directories and verifiers ask. First label: mysql (and MariaDB), postgresql or sqlite. Second: a name of your choice."`
	Authn       []*Authn       `conf:"authn,block" example:"authn \"ldap\" { directory = directory.corp }" doc:"Verifiers of logins, asked in order. Label: ldap, pam, gssapi, file, ldif, sql, dovecot, saslauthd, certificate or oauth; app-passwords, master or recovery, which are asked before them."`
	AuthServers []*AuthServer  `conf:"auth_server,block" example:"auth_server \"postfix\" { bind = [\"unix:/var/spool/postfix/postern/auth\"] }" doc:"Where programs such as Postfix ask about the logins of their own clients, in Dovecot's authentication protocol; docs/auth-server.md. Label: a name."`
	Lockout     *Lockout       `conf:"lockout,block" doc:"Who waits after wrong passwords, so that guessing is slow and the directory locks nobody; docs/authentication.md."`
	Cache       *VerifierCache `conf:"verifier_cache,block" doc:"How long verifiers need not be asked again, where an authn block sets verifier_cache."`
	Gateway     *Gateway       `conf:"gateway,block" doc:"The gateway role: SMTP in, policy, queue, delivery."`
	Proxy       *Proxy         `conf:"proxy,block" doc:"The proxy role: one name for mail programs, in front of several servers."`
	Backend     *Backend       `conf:"backend,block" doc:"The backend role: LMTP in, mailboxes, IMAP and POP3."`
	Mirrors     []*Mirror      `conf:"mirror,block" example:"mirror \"migration\" { left { ... } right { ... } }" doc:"The mirror role: two IMAP servers that are kept in step, of which neither need be ours; docs/mirror.md. Label: a name."`
}

// Log says what is logged.
type Log struct {
	block
	Level  string `conf:"level" default:"info" oneof:"trace debug info warn error off" doc:"Least severe level that is written."`
	Format string `conf:"format" default:"text" oneof:"text json" doc:"Shape of a line."`
	File   string `conf:"file" doc:"File to append to; opened again on reload. Empty: standard error."`

	PostfixFile string `conf:"postfix_file" doc:"File for what Postfix would log of SMTP and of deliveries, in its words, for programs that read its log, such as fail2ban and pflogsumm; opened again on reload. Empty: none. A change takes a restart. docs/operations.md."`
}

// Audit says where the audit is kept.
type Audit struct {
	block
	File string        `conf:"file" doc:"File of JSON lines, each chained to the one before; opened again on reload. Empty: audit.log in data_dir."`
	Sync time.Duration `conf:"sync_interval" default:"1s" doc:"Longest time a written line waits for the disk."`

	PolicySteps string `conf:"policy_steps" default:"decisive" oneof:"decisive all off" doc:"Which restrictions the audit of a message or a refused command names, each with what it looked at, its verdict and its cost: those that had something to say, all that were asked, or none."`
}

// Control says how commands reach the running server.
type Control struct {
	block
	Socket     string `conf:"socket" doc:"Unix socket of the control commands, readable by its owner and group. Empty: control.sock in data_dir."`
	HealthFile string `conf:"health_file" doc:"File for load balancers that read one: ready, catching-up, isolated or draining, as /pair says. It is gone while the server does not run. Empty: none."`
	Metrics    string `conf:"metrics" doc:"Address such as 127.0.0.1:9125 to serve Prometheus metrics and /healthz on. Empty: not served."`
}

// TLS names a certificate.
type TLS struct {
	block
	CertFile   string `conf:"cert_file" required:"the server's certificate with its chain, PEM" doc:"Certificate with its chain, PEM. Read again on reload."`
	KeyFile    string `conf:"key_file" required:"the certificate's private key, PEM" doc:"Private key, PEM. Read again on reload."`
	MinVersion string `conf:"min_version" default:"1.2" oneof:"1.2 1.3" doc:"Oldest TLS version accepted."`

	ClientAuth   string `conf:"client_auth" default:"none" oneof:"none request require" doc:"Whether clients are asked for a certificate. request: who shows none, or one that cannot be verified, goes on without. require: only who shows one of client_ca_file may connect; not for listeners that other mail servers use."`
	ClientCAFile string `conf:"client_ca_file" doc:"CA certificates that verify clients', PEM. Read again on reload. Empty: no client's certificate is verified, and only its fingerprint can count."`

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

	Preset string `conf:"preset" default:"openldap" oneof:"openldap freeipa ad 389ds qmail postfix-book openldap-qmail openldap-postfixbook" doc:"Which attributes mean what; each can be changed below. openldap-qmail and openldap-postfixbook are other names of qmail and postfix-book."`
	Base   string `conf:"base" doc:"DN under which everything lies. Empty: the dc= parts at the end of bind_dn, or else those of the domain in the first of uris that names one, such as dc=example,dc=com for srv:example.com."`

	File         string   `conf:"file" doc:"File of a directory of kind ldif, or of kind aliases in the notation of Postfix's virtual(5) and aliases(5); read again when it changes."`
	AliasFiles   []string `conf:"alias_files" doc:"Tables of aliases that are asked before the entries, in order: a file in the notation of Postfix's virtual(5) and aliases(5), or KIND:FILE; docs/tables.md. Read again when they change."`
	Database     string   `conf:"database" doc:"sql: the database, as database.NAME."`
	UserQuery    string   `conf:"user_query" doc:"sql: query, as Dovecot's, for the account of a login; its columns are uid (user, username), mail, forward, quota, host, transport, disabled, active. %u is the login, %n and %d its parts; they are bound as parameters."`
	AddressQuery string   `conf:"address_query" doc:"sql: query for the account that has the address %u. Empty: user_query."`
	AliasQuery   string   `conf:"alias_query" doc:"sql: query for what the address %u stands for that is no account's: each column of each row holds addresses. Empty: there are none."`
	IterateQuery string   `conf:"iterate_query" doc:"sql: query for all accounts, with columns as in user_query. Optional."`

	AliasIncludeDir string        `conf:"alias_include_dir" doc:"Folder, as an absolute path, below which :include:FILE in aliases may read files. Empty: includes are a mistake."`
	Tables          []*QueryTable `conf:"table,block" example:"table \"virtual\" { query_filter = \"(mail=%s)\" }" doc:"Lookups with the keys of Postfix's ldap_table(5), asked after alias_files and before the entries, in order. An address they know is an alias. Label: a name of your choice."`

	Socket       string   `conf:"socket" doc:"nss: socket of an auth-helper that runs on its own. Empty: the server starts one, which suffices."`
	Sources      []string `conf:"sources" doc:"nss: sources of the name service switch to ask, in order, such as [\"files\", \"sss\"]; where the server starts the helper. Empty: those of /etc/nsswitch.conf."`
	FirstUID     int      `conf:"first_valid_uid" default:"1000" doc:"nss: lowest number of a user with mail."`
	LastUID      int      `conf:"last_valid_uid" default:"0" doc:"nss: highest one. 0: no limit, but 65534, nobody, is never one."`
	FirstGID     int      `conf:"first_valid_gid" default:"1" doc:"nss: lowest number of a user's first group, and of a group that is an address."`
	LastGID      int      `conf:"last_valid_gid" default:"0" doc:"nss: highest one. 0: no limit."`
	SystemGroups bool     `conf:"groups" default:"false" doc:"nss: groups are addresses, too, but for those with a user's name; mail for one goes to those listed in it."`
	HomeTemplate string   `conf:"home_template" default:"%h" doc:"nss: attribute homeDirectory of a user. %u and %n: the name, %d: the first domain, %h: the home that the system knows, %%: %. Mailboxes lie in data_dir whatever it says."`

	URIs             []string      `conf:"uris" doc:"Servers of a directory of kind ldap, in order of preference: ldaps://, ldap:// or ldapi://. srv:example.com, ldap:///dc=example,dc=com and ldaps:///dc=example,dc=com stand for the servers that the DNS names for the domain."`
	Site             string        `conf:"site" doc:"Site of Active Directory whose servers come first of those that the DNS names."`
	Hedge            string        `conf:"hedge" default:"auto" doc:"After which time without an answer a search goes to the next server too, the first answer counting: a time such as 200ms, auto for the time within which 99 of 100 recent answers came, or off. At most every 20th search is sent twice; logins never are."`
	StartTLS         bool          `conf:"starttls" default:"false" doc:"Protect ldap:// connections by STARTTLS."`
	CAFile           string        `conf:"ca_file" doc:"CA certificates to trust, PEM. Empty: the system's."`
	ServerName       string        `conf:"server_name" doc:"Name the server's certificate must hold. Empty: the host of the URI."`
	InsecureNoVerify bool          `conf:"insecure_skip_verify" default:"false" doc:"Do not verify the server's certificate: whoever is in between then reads every password."`
	AllowPlaintext   bool          `conf:"allow_plaintext" default:"false" doc:"Send passwords over ldap:// without TLS to hosts other than this one."`
	BindDN           string        `conf:"bind_dn" doc:"DN of the service account that searches. Empty: anonymous."`
	BindPasswordFile string        `conf:"bind_password_file" doc:"File that holds the service account's password in its first line."`
	IgnoreReferrals  bool          `conf:"ignore_referrals" default:"false" doc:"Take parts of the tree that a server refers elsewhere for as empty. Without this an address not found beside one is not unknown but waits (451). Active Directory's own partitions do not count."`
	ChaseReferrals   []string      `conf:"chase_referrals" doc:"Servers to which referrals are followed, in the notation of uris, with the same login. Referrals to others are never followed."`
	Dereference      string        `conf:"dereference" default:"never" oneof:"never searching finding always" doc:"When alias entries of the directory are followed: below the base of a search, for the base itself, or both."`
	SASLExternal     bool          `conf:"sasl_external" default:"false" doc:"Log in by the client certificate, or over ldapi by the user the server runs as, instead of bind_dn."`
	KerberosKeytab   string        `conf:"kerberos_keytab" doc:"Keytab by whose key the service account logs in with SASL GSSAPI, instead of bind_dn. Tickets are for the host in the URI, or server_name."`
	Principal        string        `conf:"kerberos_principal" doc:"Whose key it holds, such as postern/mx.example.com or postern@EXAMPLE.COM."`
	KerberosConfig   string        `conf:"kerberos_config" doc:"krb5.conf with realms and KDCs. Empty: /etc/krb5.conf, and without one the SRV records of the principal's realm. Its include directives are not followed."`
	CertFile         string        `conf:"cert_file" doc:"Certificate shown to the directory's servers, PEM."`
	KeyFile          string        `conf:"key_file" doc:"Its key."`
	Timeout          time.Duration `conf:"timeout" default:"5s" doc:"Longest time one operation may take on one server."`
	MaxConns         int           `conf:"max_connections" default:"8" doc:"Connections to each server for searches; as many again verify passwords."`
	CacheTTL         time.Duration `conf:"cache_ttl" default:"60s" doc:"How long a found entry is used again without asking. 0s: always ask."`
	NegativeTTL      time.Duration `conf:"negative_cache_ttl" default:"10s" doc:"How long it is believed without asking that there is no entry."`
	StaleTTL         time.Duration `conf:"stale_ttl" default:"1h" doc:"How long a found entry may still be used while the directory does not answer. 0s: never."`

	Replica           string        `conf:"replica" default:"auto" oneof:"auto off on" doc:"ldap: keep a live copy of the directory, so that mail does not depend on its servers. auto: where they offer content synchronization (RFC 4533) or DirSync to the service account. on: else everything is read every replica_refresh. off: they are asked each time. docs/directory-replica.md."`
	ReplicaMode       string        `conf:"replica_mode" default:"auto" oneof:"auto sync dirsync poll" doc:"How the copy follows the servers: sync is RFC 4533, dirsync Active Directory's, poll reads everything every replica_refresh. auto: the best that is offered."`
	ReplicaMaxAge     time.Duration `conf:"replica_max_age" default:"60s" doc:"Up to this age the copy alone says who does not exist. After it the servers are asked too, where they answer."`
	ReplicaMaxStale   time.Duration `conf:"replica_max_stale_reject" default:"15m" doc:"Up to this age it is believed without the servers too. After it mail for who is not in the copy waits (451) while they do not answer; who is in it gets mail on."`
	ReplicaRefresh    time.Duration `conf:"replica_refresh" default:"5m" doc:"How often everything is read in mode poll."`
	ReplicaPoll       time.Duration `conf:"replica_poll" default:"1s" doc:"How often Active Directory is asked for changes."`
	ReplicaHeartbeat  time.Duration `conf:"replica_heartbeat" default:"15s" doc:"How often a second connection finds out whether the followed server lives."`
	ReplicaShrink     int           `conf:"replica_shrink_percent" default:"20" doc:"A refresh in which more than so many percent of the entries are gone, and at least 50, or all of them, waits for postern directory accept; the old entries are served meanwhile."`
	ReplicaMaxEntries int           `conf:"replica_max_entries" default:"5000000" doc:"Entries the copy may have. A directory with more is asked each time."`

	UserBase        string   `conf:"user_base" doc:"DN under which people lie; \"{base}\" stands for base. Empty, here and below: the preset's; \"-\": none."`
	UserFilter      string   `conf:"user_filter" doc:"Filter of people, RFC 4515."`
	NameAttr        string   `conf:"name_attribute" doc:"Attribute that names the account and owns its mailboxes."`
	LoginAttrs      []string `conf:"login_attributes" doc:"Attributes of what a person may type as login, beside an address."`
	LoginFilter     string   `conf:"login_filter" doc:"Filter that finds a login instead of the one made from login_attributes."`
	AddressAttrs    []string `conf:"address_attributes" doc:"Attributes of an account's addresses; the first that an entry has gives the primary one. A value @domain makes it the domain's catch-all."`
	LocalPartAttrs  []string `conf:"local_part_attributes" doc:"Attributes of local-parts that are addresses in the first of domains, beside address_attributes: [\"uid\"] where people have no mail attribute."`
	ForwardAttrs    []string `conf:"forward_attributes" doc:"Attributes of addresses mail goes to instead of the mailbox."`
	ForwardDNs      []string `conf:"forward_dn_attributes" doc:"Attributes that name, by DN, entries mail goes to instead of the mailbox."`
	HostAttr        string   `conf:"host_attribute" doc:"Attribute that names the backend of an account; host blocks say which target that is."`
	TransportAttr   string   `conf:"transport_attribute" doc:"Attribute that says where an account's mail goes, before host_attribute: \"NAME\" for target.NAME, or \"NAME:NEXTHOP\" for its settings towards another next hop, such as \"lmtp:unix:/run/lmtp\" or \"lmtp:[mail2.example.com]:24\". Without a target \"lmtp\" that means LMTP without TLS. Mail for a target that does not exist waits."`
	UnknownHost     string   `conf:"unknown_host" default:"" oneof:"defer domain connect" doc:"Where mail for accounts goes whose host_attribute names no host below and no lmtp target by its name, its address or our own hostname. defer: it waits, and the log says why; domain: where their domain goes; connect: to that host, with the settings of the domain's target. Empty: defer where there are host blocks, else host_attribute is not looked at."`
	QuotaAttr       string   `conf:"quota_attribute" doc:"Attribute of the mailbox limit."`
	DisabledFilter  string   `conf:"disabled_filter" doc:"Filter of entries that may not log in."`
	ExpiryAttrs     []string `conf:"expiry_attributes" doc:"Attributes that hold a time after which an account is closed: GeneralizedTime, or Active Directory's count of 100 ns."`
	DisabledReceive string   `conf:"disabled_receive" default:"accept" oneof:"accept reject defer" doc:"What becomes of mail to a disabled account."`
	GroupBase       string   `conf:"group_base" doc:"DN under which groups lie."`
	GroupFilter     string   `conf:"group_filter" doc:"Filter of groups and aliases."`
	GroupAddresses  []string `conf:"group_address_attributes" doc:"Attributes of a group's addresses."`
	MemberDNs       []string `conf:"member_dn_attributes" doc:"Attributes that name a group's members by DN."`
	MemberAddresses []string `conf:"member_address_attributes" doc:"Attributes that name a group's members by address."`
	Memberships     []string `conf:"membership_attributes" doc:"Attributes, of accounts, that hold addresses of groups they belong to, for groups that have no entry."`
	PrimaryGroup    string   `conf:"primary_group_attribute" doc:"Attribute, of accounts, that holds the end of the objectSid of a group they belong to without being named there."`
	ContactFilter   string   `conf:"contact_filter" doc:"Filter of entries that stand for people elsewhere: found like groups, and mail goes to their forward_attributes."`
	SendAs          []string `conf:"send_as_attributes" doc:"Attributes, of accounts and groups, that name who may send under their addresses."`
	SharedFilter    string   `conf:"shared_filter" doc:"Filter of groups whose members may send under their address."`
	CredentialAttrs []string `conf:"credential_attributes" doc:"Attributes that change when a person's password does, such as the time it was set: what is remembered about a password counts no more then."`
	MembersOnly     string   `conf:"members_only_filter" doc:"Filter of groups that only members may send to."`
	LoginOnly       string   `conf:"login_only_filter" doc:"Filter of groups that only somebody may send to who logged in."`
	Posters         []string `conf:"poster_attributes" doc:"Attributes of a group that name who may send to it, beside the members of one for members only: by DN, address, mailto: or ldap: URL, or @domain. A sender in our own domains counts when he logged in, or comes from mynetworks."`
	DeniedPosters   []string `conf:"denied_poster_attributes" doc:"Attributes of a group that name who may not send to it."`
	PosterDomains   []string `conf:"poster_domain_attributes" doc:"Attributes of a group that hold domains whose addresses may send to it."`
	Moderators      []string `conf:"moderator_attributes" doc:"Attributes of a group that name its moderators: they get what others send to it, and what they send themselves goes to the members."`
	RelayFilter     string   `conf:"relay_filter" doc:"Filter of people who may send to domains that are not ours. permit_authenticated then permits others only what goes to ours. Empty: everybody who logs in may."`
	PolicyAttrs     []string `conf:"policy_attributes" doc:"Attributes of people that the restrictions permit_account and reject_account look at."`
	Moderated       string   `conf:"moderated_filter" doc:"Filter of moderated groups. Empty: the preset's, or else those that name moderators."`

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

	Directory    string `conf:"directory" doc:"ldap, ldif: the directory asked, as directory.NAME. pam, gssapi, file, dovecot, saslauthd, app-passwords: the directory that maps the login to its account; optional. master: that of the accounts masters act for."`
	DNTemplate   string `conf:"dn_template" doc:"ldap: DN of people without a search, such as uid={local},ou=people,dc=example,dc=com. {login} is what was typed, {local} and {domain} its parts."`
	Method       string `conf:"method" default:"bind" oneof:"bind compare hash" doc:"ldap: how a password is verified. bind: by binding with it; compare: the directory compares it with password_attribute, which must hold passwords as they are; hash: password_attribute is read and checked here. For the latter two the directory's service account needs the right to compare or read password_attribute."`
	PasswordAttr string `conf:"password_attribute" default:"userPassword" doc:"ldap with method compare or hash: the attribute that holds the password or its hash."`

	Service    string        `conf:"service" default:"postern" doc:"pam: name of the service in /etc/pam.d. {protocol} in it stands for imap, smtp, pop or sieve. dovecot, saslauthd: the service they are told; unset: imap, pop3, sieve or smtp, as the login is for."`
	Services   []string      `conf:"services" doc:"pam: services of single protocols in the place of service, such as [\"imap=dovecot\", \"smtp=smtp\"]; the protocols are imap, smtp, pop and sieve."`
	ServiceDir string        `conf:"service_dir" doc:"pam: folder of service files other than /etc/pam.d."`
	Socket     string        `conf:"socket" doc:"pam, gssapi: socket of an auth-helper that runs on its own. Empty: the server starts one. dovecot: Dovecot's auth-client socket; empty: /run/dovecot/auth-client. saslauthd: its mux socket; empty: /run/saslauthd/mux."`
	Workers    int           `conf:"workers" default:"8" doc:"pam: verifications at a time."`
	Timeout    time.Duration `conf:"timeout" default:"30s" doc:"pam, dovecot, saslauthd: longest time one verification may take."`
	Realm      string        `conf:"realm" doc:"saslauthd: the realm told with each login. Empty: an address is split into login and realm, which saslauthd -r joins again."`

	Keytab     string   `conf:"keytab" doc:"gssapi: file with the keys of imap/HOST, smtp/HOST and so on, where the server starts the helper; it then has to be able to read it. With socket the helper has the keytab."`
	Realms     []string `conf:"realms" doc:"gssapi: realms whose people are known by their name alone, such as [\"EXAMPLE.COM\"]. Others, and all when this is empty, are looked up by the whole principal."`
	Hosts      []string `conf:"service_hosts" doc:"gssapi: hosts of the service principals that tickets are taken for. Empty: every one in the keytab."`
	Krb5Config string   `conf:"krb5_config" doc:"gssapi: file other than /etc/krb5.conf, where the server starts the helper."`

	Additional bool `conf:"additional" default:"false" doc:"Ask the next verifier when a password is wrong here: these stand beside the others, like passwords for applications. Otherwise a wrong password here is final."`

	Database      string `conf:"database" doc:"sql: the database asked, as database.NAME."`
	PasswordQuery string `conf:"password_query" doc:"sql: query, as Dovecot's, that gives one row with the column password and, where the account's name is not what was typed, user (or username and domain); nologin or disabled refuse. %u is the login, %n and %d its parts; they are bound as parameters."`
	DefaultScheme string `conf:"default_scheme" doc:"sql: scheme of passwords that do not begin with {SCHEME}, such as SHA512-CRYPT."`

	File           string `conf:"file" doc:"file, master, recovery: password file of lines login:{SCHEME}hash; read again when it changes. Of the extra fields of Dovecot's passwd-files nologin and allow_nets count; nopassword is refused."`
	AllowCleartext bool   `conf:"allow_cleartext" default:"false" doc:"file, ldif, sql, and ldap with method hash: accept passwords stored as they are."`

	Cache     string         `conf:"verifier_cache" default:"off" oneof:"off online-only offline-ok" doc:"ldap, pam: whether a password that was right is asked about again. off: always; online-only: after a time; offline-ok: and not while the verifier cannot answer. The verifier_cache block says how long. Not for passwords that are good for one login."`
	Networks  []netip.Prefix `conf:"networks" doc:"master, recovery: networks of clients that may log in so. Empty: all for master, this machine for recovery."`
	Separator string         `conf:"separator" default:"*" doc:"master: what stands between the account and the master user in a login, as in alice*admin. Empty: masters name the account as authorization identity only."`
	OnlyFor   []string       `conf:"only_for" doc:"app-passwords: protocols (imap, managesieve, pop3, smtp) for which no other password is good, but those of masters and recovery accounts."`

	LoginFrom       []string `conf:"login_from" doc:"certificate: where the login stands in a client's certificate: common_name, email_address (of the subject), san_email, san_upn (Microsoft's), subject or fingerprint. The first that a certificate has decides."`
	SubjectTemplate string   `conf:"subject_template" doc:"certificate: subject as RFC 4514 writes it with {login} in the place of the login, such as CN={login},OU=People,O=Example."`
	Issuer          string   `conf:"issuer" doc:"oauth: URL that stands in tokens as iss; its keys are found from there. certificate: common name or DN that the issuer of a certificate must have; optional."`

	Audiences        []string `conf:"audiences" doc:"oauth: whom tokens may be made for (aud), one of which a token must name."`
	Clients          []string `conf:"clients" doc:"oauth: clients that tokens may be issued to (azp or client_id). None: any."`
	Scopes           []string `conf:"scopes" doc:"oauth: scopes that a token must have, all of them."`
	Claims           []string `conf:"claims" doc:"oauth: further claims as \"name=value\" that a token must have, or hold where it is a list, such as groups=mail-users."`
	LoginClaim       string   `conf:"login_claim" default:"preferred_username" doc:"oauth: claim that names the login. The issuer must not let people choose it freely. email counts only when the issuer verified it, and when the account owns the address."`
	UnverifiedEmail  bool     `conf:"allow_unverified_email" default:"false" doc:"oauth: believe an email that the issuer does not say it verified."`
	Algorithms       []string `conf:"algorithms" doc:"oauth: signatures that tokens may have. None: every one with a public key."`
	Introspect       bool     `conf:"introspect" default:"false" doc:"oauth: ask the issuer about each token (RFC 7662) instead of checking its signature here."`
	ClientID         string   `conf:"client_id" doc:"oauth: our name at the issuer, to ask."`
	ClientSecretFile string   `conf:"client_secret_file" doc:"oauth: file with our secret at the issuer in its first line."`
	CAFile           string   `conf:"ca_file" doc:"oauth: CA certificates that the issuer's must be from, PEM. Empty: the system's."`
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
	TransportFiles   []string         `conf:"transport_files" doc:"Tables of such rules: files in the notation of Postfix's transport(5), key and target:next_hop, where target may be error, retry or discard, or KIND:FILE; docs/tables.md. Read again when they change."`
	Senders          []*SenderRule    `conf:"sender,block" example:"sender \"@example.net\" { deliver = target.isp2 }" doc:"Where mail of single senders goes when its recipients are not ours and have no rule. Label: user+detail@example.com, user@example.com, @example.com, or <> for reports."`
	SenderFiles      []string         `conf:"sender_transport_files" doc:"Tables of such rules, key and target:next_hop, as Postfix's sender_dependent_default_transport_maps. Read again when they change."`
	SenderRelayFiles []string         `conf:"sender_relay_files" doc:"Tables of keys and next hops, as Postfix's sender_dependent_relayhost_maps; asked when nothing else has a rule for the sender. Mail goes by the target smtp. Read again when they change."`
	SenderLogins     []string         `conf:"sender_login_maps" doc:"Tables of addresses and the logins that may send as them, with commas between, as Postfix's smtpd_sender_login_maps; docs/tables.md. They come before what the directory says, which is asked about addresses they do not have."`
	Delimiter        string           `conf:"recipient_delimiter" default:"+" doc:"Characters of which the first in a local-part begins its detail, for the labels and keys of transport and sender rules and of logins_file. Those of directories and of rewrite are settings there. Empty: none."`
	Limits           *Limits          `conf:"limits,block" doc:"What clients may do, and how often; docs/limits.md."`
	Quotas           []*Quota         `conf:"quota,block" example:"quota \"everybody\" { recipients_per_day = 1000 }" doc:"How much people may send who logged in, or whom the kernel knows. The first that is an account's counts. Label: a name. docs/limits.md."`

	ProxyInterfaces []netip.Prefix `conf:"proxy_interfaces" doc:"Addresses outside of this machine under which its mx listeners are reached, by a proxy or address translator: MX records that lead there lead to us."`

	Policies   []*Policy   `conf:"policy,block" example:"policy \"recipient\" { permit_mynetworks {} reject_unauth_destination {} }" doc:"What is decided when. Label: client, helo, sender, relay, recipient, data, end_of_data or content. Steps are Postfix's restrictions. They hold for listeners of mode mx; submission has lists of its own."`
	Rules      []*Rule     `conf:"rule,block" example:"rule \"staff lists\" { when { recipients = [\"all-staff@example.com\"] } unless { sender_groups = [\"managers@example.com\"] } then { reject = \"Only managers write to all staff\" } }" doc:"What becomes of mail by who sends it to whom and what it is, where a policy has rules; docs/rules.md. Asked in order. Label: a name."`
	Content    *Content    `conf:"content,block" doc:"Bounds of what looks into messages, the steps of policy \"content\"; docs/content.md."`
	DNSLists   []*DNSList  `conf:"dns_list,block" example:"dns_list \"zen.spamhaus.org\" { timeout = \"3s\" }" doc:"Settings of single lists in the DNS, which restrictions such as reject_rbl_client ask; docs/dns-lists.md. Label: the list's domain."`
	Verify     *Verify     `conf:"address_verify,block" doc:"How reject_unverified_sender and reject_unverified_recipient ask next hops about addresses; docs/address-verification.md."`
	RBLReply   string      `conf:"default_rbl_reply" doc:"What clients read that a list in the DNS has, with macros; docs/dns-lists.md. Empty: Postfix's."`
	Greylist   *Greylist   `conf:"greylist,block" doc:"Who is put off at the first attempt, where a policy has check_greylist; docs/greylisting.md."`
	Peers      *Peers      `conf:"peers,block" doc:"Other gateways with which what policy remembers is shared: the greylist, rates; docs/shared-state.md. Without it each gateway learns for itself."`
	DKIM       *DKIM       `conf:"dkim,block" doc:"How mail is signed, where a policy has sign_dkim or seal_arc; docs/dkim.md."`
	DKIMKeys   []*DKIMKey  `conf:"dkim_key,block" example:"dkim_key \"example.com\" { selector = \"s1\" file = \"/etc/postern/dkim/s1.pem\" }" doc:"A key that signs, beside those in key_dir. Label: the domain; one that has such a key takes none from key_dir."`
	Milters    []*Milter   `conf:"milter,block" example:"milter \"opendkim\" { address = \"unix:/run/opendkim/opendkim.sock\" }" doc:"Mail filters that speak Sendmail's milter protocol, for steps milter { use = milter.NAME } of the content list; docs/milters.md. Label: a name."`
	Classes    []*Class    `conf:"restriction_class,block" example:"restriction_class \"strict\" { reject_unknown_sender_domain {} reject_non_fqdn_sender {} }" doc:"A list of restrictions under a name that is then a restriction itself: in lists, in other classes and in tables. Label: the name. docs/policy.md."`
	DMARC      *DMARC      `conf:"dmarc,block" doc:"What is done about mail whose author is not who he claims to be, where a policy \"content\" has authenticate; docs/sender-authentication.md. Without it such mail is marked and nothing more."`
	Queue      *Queue      `conf:"queue,block" doc:"How mail waits."`
	Reports    *Reports    `conf:"reports,block" doc:"What senders and the postmaster are told."`
	Rewrite    *Rewrite    `conf:"rewrite,block" doc:"How addresses are rewritten, and who gets copies. Without it they stay as they are."`
	SRS        *SRS        `conf:"srs,block" doc:"Sender rewriting for mail that is forwarded to other domains. Without it the sender stays."`
	HopLimit   int         `conf:"hopcount_limit" default:"50" doc:"Received fields a message may come with; more is a loop, and refused."`
	TLSReports *TLSReports `conf:"tls_reports,block" doc:"Reports to other domains on the TLS of their mail servers, once a day, where they ask for them (TLSRPT). Without this block none are made."`

	PolicyServices []*PolicyService `conf:"policy_service,block" example:"policy_service \"postgrey\" { address = \"inet:127.0.0.1:10023\" }" doc:"Programs that check_policy_service asks, in Postfix's policy delegation protocol; docs/policy-service.md. Label: a name."`
	PolicyServers  []*PolicyServer  `conf:"policy_server,block" example:"policy_server \"postfix\" { bind = [\"unix:/var/spool/postfix/postern/policy\"] listener = \"mx\" }" doc:"Where other mail servers, such as an existing Postfix, ask our lists in that protocol; docs/policy-service.md. Label: a name."`

	MessageSize Octets `conf:"message_size_limit" default:"50 MiB" doc:"Largest message, where the listener does not say max_message. Postfix's default, 10240000, is less than people send today. queue_minfree is at least one and a half of the largest."`
	HeaderSize  Octets `conf:"header_size_limit" default:"102400" doc:"Largest field of a message's header; the whole header may have four times that. A message beyond is refused (552 5.3.4) where Postfix cuts the field."`
	LineLength  int    `conf:"line_length_limit" default:"2048" doc:"Longest command line, 512 to 12288 octets. Lines of messages may have any length."`

	MyNetworks     []netip.Prefix `conf:"mynetworks" default:"127.0.0.0/8 ::1/128" doc:"Networks whose clients may send anywhere without login. Wrong passwords of many people, as a web mailer brings them, do not shut out such a network."`
	DelayReject    bool           `conf:"delay_reject" default:"true" doc:"Decide client, helo and sender lists at RCPT, so that the log tells the recipient."`
	UnlistedRcpt   bool           `conf:"reject_unlisted_recipient" default:"true" doc:"Refuse recipients in our domains that the directory does not know, after the recipient list."`
	UnlistedSender bool           `conf:"reject_unlisted_sender" default:"false" doc:"Refuse senders in our domains that the directory does not know."`
	RelayFirst     bool           `conf:"relay_before_recipient" default:"true" doc:"Ask the relay list before the recipient list, as Postfix 3.6 and later do."`
	ShowUnknown    bool           `conf:"show_user_unknown_table_name" default:"false" doc:"Say with a recipient that nobody has which kind of address it is, as Postfix does: User unknown in local recipient table, or relay recipient table."`
	StrictPaths    bool           `conf:"strict_rfc821_envelopes" default:"true" doc:"Refuse addresses in MAIL and RCPT that stand without angle brackets, or with blanks inside them. Devices that write them so need false; Postfix's default is that."`
	SoftBounce     bool           `conf:"soft_bounce" default:"false" doc:"Answer 4xx wherever 5xx is meant, and keep in the queue until it expires what other servers refuse for good, so that nothing is lost while a configuration is tried out."`
	RejectFooter   string         `conf:"reject_footer" doc:"What is said after every refusal, on a line of its own; one that begins with \\c continues the last line. $client_address, $client_port, $localtime and $server_name are filled in; in this file a dollar sign before a brace is written twice."`
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
	SASL         *SASL    `conf:"sasl,block" example:"sasl { mechanisms = [\"SCRAM-SHA-256-PLUS\", \"SCRAM-SHA-256\", \"PLAIN\"] }" doc:"How clients may log in."`

	Priority    int    `conf:"priority" default:"0" doc:"Priority (RFC 6710), from -9 to 9, of messages that ask for none."`
	MaxPriority string `conf:"max_priority" doc:"Highest priority that a message may ask for (MT-PRIORITY, RFC 6710), from -9 to 9, or none: it cannot. submission, submissions, local: for those who are known; mx: for every client. Empty: none on mx, else 4."`

	Limits        *Limits        `conf:"limits,block" example:"limits { client_message_rate_limit = 100 }" doc:"What clients of this listener may do; what is not written here is as in the gateway's block."`
	ProxyProtocol *ProxyProtocol `conf:"proxy_protocol,block" example:"proxy_protocol { networks = [\"10.0.0.5/32\"] }" doc:"Proxies in front, such as HAProxy, that tell of their clients by the PROXY protocol; docs/behind-a-proxy.md."`
	Pregreet      *Pregreet      `conf:"pregreet,block" example:"pregreet { action = \"drop\" }" doc:"mx: hold the greeting back to find out who does not wait for it; docs/limits.md. Without it nobody waits, and who talks first is refused (554)."`
	XClientHosts  []netip.Prefix `conf:"xclient_hosts" doc:"Networks of content filters and proxies that may say by XCLIENT who their client is: it then counts as the client in everything. docs/behind-a-proxy.md."`
	XForwardHosts []netip.Prefix `conf:"xforward_hosts" doc:"Networks of content filters that may say by XFORWARD whom they have a message from, for the log."`
	RequireTLS    bool           `conf:"require_tls" default:"false" doc:"Refuse all but EHLO, STARTTLS, NOOP and QUIT before TLS (530 5.7.0). Not for an mx listener of the open Internet (RFC 3207 section 4)."`

	MaxMessage     Octets        `conf:"max_message" doc:"Largest message. Empty: message_size_limit."`
	MaxRecipients  int           `conf:"max_recipients" default:"1000" doc:"Recipients in one transaction."`
	MaxSessions    int           `conf:"max_sessions" default:"1000" doc:"Sessions at a time."`
	MaxPerClient   int           `conf:"max_sessions_per_client" default:"50" doc:"Sessions at a time from one address; 0 for no limit. Clients in mynetworks are not counted."`
	CommandTimeout time.Duration `conf:"command_timeout" default:"5m" doc:"Longest wait for a command."`
	DataTimeout    time.Duration `conf:"data_timeout" default:"3m" doc:"Longest wait for more of a message."`
	BareNewlines   string        `conf:"bare_newlines" default:"normalize" oneof:"normalize reject" doc:"normalize: a bare newline counts as a line end, but never ends a message. reject: refuse the message."`
	Policies       []*Policy     `conf:"policy,block" example:"policy \"recipient\" { permit_authenticated {} }" doc:"Lists for this listener in the place of the gateway's, or of the defaults for submission."`
	HeloRequired   bool          `conf:"helo_required" default:"true" doc:"Refuse MAIL before HELO or EHLO."`
	LookupNames    bool          `conf:"lookup_client_names" default:"false" doc:"Look up the client's name in the DNS, forth and back, before the greeting. Done anyway where a restriction of the listener's lists asks for the name."`
	Discard        []string      `conf:"discard_ehlo_keywords" doc:"Extensions that are not offered."`
	SocketMode     string        `conf:"socket_mode" default:"0666" oneof:"0666 0660 0600" doc:"local: who may connect to the socket: every user, or only its owner and group, or its owner."`
	// What holds for all listeners and is different for this one.
	MyNetworks     []netip.Prefix `conf:"mynetworks" doc:"Networks that permit_mynetworks permits on this listener; [] for none. Empty: those of the gateway."`
	DelayReject    bool           `conf:"delay_reject" doc:"As in the gateway. Empty: as there."`
	UnlistedRcpt   bool           `conf:"reject_unlisted_recipient" doc:"As in the gateway. Empty: as there."`
	UnlistedSender bool           `conf:"reject_unlisted_sender" doc:"As in the gateway. Empty: as there."`
	StrictPaths    bool           `conf:"strict_rfc821_envelopes" doc:"As in the gateway. Empty: as there."`
	SoftBounce     bool           `conf:"soft_bounce" doc:"As in the gateway, for what this listener answers. Empty: as there."`
	RejectFooter   string         `conf:"reject_footer" doc:"As in the gateway. Empty: as there."`
	TraceLogin     bool           `conf:"sasl_authenticated_header" default:"false" doc:"Name who logged in in the Received field, which everybody reads who gets the message. local: always."`
	Overrides      []string       `conf:"receive_override_options" doc:"What is left out for mail that comes here, as after a content filter: no_unknown_recipient_checks, no_address_mappings (addresses are neither rewritten nor copied, and those that are mailboxes are not forwarded again), no_header_body_checks, no_milters."`

	TrustedUsers []string `conf:"trusted_users" doc:"local: users who may write under any address, beside root."`
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

// Class is a list of restrictions under a name.
type Class struct {
	block
	Name  string  `conf:"name,label"`
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
	Listeners []*BackendListener `conf:"listener,block" example:"listener \"imap\" { bind = [\":143\"] }" doc:"Where the backend listens. Label: lmtp, imap, imaps, pop3 or pop3s."`
	Mailboxes []*MailboxRole     `conf:"mailbox,block" example:"mailbox \"Trash\" { special_use = \"trash\" }" doc:"Mailboxes of every account, and rules for them. None: Drafts, Sent, Junk, Trash. docs/mailboxes.md."`
	Virtual   []*VirtualMailbox  `conf:"virtual,block" example:"virtual \"All mail\" { special_use = \"all\" }" doc:"Mailboxes of every account that show the messages of others: docs/mailboxes.md. Label: the name."`
	MinFree   Octets             `conf:"minfree" default:"100 MiB" doc:"Free space below which mail is put off."`
	Node      int                `conf:"node" default:"0" doc:"This server's number in a pair: 0 or 1. It goes into all that is stored, so it stays. Without replica: 0."`
	Replica   *Replica           `conf:"replica,block" example:"replica { partner = \"mail2.example.com:7024\" listen = [\":7024\"] secret_file = \"/etc/postern/pair.secret\" }" doc:"The other server of a pair, which has the same mailboxes: docs/replication.md. Changes take a restart."`
	Proxy     *ProxyAccess       `conf:"proxy,block" example:"proxy { networks = [\"10.0.0.5/32\"] password_file = \"/etc/postern/proxy.secret\" }" doc:"Who may log in for others, by IMAP and POP3: the proxies in front."`
	Separator string             `conf:"separator" oneof:"/ ." default:"/" doc:"What stands between the levels of mailbox names in IMAP. A / within a name is shown as . then, and the other way round."`
	Sharing   *Sharing           `conf:"sharing,block" example:"sharing { others = \"Other Users\" }" doc:"Mailboxes that people share, and public ones: docs/mailboxes.md. Without it there are none."`
	Index     *SearchIndex       `conf:"search_index,block" example:"search_index { attachments = true }" doc:"What is indexed of the text of messages, docs/search.md. Without this block what its defaults say. Changes take a restart."`
	Limits    *MailboxLimits     `conf:"mailbox_limits,block" example:"mailbox_limits { depth = 10 }" doc:"How long, deep and many mailboxes may be that clients make: docs/mailboxes.md. What is there already stays usable. Changes take a restart."`
	IMAP      *IMAP              `conf:"imap,block" example:"imap { message_limit = 5000 }" doc:"How mailboxes look to IMAP clients: docs/imap-clients.md."`
	POP3      *POP3              `conf:"pop3,block" example:"pop3 { quirks = [\"outlook-no-nuls\"] }" doc:"How mailboxes look to POP3 clients: docs/pop3.md."`
	Detail    bool               `conf:"detail_mailboxes" default:"false" doc:"Deliver user+Detail into the mailbox Detail where it exists."`
	Post      bool               `conf:"detail_needs_post" default:"false" doc:"detail_mailboxes: only into mailboxes that give anyone the right p (SETACL Detail anyone +p); other mail goes to INBOX."`
}

// BackendListener is where the backend listens.
type BackendListener struct {
	block
	Kind string `conf:"kind,label"`

	Bind         []string `conf:"bind" required:"where to listen, such as [\":143\"] or [\"unix:/run/postern/lmtp.sock\"]" doc:"Addresses host:port or unix:PATH to listen on."`
	TLS          *TLS     `conf:"tls,block" doc:"Certificate of this listener."`
	InsecureAuth bool     `conf:"allow_plaintext_auth" default:"false" doc:"imap, pop3: offer logins without TLS."`
	SASL         *SASL    `conf:"sasl,block" doc:"Not lmtp: how clients may log in."`

	ProxyProtocol *ProxyProtocol `conf:"proxy_protocol,block" doc:"Proxies in front that tell of their clients by the PROXY protocol."`

	MaxMessage   Octets        `conf:"max_message" default:"64 MiB" doc:"Largest message."`
	MaxSessions  int           `conf:"max_sessions" default:"10000" doc:"Sessions at a time."`
	MaxPerClient int           `conf:"max_sessions_per_client" default:"100" doc:"Not lmtp: sessions at a time from one IPv4 address or /64 network of IPv6, those at imap and imaps together, and those at pop3 and pop3s; 0 for no limit, such as where a webmail server is the client."`
	MaxPerLogin  int           `conf:"max_sessions_per_login" default:"100" doc:"Not lmtp: sessions at a time of one account, counted in the same way; 0 for no limit. By POP3 those count that are logged in or wait to be: docs/pop3.md."`
	IdleTimeout  time.Duration `conf:"idle_timeout" default:"30m" doc:"imap: longest silence of a logged-in client. That of POP3 stands in the pop3 block."`
}

// MailboxRole is a mailbox every account has.
type MailboxRole struct {
	block
	Name       string `conf:"name,label"`
	SpecialUse string `conf:"special_use" oneof:"drafts sent junk trash archive important none" default:"none" doc:"Its role (RFC 6154)."`

	Auto        string        `conf:"auto" oneof:"new subscribe create no" default:"new" doc:"new: new accounts get it, subscribed. subscribe: every account has it, also those there are, from the next login or mail on. create: the same without a subscription. no: it is there once a client makes it, and has its role then."`
	Autoexpunge time.Duration `conf:"autoexpunge" default:"0s" doc:"How long messages stay in it after they came there, such as 30d. 0s: for ever."`
	QuotaExtra  int           `conf:"quota_extra" default:"0" doc:"By how many percent an account may be over its limits when a message is put here, such as 10 for the trash."`
}
