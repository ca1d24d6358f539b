package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	goldap "github.com/go-ldap/ldap/v3"
)

// The tree that all systems of the directory's cases read.
const (
	suffix          = "dc=bench,dc=example"
	serviceDN       = "cn=mail,ou=services," + suffix
	servicePassword = "service"
	rootDN          = "cn=root," + suffix
	rootPassword    = "root"
)

// A person has an address, an alias and a password by a number.
func personDN(n int) string      { return fmt.Sprintf("uid=user%05d,ou=people,%s", n, suffix) }
func personAlias(n int) string   { return fmt.Sprintf("alias%05d@%s", n, domain) }
func personUnknown(n int) string { return fmt.Sprintf("nobody%05d@%s", n, domain) }

// slapd is a private OpenLDAP server.
type slapd struct {
	process *program
	address string // 127.0.0.1:port
	people  int
}

func (s *slapd) uri() string  { return "ldap://" + s.address }
func (s *slapd) roots() []int { return []int{s.process.command.Process.Pid} }
func (s *slapd) stop()        { s.process.stop() }

// slapdConfig has what is looked up indexed, offers content synchronization,
// and lets the service account read without limits. Writes are not synced: they
// are no part of what is measured.
const slapdConfig = `include %[1]s/core.schema
include %[1]s/cosine.schema
include %[1]s/inetorgperson.schema
include %[1]s/misc.schema
pidfile %[2]s/slapd.pid
%[3]s
loglevel none
threads 8
database mdb
suffix %[4]q
rootdn %[5]q
rootpw %[6]s
directory %[2]s/db
maxsize 2147483648
dbnosync
index objectClass,entryUUID,entryCSN,uid,cn,mail,mailLocalAddress,rfc822MailMember,member,uniqueMember eq
limits dn.exact=%[7]q size=unlimited time=unlimited
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact=%[7]q read by anonymous auth by * none
overlay syncprov
syncprov-sessionlog 10000
`

// slapdPlaces are where distributions put OpenLDAP's schemas and modules.
var (
	schemaPlaces = []string{"/etc/ldap/schema", "/etc/openldap/schema"}
	modulePlaces = []string{"/usr/lib/ldap", "/usr/lib64/openldap", "/usr/lib/openldap"}
)

func firstThatHas(places []string, name string) string {
	for _, place := range places {
		if found, err := filepath.Glob(filepath.Join(place, name)); err == nil && len(found) > 0 {
			return place
		}
	}
	return ""
}

// slapdMissing says why the directory's cases cannot be measured, or nothing.
func slapdMissing() string {
	for _, name := range []string{"slapd", "slapadd"} {
		if _, err := lookProgram(name); err != nil {
			return "OpenLDAP is not installed (no " + name + ")"
		}
	}
	if firstThatHas(schemaPlaces, "misc.schema") == "" {
		return "OpenLDAP is not installed (no misc.schema)"
	}
	return ""
}

// startSlapd makes a directory of so many people in dir and serves it.
func startSlapd(ctx context.Context, dir string, people int) (*slapd, error) {
	if err := os.MkdirAll(filepath.Join(dir, "db"), 0o700); err != nil {
		return nil, err
	}
	modules := ""
	if place := firstThatHas(modulePlaces, "back_mdb*"); place != "" {
		modules = "modulepath " + place + "\nmoduleload back_mdb\nmoduleload syncprov"
	}
	config, content := filepath.Join(dir, "slapd.conf"), filepath.Join(dir, "content.ldif")
	text := fmt.Appendf(nil, slapdConfig, firstThatHas(schemaPlaces, "misc.schema"), dir, modules, suffix, rootDN, rootPassword, serviceDN)
	if err := errors.Join(os.WriteFile(config, text, 0o600), writePeople(content, people)); err != nil {
		return nil, err
	}
	add, err := lookProgram("slapadd")
	if err != nil {
		return nil, err
	}
	if err := run(ctx, add, "-q", "-f", config, "-l", content); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	binary, err := lookProgram("slapd")
	if err != nil {
		return nil, err
	}
	s := &slapd{address: loopback(port), people: people}
	if s.process, err = startProgram(filepath.Join(dir, "output"), binary, "-d", "0", "-f", config, "-h", s.uri()); err != nil {
		return nil, err
	}
	if err := untilListening(ctx, s.process, s.address); err != nil {
		s.stop()
		return nil, fmt.Errorf("slapd: %w", err)
	}
	return s, nil
}

// writePeople writes the tree as LDIF.
func writePeople(file string, people int) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	fmt.Fprintf(w, "dn: %s\nobjectClass: dcObject\nobjectClass: organization\ndc: bench\no: Bench\n\n", suffix)
	for _, unit := range []string{"people", "services"} {
		fmt.Fprintf(w, "dn: ou=%[1]s,%[2]s\nobjectClass: organizationalUnit\nou: %[1]s\n\n", unit, suffix)
	}
	fmt.Fprintf(w, "dn: %s\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: mail\nuserPassword: %s\n\n", serviceDN, servicePassword)
	for n := range people {
		fmt.Fprintf(w, "dn: %s\nobjectClass: inetOrgPerson\nobjectClass: inetLocalMailRecipient\nuid: user%05[2]d\ncn: Person Number%05[2]d\n"+
			"givenName: Person\nsn: Number%05[2]d\nmail: %[3]s\nmailLocalAddress: %[4]s\ntitle: Clerk of section %[2]d\nroomNumber: %[2]d\n"+
			"telephoneNumber: +49 30 %07[2]d\nuserPassword: %[5]s\n\n", personDN(n), n, userAddress(n), personAlias(n), userPassword(n))
	}
	return w.Flush()
}

// administer connects as the one who may change entries.
func (s *slapd) administer() (*goldap.Conn, error) {
	c, err := goldap.DialURL(s.uri())
	if err != nil {
		return nil, err
	}
	c.SetTimeout(patience)
	if err := c.Bind(rootDN, rootPassword); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}
