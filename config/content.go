package config

import (
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/policy/content"
)

// Content bounds what looks into messages.
type Content struct {
	block
	SpoolDir   string        `conf:"spool_dir" doc:"Folder for the part above 1 MiB of messages that are looked into, while they are; a file has no name there. It need not survive a restart. Empty: tmp in data_dir. A change takes a restart."`
	SpoolLimit Octets        `conf:"spool_limit" default:"1 GiB" doc:"How much of all messages that are looked into at a time is kept, in memory and on disk. Beyond, mail is put off with 452. At least one message with its changed copy must fit: twice message_size_limit. A change takes a restart."`
	SpoolShare Octets        `conf:"spool_client_limit" doc:"How much of it the messages of one client (client_ipv4_prefix_length, client_ipv6_prefix_length) hold at most, with what stages unpack of them; beyond, its mail is put off with 452. Clients in mynetworks do not count. The last quarter of spool_limit is for clients who hold less than 1 MiB, so that a few who send large messages slowly do not shut out everybody else. Empty: a quarter of spool_limit, at least twice message_size_limit. A change takes a restart."`
	SpoolRAM   Octets        `conf:"spool_memory" default:"128 MiB" doc:"How much of it is kept in memory. Beyond, messages are in files from their first octet on. A change takes a restart."`
	Timeout    time.Duration `conf:"timeout" default:"8m" doc:"How long everything in the list content may take for one message, at most 9m, as clients wait for ten minutes. A milter or rspamd gets nine tenths of what is left of it at most, so that its on_error decides when it is silent. Beyond, the message is put off with 451, whatever on_error says."`
}

// Room returns where messages are kept while they are looked into.
func (c *Content) Room(f *File) content.SpoolConfig {
	dir := c.SpoolDir
	if dir == "" {
		dir = filepath.Join(f.DataDir, "tmp")
	}
	share := c.SpoolShare
	if share == 0 {
		share = c.SpoolLimit / 4
		for _, l := range f.Gateway.Listeners {
			share = max(share, 2*l.MaxMessage)
		}
	}
	return content.SpoolConfig{Dir: dir, MaxMemory: int64(c.SpoolRAM), MaxOctets: int64(c.SpoolLimit), MaxClientOctets: int64(share)}
}

func (c checker) content(g *Gateway) {
	if g.Content.Timeout < time.Second || g.Content.Timeout > 9*time.Minute {
		c.errorf(g.Content.rangeOf("timeout"), "Wrong value", "timeout is outside 1s to 9m: clients wait for ten minutes.")
	}
	if g.Content.SpoolRAM == 0 {
		c.errorf(g.Content.rangeOf("spool_memory"), "Wrong value", "spool_memory is 0; write a size such as \"128 MiB\".")
	}
	for _, l := range g.Listeners {
		if g.Content.SpoolLimit < 2*l.MaxMessage {
			c.errorf(g.Content.rangeOf("spool_limit"), "Too small", "spool_limit is below twice the largest message of listener %s: a message and its changed copy must fit.", l.Name)
			return
		}
		if g.Content.wrote("spool_client_limit") && g.Content.SpoolShare < 2*l.MaxMessage {
			c.errorf(g.Content.rangeOf("spool_client_limit"), "Too small", "spool_client_limit is below twice the largest message of listener %s: a message and its changed copy must fit.", l.Name)
			return
		}
	}
}
