package pairs

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// posterns is a pair of ours. Node 0 dials, over the cable.
type posterns struct {
	t      testing.TB
	binary string
	nodes  [2]*postern
	cable  *testenv.Cable
	// people and secret are files that all have; front is what stands before
	// the pair, or nil.
	people, secret string
	front          *front
}

type postern struct {
	dir, lmtp, imap string
	process         *testenv.Process
}

const posternConfig = `hostname = "node%[1]d.pairs.test"
data_dir = "%[2]s/data"
log { file = "%[2]s/postern.log" }
control { socket = "%[2]s/control.sock" }
directory "ldif" "people" {
  file = "%[3]s"
  base = "dc=pairs,dc=test"
}
authn "ldif" {
  directory       = directory.people
  allow_cleartext = true
}
backend {
  node = %[1]d
  listener "lmtp" { bind = ["%[4]s"] }
  listener "imap" {
    bind                 = ["%[5]s"]
    allow_plaintext_auth = true
  }
  proxy {
    networks      = ["127.0.0.0/8"]
    password_file = "%[7]s"
  }
  replica {
    pair = "pairs"
    %[6]s
    secret_file = "%[7]s"
    durability  = "%[8]s"
  }
}
`

// startPosterns starts a pair.
func startPosterns(t testing.TB, binary, durability string, users []string) *posterns {
	t.Helper()
	shared := testenv.TempDir(t)
	people, secret := filepath.Join(shared, "people.ldif"), filepath.Join(shared, "secret")
	write(t, people, ldif(users))
	write(t, secret, "a secret of more than thirty-two octets for tests\n")
	link := freeAddress(t)
	p := &posterns{t: t, binary: binary, cable: testenv.NewCable(t, link), people: people, secret: secret}
	ends := [2]string{fmt.Sprintf("partner = %q", p.cable.Addr()), fmt.Sprintf("listen = [%q]", link)}
	for i := range p.nodes {
		n := &postern{dir: testenv.TempDir(t), lmtp: freeAddress(t), imap: freeAddress(t)}
		write(t, n.config(), fmt.Sprintf(posternConfig, i, n.dir, people, n.lmtp, n.imap, ends[i], secret, durability))
		p.nodes[i] = n
	}
	for i := range p.nodes {
		if err := p.tryStart(i); err != nil {
			t.Fatal(err)
		}
	}
	p.awaitJoined(t, users[0])
	return p
}

// awaitJoined waits until node 1, which is new, has heard from node 0: it
// serves nobody before.
func (p *posterns) awaitJoined(t testing.TB, user string) {
	t.Helper()
	testenv.Eventually(t, patience, func() error {
		c, err := dial(p.imap(1), user, p.password())
		if err == nil {
			c.close()
		}
		return err
	})
}

// freeAddress returns an address of 127.0.0.1 that is the test's own.
func freeAddress(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
}

func (n *postern) config() string { return filepath.Join(n.dir, "postern.hcl") }

func (n *postern) data() string { return filepath.Join(n.dir, "data") }

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func ldif(users []string) string {
	var b strings.Builder
	b.WriteString("dn: dc=pairs,dc=test\nobjectClass: dcObject\nobjectClass: organization\ndc: pairs\no: Pairs\n\n")
	b.WriteString("dn: ou=people,dc=pairs,dc=test\nobjectClass: organizationalUnit\nou: people\n\n")
	for _, u := range users {
		uid, _, _ := strings.Cut(u, "@")
		fmt.Fprintf(&b, "dn: uid=%[1]s,ou=people,dc=pairs,dc=test\nobjectClass: inetOrgPerson\nuid: %[1]s\ncn: %[1]s\nsn: %[1]s\nmail: %[2]s\nuserPassword: {CLEARTEXT}secret\n\n", uid, u)
	}
	return b.String()
}

func (p *posterns) name() string         { return "Postern" }
func (p *posterns) lmtp(node int) string { return p.nodes[node].lmtp }
func (p *posterns) imap(node int) string { return p.nodes[node].imap }
func (p *posterns) password() string     { return "secret" }
func (p *posterns) pull()                { p.cable.Pull() }
func (p *posterns) plug()                { p.cable.Plug() }
func (p *posterns) heals() time.Duration { return 2 * time.Minute }
func (p *posterns) turnOver()            {} // what it forgets it forgets by itself

func (p *posterns) silence(node int) {
	p.cable.Silence([]testenv.Direction{testenv.Forth, testenv.Back}[node])
}

// start belongs to the test that made the pair: the node goes on after a
// scenario.
func (p *posterns) start(t testing.TB, node int) {
	t.Helper()
	if err := p.tryStart(node); err != nil {
		t.Fatal(err)
	}
}

func (p *posterns) tryStart(node int) (err error) {
	n := p.nodes[node]
	n.process, err = testenv.TryStart(p.t, testenv.Command{
		Path: p.binary, Args: []string{"serve", "-c", n.config()}, Ready: testenv.DialReady("tcp", n.imap),
	})
	return err
}

func (p *posterns) stop(_ testing.TB, node int) { p.nodes[node].process.Stop() }

func (p *posterns) kill9(_ testing.TB, node int) { p.nodes[node].process.Kill() }

func (p *posterns) freeze(_ testing.TB, node int) { p.nodes[node].process.Pause() }

func (p *posterns) thaw(_ testing.TB, node int) { p.nodes[node].process.Resume() }

// killReplication kills the node: what replicates is in it.
func (p *posterns) killReplication(t testing.TB, node int) {
	t.Helper()
	p.kill9(t, node)
	p.start(t, node)
}

// run is a command to a node.
func (p *posterns) run(node int, args ...string) error {
	out, err := exec.Command(p.binary, append(args, "-c", p.nodes[node].config())...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("postern %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (p *posterns) sync(node int, user string, full bool) error {
	account, _, _ := strings.Cut(user, "@")
	args := []string{"replica", "replicate", account}
	if full {
		args = append(args, "-f")
	}
	return p.run(node, args...)
}

// lose overwrites the place of the body in its pack.
func (p *posterns) lose(t testing.TB, node int, _, subject string) {
	t.Helper()
	packs, err := filepath.Glob(filepath.Join(p.nodes[node].data(), "mail", "bodies", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range packs {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := strings.Index(string(content), subject+", line at ")
		if at < 0 {
			continue
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(make([]byte, 1000), int64(at))
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("no body of %s in the packs of node %d", subject, node)
}

func (p *posterns) saved(node int) string { return filepath.Join(p.nodes[node].dir, "saved") }

func (p *posterns) save(t testing.TB, node int) {
	t.Helper()
	p.stop(t, node)
	testenv.Run(t, "/bin/cp", "-a", p.nodes[node].data(), p.saved(node))
	p.start(t, node)
}

// restore is what docs/replication.md tells the operator to do with a backup.
func (p *posterns) restore(t testing.TB, node int) {
	t.Helper()
	p.stop(t, node)
	if err := os.RemoveAll(p.nodes[node].data()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p.saved(node), p.nodes[node].data()); err != nil {
		t.Fatal(err)
	}
	if err := p.run(node, "replica", "rejoin", "--yes"); err != nil {
		t.Fatal(err)
	}
	p.start(t, node)
}

var _ breakable = (*posterns)(nil)
