package smtp

import (
	"testing"

	"github.com/postern-mail/postern/mail"
)

// TestTally: commands are counted as Postfix counts them.
func TestTally(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		says []string // commands, each with its reply
		want mail.Dialogue
	}{
		{"nothing", nil, mail.Dialogue{Commands: "commands=0/0"}},
		{"a message", []string{"EHLO client.test", "250", "MAIL FROM:<a@client.test>", "250", "RCPT TO:<b@mx.test>", "250", "DATA", "354", "text\r\n.", "250", "QUIT", "221"},
			mail.Dialogue{Commands: "ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5", Last: "QUIT"}},
		{"refused", []string{"HELO client.test", "250", "MAIL FROM:<a@client.test>", "250", "RCPT TO:<NoSuchUser@mx.test>", "550", "RCPT TO:<b@mx.test>", "250", "QUIT", "221"},
			mail.Dialogue{Commands: "helo=1 mail=1 rcpt=1/2 quit=1 commands=4/5", Last: "QUIT"}},
		{"in chunks", []string{"EHLO client.test", "250", "MAIL FROM:<a@client.test>", "250", "RCPT TO:<b@mx.test>", "250", "BDAT 3\r\nabcBDAT 0 LAST", "250", "NOOP", "250"},
			mail.Dialogue{Commands: "ehlo=1 mail=1 rcpt=1 bdat=2 noop=1 commands=6", Last: "NOOP"}},
		{"no command", []string{"EHLO client.test", "250", "NONSENSE", "500", "NOOP", "250", "NONSENSE", "500"},
			mail.Dialogue{Commands: "ehlo=1 noop=1 unknown=0/2 commands=2/4", Last: "UNKNOWN"}},
		{"a browser", []string{"GET / HTTP/1.1", "521"}, mail.Dialogue{Commands: "unknown=0/1 commands=0/1", Last: "UNKNOWN"}},
		{"cut off", []string{"EHLO client.test", "250", "MAIL FROM:<a@client.test>", "250", "RCPT TO:<b@mx.test>", "250", "DATA", "354", "text", ""},
			mail.Dialogue{Commands: "ehlo=1 mail=1 rcpt=1 data=0/1 commands=3/4", Last: "DATA"}},
		{"at the wrong time", []string{"DATA", "503", "AUTH", "501"}, mail.Dialogue{Commands: "auth=0/1 data=0/1 commands=0/2", Last: "AUTH"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			told := make(chan mail.Dialogue, 1)
			_, address, stop := startLoopback(t, ServerConfig{}, &fakeHandler{closed: func(c *mail.Client) { told <- c.Dialogue() }})
			c := dialTalker(t, address)
			c.hear("220")
			for i := 0; i < len(row.says); i += 2 {
				c.say(row.says[i])
				if row.says[i+1] != "" {
					c.hear(row.says[i+1])
				}
			}
			c.Close()
			if got := <-told; got != row.want {
				t.Errorf("got  %+v\nwant %+v", got, row.want)
			}
			stop()
		})
	}
}
