package config

import (
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/limits"
	"github.com/postern-mail/postern/smtp"
)

// Limits says what clients may do, and how often.
type Limits struct {
	block

	ConnectionRate int            `conf:"client_connection_rate_limit" default:"0" doc:"Connections that one client may make in rate_time_unit; one more is told 421 4.7.0, and when to come back. 0, here and below: any number. Each listener counts for itself."`
	MessageRate    int            `conf:"client_message_rate_limit" default:"0" doc:"MAIL commands; 450 4.7.1."`
	RecipientRate  int            `conf:"client_recipient_rate_limit" default:"0" doc:"RCPT commands, accepted or not; 450 4.7.1."`
	TLSRate        int            `conf:"client_new_tls_session_rate_limit" default:"0" doc:"TLS handshakes; 454 4.7.0, or under implicit TLS the connection ends."`
	AuthRate       int            `conf:"client_auth_rate_limit" default:"0" doc:"AUTH commands, successful or not; 450 4.7.1."`
	Unit           time.Duration  `conf:"rate_time_unit" default:"60s" doc:"Time in which these are counted, up to 24h. It slides: what lies further back does not count."`
	IPv4Bits       int            `conf:"client_ipv4_prefix_length" default:"32" doc:"Length of the prefix of IPv4 addresses that count as one client, also for max_sessions_per_client."`
	IPv6Bits       int            `conf:"client_ipv6_prefix_length" default:"64" doc:"The same of IPv6 addresses. Postfix's 84 splits the network of a single customer into a million clients."`
	Exceptions     []netip.Prefix `conf:"client_event_limit_exceptions" doc:"Networks whose clients are not counted, beside mynetworks."`
	LimitOurs      bool           `conf:"limit_mynetworks" default:"false" doc:"Count clients in mynetworks, too."`
	Shared         bool           `conf:"shared" default:"false" doc:"Count over all gateways that share what they know (peers), for the rates above. Otherwise each counts for itself."`
	Tracked        int            `conf:"clients_tracked" default:"65536" doc:"In the gateway's block: clients remembered at a time for the rates; beyond, the one not seen for longest is forgotten. Changes take a restart."`

	SoftErrors int           `conf:"soft_error_limit" default:"10" doc:"Errors in a session, since its last message, that are answered at once. 0: any number."`
	HardErrors int           `conf:"hard_error_limit" default:"20" doc:"Errors in a session, since its last message; the next one ends it with 421 4.7.0. 0: any number."`
	ErrorDelay time.Duration `conf:"error_sleep_time" default:"1s" doc:"How long an answer is held back after soft_error_limit."`
	Junk       int           `conf:"junk_command_limit" default:"100" doc:"Commands without a use (NOOP, VRFY, RSET, HELP, ETRN) between two messages; more are errors. 0: any number."`
	Overshoot  int           `conf:"recipient_overshoot_limit" default:"1000" doc:"Recipients beyond max_recipients that are put off (452) before that is an error."`
	AuthFails  int           `conf:"auth_failure_limit" default:"3" doc:"Wrong passwords in a session; further logins end it with 421 4.7.0."`
	Noop       []string      `conf:"noop_commands" doc:"Commands that are answered 250 and do nothing."`
	Forbidden  []string      `conf:"forbidden_commands" default:"CONNECT GET POST" doc:"Commands of other protocols, which end the session; so does every line that begins with no letter."`

	MinRate        int           `conf:"min_data_rate" default:"500" doc:"Octets per second with which a message has to come on average, once data_timeout was waited for in all. 0: any speed."`
	MessageTimeout time.Duration `conf:"message_timeout" default:"1h" doc:"Longest time from DATA to the end of a message."`
	Stress         int           `conf:"stress_percent" default:"90" doc:"From this part of max_sessions on, in percent, until a tenth fewer: clients are waited for no longer than stress_timeout, and their second error or junk command ends the session. 0: never."`
	StressTimeout  time.Duration `conf:"stress_timeout" default:"10s" doc:"Longest wait for a command, or for more of a message, then."`
}

// limitsOf returns the limits of a listener: those of the gateway with what the
// listener writes itself.
func (g *Gateway) limitsOf(l *SMTPListener) *Limits {
	if l.Limits == nil {
		return g.Limits
	}
	merged := *g.Limits
	to, from := fieldsOf(reflect.ValueOf(&merged).Elem()), fieldsOf(reflect.ValueOf(l.Limits).Elem())
	for i := range from {
		if l.Limits.wrote(from[i].name) {
			to[i].value.Set(from[i].value)
		}
	}
	return &merged
}

// apply puts the limits of a session into a listener's settings.
func (l *Limits) apply(c *smtp.ServerConfig, ours []netip.Prefix) {
	c.SoftErrors, c.HardErrors, c.MaxJunkCommands = orNoLimit(l.SoftErrors), orNoLimit(l.HardErrors), orNoLimit(l.Junk)
	c.ErrorDelay = orNever(l.ErrorDelay)
	c.MaxSurplus, c.MaxAuthFailures = orNoLimit(l.Overshoot), orNoLimit(l.AuthFails)
	c.Noop, c.Forbidden = l.Noop, append([]string{}, l.Forbidden...)
	c.IPv4Bits, c.IPv6Bits, c.ExemptClients = l.IPv4Bits, l.IPv6Bits, l.exempt(ours)
	c.MinDataRate, c.MessageTimeout = l.MinRate, l.MessageTimeout
	c.Stress, c.StressTimeout = l.Stress, l.StressTimeout
}

func (l *Limits) exempt(ours []netip.Prefix) []netip.Prefix {
	if l.LimitOurs {
		return l.Exceptions
	}
	return slices.Concat(ours, l.Exceptions)
}

// Rates returns how often clients of a listener may do things.
func (l *SMTPListener) Rates(f *File) limits.Rates {
	x := f.Gateway.limitsOf(l)
	rates := limits.Rates{
		Shared:  x.Shared,
		Service: l.Name, Unit: x.Unit, IPv4Bits: x.IPv4Bits, IPv6Bits: x.IPv6Bits, Exempt: x.exempt(l.networks(f.Gateway)),
	}
	rates.Most[mail.ClientConnects] = x.ConnectionRate
	rates.Most[mail.ClientSendsMessage] = x.MessageRate
	rates.Most[mail.ClientNamesRecipient] = x.RecipientRate
	rates.Most[mail.ClientStartsTLS] = x.TLSRate
	rates.Most[mail.ClientAuthenticates] = x.AuthRate
	return rates
}

// Clients returns the bounds of what is remembered of clients.
func (f *File) Clients() limits.ClientsConfig {
	if f.Gateway == nil {
		return limits.ClientsConfig{}
	}
	return limits.ClientsConfig{Entries: f.Gateway.Limits.Tracked}
}

// guards checks what a listener says of its clients' limits.
func (c checker) guards(l *SMTPListener) {
	if l.Limits != nil {
		c.limits(l.Limits)
		if l.Limits.wrote("clients_tracked") {
			c.errorf(l.Limits.rangeOf("clients_tracked"), "Setting of another block", "clients_tracked stands in the gateway's limits block: clients of all listeners share one memory.")
		}
	}
	c.proxyProtocol(l.ProxyProtocol, l.Bind)
	c.pregreet(l)
	if l.Mode == ModeLocal || l.Name == ModeLocal && l.Mode == "" {
		c.forbid(&l.block, ModeLocal, "xclient_hosts", "xforward_hosts", "require_tls")
	}
	if l.RequireTLS && c.file.Certificate(l.TLS) == nil {
		c.errorf(l.rangeOf("require_tls"), "No certificate", "TLS is demanded, so this listener needs a tls block here or at the top level.")
	}
}

// limits checks a limits block.
func (c checker) limits(l *Limits) {
	c.counts(l)
	for name, bound := range map[string]struct{ d, low, high time.Duration }{
		"rate_time_unit": {l.Unit, time.Second, 24 * time.Hour}, "message_timeout": {l.MessageTimeout, time.Second, 7 * 24 * time.Hour},
		"stress_timeout": {l.StressTimeout, time.Second, time.Hour}, "error_sleep_time": {l.ErrorDelay, 0, 10 * time.Minute},
	} {
		if bound.d < bound.low || bound.d > bound.high {
			c.errorf(l.rangeOf(name), "Wrong value", "%s is %s; it is from %s to %s.", name, formatDuration(bound.d), formatDuration(bound.low), formatDuration(bound.high))
		}
	}
	if l.HardErrors > 0 && l.SoftErrors > l.HardErrors {
		c.errorf(l.rangeOf("soft_error_limit"), "Contradiction", "soft_error_limit (%d) is above hard_error_limit (%d): the session ends before anything is held back.", l.SoftErrors, l.HardErrors)
	}
	for name, words := range map[string][]string{"noop_commands": l.Noop, "forbidden_commands": l.Forbidden} {
		for _, word := range words {
			if err := smtp.CheckVerb(word); err != nil {
				c.errorf(l.rangeOf(name), "Wrong value", "%s: %v.", name, err)
			}
		}
	}
}

func (c checker) counts(l *Limits) {
	const most = 1 << 30
	for name, bound := range map[string]struct{ n, low, high int }{
		"client_connection_rate_limit": {l.ConnectionRate, 0, most}, "client_message_rate_limit": {l.MessageRate, 0, most},
		"client_recipient_rate_limit": {l.RecipientRate, 0, most}, "client_new_tls_session_rate_limit": {l.TLSRate, 0, most},
		"client_auth_rate_limit": {l.AuthRate, 0, most}, "soft_error_limit": {l.SoftErrors, 0, most}, "hard_error_limit": {l.HardErrors, 0, most},
		"junk_command_limit": {l.Junk, 0, most}, "recipient_overshoot_limit": {l.Overshoot, 0, most}, "auth_failure_limit": {l.AuthFails, 0, most},
		"min_data_rate": {l.MinRate, 0, most}, "client_ipv4_prefix_length": {l.IPv4Bits, 1, 32}, "client_ipv6_prefix_length": {l.IPv6Bits, 1, 128},
		"stress_percent": {l.Stress, 0, 100}, "clients_tracked": {l.Tracked, 100, 10_000_000},
	} {
		if bound.n < bound.low || bound.n > bound.high {
			c.errorf(l.rangeOf(name), "Wrong value", "%s is %d; it is from %d to %d.", name, bound.n, bound.low, bound.high)
		}
	}
}
