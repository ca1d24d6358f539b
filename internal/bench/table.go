package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// metric is one column of the tables.
type metric int

const (
	acceptedPerSecond metric = iota
	visiblePerSecond
	relayedPerSecond
	ratePerSecond
	cpuPerMessage // milliseconds
	directoryCPU  // milliseconds
	p50           // milliseconds, as all below
	p95
	p99
	memoryTaken   // mebibytes
	kilobytesEach // of memory
	listTime      // milliseconds
	startTime     // milliseconds
	kilobytesHeld // of entries in memory
	copiedTime    // milliseconds
	metrics       // their number
)

var metricNames = [metrics]string{
	"accepted/s", "visible/s", "passed on/s", "per second", "CPU ms each", "slapd CPU ms each", "p50 ms", "p95 ms", "p99 ms", "memory MiB",
	"kB each", "list ms", "start ms", "kB each held", "copied ms",
}

// figures is the outcome of one turn; metrics that a case does not measure
// are zero.
type figures struct {
	messages int
	values   [metrics]float64
}

func (f *figures) set(m metric, v float64) { f.values[m] = v }

// percentiles sets the latencies, by the nearest rank.
func (f *figures) percentiles(took []time.Duration) {
	if len(took) == 0 {
		return
	}
	sorted := slices.Sorted(slices.Values(took))
	for m, percent := range map[metric]int{p50: 50, p95: 95, p99: 99} {
		rank := (len(sorted)*percent + 99) / 100
		f.set(m, milliseconds(sorted[rank-1]))
	}
}

func (f figures) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", f.messages)
	for m, v := range f.values {
		if v != 0 {
			fmt.Fprintf(&b, ", %s %s", metricNames[m], number(v))
		}
	}
	return b.String()
}

// table gathers the turns of all cases on all systems.
type table struct {
	systems []string // of two the first is compared with the second
	// against names the system that those of a case are compared with, by the
	// first figure, where there are more than two.
	against map[string]string
	cases   []string
	turns   map[[2]string][]figures // by case and system
}

func (t *table) add(c benchCase, system string, f figures) {
	if t.turns == nil {
		t.turns = make(map[[2]string][]figures)
	}
	if !slices.Contains(t.cases, c.name) {
		t.cases = append(t.cases, c.name)
	}
	if len(c.of) > 1 {
		t.against[c.name] = c.of[0]
	}
	if !slices.Contains(t.systems, system) {
		t.systems = append(t.systems, system)
	}
	key := [2]string{c.name, system}
	t.turns[key] = append(t.turns[key], f)
}

// median returns the middle of a case's turns, metric by metric.
func (t *table) median(name, system string) (f figures) {
	turns := t.turns[[2]string{name, system}]
	for m := range metrics {
		var all []float64
		for _, turn := range turns {
			all = append(all, turn.values[m])
		}
		f.set(m, median(all))
	}
	return f
}

// median returns the middle value, of an even number the mean of the two.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// print writes the medians as Markdown tables, one for cases that measure the
// same, and below the systems of each case how many times the second's figure
// the first's is.
func (t *table) print(out io.Writer) {
	var head []metric
	for _, name := range t.cases {
		columns := t.columns(name)
		if !slices.Equal(columns, head) {
			head = columns
			fmt.Fprint(out, "\n| case | system |")
			for _, m := range columns {
				fmt.Fprintf(out, " %s |", metricNames[m])
			}
			more := 0
			if t.against[name] != "" {
				fmt.Fprint(out, " ratio |")
				more = 1
			}
			fmt.Fprintf(out, "\n|---|---|%s\n", strings.Repeat("--:|", len(columns)+more))
		}
		t.printCase(out, name, columns)
	}
}

// columns lists what a case measures.
func (t *table) columns(name string) (columns []metric) {
	for m := range metrics {
		if slices.ContainsFunc(t.systems, func(system string) bool { return t.median(name, system).values[m] != 0 }) {
			columns = append(columns, m)
		}
	}
	return columns
}

func (t *table) printCase(out io.Writer, name string, columns []metric) {
	against := t.against[name]
	row := func(name, system string, cell func(m metric) string) {
		fmt.Fprintf(out, "| %s | %s |", name, system)
		for _, m := range columns {
			fmt.Fprintf(out, " %s |", cell(m))
		}
		if against != "" {
			fmt.Fprintf(out, " %s |", ratio(t.median(name, system).values[columns[0]], t.median(name, against).values[columns[0]]))
		}
		fmt.Fprintln(out)
	}
	var medians []figures
	for _, s := range t.systems {
		if len(t.turns[[2]string{name, s}]) == 0 {
			continue
		}
		f := t.median(name, s)
		medians = append(medians, f)
		row(name, s, func(m metric) string { return number(f.values[m]) })
	}
	if len(medians) == 2 && against == "" {
		row("", "**ratio**", func(m metric) string { return ratio(medians[0].values[m], medians[1].values[m]) })
	}
}

// number prints three digits of what was measured, and nothing of what was not.
func number(v float64) string {
	switch {
	case v == 0:
		return ""
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func ratio(ours, theirs float64) string {
	if ours == 0 || theirs == 0 {
		return ""
	}
	if r := ours / theirs; r >= 0.095 {
		return fmt.Sprintf("**%.2f**", r)
	}
	return fmt.Sprintf("**%.3f**", ours/theirs)
}
