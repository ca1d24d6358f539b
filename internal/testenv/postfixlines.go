package testenv

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
)

// Lines returns what Postfix looks up in header_checks ("h") or body_checks ("b")
// while it goes through a message, MIME parts included. The message has LF line
// ends, and none of its lines a tab.
func (p *PostfixTables) Lines(mode, message string) []string {
	p.t.Helper()
	table := p.Write("lines.pcre", "/(.*)/ END\n")
	c := exec.Command(p.program, "-c", p.dir, "-"+mode+"m", "-q", "-", "pcre:"+table)
	c.Stdin = strings.NewReader(message)
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.Output()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && said.Len() == 0) {
		p.t.Fatalf("postmap -%sm: %v: %s", mode, err, said.String())
	}
	lines := strings.Split(string(out), "\tEND\n")
	return lines[:len(lines)-1]
}
