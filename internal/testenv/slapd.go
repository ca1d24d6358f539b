package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/testdata/ldif"
)

// Tree is a directory with what is needed to load and to read it.
type Tree = ldif.Tree

// SlapdOptions says what a private slapd serves.
type SlapdOptions struct {
	// Tree is what it is loaded with; the zero Tree means ldif.OpenLDAP().
	Tree Tree
	// Certificate serves ldaps and StartTLS; nil means one for localhost,
	// 127.0.0.1 and ::1 of a new CA.
	Certificate *Certificate
	// CA signed Certificate; nil means a new one.
	CA *CA
	// Config is added to the database's section of slapd.conf.
	Config string
	// Sync serves content synchronization (RFC 4533); SyncConfig is added to
	// the overlay's section.
	Sync       bool
	SyncConfig string
	// GlobalConfig is added before the database's section.
	GlobalConfig string
	// Env is added to its environment.
	Env []string
}

// SlapdServer is a private slapd.
type SlapdServer struct {
	Tree   Tree
	CA     *CA
	CAFile string
	// LDAPI, LDAP and LDAPS are its URIs. StartTLS is offered at LDAP and
	// LDAPI. LDAP and LDAPS are at 127.0.0.1.
	LDAPI, LDAP, LDAPS string
	// RootDN may read and write everything.
	RootDN, RootPassword string
	// ServicePasswordFile holds the password of Tree.ServiceDN.
	ServicePasswordFile string

	t       testing.TB
	dir     string
	program string
	env     []string
	process *Process
}

// Slapd starts a slapd that is loaded with a tree, in a private directory, and
// ends it after the test. Passwords can only be compared (bind), everything
// else is readable by the tree's service account and nobody else.
func Slapd(t testing.TB, o SlapdOptions) *SlapdServer {
	t.Helper()
	if o.Tree.LDIF == nil {
		o.Tree = ldif.OpenLDAP()
	}
	s := &SlapdServer{
		Tree:         o.Tree,
		CA:           o.CA,
		RootDN:       "cn=root," + o.Tree.BaseDN,
		RootPassword: "root-secret",
		t:            t,
		dir:          TempDir(t),
		program:      Program(t, "slapd"),
		env:          o.Env,
	}
	if s.CA == nil {
		s.CA = NewCA(t)
	}
	if o.Certificate == nil {
		c := s.CA.Issue("localhost", "127.0.0.1", "::1")
		o.Certificate = &c
	}
	s.CAFile = s.CA.WriteFile(s.dir)
	s.ServicePasswordFile = writeFile(t, s.path("service.password"), []byte(o.Tree.ServicePassword+"\n"), 0o600)
	writeFile(t, s.path("slapd.conf"), []byte(s.config(o)), 0o600)
	s.load(o.Tree)
	s.start()
	return s
}

func (s *SlapdServer) path(name string) string { return filepath.Join(s.dir, name) }

// config returns slapd.conf.
func (s *SlapdServer) config(o SlapdOptions) string {
	s.t.Helper()
	certFile, keyFile := o.Certificate.WriteFiles(s.t, s.dir, "slapd")
	var b strings.Builder
	for _, name := range o.Tree.Schemas {
		fmt.Fprintf(&b, "include %s\n", s.schema(name))
	}
	if o.Tree.ExtraSchema != nil {
		fmt.Fprintf(&b, "include %s\n", writeFile(s.t, s.path("extra.schema"), o.Tree.ExtraSchema, 0o600))
	}
	fmt.Fprintf(&b, "pidfile %s\n", s.path("slapd.pid"))
	if modules := moduleDir(); modules != "" {
		fmt.Fprintf(&b, "modulepath %s\nmoduleload back_mdb\n", modules)
		if o.Tree.PasswordPolicy != "" {
			b.WriteString("moduleload ppolicy\n")
		}
		if o.Sync {
			b.WriteString("moduleload syncprov\n")
		}
	}
	fmt.Fprintf(&b, "TLSCertificateFile %s\nTLSCertificateKeyFile %s\nTLSCACertificateFile %s\n", certFile, keyFile, s.CAFile)
	b.WriteString(o.GlobalConfig + "\n")
	fmt.Fprintf(&b, "database mdb\nsuffix %q\nrootdn %q\nrootpw %s\n", o.Tree.BaseDN, s.RootDN, s.RootPassword)
	if err := os.Mkdir(s.path("db"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprintf(&b, "directory %s\nmaxsize 67108864\ndbnosync\n", s.path("db"))
	b.WriteString("index objectClass eq\nindex uid eq\nindex mail eq,sub\n")
	b.WriteString("access to attrs=userPassword by anonymous auth by * none\n")
	fmt.Fprintf(&b, "access to * by dn.exact=%q read by anonymous auth by * none\n", o.Tree.ServiceDN)
	b.WriteString(o.Config + "\n")
	if o.Tree.PasswordPolicy != "" {
		fmt.Fprintf(&b, "overlay ppolicy\nppolicy_default %q\n", o.Tree.PasswordPolicy)
	}
	if o.Sync {
		b.WriteString("overlay syncprov\n" + o.SyncConfig + "\n")
	}
	return b.String()
}

func (s *SlapdServer) schema(name string) string {
	s.t.Helper()
	for _, dir := range []string{"/etc/ldap/schema", "/etc/openldap/schema", "/usr/local/etc/openldap/schema"} {
		path := filepath.Join(dir, name+".schema")
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	Missing(s.t, "slapd's schema "+name)
	return ""
}

// moduleDir returns where slapd's modules are; "" when they are built in.
func moduleDir() string {
	for _, dir := range []string{"/usr/lib/ldap", "/usr/lib64/openldap", "/usr/lib/openldap", "/usr/libexec/openldap"} {
		if found, _ := filepath.Glob(filepath.Join(dir, "back_mdb*")); len(found) > 0 {
			return dir
		}
	}
	return ""
}

// load fills the database before slapd runs.
func (s *SlapdServer) load(tree Tree) {
	s.t.Helper()
	file := writeFile(s.t, s.path("content.ldif"), tree.LDIF, 0o600)
	Run(s.t, Program(s.t, "slapadd"), "-q", "-f", s.path("slapd.conf"), "-l", file)
}

// start runs slapd. It cannot listen on port 0, so it gets ports of its own.
func (s *SlapdServer) start() {
	s.t.Helper()
	s.LDAPI = "ldapi://" + url.PathEscape(s.path("s"))
	s.LDAP = fmt.Sprintf("ldap://127.0.0.1:%d", FreePort(s.t))
	s.LDAPS = fmt.Sprintf("ldaps://127.0.0.1:%d", FreePort(s.t))
	if err := s.run(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *SlapdServer) run() error {
	s.t.Helper()
	var err error
	s.process, err = TryStart(s.t, Command{
		Path: s.program,
		// It begins to listen in this order, and ready asks the last.
		Env:   s.env,
		Args:  []string{"-d", "stats", "-f", s.path("slapd.conf"), "-h", s.LDAP + " " + s.LDAPS + " " + s.LDAPI},
		Ready: s.ready,
	})
	return err
}

// ready succeeds when slapd says so itself and accepts connections: a port
// alone may be somebody else's. It connects once, for tests count connections.
func (s *SlapdServer) ready(ctx context.Context) error {
	if _, err := os.Stat(s.path("slapd.pid")); err != nil {
		return errors.New("slapd has not written its pid")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.path("s"))
	if err != nil {
		return err
	}
	return conn.Close()
}

// Modify applies changes in LDIF (RFC 2849; records without a changetype are
// added) as the administrator, and fails t when slapd refuses one.
func (s *SlapdServer) Modify(t testing.TB, changes string) {
	t.Helper()
	modify(t, s.CAFile, s.LDAPI, s.RootDN, s.RootPassword, changes)
}

// Process returns the running slapd.
func (s *SlapdServer) Process() *Process { return s.process }

// Stop ends slapd in order; Kill at once. Both wait until it is gone.
func (s *SlapdServer) Stop() { s.process.Stop() }

// Kill ends slapd at once.
func (s *SlapdServer) Kill() { s.process.Kill() }

// Pause freezes slapd: connections stay open and nothing is answered.
func (s *SlapdServer) Pause() { s.process.Pause() }

// Resume lets a frozen slapd go on.
func (s *SlapdServer) Resume() { s.process.Resume() }

// Restart starts a stopped or killed slapd again with what it holds, at the
// same URIs. It fails the test when another program took a port meanwhile.
func (s *SlapdServer) Restart() {
	s.t.Helper()
	_ = os.Remove(s.path("slapd.pid")) // a killed slapd leaves it, and it would look ready
	if err := s.run(); err != nil {
		s.t.Fatal(err)
	}
}

// Backup keeps what the server holds now. The returned function brings it back,
// as from a backup: what was changed in between is gone.
func (s *SlapdServer) Backup() (restore func()) {
	s.t.Helper()
	s.Stop()
	kept := s.path("backup")
	if err := os.CopyFS(kept, os.DirFS(s.path("db"))); err != nil {
		s.t.Fatal(err)
	}
	s.Restart()
	return func() {
		s.t.Helper()
		s.Stop()
		if err := errors.Join(os.RemoveAll(s.path("db")), os.CopyFS(s.path("db"), os.DirFS(kept))); err != nil {
			s.t.Fatal(err)
		}
		s.Restart()
	}
}
