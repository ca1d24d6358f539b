// Package dns is a stub resolver: it asks the recursive name servers of this
// host and remembers their answers.
//
// Answers have three values. Found and the two kinds of nothing, NXDomain and
// NoData, are certain and come without an error. Everything else, a server
// that fails, refuses, is silent, lies about the question or sends more than
// is reasonable, is an error and tells nothing about the name: who takes it
// for "no" bounces mail because of an outage.
//
// Validation of DNSSEC is the servers' work. Their AD bit is believed only of
// servers on this host, unless the configuration says otherwise, for anybody
// on the way could set it; an answer is Secure when every record on its way,
// aliases included, is.
//
// RFC 1035, RFC 2308 (negative answers), RFC 6891 (EDNS), RFC 7766 (TCP), RFC
// 6840 section 5.7 (AD), RFC 9520 (failures).
package dns
