package testenv

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/testdata/ldif"
)

// DS389Options says what a private 389 Directory Server serves.
type DS389Options struct {
	// Tree is what it is loaded with; the zero Tree means ldif.FreeIPA().
	Tree Tree
	// Plain leaves out what FreeIPA adds to the server: the memberOf, content
	// synchronization, retro changelog and USN plug-ins.
	Plain bool
	// Certificate serves ldaps and StartTLS; nil means one for localhost,
	// 127.0.0.1 and ::1 of a new CA.
	Certificate *Certificate
	// CA signed Certificate; nil means a new one.
	CA *CA
}

// DS389Server is a private 389 Directory Server.
type DS389Server struct {
	Tree   Tree
	CA     *CA
	CAFile string
	// LDAPI, LDAP and LDAPS are its URIs. StartTLS is offered at LDAP and
	// LDAPI. LDAP and LDAPS are at 127.0.0.1.
	LDAPI, LDAP, LDAPS string
	// RootDN may read and write everything, the server's settings below
	// cn=config included.
	RootDN, RootPassword string
	// ServicePasswordFile holds the password of Tree.ServiceDN.
	ServicePasswordFile string

	t       testing.TB
	dir     string
	program string
	process *Process
}

// ds389Data is where the package keeps what instances are made from.
const ds389Data = "/usr/share/dirsrv/data"

// DS389 starts a 389 Directory Server in a private directory, by default as
// FreeIPA sets it up: with FreeIPA's plug-ins, and with its retro changelog
// that holds nothing but DNS, so that a synchronization cannot be resumed. It
// needs neither root nor systemd. It is ended after the test.
func DS389(t testing.TB, o DS389Options) *DS389Server {
	t.Helper()
	if o.Tree.LDIF == nil {
		o.Tree = ldif.FreeIPA()
	}
	s := &DS389Server{
		Tree:         o.Tree,
		CA:           o.CA,
		RootDN:       "cn=Directory Manager",
		RootPassword: "root-secret",
		t:            t,
		dir:          TempDir(t),
		program:      Program(t, "ns-slapd"),
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
	for _, name := range []string{"schema", "lock", "tmp", "cert", "ldif", "bak", "run", "inst", "log", "db"} {
		if err := os.Mkdir(s.path(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.writeSchema(o.Tree)
	s.writeKeys(*o.Certificate)
	s.start(o)
	s.load(o.Tree)
	return s
}

func (s *DS389Server) path(name string) string { return filepath.Join(s.dir, name) }

// writeSchema adds to the schema that every instance reads.
func (s *DS389Server) writeSchema(tree Tree) {
	s.t.Helper()
	for _, name := range tree.Schemas389 {
		content, err := os.ReadFile(filepath.Join(ds389Data, name))
		if err != nil {
			Missing(s.t, "389 Directory Server's schema "+name)
		}
		writeFile(s.t, s.path(filepath.Join("schema", name)), content, 0o600)
	}
	extra := tree.ExtraSchema389
	if extra == nil {
		extra = []byte("dn: cn=schema\nobjectClass: top\nobjectClass: ldapSubentry\nobjectClass: subschema\ncn: schema\n")
	}
	writeFile(s.t, s.path("schema/98extra.ldif"), extra, 0o600)
	writeFile(s.t, s.path("schema/99user.ldif"),
		[]byte("dn: cn=schema\nobjectClass: top\nobjectClass: ldapSubentry\nobjectClass: subschema\ncn: schema\n"), 0o600)
}

// writeKeys fills the NSS database that the server takes its certificate from.
func (s *DS389Server) writeKeys(c Certificate) {
	s.t.Helper()
	certFile, keyFile := c.WriteFiles(s.t, s.dir, "ds389")
	db, p12 := "sql:"+s.path("cert"), s.path("ds389.p12")
	Run(s.t, Program(s.t, "certutil"), "-N", "-d", db, "--empty-password")
	Run(s.t, Program(s.t, "certutil"), "-A", "-d", db, "-n", "CA", "-t", "CT,,", "-a", "-i", s.CAFile)
	Run(s.t, Program(s.t, "openssl"), "pkcs12", "-export", "-in", certFile, "-inkey", keyFile,
		"-name", "Server-Cert", "-passout", "pass:", "-out", p12)
	Run(s.t, Program(s.t, "pk12util"), "-i", p12, "-d", db, "-W", "")
}

// start runs the server. It cannot listen on port 0, so it gets ports of its own.
func (s *DS389Server) start(o DS389Options) {
	s.t.Helper()
	port, securePort := FreePort(s.t), FreePort(s.t)
	s.LDAPI = "ldapi://" + url.PathEscape(s.path("s"))
	s.LDAP = fmt.Sprintf("ldap://127.0.0.1:%d", port)
	s.LDAPS = fmt.Sprintf("ldaps://127.0.0.1:%d", securePort)
	writeFile(s.t, s.path("dse.ldif"), []byte(s.settings(o, port, securePort)), 0o600)
	if err := s.run(); err != nil {
		s.t.Fatal(err)
	}
}

// settings returns cn=config, from the package's own template.
func (s *DS389Server) settings(o DS389Options, port, securePort int) string {
	s.t.Helper()
	template, err := os.ReadFile(filepath.Join(ds389Data, "template-dse.ldif"))
	if err != nil {
		Missing(s.t, "389 Directory Server's template of settings")
	}
	me, err := user.Current()
	if err != nil {
		s.t.Fatal(err)
	}
	text := strings.NewReplacer(
		"%schema_dir%", s.path("schema"), "%lock_dir%", s.path("lock"), "%tmp_dir%", s.path("tmp"),
		"%cert_dir%", s.path("cert"), "%ldif_dir%", s.path("ldif"), "%bak_dir%", s.path("bak"),
		"%run_dir%", s.path("run"), "%inst_dir%", s.path("inst"), "%log_dir%", s.path("log"),
		"%db_dir%", s.path("db"), "%db_home_dir%", s.path("db"), "%db_lib%", "bdb",
		"%config_dir%", "/etc/dirsrv/config", "%fqdn%", "localhost", "%ds_port%", fmt.Sprint(port),
		"%ds_user%", me.Username, "%rootdn%", s.RootDN, "%ds_passwd%", saltedSHA(s.RootPassword),
		"%ldapi_enabled%", "on", "%ldapi%", s.path("s"), "%ldapi_autobind%", "off", "%ds_suffix%", o.Tree.BaseDN,
	).Replace(string(template))
	text = addToEntry(s.t, text, "cn=config", fmt.Sprintf(`nsslapd-security: on
nsslapd-securePort: %d
nsslapd-listenhost: 127.0.0.1
nsslapd-securelistenhost: 127.0.0.1
nsslapd-errorlog-logbuffering: off
nsslapd-threadnumber: 4`, securePort))
	// The default takes a share of the machine's memory.
	text = addToEntry(s.t, text, "cn=config,cn=ldbm database,cn=plugins,cn=config", `nsslapd-cache-autosize: 0
nsslapd-dbcachesize: 2000000
nsslapd-db-durable-transaction: off`)
	// Acts on entries with acctPolicySubentry alone.
	text = enable(s.t, text, "Account Policy Plugin", "")
	text = addToEntry(s.t, text, "cn=config,cn=Account Policy Plugin,cn=plugins,cn=config", `stateattrname: lastLoginTime
altstateattrname: createTimestamp
specattrname: acctPolicySubentry
limitattrname: accountInactivityLimit`)
	if !o.Plain {
		text = freeIPASettings(s.t, text, o.Tree.BaseDN)
	}
	// The server gives up, and says nothing, at an empty line too many.
	return strings.TrimRight(text, "\n") + "\n" + strings.NewReplacer("SUFFIX", o.Tree.BaseDN, "DIR", s.path("db")).Replace(ds389Backend)
}

// freeIPASettings switches on what FreeIPA's installation does, with its values.
func freeIPASettings(t testing.TB, text, suffix string) string {
	t.Helper()
	text = enable(t, text, "MemberOf Plugin", "memberOfEntryScope: "+suffix)
	text = enable(t, text, "USN", "")
	text = enable(t, text, "Content Synchronization", "")
	return enable(t, text, "Retro Changelog Plugin", `nsslapd-attribute: nsuniqueid:targetUniqueId
nsslapd-changelogmaxage: 2d
nsslapd-include-suffix: cn=dns,`+suffix)
}

// ds389Backend is the database of the suffix, in the place the server looks.
const ds389Backend = `
dn: cn=userRoot,cn=ldbm database,cn=plugins,cn=config
objectClass: top
objectClass: extensibleObject
objectClass: nsBackendInstance
cn: userRoot
nsslapd-suffix: SUFFIX
nsslapd-directory: DIR/userRoot

dn: cn="SUFFIX",cn=mapping tree,cn=config
objectClass: top
objectClass: extensibleObject
objectClass: nsMappingTree
cn: SUFFIX
nsslapd-state: backend
nsslapd-backend: userRoot
`

// enable switches a plug-in on and adds to its settings.
func enable(t testing.TB, text, plugin, more string) string {
	t.Helper()
	head := "dn: cn=" + plugin + ",cn=plugins,cn=config\n"
	before, entry, found := strings.Cut(text, head)
	if !found {
		t.Fatalf("389 Directory Server's template has no plug-in %q", plugin)
	}
	entry, after, _ := strings.Cut(entry, "\n\n")
	lines := []string{}
	for _, line := range strings.Split(entry, "\n") {
		if !strings.HasPrefix(strings.ToLower(line), "nsslapd-pluginenabled:") {
			lines = append(lines, line)
		}
	}
	lines = append(lines, "nsslapd-pluginEnabled: on")
	if more != "" {
		lines = append(lines, more)
	}
	return before + head + strings.Join(lines, "\n") + "\n\n" + after
}

// addToEntry adds lines to an entry of the settings.
func addToEntry(t testing.TB, text, dn, lines string) string {
	t.Helper()
	head := "dn: " + dn + "\n"
	if !strings.Contains(text, head) {
		t.Fatalf("389 Directory Server's template has no entry %q", dn)
	}
	return strings.Replace(text, head, head+lines+"\n", 1)
}

// saltedSHA returns a password as directories store it.
func saltedSHA(password string) string {
	const salt = "saltsalt"
	sum := sha1.Sum([]byte(password + salt))
	return "{SSHA}" + base64.StdEncoding.EncodeToString(append(sum[:], salt...))
}

func (s *DS389Server) run() error {
	s.t.Helper()
	var err error
	s.process, err = TryStart(s.t, Command{
		Path:         s.program,
		Args:         []string{"-D", s.dir, "-i", s.path("run/pid"), "-d", "0"},
		Ready:        s.ready,
		StartTimeout: 5 * time.Minute,
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, s.ErrorLog())
	}
	return nil
}

// ready succeeds when the server says so itself and accepts connections.
func (s *DS389Server) ready(ctx context.Context) error {
	if _, err := os.Stat(s.path("run/pid")); err != nil {
		return err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.path("s"))
	if err != nil {
		return err
	}
	return conn.Close()
}

// load adds the tree through the server, so that its plug-ins see each entry,
// and lets the service account read what a mail system needs.
func (s *DS389Server) load(tree Tree) {
	s.t.Helper()
	file := writeFile(s.t, s.path("content.ldif"), tree.LDIF, 0o600)
	Run(s.t, Program(s.t, "ldapadd"), "-x", "-H", s.LDAPI, "-D", s.RootDN, "-w", s.RootPassword, "-f", file)
	secrets := "userPassword || sambaNTPassword"
	if slices.Contains(tree.Schemas389, "60kerberos.ldif") {
		secrets += " || krbPrincipalKey" // only what the schema has may be named
	}
	s.Modify(s.t, fmt.Sprintf(`dn: %s
changetype: modify
add: aci
aci: (targetattr != "%s")(version 3.0; acl "mail system"; allow (read, search, compare) userdn = "ldap:///%s";)
`, tree.BaseDN, secrets, tree.ServiceDN))
}

// Modify applies changes in LDIF (RFC 2849; records without a changetype are
// added) as the administrator, and fails t when the server refuses one.
func (s *DS389Server) Modify(t testing.TB, changes string) {
	t.Helper()
	modify(t, s.CAFile, s.LDAPI, s.RootDN, s.RootPassword, changes)
}

// modify runs ldapmodify, which trusts the authority in caFile.
func modify(t testing.TB, caFile, uri, dn, password, changes string) {
	t.Helper()
	file := writeFile(t, filepath.Join(TempDir(t), "changes.ldif"), []byte(changes), 0o600)
	Run(t, Program(t, "env"), "LDAPTLS_CACERT="+caFile,
		Program(t, "ldapmodify"), "-a", "-x", "-H", uri, "-D", dn, "-w", password, "-f", file)
}

// ErrorLog returns what the server wrote to its log of errors.
func (s *DS389Server) ErrorLog() string {
	content, err := os.ReadFile(s.path("log/errors"))
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// Process returns the running server.
func (s *DS389Server) Process() *Process { return s.process }

// Stop ends the server in order; Kill at once. Both wait until it is gone.
func (s *DS389Server) Stop() { s.process.Stop() }

// Kill ends the server at once.
func (s *DS389Server) Kill() { s.process.Kill() }

// Pause freezes the server: connections stay open and nothing is answered.
func (s *DS389Server) Pause() { s.process.Pause() }

// Resume lets a frozen server go on.
func (s *DS389Server) Resume() { s.process.Resume() }

// Restart starts a stopped or killed server again with what it holds, at the
// same URIs. It fails the test when another program took a port meanwhile.
func (s *DS389Server) Restart() {
	s.t.Helper()
	for _, name := range []string{"run/pid", "s"} {
		_ = os.Remove(s.path(name)) // a killed server leaves them, and would look ready
	}
	if err := s.run(); err != nil {
		s.t.Fatal(err)
	}
}
