package proxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/internal/testenv"
)

// servePOP3 is a node's conversation in POP3.
func (n *fakeNode) servePOP3(conn net.Conn, r *bufio.Reader, bye bool, refusal string) {
	say := func(text string) { _, _ = io.WriteString(conn, text+"\r\n") }
	if bye {
		say("-ERR [SYS/TEMP] draining")
		return
	}
	say("+OK [XCLIENT] ready")
	origin := ""
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		n.hung()
		verb, argument, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch strings.ToUpper(verb) {
		case "XCLIENT":
			origin = argument
			say("+OK Updated")
		case "AUTH":
			say("+ ")
			response, _ := r.ReadString('\n')
			decoded, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(response))
			n.with(func() { n.logins = append(n.logins, strings.ReplaceAll(string(decoded), "\x00", " ")+" "+origin) })
			if refusal != "" {
				say(refusal)
				return
			}
			say("+OK in")
		case "QUIT":
			say("+OK bye")
			return
		case "HALF":
			say("+OK a message\r\nof which this is not the last line")
		default:
			say("+OK " + n.name)
		}
	}
}

func pop3Pair(t *testing.T, cfg sessions.Terms) (*front, [2]*fakeNode) {
	t.Helper()
	nodes := [2]*fakeNode{startNode(t, "zero"), startNode(t, "one")}
	for _, n := range nodes {
		n.with(func() { n.pop3 = true })
	}
	f := startProxyIn(t, POP3(), cfg, CellConfig{
		Name: "cell", User: "proxy", Secret: "pw", Addresses: []string{nodes[0].l.Addr().String(), nodes[1].l.Addr().String()}, TLS: CellNone, Failover: patient,
	})
	return f, nodes
}

// dialPOP3 connects and reads the greeting.
func (f *front) dialPOP3() *client {
	f.t.Helper()
	c := f.connect()
	c.want("+OK mail.example.com POP3 proxy ready")
	return c
}

func (c *client) ask(command, want string) {
	c.t.Helper()
	c.send(command + "\r\n")
	c.want(want)
}

func (c *client) loginPOP3(name string) {
	c.t.Helper()
	c.ask("USER "+name, "+OK")
	c.ask("PASS secret", "+OK Logged in")
}

// TestPOP3GoesHome: whichever way a client logs in, it is connected to its home
// as itself, by the proxy's own identity, and the node hears where it is. What
// it sent ahead reaches the node.
func TestPOP3GoesHome(t *testing.T) {
	t.Parallel()
	f, nodes := pop3Pair(t, sessions.Terms{})
	c := f.dialPOP3()
	c.send("USER user0\r\nPASS secret\r\nSTAT\r\nQUIT\r\n")
	for _, want := range []string{"+OK Password", "+OK Logged in", "+OK zero", "+OK bye"} {
		c.want(want)
	}
	c.eof()
	c = f.dialPOP3()
	c.ask("AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00user1\x00secret")), "+OK Logged in")
	c.ask("STAT", "+OK one")
	c = f.dialPOP3()
	c.ask("auth plain", "+ ")
	c.ask(base64.StdEncoding.EncodeToString([]byte("\x00user1\x00secret")), "+OK Logged in")
	host, port, _ := net.SplitHostPort(c.LocalAddr().String())
	for _, n := range nodes {
		n.mu.Lock()
		defer n.mu.Unlock()
	}
	if len(nodes[0].logins) != 1 || !strings.HasPrefix(nodes[0].logins[0], "user0 proxy pw SESSION=") {
		t.Errorf("%q", nodes[0].logins)
	}
	if len(nodes[1].logins) != 2 || !strings.HasSuffix(nodes[1].logins[1], " TTL=1 ADDR="+host+" PORT="+port) {
		t.Errorf("%q", nodes[1].logins)
	}
}

// TestPOP3BeforeTheLogin: what a client may say, and how it is told no.
func TestPOP3BeforeTheLogin(t *testing.T) {
	t.Parallel()
	f, _ := pop3Pair(t, sessions.Terms{MaxAuthFailures: 2})
	c := f.dialPOP3()
	c.ask("CAPA", "+OK")
	var capabilities []string
	for line := c.line(); line != "."; line = c.line() {
		capabilities = append(capabilities, line)
	}
	if got := strings.Join(capabilities, ","); got != "TOP,UIDL,RESP-CODES,AUTH-RESP-CODE,PIPELINING,USER,SASL PLAIN,IMPLEMENTATION Postern" {
		t.Errorf("CAPA %s", got)
	}
	c.ask("AUTH", "+OK")
	c.want("PLAIN")
	c.want(".")
	c.ask("STLS", "-ERR Invalid command: TLS is not available")
	c.ask("STAT", "-ERR Invalid command: log in first")
	c.ask("PASS secret", "-ERR Invalid command: USER comes before PASS")
	c.ask("USER", "-ERR Invalid command")
	c.ask("AUTH NTLM", "-ERR [AUTH] ")
	c.ask("AUTH PLAIN", "+ ")
	c.ask("*", "-ERR Invalid command: authentication was cancelled")
	c.ask("AUTH PLAIN !", "-ERR Invalid command: invalid base64")
	c.ask("USER down", "+OK")
	c.ask("PASS secret", "-ERR [SYS/TEMP] ")
	c.ask("USER user0", "+OK")
	c.ask("PASS wrong", "-ERR [AUTH] ")
	c.ask("USER user0", "+OK")
	c.ask("PASS wrong", "-ERR [AUTH] ")
	c.want("-ERR [AUTH] Too many failed authentications")
	c.eof()
	c = f.dialPOP3()
	for range 20 {
		c.ask("", "-ERR Invalid command")
	}
	c.want("-ERR Too many invalid commands")
	c.eof()
	c = f.dialPOP3()
	c.ask("QUIT", "+OK")
	c.eof()
}

// TestPOP3NodeRefuses: what concerns the maildrop is told as the node said it,
// and its partner not asked; what concerns the node has the partner asked; a
// refused login of the proxy's own is an outage.
func TestPOP3NodeRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		said, want string
		partner    int // its logins
	}{
		{"-ERR [IN-USE] Another session has it", "-ERR [IN-USE] Another session has it", 0},
		{"-ERR [LOGIN-DELAY] Too early", "-ERR [LOGIN-DELAY] Too early", 0},
		{"-ERR [SYS/TEMP] Not here now", "+OK Logged in", 1},
		{"-ERR [AUTH] Who are you", "+OK Logged in", 1},
		{"-ERR", "+OK Logged in", 1},
		{"what?", "+OK Logged in", 1},
	} {
		t.Run(tt.said, func(t *testing.T) {
			t.Parallel()
			f, nodes := pop3Pair(t, sessions.Terms{})
			nodes[0].with(func() { nodes[0].say = tt.said })
			c := f.dialPOP3()
			c.ask("USER user0", "+OK")
			c.ask("PASS secret", tt.want)
			nodes[1].mu.Lock()
			defer nodes[1].mu.Unlock()
			if len(nodes[1].logins) != tt.partner {
				t.Errorf("the partner was asked %d times", len(nodes[1].logins))
			}
		})
	}
}

// TestPOP3PartnerTakesOver: a node that is drained or dead costs nobody a login;
// with both away the answer is an outage.
func TestPOP3PartnerTakesOver(t *testing.T) {
	t.Parallel()
	f, nodes := pop3Pair(t, sessions.Terms{})
	nodes[0].with(func() { nodes[0].bye = true })
	c := f.dialPOP3()
	c.loginPOP3("user0")
	c.ask("STAT", "+OK one")
	nodes[0].kill()
	c = f.dialPOP3()
	c.loginPOP3("user0")
	c.ask("STAT", "+OK one")
	nodes[1].kill()
	c.eof() // without a word that could be taken for an answer
	c = f.dialPOP3()
	c.ask("USER user0", "+OK")
	c.ask("PASS secret", "-ERR [SYS/TEMP] ")
}

// TestPOP3EndsInAMessage: a node that dies while a message is under way, whole
// lines of it, does not have the proxy add one.
func TestPOP3EndsInAMessage(t *testing.T) {
	t.Parallel()
	f, nodes := pop3Pair(t, sessions.Terms{})
	c := f.dialPOP3()
	c.loginPOP3("user0")
	c.ask("HALF", "+OK")
	c.want("of which")
	nodes[0].kill()
	c.eof()
}

// TestPOP3Leaves: which octets are a goodbye.
func TestPOP3Leaves(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]bool{
		"QUIT\r\n": true, "DELE 1\r\nquit\n": true, "QUIT": false, "QUITS\r\n": false, "RETR 1\r\n": false, "": false, "\r\n": false,
	} {
		if got := (pop3Dialect{}).leaves([]byte(said)); got != want {
			t.Errorf("%q: %v", said, got)
		}
	}
}

// TestPOP3DovecotBehind: a real Dovecot as the node, reached by STLS with its
// certificate verified; clients come by STLS, too. Dovecot logs the session
// under the proxy's name for it, and the client's address.
func TestPOP3DovecotBehind(t *testing.T) {
	t.Parallel()
	d := startDovecot(t)
	pem, err := os.ReadFile(d.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	ca := testenv.NewCA(t)
	cell := CellConfig{Name: "cell", Addresses: []string{d.POP3}, TLSConfig: &tls.Config{RootCAs: roots}, User: d.Master, Secret: d.MasterPassword, Failover: patient}
	f := startProxyIn(t, POP3(), sessions.Terms{TLS: &tls.Config{Certificates: []tls.Certificate{ca.Issue("mail.example.com").TLS(t)}}}, cell)
	c := f.dialPOP3()
	c.send("STLS\r\nUSER mallory\r\n") // what was in the clear is forgotten
	c.want("+OK Begin")
	protected := tls.Client(c.Conn, &tls.Config{RootCAs: ca.Pool(), ServerName: "mail.example.com"})
	if err := protected.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Conn, c.r = protected, bufio.NewReader(protected)
	c.ask("PASS secret", "-ERR Invalid command: USER comes before PASS")
	c.loginPOP3("user0")
	c.ask("STAT", "+OK 0 0")
	session := string(f.list()[0].ID)
	c.ask("QUIT", "+OK")
	c.eof()
	testenv.Eventually(t, patient, func() error {
		if log := d.Process().Log(); !strings.Contains(log, "user=<user0>") || !strings.Contains(log, "session=<"+session+">") {
			return fmt.Errorf("Dovecot did not log the session %s:\n%s", session, log)
		}
		return nil
	})
	cell.TLSConfig = &tls.Config{RootCAs: x509.NewCertPool()}
	c = startProxyIn(t, POP3(), sessions.Terms{}, cell).dialPOP3()
	c.ask("USER user0", "+OK")
	c.ask("PASS secret", "-ERR [SYS/TEMP] ") // nobody whom we trust
}
