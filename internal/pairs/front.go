package pairs

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// front is one name for senders and mail programs before a pair of ours: a
// gateway and a proxy in one process.
type front struct {
	smtp, imap string
	process    *testenv.Process
}

const frontConfig = `hostname = "mail.pairs.test"
data_dir = "%[1]s/data"
log { file = "%[1]s/postern.log" }
control { socket = "%[1]s/control.sock" }
directory "ldif" "people" {
  file = "%[2]s"
  base = "dc=pairs,dc=test"
}
authn "ldif" {
  directory       = directory.people
  allow_cleartext = true
}
gateway {
  listener "mx" {
    bind                    = ["%[3]s"]
    max_sessions_per_client = 0
  }
  domains "local" {
    names      = ["pairs.test"]
    recipients = directory.people
    deliver    = target.pair
  }
  target "lmtp" "pair" { address = ["%[5]s", "%[6]s"] }
}
proxy {
  listener "imap" {
    bind                 = ["%[4]s"]
    allow_plaintext_auth = true
  }
  cell "pair" {
    address       = ["%[7]s", "%[8]s"]
    tls           = "none"
    user          = "proxy"
    password_file = "%[9]s"
  }
}
`

// openFront starts what stands before the pair.
func (p *posterns) openFront(t testing.TB) *front {
	t.Helper()
	f := &front{smtp: freeAddress(t), imap: freeAddress(t)}
	dir := testenv.TempDir(t)
	config := filepath.Join(dir, "postern.hcl")
	write(t, config, fmt.Sprintf(frontConfig, dir, p.people, f.smtp, f.imap, p.lmtp(0), p.lmtp(1), p.imap(0), p.imap(1), p.secret))
	f.process = testenv.Start(t, testenv.Command{
		Path: p.binary, Args: []string{"serve", "-c", config}, Ready: testenv.DialReady("tcp", f.imap),
	})
	p.front = f
	return f
}

func (p *posterns) smtp() string {
	if p.front == nil {
		return ""
	}
	return p.front.smtp
}
