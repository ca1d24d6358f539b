package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progressLine tells how far work is: in one line that is written again on a
// terminal, else now and then line by line. It is safe for concurrent use.
type progressLine struct {
	out      io.Writer
	terminal bool

	mu    sync.Mutex
	last  time.Time
	shown bool
}

// newProgressLine begins now: short work tells nothing.
func newProgressLine(out io.Writer) *progressLine {
	return &progressLine{out: out, terminal: isTerminal(out), last: time.Now()}
}

// every is how long it is between two times of telling.
func (p *progressLine) every() time.Duration {
	if p.terminal {
		return progressOnTerminal
	}
	return progressInLog
}

// due reports whether it is time to tell more.
func (p *progressLine) due() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.last) >= p.every()
}

// tell tells it where it is time.
func (p *progressLine) tell(line string) {
	if p.due() {
		p.show(line)
	}
}

func (p *progressLine) show(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.shown = time.Now(), true
	if p.terminal {
		fmt.Fprint(p.out, clearLine+line)
		return
	}
	fmt.Fprintln(p.out, line)
}

// end takes the line away, so that something else can be written.
func (p *progressLine) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal && p.shown {
		fmt.Fprint(p.out, clearLine)
	}
	p.shown = false
}

// over returns a writer before which the line is taken away.
func (p *progressLine) over(out io.Writer) io.Writer { return &overProgress{p, out} }

type overProgress struct {
	line *progressLine
	out  io.Writer
}

func (o *overProgress) Write(text []byte) (int, error) {
	o.line.end()
	return o.out.Write(text)
}
