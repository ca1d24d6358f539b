// Package limits bounds what clients and people do per time: connections,
// messages, recipients, TLS sessions and logins of one network (Clients), and
// messages and recipients of one account (Quotas).
//
// What comes in is an event with its address or account; what goes out is
// whether it is one too many, and when it would not be. Rates are measured by a
// sliding window: what was counted in the present time unit, and of the one
// before the part that lies less than a unit back. What is refused is not
// counted, so that a client which is told a time can come back then.
//
// All state lives in memory of bounded size. What several gateways shall share,
// and what shall outlive a restart, goes through an interface that policy/shared
// satisfies; without one every gateway counts for itself. Replies and log lines
// are the callers'.
package limits
