// Package signing holds the keys of our domains and signs with them: mail of our
// people (DKIM, RFC 6376), what the server writes itself, and mail that is passed
// on to other domains (ARC, RFC 8617).
//
// Keys are files that only their owner can read; one that others can read is
// refused. They come from the configuration, each by its name, and from a folder
// that is looked at again while the server runs: one folder for each domain, with
// one file for each selector and, where the keygen and rotate commands made them,
// a record of when each is used. Who signs takes one snapshot; a key that cannot
// be read any more leaves the former snapshot in force.
//
// Signing is the last thing that happens to a message. What cannot be signed goes
// out unsigned, unless on_error says otherwise: no key, no single author in From.
package signing
