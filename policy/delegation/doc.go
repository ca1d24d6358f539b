// Package delegation speaks Postfix's policy delegation protocol
// (SMTPD_POLICY_README), in both directions.
//
// As client: check_policy_service asks a program such as postgrey or policyd-spf
// what is to be done; a transaction goes out as attributes, and what comes back
// is an action as access tables have them. As server: an existing Postfix asks
// our chain; attributes come in, and the chain's decision goes out as an action.
//
// What it guarantees: a service that is down, slow or speaks nonsense costs a
// bounded time, is left alone for a while, and leads to the configured action,
// transient unless the operator says otherwise; whatever a peer sends takes
// bounded memory. What it leaves to package policy: what actions mean.
package delegation
