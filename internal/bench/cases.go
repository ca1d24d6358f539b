package main

import (
	"context"
	"sync/atomic"
	"time"
)

// benchCase is one thing that is measured.
type benchCase struct {
	name    string
	measure func(context.Context, *system, options) (figures, error)
}

// plan is what is measured, in order.
var plan = []benchCase{
	{"at rest", atRest},
	{"5 KB, 1 connection", load(5_000, 1)},
	{"5 KB, 16 connections", load(5_000, 16)},
	{"5 KB, 64 connections", load(5_000, 64)},
	{"50 KB, 1 connection", load(50_000, 1)},
	{"50 KB, 16 connections", load(50_000, 16)},
	{"50 KB, 64 connections", load(50_000, 64)},
	{"single, seen by NOOP", single(seeByNoop)},
	{"single, told by IDLE", single(seeByIdle)},
}

// sent counts all messages ever sent, to tell them apart.
var sent atomic.Int64

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
