// Package status is the one table from the reason a thing was refused, put off
// or accepted to what each protocol says about it: SMTP reply code and text
// (RFC 5321), enhanced status code (RFC 3463), IMAP response code (RFC 5530).
//
// Rooms return a Reason; only this package knows digits. An outage of ours
// (directory, disk, peer, scanner) has only 4xx rows: a test holds that.
package status
