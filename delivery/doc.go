// Package delivery decides where a recipient's mail goes next and holds what
// its transports share: configuration, next-hop notation, the connection pool
// and the way a conversation's results become outcomes.
//
// Deliveries come in from the queue; one outcome per recipient goes out.
// Delivered means that the next hop said so for that very recipient. Bounced
// needs a permanent refusal of the message or the recipient, or a name service
// that is sure; whatever else happens, a dead peer, name service or disk, a
// refused login, is Deferred. Retries, reports and expiry are the queue's.
//
// Transports live below: delivery/lmtp for mailbox servers, delivery/relay for
// relay hosts and the world, delivery/dsn composes reports.
//
// RFC 5321 sections 2.3.9 and 5, RFC 2033, RFC 7505, RFC 3461.
package delivery
