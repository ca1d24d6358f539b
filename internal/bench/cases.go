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
}

// measure measures a system once.
type measure func(context.Context, *system, options) (figures, error)

// plan is what is measured, in order.
var plan = []benchCase{
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
