package smtpd

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/audit/maillog"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
)

// logbook keeps what is written for readers of Postfix's log, session by session.
type logbook struct {
	mu  sync.Mutex
	out bytes.Buffer
	log *maillog.Log
}

func newLogbook() *logbook {
	l := &logbook{}
	l.log = maillog.New(maillog.Config{Hostname: "mx.example.com", Services: map[string]string{"mx": maillog.Daemon("mx"), "test": maillog.Daemon("mx")}}, &l.out, hclog.NewNullLogger())
	return l
}

// Record implements Auditor.
func (l *logbook) Record(e mail.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log.Record(e)
}

// take returns the decisions written since it was asked last.
func (l *logbook) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.out.String()
	l.out.Reset()
	return decisions(text)
}

var (
	beforeText = regexp.MustCompile(`^.{15} \S+ postfix/smtpd\[\d+\]: `)
	queueID    = regexp.MustCompile(`^[0-9A-Za-z]+: `)
	verb       = regexp.MustCompile(`^(reject|reject_warning|warn|info|hold|discard|filter|redirect|bcc|hangup): `)
)

// decisions are the lines of smtpd about what was decided, in a log of
// Postfix's, without the queue ids: ours are given out earlier.
func decisions(log string) []string {
	var all []string
	for line := range strings.Lines(log) {
		at := beforeText.FindStringIndex(line)
		if at == nil {
			continue
		}
		text := strings.TrimSuffix(line[at[1]:], "\n")
		if id := queueID.FindStringIndex(text); id != nil && verb.MatchString(text[id[1]:]) {
			all = append(all, text[id[1]:])
		}
	}
	return all
}

// byDialogue cuts a log of Postfix's into the decisions of each dialogue: it
// begins with a connection from us, who are somebody else only after XCLIENT.
// What was decided is logged before the client hears it, so that the order of
// lines holds although they come by way of another process.
func byDialogue(log string) [][]string {
	var all [][]string
	for part := range strings.SplitSeq(log, ": connect from unknown[127.0.0.1]\n") {
		all = append(all, decisions(part))
	}
	return all
}

// waitForLog returns the log once it has as many connections.
func waitForLog(t *testing.T, postfix *testenv.PostfixServer, connections int) [][]string {
	t.Helper()
	for {
		parts := byDialogue(postfix.Log())
		if len(parts) > connections {
			return parts
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("the log has %d connections of %d", len(parts)-1, connections)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

var loggedIn = regexp.MustCompile(` sasl_username=<[^>]*>$`)

// compareLogs compares what both wrote of one dialogue. Ours says who was logged
// in, as later versions of Postfix do.
func compareLogs(where string, postfix, ours []string) (differ []difference) {
	for i := range ours {
		ours[i] = loggedIn.ReplaceAllString(ours[i], "")
	}
	left := func(from, without []string) []string {
		without = slices.Clone(without)
		return slices.DeleteFunc(slices.Clone(from), func(line string) bool {
			at := slices.Index(without, line)
			if at >= 0 {
				without = slices.Delete(without, at, at+1)
			}
			return at >= 0
		})
	}
	theirs, us := left(postfix, ours), left(ours, postfix)
	for i := range max(len(theirs), len(us)) {
		d := difference{where: where + ", log"}
		if i < len(theirs) {
			d.postfix = theirs[i]
		}
		if i < len(us) {
			d.ours = us[i]
		}
		differ = append(differ, d)
	}
	return differ
}
