package main

import (
	"context"
	"sync/atomic"
	"time"
)

// benchCase is one thing that is measured.
type benchCase struct {
	name    string
	measure measure
	once    bool // takes long: one turn is enough
	// of names the systems it measures, the first of them the one that the
	// others are compared with; nil for all.
	of []string
}

// measure measures a system once.
type measure func(context.Context, *system, options) (figures, error)

// suite is a number of cases that the same systems are measured by.
type suite struct {
	cases []benchCase
	// start brings up the systems in dir. It returns what runs also beside an
	// error, and what is missing to measure more.
	start func(ctx context.Context, o options, dir string) (systems []*system, missing string, err error)
}

// plan is what is measured, in order.
var plan = []suite{
	{cases: mailCases, start: start},
	{cases: directoryCases, start: startDirectory},
	{cases: corporateCases, start: startCorporate},
	{cases: signatureCases, start: startSigning},
	{cases: mailboxCases, start: startMailbox},
}

// The systems of the directory's cases, by what is asked of them.
var (
	ofRecipients = []string{sidePostfix, sidePostfixProxy, sideAsked, sideRemembers, sideReplica}
	ofLogins     = []string{sideDovecot, sideDovecotCached, sideAsked, sideReplica, sideVerified}
	ofReplica    = []string{sideReplica}
)

var directoryCases = []benchCase{
	{name: "RCPT, 1 connection", measure: recipients(1, 1), of: ofRecipients},
	{name: "RCPT, 16 connections", measure: recipients(16, 1), of: ofRecipients},
	{name: "RCPT by 20 at once, 1 connection", measure: recipients(1, 20), of: ofRecipients},
	{name: "RCPT by 20 at once, 16 connections", measure: recipients(16, 20), of: ofRecipients},
	{name: "AUTH PLAIN, 1 connection", measure: smtpLogins(1), of: ofLogins},
	{name: "AUTH PLAIN, 16 connections", measure: smtpLogins(16), of: ofLogins},
	{name: "IMAP LOGIN, 1 connection", measure: imapLogins(1), of: ofLogins},
	{name: "IMAP LOGIN, 16 connections", measure: imapLogins(16), of: ofLogins},
	{name: "directory change to RCPT", measure: recipientEffect, once: true, of: ofReplica},
	{name: "account disabled to end of session", measure: sessionEffect, once: true, of: ofReplica},
	{name: "copy of 100 000 people", measure: copyOfMany, once: true, of: ofReplica},
}

// corporateCases are about the restrictions of a company.
var corporateCases = []benchCase{
	{name: "corporate chain, 1 connection", measure: corporate(5_000, 1)},
	{name: "corporate chain, 16 connections", measure: corporate(5_000, 16)},
}

// mailCases are about the way of a message.
var mailCases = []benchCase{
	{name: "at rest", measure: atRest},
	{name: "5 KB, 1 connection", measure: load(5_000, 1)},
	{name: "5 KB, 16 connections", measure: load(5_000, 16)},
	{name: "5 KB, 64 connections", measure: load(5_000, 64)},
	{name: "50 KB, 1 connection", measure: load(50_000, 1)},
	{name: "50 KB, 16 connections", measure: load(50_000, 16)},
	{name: "50 KB, 64 connections", measure: load(50_000, 64)},
	{name: "5 KB, STARTTLS, 1 connection each", measure: tlsLoad(5_000, 1)},
	{name: "5 KB by LMTP, 1 connection", measure: lmtpLoad(5_000, 1)},
	{name: "5 KB by LMTP, 16 connections", measure: lmtpLoad(5_000, 16)},
	{name: "50 KB by LMTP, 16 connections", measure: lmtpLoad(50_000, 16)},
	{name: "5 KB passed on, 1 connection", measure: relayed(5_000, 1)},
	{name: "5 KB passed on, 16 connections", measure: relayed(5_000, 16)},
	{name: "single, seen by NOOP", measure: single(seeByNoop)},
	{name: "single, told by IDLE", measure: single(seeByIdle)},
	{name: "5 KB to a dead host, 16 connections", measure: stuck(5_000, 16), once: true},
}

// sent counts all messages ever sent, to tell them apart.
var sent atomic.Int64

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
