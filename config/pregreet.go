package config

import (
	"time"

	"github.com/postern-mail/postern/smtp"
)

// Pregreet holds greetings back to find out who does not wait.
type Pregreet struct {
	block
	Wait   time.Duration `conf:"wait" default:"6s" doc:"How long the greeting is held back; 2s under stress. Clients in mynetworks, and those that limits exempt, do not wait."`
	Action string        `conf:"action" default:"enforce" oneof:"ignore enforce drop" doc:"What becomes of a client that talks first. ignore: the log tells. enforce: its recipients are refused (550 5.5.1). drop: 521 5.5.1, and the connection ends."`
	Teaser bool          `conf:"teaser" default:"true" doc:"Send a first line of the greeting before the wait, which lures those who do not read on."`
	TTL    time.Duration `conf:"remember" default:"1d" doc:"How long a client that waited need not wait again, here and at the gateways that share what they know (peers)."`
}

var pregreetActions = map[string]smtp.PregreetAction{"ignore": smtp.PregreetIgnore, "enforce": smtp.PregreetEnforce, "drop": smtp.PregreetDrop}

func (p *Pregreet) apply(c *smtp.ServerConfig) {
	if p != nil {
		c.GreetDelay, c.Teaser, c.Pregreet = p.Wait, p.Teaser, pregreetActions[p.Action]
	}
}

func (c checker) pregreet(l *SMTPListener) {
	p := l.Pregreet
	if p == nil {
		return
	}
	if l.Mode != ModeMX && (l.Mode != "" || l.Name != ModeMX) {
		c.errorf(p.at, "Setting of another kind", "pregreet is for listeners of mode mx: mail programs of people would not wait.")
	}
	if p.Wait < 100*time.Millisecond || p.Wait > time.Minute {
		c.errorf(p.rangeOf("wait"), "Wrong value", "wait is %s; it is from 100ms to 1m.", formatDuration(p.Wait))
	}
}
