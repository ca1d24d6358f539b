package status

// Reason is why a command or a recipient was answered the way it was. The
// set is closed: every Reason has a row in the table.
type Reason uint8

// The reasons. Order is the order of docs/replies.md.
const (
	// Unknown is the zero Reason: a fault nobody classified. It is transient.
	Unknown Reason = iota

	// Positive completion.
	Greeting
	Closing
	OK
	SenderOK
	RecipientOK
	PriorityChanged
	MessageAccepted
	Delivered
	StartTLS
	AuthOK
	AuthContinue
	SendData
	NotVerified
	HelpText

	// The peer's mistakes.
	CommandUnrecognized
	CommandUnimplemented
	ParameterUnimplemented
	SyntaxError
	ParameterSyntax
	BadSequence
	LineTooLong
	TooManyErrors
	TooManyCommands
	BadAddressSyntax
	BadSenderSyntax
	NeedSMTPUTF8
	NoValidRecipients
	BadBase64
	AuthAborted
	ImproperPipelining
	BareNewline
	ProtocolSwitch
	EarlyTalker
	PregreetDrop
	PregreetReject
	NotAuthorized
	SessionFault

	// Authentication.
	AuthRequired
	AuthFailed
	AuthMechanism
	AuthNeedsTLS
	AuthTemporary
	AuthTooMany
	PasswordExpired
	AlreadyAuthenticated
	AuthorizationDenied
	TLSRequired
	TLSUnavailable
	AlreadyTLS

	// Policy.
	AccessDenied
	RelayDenied
	RelayDeferred
	PolicyReject
	PolicyDefer
	SenderRejected
	SenderNotOwned
	SenderNotLoggedIn
	SenderDomainMissing
	RecipientRejected
	RecipientDomainMissing
	HeloRejected
	HeloInvalid
	HeloNotQualified
	SenderNotQualified
	RecipientNotQualified
	HeloRequired
	ClientRejected
	GroupRestricted
	PolicyLater
	PolicyFlag
	HungUp
	SessionDenied
	SenderNullMX
	BounceToMany
	ContentRejected
	ContentDeferred
	MIMETooDeep
	AttachmentRejected
	ClientNameMissing
	ReverseNameMissing
	HeloHostMissing
	Listed
	ListSilent
	SenderUnverified
	RecipientUnverified
	BackupUnknown
	Greylisted
	SPFFailed
	SPFFailedNow
	SPFBroken
	SPFUnknown
	DMARCRefused
	AuthorMalformed

	FilterRejected
	FilterDeferred
	FilterDown
	FilterShutdown

	// Addresses.
	NoSuchUser
	NoSuchSender
	AccountDisabled
	AddressLoop
	AddressAmbiguous

	// Sizes and limits.
	MessageTooBig
	HeaderTooBig
	TooManyRecipients
	MailboxFull
	MailSystemFull
	QueueFull
	TooManyConnections
	ConnectionRate
	MessageRate
	RecipientRate
	TLSRate
	AuthRate
	QuotaExceeded
	MailLoop
	ForwardingLoop

	// Outages of ours.
	DirectoryDown
	StoreDown
	ServerBusy
	ConfigurationError
	ShuttingDown
	Timeout
	BackendDown

	// Next hops.
	HostNotFound
	NullMX
	ConnectionFailed
	ConnectionLost
	DeliveryExpired
	RemoteReply
	PeerNeedsTLS
	PeerNoSMTPUTF8
	PeerNotTrusted
	NameServiceDown
	TLSPolicyUnknown
	TLSPolicyUnmet
	PeerNoRequireTLS
	RequireTLSUnmet
	RouteRefused
	RouteDeferred
	RouteDiscarded
	PeerNo8BitMIME

	reasonCount
)

// row is what each protocol says for a reason. An empty imap means that the
// reason has no IMAP response code of its own.
type row struct {
	name     string
	code     int
	enhanced [3]int
	text     string
	imap     string
}

var table = [reasonCount]row{
	Unknown: {"Unknown", 451, e(4, 3, 0), "Local error in processing", "SERVERBUG"},

	Greeting:        {"Greeting", 220, none, "ESMTP", ""},
	Closing:         {"Closing", 221, e(2, 0, 0), "Bye", ""},
	OK:              {"OK", 250, e(2, 0, 0), "Ok", ""},
	SenderOK:        {"SenderOK", 250, e(2, 1, 0), "Ok", ""},
	RecipientOK:     {"RecipientOK", 250, e(2, 1, 5), "Ok", ""},
	PriorityChanged: {"PriorityChanged", 250, e(2, 3, 6), "is the priority the message gets", ""},
	MessageAccepted: {"MessageAccepted", 250, e(2, 0, 0), "Ok: queued", ""},
	Delivered:       {"Delivered", 250, e(2, 0, 0), "Saved", ""},
	StartTLS:        {"StartTLS", 220, e(2, 0, 0), "Ready to start TLS", ""},
	AuthOK:          {"AuthOK", 235, e(2, 7, 0), "Authentication successful", ""},
	AuthContinue:    {"AuthContinue", 334, none, "", ""},
	SendData:        {"SendData", 354, none, "End data with <CR><LF>.<CR><LF>", ""},
	NotVerified:     {"NotVerified", 252, e(2, 5, 0), "Cannot VRFY user, but will accept message and attempt delivery", ""},
	HelpText:        {"HelpText", 214, e(2, 0, 0), "See RFC 5321", ""},

	CommandUnrecognized:    {"CommandUnrecognized", 500, e(5, 5, 2), "Command not recognized", ""},
	CommandUnimplemented:   {"CommandUnimplemented", 502, e(5, 5, 1), "Command not implemented", ""},
	ParameterUnimplemented: {"ParameterUnimplemented", 555, e(5, 5, 4), "Unsupported option", ""},
	SyntaxError:            {"SyntaxError", 501, e(5, 5, 4), "Syntax error", ""},
	ParameterSyntax:        {"ParameterSyntax", 501, e(5, 5, 4), "Syntax error in parameters", ""},
	BadSequence:            {"BadSequence", 503, e(5, 5, 1), "Bad sequence of commands", ""},
	LineTooLong:            {"LineTooLong", 500, e(5, 5, 2), "Line too long", ""},
	TooManyErrors:          {"TooManyErrors", 421, e(4, 7, 0), "Too many errors", ""},
	TooManyCommands:        {"TooManyCommands", 421, e(4, 7, 0), "Too many commands without a message", ""},
	BadAddressSyntax:       {"BadAddressSyntax", 501, e(5, 1, 3), "Bad recipient address syntax", ""},
	BadSenderSyntax:        {"BadSenderSyntax", 501, e(5, 1, 7), "Bad sender address syntax", ""},
	NeedSMTPUTF8:           {"NeedSMTPUTF8", 553, e(5, 6, 7), "Address needs SMTPUTF8", ""},
	NoValidRecipients:      {"NoValidRecipients", 554, e(5, 5, 1), "No valid recipients", ""},
	BadBase64:              {"BadBase64", 501, e(5, 5, 2), "Cannot decode base64", ""},
	AuthAborted:            {"AuthAborted", 501, e(5, 7, 0), "Authentication aborted", ""},
	ImproperPipelining:     {"ImproperPipelining", 503, e(5, 5, 0), "Improper use of SMTP command pipelining", ""},
	BareNewline:            {"BareNewline", 550, e(5, 5, 2), "Bare <LF> received", ""},
	ProtocolSwitch:         {"ProtocolSwitch", 521, e(5, 7, 0), "I can break rules, too. Goodbye", ""},
	EarlyTalker:            {"EarlyTalker", 554, e(5, 5, 0), "SMTP protocol synchronization", ""},
	PregreetDrop:           {"PregreetDrop", 521, e(5, 5, 1), "Protocol error", ""},
	PregreetReject:         {"PregreetReject", 550, e(5, 5, 1), "Protocol error", ""},
	NotAuthorized:          {"NotAuthorized", 550, e(5, 7, 0), "Error: insufficient authorization", ""},
	SessionFault:           {"SessionFault", 421, e(4, 3, 0), "Local error, closing connection", ""},

	AuthRequired:         {"AuthRequired", 530, e(5, 7, 0), "Authentication required", "AUTHENTICATIONFAILED"},
	AuthFailed:           {"AuthFailed", 535, e(5, 7, 8), "Authentication credentials invalid", "AUTHENTICATIONFAILED"},
	AuthMechanism:        {"AuthMechanism", 504, e(5, 5, 4), "Unrecognized authentication type", "CANNOT"},
	AuthNeedsTLS:         {"AuthNeedsTLS", 538, e(5, 7, 11), "Encryption required for requested authentication mechanism", "PRIVACYREQUIRED"},
	AuthTemporary:        {"AuthTemporary", 454, e(4, 7, 0), "Temporary authentication failure", "UNAVAILABLE"},
	AuthTooMany:          {"AuthTooMany", 421, e(4, 7, 0), "Too many failed authentications", "UNAVAILABLE"},
	PasswordExpired:      {"PasswordExpired", 535, e(5, 7, 8), "Password expired: set a new one first", "EXPIRED"},
	AlreadyAuthenticated: {"AlreadyAuthenticated", 503, e(5, 5, 1), "Already authenticated", ""},
	AuthorizationDenied:  {"AuthorizationDenied", 535, e(5, 7, 8), "Authorization identity refused", "AUTHORIZATIONFAILED"},
	TLSRequired:          {"TLSRequired", 530, e(5, 7, 0), "Must issue a STARTTLS command first", "PRIVACYREQUIRED"},
	TLSUnavailable:       {"TLSUnavailable", 454, e(4, 7, 0), "TLS not available due to local problem", "UNAVAILABLE"},
	AlreadyTLS:           {"AlreadyTLS", 503, e(5, 5, 1), "TLS already active", ""},

	AccessDenied:           {"AccessDenied", 554, e(5, 7, 1), "Access denied", "NOPERM"},
	RelayDenied:            {"RelayDenied", 554, e(5, 7, 1), "Relay access denied", ""},
	RelayDeferred:          {"RelayDeferred", 454, e(4, 7, 1), "Relay access denied", ""},
	ContentRejected:        {"ContentRejected", 550, e(5, 7, 1), "Message content rejected", ""},
	ContentDeferred:        {"ContentDeferred", 451, e(4, 7, 1), "Service unavailable", ""},
	MIMETooDeep:            {"MIMETooDeep", 550, e(5, 6, 0), "MIME nesting exceeds safety limit", ""},
	AttachmentRejected:     {"AttachmentRejected", 550, e(5, 7, 1), "Attachment rejected", ""},
	PolicyReject:           {"PolicyReject", 554, e(5, 7, 1), "Rejected by policy", ""},
	PolicyDefer:            {"PolicyDefer", 450, e(4, 7, 1), "Deferred by policy", ""},
	SenderRejected:         {"SenderRejected", 554, e(5, 7, 1), "Sender address rejected", ""},
	SenderNotOwned:         {"SenderNotOwned", 553, e(5, 7, 1), "Sender address rejected: not owned by user", ""},
	SenderNotLoggedIn:      {"SenderNotLoggedIn", 553, e(5, 7, 1), "Sender address rejected: not logged in", ""},
	SenderDomainMissing:    {"SenderDomainMissing", 450, e(4, 1, 8), "Sender address rejected: domain not found", ""},
	RecipientRejected:      {"RecipientRejected", 554, e(5, 7, 1), "Recipient address rejected", ""},
	RecipientDomainMissing: {"RecipientDomainMissing", 450, e(4, 1, 2), "Recipient address rejected: domain not found", ""},
	HeloRejected:           {"HeloRejected", 554, e(5, 7, 1), "Helo command rejected", ""},
	HeloInvalid:            {"HeloInvalid", 501, e(5, 5, 2), "Helo command rejected: invalid name", ""},
	HeloNotQualified:       {"HeloNotQualified", 504, e(5, 5, 2), "Helo command rejected: need fully-qualified hostname", ""},
	SenderNotQualified:     {"SenderNotQualified", 504, e(5, 5, 2), "Sender address rejected: need fully-qualified address", ""},
	RecipientNotQualified:  {"RecipientNotQualified", 504, e(5, 5, 2), "Recipient address rejected: need fully-qualified address", ""},
	HeloRequired:           {"HeloRequired", 503, e(5, 5, 1), "Send HELO or EHLO first", ""},
	ClientRejected:         {"ClientRejected", 554, e(5, 7, 1), "Client host rejected: access denied", ""},
	GroupRestricted:        {"GroupRestricted", 550, e(5, 7, 2), "Not allowed to send to this group", ""},
	PolicyLater:            {"PolicyLater", 450, e(4, 3, 2), "Try again later", ""},
	PolicyFlag:             {"PolicyFlag", 450, e(4, 7, 0), "Service unavailable", ""},
	HungUp:                 {"HungUp", 421, e(4, 7, 0), "Connection dropped", ""},
	SessionDenied:          {"SessionDenied", 503, e(5, 7, 0), "Access denied", ""},
	SenderNullMX:           {"SenderNullMX", 550, e(5, 7, 27), "Sender address rejected: domain does not accept mail", ""},
	BounceToMany:           {"BounceToMany", 550, e(5, 5, 3), "Multi-recipient bounce", ""},
	Greylisted:             {"Greylisted", 450, e(4, 2, 0), "Greylisted", ""},

	ClientNameMissing:   {"ClientNameMissing", 450, e(4, 7, 25), "Client host rejected: cannot find your hostname", ""},
	ReverseNameMissing:  {"ReverseNameMissing", 450, e(4, 7, 1), "Client host rejected: cannot find your reverse hostname", ""},
	HeloHostMissing:     {"HeloHostMissing", 450, e(4, 7, 1), "Helo command rejected: Host not found", ""},
	Listed:              {"Listed", 554, e(5, 7, 1), "Service unavailable; blocked using a DNS list", ""},
	ListSilent:          {"ListSilent", 450, e(4, 7, 1), "Service unavailable", ""},
	SenderUnverified:    {"SenderUnverified", 450, e(4, 1, 7), "Sender address rejected: unverified address", ""},
	RecipientUnverified: {"RecipientUnverified", 450, e(4, 1, 1), "Recipient address rejected: unverified address", ""},
	BackupUnknown:       {"BackupUnknown", 450, e(4, 4, 4), "Unable to look up mail exchanger information", ""},
	SPFFailed:           {"SPFFailed", 550, e(5, 7, 23), "SPF validation failed", ""},
	SPFFailedNow:        {"SPFFailedNow", 450, e(4, 7, 23), "SPF validation failed", ""},
	SPFBroken:           {"SPFBroken", 550, e(5, 7, 24), "SPF record makes no sense", ""},
	SPFUnknown:          {"SPFUnknown", 451, e(4, 7, 24), "SPF record cannot be looked up now", ""},
	DMARCRefused:        {"DMARCRefused", 550, e(5, 7, 26), "Refused by the DMARC policy of the author's domain", ""},
	AuthorMalformed:     {"AuthorMalformed", 550, e(5, 7, 1), "The From field does not name one author", ""},

	FilterRejected: {"FilterRejected", 550, e(5, 7, 1), "Command rejected", ""},
	FilterDeferred: {"FilterDeferred", 451, e(4, 7, 1), "Service unavailable - try again later", ""},
	FilterDown:     {"FilterDown", 451, e(4, 7, 1), "Service unavailable - try again later", ""},
	FilterShutdown: {"FilterShutdown", 421, e(4, 7, 0), "Service unavailable - try again later", ""},

	NoSuchUser:       {"NoSuchUser", 550, e(5, 1, 1), "Address unknown", "NONEXISTENT"},
	NoSuchSender:     {"NoSuchSender", 550, e(5, 1, 0), "Sender address unknown", ""},
	AccountDisabled:  {"AccountDisabled", 550, e(5, 2, 1), "Mailbox disabled", "NOPERM"},
	AddressLoop:      {"AddressLoop", 451, e(4, 4, 6), "Address expansion loops or grows too large", ""},
	AddressAmbiguous: {"AddressAmbiguous", 451, e(4, 3, 5), "Address claimed twice", ""},

	MessageTooBig:      {"MessageTooBig", 552, e(5, 3, 4), "Message size exceeds fixed limit", "LIMIT"},
	HeaderTooBig:       {"HeaderTooBig", 552, e(5, 3, 4), "Message header exceeds fixed limit", "LIMIT"},
	TooManyRecipients:  {"TooManyRecipients", 452, e(4, 5, 3), "Too many recipients", ""},
	MailboxFull:        {"MailboxFull", 452, e(4, 2, 2), "Mailbox full", "OVERQUOTA"},
	MailSystemFull:     {"MailSystemFull", 452, e(4, 3, 1), "Insufficient system storage", "UNAVAILABLE"},
	QueueFull:          {"QueueFull", 452, e(4, 3, 1), "Mail queue is full, try again later", "UNAVAILABLE"},
	TooManyConnections: {"TooManyConnections", 421, e(4, 7, 0), "Too many connections", "UNAVAILABLE"},
	ConnectionRate:     {"ConnectionRate", 421, e(4, 7, 0), "Error: too many connections", "UNAVAILABLE"},
	MessageRate:        {"MessageRate", 450, e(4, 7, 1), "Error: too much mail", ""},
	RecipientRate:      {"RecipientRate", 450, e(4, 7, 1), "Error: too many recipients", ""},
	TLSRate:            {"TLSRate", 454, e(4, 7, 0), "Error: too many new TLS sessions", ""},
	AuthRate:           {"AuthRate", 450, e(4, 7, 1), "Error: too many AUTH commands", "UNAVAILABLE"},
	QuotaExceeded:      {"QuotaExceeded", 450, e(4, 7, 1), "Error: sending quota exceeded", "LIMIT"},
	MailLoop:           {"MailLoop", 554, e(5, 4, 6), "Too many hops", ""},
	ForwardingLoop:     {"ForwardingLoop", 554, e(5, 4, 6), "Mail forwarding loop", ""},

	DirectoryDown:      {"DirectoryDown", 451, e(4, 4, 3), "Directory temporarily unavailable", "UNAVAILABLE"},
	StoreDown:          {"StoreDown", 451, e(4, 3, 0), "Mail storage temporarily unavailable", "UNAVAILABLE"},
	ServerBusy:         {"ServerBusy", 451, e(4, 3, 2), "Server busy, try again later", "UNAVAILABLE"},
	ConfigurationError: {"ConfigurationError", 451, e(4, 3, 5), "Server configuration error", "SERVERBUG"},
	ShuttingDown:       {"ShuttingDown", 421, e(4, 3, 2), "Service shutting down", "UNAVAILABLE"},
	Timeout:            {"Timeout", 421, e(4, 4, 2), "Timeout exceeded", ""},
	BackendDown:        {"BackendDown", 451, e(4, 4, 1), "Mailbox server temporarily unavailable", "UNAVAILABLE"},

	HostNotFound:     {"HostNotFound", 550, e(5, 1, 2), "Host or domain name not found", ""},
	NullMX:           {"NullMX", 556, e(5, 1, 10), "Domain does not accept mail", ""},
	ConnectionFailed: {"ConnectionFailed", 451, e(4, 4, 1), "Connection failed", ""},
	ConnectionLost:   {"ConnectionLost", 451, e(4, 4, 2), "Connection lost", ""},
	DeliveryExpired:  {"DeliveryExpired", 554, e(5, 4, 7), "Delivery time expired", ""},
	RemoteReply:      {"RemoteReply", 451, e(4, 0, 0), "Refused by the next hop", ""},
	PeerNeedsTLS:     {"PeerNeedsTLS", 451, e(4, 7, 4), "TLS is required, but was not offered", ""},
	PeerNoSMTPUTF8:   {"PeerNoSMTPUTF8", 550, e(5, 6, 7), "SMTPUTF8 is required, but was not offered", ""},
	PeerNotTrusted:   {"PeerNotTrusted", 451, e(4, 7, 5), "Server certificate not trusted", ""},
	NameServiceDown:  {"NameServiceDown", 451, e(4, 4, 3), "Name service temporarily unavailable", ""},
	TLSPolicyUnknown: {"TLSPolicyUnknown", 451, e(4, 7, 5), "TLS policy of the destination cannot be determined", ""},
	TLSPolicyUnmet:   {"TLSPolicyUnmet", 451, e(4, 7, 5), "Destination does not meet the TLS policy", ""},
	PeerNoRequireTLS: {"PeerNoRequireTLS", 550, e(5, 7, 30), "REQUIRETLS is required, but was not offered", ""},
	RequireTLSUnmet:  {"RequireTLSUnmet", 550, e(5, 7, 10), "Protection that the sender requires cannot be had", ""},
	RouteRefused:     {"RouteRefused", 550, e(5, 0, 0), "Mail to this address is refused", ""},
	RouteDeferred:    {"RouteDeferred", 450, e(4, 0, 0), "Mail to this address has to wait", ""},
	RouteDiscarded:   {"RouteDiscarded", 250, e(2, 0, 0), "Discarded", ""},
	PeerNo8BitMIME:   {"PeerNo8BitMIME", 554, e(5, 6, 3), "Conversion to seven bits is required, but not possible", ""},
}

var none [3]int

func e(class, subject, detail int) [3]int { return [3]int{class, subject, detail} }
