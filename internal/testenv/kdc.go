package testenv

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// KDCServer is a private Kerberos realm: MIT's KDC on a port of 127.0.0.1, with
// its database and configuration in a folder of its own. Nothing of the
// machine's own Kerberos is read or written.
type KDCServer struct {
	// Realm is its name.
	Realm string
	// Config is its krb5.conf, for KRB5_CONFIG.
	Config string

	t       testing.TB
	dir     string
	process *Process
}

// KDC starts a realm with principals, each with the password of its own name.
// Names with a host in them are services: they get a random key.
func KDC(t testing.TB, realm string, principals ...string) *KDCServer {
	t.Helper()
	k := &KDCServer{Realm: realm, t: t, dir: TempDir(t)}
	k.Config = filepath.Join(k.dir, "krb5.conf")
	create := Program(t, "kdb5_util")
	Program(t, "krb5kdc")
	Program(t, "kadmin.local")
	port := FreePort(t)
	k.configure(port)
	k.run(create, "create", "-s", "-r", realm, "-P", "master")
	for _, name := range principals {
		k.Add(name)
	}
	k.process = Start(t, Command{
		Path: Program(t, "krb5kdc"), Args: []string{"-n", "-r", realm}, Env: k.Env(),
		Ready: DialReady("tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(port))),
	})
	return k
}

// For returns the realm for another test that uses it.
func (k *KDCServer) For(t testing.TB) *KDCServer {
	other := *k
	other.t = t
	return &other
}

// Env is the environment of programs of the realm.
func (k *KDCServer) Env() []string {
	return []string{"KRB5_CONFIG=" + k.Config, "KRB5_KDC_PROFILE=" + filepath.Join(k.dir, "kdc.conf"), "KRB5RCACHEDIR=" + k.dir}
}

func (k *KDCServer) configure(port int) {
	k.t.Helper()
	writeFile(k.t, k.Config, fmt.Appendf(nil, `[libdefaults]
	default_realm = %[1]s
	dns_lookup_kdc = false
	dns_lookup_realm = false
	dns_canonicalize_hostname = false
	rdns = false
	qualify_shortname = ""
	udp_preference_limit = 1
	default_ccache_name = FILE:%[3]s/default.ccache
[realms]
	%[1]s = {
		kdc = 127.0.0.1:%[2]d
	}
[domain_realm]
	.example.com = %[1]s
	localhost = %[1]s
`, k.Realm, port, k.dir), 0o644)
	writeFile(k.t, filepath.Join(k.dir, "kdc.conf"), fmt.Appendf(nil, `[kdcdefaults]
	kdc_listen = ""
	kdc_tcp_listen = 127.0.0.1:%[2]d
[realms]
	%[1]s = {
		database_name = %[3]s/principal
		key_stash_file = %[3]s/stash
		acl_file = %[3]s/acl
		max_life = 10h
		supported_enctypes = aes256-cts-hmac-sha384-192:normal aes256-cts-hmac-sha1-96:normal
	}
[logging]
	kdc = STDERR
`, k.Realm, port, k.dir), 0o644)
}

func (k *KDCServer) run(program string, args ...string) {
	k.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), k.Env()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		k.t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
}

// Admin runs a command of kadmin.
func (k *KDCServer) Admin(command string) {
	k.t.Helper()
	k.run(Program(k.t, "kadmin.local"), "-r", k.Realm, "-q", command)
}

// Add makes a principal, as KDC does.
func (k *KDCServer) Add(name string) {
	k.t.Helper()
	if _, host, _ := strings.Cut(name, "/"); strings.Contains(host, ".") || host == "localhost" {
		k.Admin("addprinc -randkey " + name)
		return
	}
	k.Admin("addprinc -pw " + name + " " + name)
}

// Keytab writes the keys of services into a new file and returns its path. It
// gives them new keys, of the next number, as ktadd does.
func (k *KDCServer) Keytab(services ...string) string {
	k.t.Helper()
	path := filepath.Join(TempDir(k.t), "keytab")
	k.Admin("ktadd -k " + path + " " + strings.Join(services, " "))
	return path
}

// Login gets a ticket-granting ticket of a person and returns its cache, for
// KRB5CCNAME. options are kinit's.
func (k *KDCServer) Login(name string, options ...string) string {
	k.t.Helper()
	cache := "FILE:" + filepath.Join(TempDir(k.t), "ccache")
	cmd := exec.Command(Program(k.t, "kinit"), append(options, "-c", cache, name)...)
	cmd.Env = append(os.Environ(), k.Env()...)
	cmd.Stdin = strings.NewReader(name + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		k.t.Fatalf("kinit %s: %v\n%s", name, err, out)
	}
	return cache
}

// Stop stops the KDC: nobody gets tickets any more.
func (k *KDCServer) Stop() { k.process.Stop() }

// gssapiHeader is what programs with GSSAPI are built with.
const gssapiHeader = "/usr/include/gssapi/gssapi.h"

// GSSAPIHelper builds the program that runs "auth-helper" as cmd/gateway does,
// with GSSAPI in it, and returns its path.
func GSSAPIHelper(t testing.TB) string {
	t.Helper()
	needGSSAPI(t)
	return buildC(t, "github.com/postern-mail/postern/authn/helper/process/testdata")
}

// GSSAPIClient builds the client's side of the mechanism, see its source, and
// returns its path.
func GSSAPIClient(t testing.TB) string {
	t.Helper()
	needGSSAPI(t)
	return buildC(t, "github.com/postern-mail/postern/authn/gssapi/testdata/initiator")
}

func needGSSAPI(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(gssapiHeader); err != nil {
		Missing(t, "header gssapi/gssapi.h (libkrb5-dev)")
	}
}
