// Command bench measures how fast mail goes through Postern, from SMTP until
// it is visible in IMAP, and beside it Postfix with Dovecot where those are
// installed.
//
// Everything is made in a temporary directory and spoken to on 127.0.0.1: each
// system gets its own configuration, ports, spool and mailboxes, and nothing
// of the machine's own mail system is read or touched. The systems take turns
// within each case (A B A B ...), and of each figure the median over the turns
// is printed, so that a machine that is busy for a while is so for both.
//
// It is bounded: with the default flags it ends within about fifteen minutes.
// docs/performance.md says what the columns mean.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// options is what the flags say.
type options struct {
	postern string
	runs    int
	load    time.Duration // of one load case, until the last message is handed over
	singles int           // messages of a case that measures single ones
	queued  int           // messages of a case that fills a queue
	mailbox int           // messages of the large mailbox
	cases   *regexp.Regexp
	alone   bool
	keep    bool
	quick   bool
}

func main() {
	o := options{load: 2 * time.Second, singles: 20, queued: 20_000, mailbox: 50_000}
	flag.StringVar(&o.postern, "postern", "bin/postern", "our `binary`")
	flag.IntVar(&o.runs, "runs", 3, "turns of each system in each case")
	flag.BoolVar(&o.alone, "alone", false, "measure Postern only")
	flag.BoolVar(&o.keep, "keep", false, "keep the temporary directory")
	flag.DurationVar(&o.load, "load", o.load, "how long one turn sends")
	flag.BoolVar(&o.quick, "quick", false, "one short turn of each: shows that all works, measures little")
	cases := flag.String("cases", "", "only cases whose name matches this `regexp`; -cases list names them")
	flag.Parse()
	if o.quick {
		o.runs, o.load, o.singles, o.queued, o.mailbox = 1, 700*time.Millisecond, 5, 500, 1000
	}
	if *cases == "list" {
		for _, s := range plan {
			for _, c := range s.cases {
				fmt.Println(c.name)
			}
		}
		return
	}
	var err error
	if o.cases, err = regexp.Compile(*cases); err == nil {
		// The driver shares the processors with what it drives and keeps
		// little: it may collect its garbage rarely.
		debug.SetGCPercent(400)
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = bench(ctx, o, os.Stdout)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench starts the systems, measures every case on each and prints the tables.
func bench(ctx context.Context, o options, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "postern-bench")
	if err != nil {
		return err
	}
	if o.keep {
		fmt.Fprintln(os.Stderr, "kept:", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	// Postfix's and Dovecot's processes run under other accounts.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s, %s/%s, %d processors, %s\n", time.Now().Format(time.DateOnly), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	for n, s := range plan {
		if err := s.run(ctx, o, filepath.Join(dir, strconv.Itoa(n)), out); err != nil {
			return err
		}
	}
	return nil
}

// run measures a suite's cases and prints their tables.
func (p suite) run(ctx context.Context, o options, dir string, out io.Writer) error {
	cases := slices.DeleteFunc(slices.Clone(p.cases), func(c benchCase) bool { return !o.cases.MatchString(c.name) })
	if len(cases) == 0 {
		return nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	systems, missing, err := p.start(ctx, o, dir)
	defer func() {
		for _, s := range slices.Backward(systems) {
			s.end()
		}
	}()
	if err != nil {
		return err
	}
	if missing != "" {
		fmt.Fprintf(out, "\n%s; not all is measured.\n", missing)
	}
	t := &table{against: make(map[string]string)}
	for _, c := range cases {
		if err := c.run(ctx, o, systems, t); err != nil {
			return err
		}
	}
	t.print(out)
	return nil
}

// run measures a case on each of the systems that it is for, turn about.
func (c benchCase) run(ctx context.Context, o options, systems []*system, t *table) error {
	runs := o.runs
	if c.once {
		runs = 1
	}
	for turn := range runs {
		for _, s := range c.among(systems) {
			figures, err := c.measure(ctx, s, o)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", c.name, s.name, err)
			}
			fmt.Fprintf(os.Stderr, "%-34s turn %d/%d  %-16s %s\n", c.name, turn+1, runs, s.name, figures)
			t.add(c, s.name, figures)
		}
	}
	return nil
}

// among returns the systems that a case is for, in its order.
func (c benchCase) among(systems []*system) []*system {
	if c.of == nil {
		return systems
	}
	var mine []*system
	for _, name := range c.of {
		for _, s := range systems {
			if s.name == name {
				mine = append(mine, s)
			}
		}
	}
	return mine
}

// start brings up Postern and, where they are installed, the peers. It returns
// what runs also beside an error, and why there are no peers.
func start(ctx context.Context, o options, dir string) (systems []*system, missing string, err error) {
	binary, err := filepath.Abs(o.postern)
	if err != nil {
		return nil, "", err
	}
	if err := writeCertificate(dir); err != nil {
		return nil, "", err
	}
	ours, err := startPostern(ctx, binary, filepath.Join(dir, "postern"))
	if err != nil {
		return nil, "", err
	}
	systems = append(systems, ours)
	if o.alone {
		return systems, "", nil
	}
	if missing = peersMissing(); missing != "" {
		fmt.Fprintln(os.Stderr, missing)
		return systems, missing, nil
	}
	peers, err := startPeers(ctx, filepath.Join(dir, "peers"))
	if err != nil {
		return systems, "", err
	}
	return append(systems, peers), "", nil
}
