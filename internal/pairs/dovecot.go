package pairs

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// dovecots is a pair of Dovecot 2.3 in step by dsync.
type dovecots struct {
	*testenv.DovecotPairServer
	wait time.Duration
}

func (d *dovecots) name() string         { return "Dovecot 2.3" }
func (d *dovecots) lmtp(node int) string { return d.Nodes[node].LMTP }
func (d *dovecots) imap(node int) string { return d.Nodes[node].IMAP }
func (d *dovecots) password() string     { return "secret" }
func (d *dovecots) pull()                { d.Pull() }
func (d *dovecots) plug()                { d.Plug() }
func (d *dovecots) heals() time.Duration { return d.wait }
func (d *dovecots) turnOver()            { pause(1200 * time.Millisecond) } // its clock is of seconds

func (d *dovecots) sync(node int, user string, full bool) error {
	args := []string{"sync", "-u", user, "-d"}
	if full {
		args = append(args, "-f")
	}
	out, err := d.Nodes[node].Doveadm(args...)
	if err != nil {
		return fmt.Errorf("doveadm sync: %w: %s", err, out)
	}
	return nil
}

// killReplication ends the replicator, which the master starts again.
func (d *dovecots) killReplication(t testing.TB, node int) {
	t.Helper()
	out, err := d.Nodes[node].Doveadm("process", "status", "replicator")
	if err != nil {
		t.Fatalf("doveadm process status: %v: %s", err, out)
	}
	for _, line := range strings.Split(out, "\n")[1:] {
		fields := strings.Fields(line)
		if len(fields) > 1 {
			testenv.Run(t, "/bin/kill", "-KILL", fields[1])
		}
	}
}

func (d *dovecots) lose(t testing.TB, node int, user, subject string) {
	t.Helper()
	removed := false
	err := filepath.WalkDir(d.Nodes[node].Mail(user), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasPrefix(entry.Name(), "u.") {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil && bytes.Contains(content, []byte("Subject: "+subject)) {
			removed = true
			err = os.Remove(path)
		}
		return err
	})
	if err != nil || !removed {
		t.Fatalf("file of %s: removed %v, %v", subject, removed, err)
	}
}

func (d *dovecots) stop(_ testing.TB, node int)  { d.Nodes[node].Process().Stop() }
func (d *dovecots) start(_ testing.TB, node int) { d.Nodes[node].Restart() }

func (d *dovecots) save(t testing.TB, node int) {
	t.Helper()
	n := d.Nodes[node]
	n.Process().Stop()
	testenv.Run(t, "/bin/cp", "-a", n.Mail(""), n.Mail("../saved"))
	n.Restart()
}

func (d *dovecots) restore(t testing.TB, node int) {
	t.Helper()
	n := d.Nodes[node]
	n.Process().Stop()
	if err := os.RemoveAll(n.Mail("")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(n.Mail("../saved"), n.Mail("")); err != nil {
		t.Fatal(err)
	}
	n.Restart()
}
