package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// clockTick is the unit of processor times in /proc: USER_HZ is 100 on every
// Linux of today.
const clockTick = time.Second / 100

// processTimes is what /proc/PID/stat tells of one process.
type processTimes struct {
	parent int
	used   time.Duration // its own, and that of its children that ended and were waited for
}

// parseStat reads /proc/PID/stat, see proc_pid_stat(5). The program's name
// stands in parentheses and may hold anything, so fields count from the last.
func parseStat(stat []byte) (processTimes, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return processTimes{}, fmt.Errorf("no program name in %q", stat)
	}
	fields := bytes.Fields(stat[end+1:])
	if len(fields) < 15 {
		return processTimes{}, fmt.Errorf("%d fields in %q", len(fields), stat)
	}
	number := func(i int) (n int) {
		n, _ = strconv.Atoi(string(fields[i])) // written by the kernel
		return n
	}
	// After the name: state, ppid, ..., utime, stime, cutime, cstime.
	ticks := number(11) + number(12) + number(13) + number(14)
	return processTimes{parent: number(1), used: time.Duration(ticks) * clockTick}, nil
}

// cpuTime returns the processor time that the trees below the roots have
// used so far, processes that ended since included.
func cpuTime(roots []int) (sum time.Duration, err error) {
	err = eachProcess(roots, func(_ int, p processTimes) { sum += p.used })
	return sum, err
}

// eachProcess calls fn for the processes of the trees below the roots.
func eachProcess(roots []int, fn func(pid int, p processTimes)) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	all := make(map[int]processTimes)
	children := make(map[int][]int)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it ended meanwhile
		}
		times, err := parseStat(stat)
		if err != nil {
			return err
		}
		all[pid] = times
		children[times.parent] = append(children[times.parent], pid)
	}
	for open := roots; len(open) > 0; open = open[1:] {
		fn(open[0], all[open[0]])
		open = append(open[:len(open):len(open)], children[open[0]]...)
	}
	return nil
}
