package testenv

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/postern-mail/postern/testdata/ldif"
)

// SambaOptions says what a private domain controller serves.
type SambaOptions struct {
	// Certificate serves ldaps and StartTLS; nil means one of CA for localhost,
	// the server's own address and dc1.example.com.
	Certificate *Certificate
	// CA signed Certificate; nil means a new one.
	CA *CA
	// Crowd is how many contacts crowdN@crowd.example the group
	// crowd@example.com has; with 0 there is no such group.
	Crowd int
}

// SambaServer is a private Active Directory domain controller of Samba. Its
// services but LDAP and Kerberos are left out.
type SambaServer struct {
	// Tree is what it was made from: the entries are there, their passwords are
	// as in the tree, and the attributes of Exchange are in the schema.
	Tree   Tree
	CA     *CA
	CAFile string
	// LDAP, which wants StartTLS before a password, LDAPS, and the same of the
	// global catalog. Their ports are fixed, so the server has an address of
	// its own, somewhere in 127.0.0.0/8.
	LDAP, LDAPS     string
	Catalog, Secure string
	// RootDN may read and write everything.
	RootDN, RootPassword string
	// ServicePasswordFile holds the password of Tree.ServiceDN.
	ServicePasswordFile string

	t       testing.TB
	dir     string
	program string
	address string
	process *Process
}

// Samba provisions a domain in a private directory, fills it with Example
// Traders, and starts its domain controller, which takes ten seconds and more:
// tests share one with NewShared where they can. It needs root, for LDAP's own
// port. It is ended after the test.
func Samba(t testing.TB, o SambaOptions) *SambaServer {
	t.Helper()
	s := &SambaServer{
		Tree:         ldif.AD(),
		CA:           o.CA,
		RootDN:       "CN=Administrator,CN=Users,DC=example,DC=com",
		RootPassword: "Root-Secret-1",
		t:            t,
		program:      Program(t, "samba"),
	}
	Program(t, "samba-tool")
	if os.Geteuid() != 0 {
		Missing(t, "root, without which Samba's domain controller does not run,")
	}
	s.dir = TempDir(t)
	s.address = s.freeAddress()
	if s.CA == nil {
		s.CA = NewCA(t)
	}
	if o.Certificate == nil {
		c := s.CA.Issue("localhost", s.address, "dc1.example.com")
		o.Certificate = &c
	}
	s.CAFile = s.CA.WriteFile(s.dir)
	s.ServicePasswordFile = writeFile(t, s.path("service.password"), []byte(s.Tree.ServicePassword+"\n"), 0o600)
	s.provideDomain()
	writeFile(t, s.path("smb.conf"), []byte(s.config(*o.Certificate)), 0o600)
	if o.Crowd > 0 {
		s.ldb("ldbadd", s.path("smb.conf"), "crowd.ldif", crowdEntries(o.Crowd))
	}
	s.LDAP, s.LDAPS = "ldap://"+s.address, "ldaps://"+s.address
	s.Catalog, s.Secure = s.LDAP+":3268", s.LDAPS+":3269"
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *SambaServer) path(name string) string { return filepath.Join(s.dir, name) }

// freeAddress returns a loopback address where nobody listens at LDAP's port.
func (s *SambaServer) freeAddress() string {
	s.t.Helper()
	for range 20 {
		address := fmt.Sprintf("127.%d.%d.%d", 64+rand.IntN(128), rand.IntN(256), 1+rand.IntN(254))
		if tryPort(net.JoinHostPort(address, "389")) == nil {
			return address
		}
	}
	Missing(s.t, "a loopback address with a free port 389, which Samba's domain controller needs,")
	return ""
}

// noSync spares the disk: nothing here outlives the test.
const noSync = "--option=ldb:nosync=true"

// provideDomain puts the domain's database into the directory. To make one
// takes ten seconds and more of a processor, so the first one is kept in the
// user's cache directory, and others are copies of it, also those of test
// binaries that run at the same time: they wait for it. A copy of an unfinished
// one is impossible: it gets its name last.
func (s *SambaServer) provideDomain() {
	s.t.Helper()
	kept := s.keptDomain()
	release := s.await(kept + ".lock")
	defer release()
	if _, err := os.Stat(kept); err != nil {
		s.provision()
		s.fill()
		s.keep(kept)
		return
	}
	for _, name := range []string{"private", "state"} {
		Run(s.t, Program(s.t, "cp"), "-a", filepath.Join(kept, name), s.path(name))
	}
	for _, name := range []string{"etc", "cache"} {
		if err := os.Mkdir(s.path(name), 0o700); err != nil {
			s.t.Fatal(err)
		}
	}
}

// await waits until no other test, of this binary or of another one, has the
// lock, and returns what gives it back.
func (s *SambaServer) await(path string) (release func()) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.t.Fatal(err)
	}
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return func() { _ = lock.Close() }
}

// keptDomain returns where a database with this content is kept: the name tells
// Samba's version and all that went into it.
func (s *SambaServer) keptDomain() string {
	s.t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	schema, entries, links := s.Tree.LDIFForSamba()
	h := sha256.New()
	fmt.Fprintln(h, domainFormat, Run(s.t, s.program, "--version"), schema, entries, links, ldif.SambaClasses())
	return filepath.Join(cache, "postern-tests", fmt.Sprintf("samba-%x", h.Sum(nil)[:12]))
}

// domainFormat changes with provision and fill: what was kept before is then
// not used any more.
const domainFormat = 2

// keep copies the database to where later servers find it.
func (s *SambaServer) keep(kept string) {
	s.t.Helper()
	unfinished, err := os.MkdirTemp(filepath.Dir(kept), "unfinished")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, name := range []string{"private", "state"} {
		Run(s.t, Program(s.t, "cp"), "-a", s.path(name), filepath.Join(unfinished, name))
	}
	if err := os.Rename(unfinished, kept); err != nil {
		s.t.Fatal(err)
	}
}

// provision makes the domain's database.
func (s *SambaServer) provision() {
	s.t.Helper()
	Run(s.t, Program(s.t, "samba-tool"), "domain", "provision", "--realm=EXAMPLE.COM", "--domain=EXAMPLE",
		"--server-role=dc", "--dns-backend=NONE", "--adminpass="+s.RootPassword, "--targetdir="+s.dir,
		"--host-name=dc1", "--host-ip=127.0.0.1", noSync)
	Run(s.t, Program(s.t, "samba-tool"), "domain", "passwordsettings", "set", "-H", s.path("private/sam.ldb"),
		"--configfile="+s.path("etc/smb.conf"), "--complexity=off", "--min-pwd-length=4", "--min-pwd-age=0",
		"--max-pwd-age=0", "--history-length=0", noSync)
}

// fill writes into the database while nobody serves it: the attributes of
// Exchange, the people, and then who belongs to what.
func (s *SambaServer) fill() {
	s.t.Helper()
	schema, entries, links := s.Tree.LDIFForSamba()
	conf := s.path("etc/smb.conf")
	s.ldb("ldbadd", conf, "attributes.ldif", schema, "--option=dsdb:schema update allowed=yes")
	s.ldb("ldbmodify", conf, "classes.ldif", ldif.SambaClasses(), "--option=dsdb:schema update allowed=yes")
	for i := range entries {
		entries[i] = withUnicodePassword(entries[i])
	}
	s.ldb("ldbadd", conf, "entries.ldif", strings.Join(entries, "\n\n"))
	s.ldb("ldbmodify", conf, "links.ldif", links)
}

// ldb runs one of the tools of Samba's database on LDIF.
func (s *SambaServer) ldb(tool, conf, name, content string, options ...string) {
	s.t.Helper()
	file := writeFile(s.t, s.path(name), []byte(content), 0o600)
	args := append([]string{"--configfile=" + conf, "-H", s.path("private/sam.ldb"), noSync}, options...)
	Run(s.t, Program(s.t, tool), append(args, file)...)
}

// withUnicodePassword gives an account its password the way Active Directory
// takes one: in quotes, as UTF-16 with the low octet first.
func withUnicodePassword(entry string) string {
	_, rest, isAccount := strings.Cut(entry, "\nsAMAccountName: ")
	if !isAccount || !strings.Contains(entry, "\nobjectClass: user") {
		return entry
	}
	login, _, _ := strings.Cut(rest, "\n")
	var octets []byte
	for _, unit := range utf16.Encode([]rune(`"` + ldif.Password(login) + `"`)) {
		octets = append(octets, byte(unit), byte(unit>>8))
	}
	return entry + "\nunicodePwd:: " + base64.StdEncoding.EncodeToString(octets)
}

// crowdEntries returns a group with many members, which are contacts.
func crowdEntries(count int) string {
	var contacts, members strings.Builder
	for i := range count {
		dn := fmt.Sprintf("CN=crowd%d,CN=Users,DC=example,DC=com", i)
		fmt.Fprintf(&contacts, "dn: %s\nobjectClass: contact\nmail: crowd%d@crowd.example\n\n", dn, i)
		fmt.Fprintf(&members, "member: %s\n", dn)
	}
	return contacts.String() + "dn: CN=crowd,CN=Users,DC=example,DC=com\nobjectClass: group\n" +
		"sAMAccountName: crowd\nmail: crowd@example.com\n" + members.String()
}

// config returns smb.conf.
func (s *SambaServer) config(c Certificate) string {
	s.t.Helper()
	certFile, keyFile := c.WriteFiles(s.t, s.dir, "samba")
	return fmt.Sprintf(`[global]
	netbios name = DC1
	realm = EXAMPLE.COM
	workgroup = EXAMPLE
	server role = active directory domain controller
	server services = ldap kdc
	ldap server require strong auth = allow_sasl_over_tls
	dcerpc endpoint servers = none
	interfaces = %s/8
	bind interfaces only = yes
	private dir = %s
	state directory = %s
	cache directory = %s
	lock directory = %s
	pid directory = %[5]s
	ncalrpc dir = %[5]s/ncalrpc
	tls enabled = yes
	tls certfile = %[6]s
	tls keyfile = %s
	tls cafile = %s
	ldb:nosync = true
`, s.address, s.path("private"), s.path("state"), s.path("cache"), s.dir, certFile, keyFile, s.CAFile)
}

func (s *SambaServer) run() error {
	s.t.Helper()
	var err error
	s.process, err = TryStart(s.t, Command{
		Path:         s.program,
		Args:         []string{"-F", "--no-process-group", "-M", "single", "-s", s.path("smb.conf"), "--debug-stdout"},
		Ready:        s.ready,
		StartTimeout: 5 * time.Minute,
	})
	return err
}

// ready succeeds when the last of the ports that Samba opens accepts
// connections, in this directory's own socket and on the address.
func (s *SambaServer) ready(ctx context.Context) error {
	if _, err := os.Stat(s.path("private/ldap_priv/ldapi")); err != nil {
		return err
	}
	return DialReady("tcp", net.JoinHostPort(s.address, "3269"))(ctx)
}

// Modify applies changes in LDIF (RFC 2849; records without a changetype are
// added) as the administrator, and fails t when the server refuses one.
func (s *SambaServer) Modify(t testing.TB, changes string) {
	t.Helper()
	modify(t, s.CAFile, s.LDAPS, s.RootDN, s.RootPassword, changes)
}

// Tool runs samba-tool on the domain's database, while the server runs too.
func (s *SambaServer) Tool(t testing.TB, args ...string) string {
	t.Helper()
	return Run(t, Program(t, "samba-tool"), append(args, "-H", s.path("private/sam.ldb"), "--configfile="+s.path("smb.conf"))...)
}

// Shell runs commands of a shell in which samba-tool is this domain's. The first
// that fails fails the test.
func (s *SambaServer) Shell(t testing.TB, commands string) string {
	t.Helper()
	dir := TempDir(t)
	wrapper := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\" -H %s --configfile=%s\n", Program(t, "samba-tool"), s.path("private/sam.ldb"), s.path("smb.conf"))
	writeFile(t, filepath.Join(dir, "samba-tool"), []byte(wrapper), 0o755)
	return Run(t, Program(t, "env"), "PATH="+dir+":"+os.Getenv("PATH"), "sh", "-ec", commands)
}

// Process returns the running server.
func (s *SambaServer) Process() *Process { return s.process }

// Stop ends the server in order; Kill at once. Both wait until it is gone.
func (s *SambaServer) Stop() { s.process.Stop() }

// Kill ends the server at once.
func (s *SambaServer) Kill() { s.process.Kill() }

// Pause freezes the server: connections stay open and nothing is answered.
func (s *SambaServer) Pause() { s.process.Pause() }

// Resume lets a frozen server go on.
func (s *SambaServer) Resume() { s.process.Resume() }

// Restart starts a stopped or killed server again with what it holds, at the
// same URIs.
func (s *SambaServer) Restart() {
	s.t.Helper()
	_ = os.RemoveAll(s.path("private/ldap_priv")) // a killed server leaves it, and would look ready
	if err := s.run(); err != nil {
		s.t.Fatal(err)
	}
}

// Keytab writes the keys of an account, which is its sAMAccountName, into a new
// file and returns its path.
func (s *SambaServer) Keytab(t testing.TB, account string) string {
	t.Helper()
	path := filepath.Join(TempDir(t), "keytab")
	Run(t, Program(t, "samba-tool"), "domain", "exportkeytab", path, "--principal="+account, "--configfile="+s.path("smb.conf"))
	return path
}

// KerberosConfig writes a krb5.conf that names the server as the domain's KDC,
// and returns its path.
func (s *SambaServer) KerberosConfig(t testing.TB) string {
	t.Helper()
	return writeFile(t, filepath.Join(TempDir(t), "krb5.conf"), fmt.Appendf(nil,
		"[libdefaults]\n\tdefault_realm = EXAMPLE.COM\n\tudp_preference_limit = 1\n[realms]\n\tEXAMPLE.COM = {\n\t\tkdc = %s\n\t}\n", s.address), 0o644)
}
