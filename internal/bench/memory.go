package main

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"time"
)

// memory returns how many octets of memory the trees below the roots take.
// What processes share is counted once, a part with each of them (the
// proportional set size of proc_pid_smaps(5)). Processes of other accounts can
// be read by root only and are left out otherwise.
func memory(roots []int) (octets int64, err error) {
	err = eachProcess(roots, func(pid int, _ processTimes) {
		if text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup"); err == nil {
			octets += parsePSS(text)
		}
	})
	return octets, err
}

// parsePSS reads the line "Pss: N kB"; 0 when there is none.
func parsePSS(rollup []byte) int64 {
	_, after, _ := bytes.Cut(rollup, []byte("\nPss:"))
	fields := bytes.Fields(after)
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(string(fields[0]), 10, 64) // written by the kernel
	return n << 10
}

func mebibytes(octets int64) float64 { return float64(octets) / (1 << 20) }

// atRest measures a system that nobody talks to.
func atRest(ctx context.Context, s *system, _ options) (f figures, err error) {
	select {
	case <-ctx.Done():
		return f, ctx.Err()
	case <-time.After(settle):
	}
	octets, err := memory(s.roots())
	f.set(memoryTaken, mebibytes(octets))
	return f, err
}
