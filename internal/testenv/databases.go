package testenv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Database is a private server of databases with one database, "mail", and one
// user, "postern", who may do everything in it.
type Database struct {
	// Host is 127.0.0.1:PORT, with TLS by a certificate of CA for localhost and
	// 127.0.0.1. Socket is its unix socket.
	Host, Socket string
	CA           *CA
	CAFile       string
	Password     string

	t       testing.TB
	dir     string
	port    int
	command func(port int) Command
	query   func(sql string) *exec.Cmd
	process *Process
}

// nobody is whom servers run as that refuse to run as root.
const nobody = 65534

// unprivileged returns a command that does not run as root.
func unprivileged(path string, args ...string) (string, []string) {
	if os.Getuid() != 0 {
		return path, args
	}
	return "setpriv", append([]string{"--reuid", strconv.Itoa(nobody), "--regid", strconv.Itoa(nobody), "--clear-groups", path}, args...)
}

// newDatabase makes the folder of a server, with its certificate.
func newDatabase(t testing.TB) (d *Database, certFile, keyFile string) {
	d = &Database{t: t, dir: TempDir(t), CA: NewCA(t), Password: "geheim"}
	d.CAFile = d.CA.WriteFile(d.dir)
	certificate := d.CA.Issue("localhost", "127.0.0.1")
	certFile, keyFile = certificate.WriteFiles(t, d.dir, "server")
	d.give()
	return d, certFile, keyFile
}

// give hands the folder to whom the server runs as.
func (d *Database) give() {
	d.t.Helper()
	if os.Getuid() != 0 {
		return
	}
	err := filepath.Walk(d.dir, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, nobody, nobody)
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *Database) path(name string) string { return filepath.Join(d.dir, name) }

// run runs a program of the server to its end.
func (d *Database) run(path string, args ...string) {
	d.t.Helper()
	path, args = unprivileged(path, args...)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = d.dir
	cmd.Env = append(os.Environ(), "HOME="+d.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("%s %s: %v\n%s", path, strings.Join(args, " "), err, out)
	}
}

// Start starts the server again, after Kill or Stop, at its port.
func (d *Database) Start() {
	d.t.Helper()
	var err error
	for range 20 {
		if d.process, err = TryStart(d.t, d.command(d.port)); err == nil {
			return
		}
	}
	d.t.Fatalf("start a database: %v", err)
}

// first starts it at a port that is free.
func (d *Database) first() {
	d.t.Helper()
	d.port = FreePort(d.t)
	d.process = Start(d.t, d.command(d.port))
	d.Host = "127.0.0.1:" + strconv.Itoa(d.port)
}

// Kill ends the server as a power cut would.
func (d *Database) Kill() { d.process.Kill() }

// Pause stops the server's main process, and Resume lets it go on.
func (d *Database) Pause()  { d.process.Pause() }
func (d *Database) Resume() { d.process.Resume() }

// Exec runs statements as the database's owner.
func (d *Database) Exec(sql string) {
	d.t.Helper()
	cmd := d.query(sql)
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s", sql, err, out)
	}
}

func (d *Database) ready(ctx context.Context) error {
	cmd := d.query("SELECT 1")
	_ = ctx // the client has a limit of its own
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// PostgreSQL starts a private server and ends it after the test.
func PostgreSQL(t testing.TB) *Database {
	t.Helper()
	folders, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(folders) == 0 {
		Missing(t, "postgresql (Debian: postgresql)")
	}
	bin := slices.Max(folders)
	psql := Program(t, "psql")
	d, certFile, keyFile := newDatabase(t)
	data := d.path("data")
	d.run(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C")
	hba := "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(hba), 0o644); err != nil {
		t.Fatal(err)
	}
	database := "postgres"
	d.query = func(sql string) *exec.Cmd {
		cmd := exec.Command(psql, "-h", d.dir, "-p", strconv.Itoa(d.port), "-U", "postgres", "-d", database, "-v", "ON_ERROR_STOP=1", "-qc", sql)
		cmd.Env = append(os.Environ(), "PGCONNECT_TIMEOUT=60")
		return cmd
	}
	d.command = func(port int) Command {
		d.port = port
		path, args := unprivileged(filepath.Join(bin, "postgres"), "-D", data, "-k", d.dir, "-p", strconv.Itoa(port), "-h", "127.0.0.1",
			"-c", "ssl=on", "-c", "ssl_cert_file="+certFile, "-c", "ssl_key_file="+keyFile, "-c", "fsync=off", "-c", "max_connections=20", "-c", "shared_buffers=1MB")
		return Command{Path: path, Args: args, Dir: d.dir, Ready: d.ready, StopSignal: syscall.SIGINT, StartTimeout: 5 * time.Minute}
	}
	d.first()
	d.Socket = filepath.Join(d.dir, ".s.PGSQL."+strconv.Itoa(d.port))
	d.Exec("CREATE ROLE postern LOGIN PASSWORD '" + d.Password + "'")
	d.Exec("CREATE DATABASE mail OWNER postern")
	database = "mail"
	d.Exec("GRANT ALL ON SCHEMA public TO postern; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO postern")
	return d
}

// MariaDB starts a private server and ends it after the test.
func MariaDB(t testing.TB) *Database {
	t.Helper()
	server, install, client := Program(t, "mariadbd"), Program(t, "mariadb-install-db"), Program(t, "mariadb")
	d, certFile, keyFile := newDatabase(t)
	data := d.path("data")
	d.run(install, "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db")
	d.Socket = d.path("sock")
	database := "mysql"
	d.query = func(sql string) *exec.Cmd {
		return exec.Command(client, "--no-defaults", "--connect-timeout=60", "-S", d.Socket, "-u", "root", "-D", database, "-e", sql)
	}
	d.command = func(port int) Command {
		path, args := unprivileged(server, "--no-defaults", "--datadir="+data, "--socket="+d.Socket, "--port="+strconv.Itoa(port), "--bind-address=127.0.0.1",
			"--pid-file="+d.path("pid"), "--ssl-cert="+certFile, "--ssl-key="+keyFile, "--ssl-ca="+d.CAFile, "--innodb-buffer-pool-size=8M",
			"--innodb-flush-log-at-trx-commit=2", "--innodb-log-file-size=4M", "--skip-name-resolve", "--lower-case-table-names=0")
		return Command{Path: path, Args: args, Dir: d.dir, Ready: d.ready, StartTimeout: 5 * time.Minute}
	}
	d.first()
	d.Exec("CREATE DATABASE mail CHARACTER SET utf8mb4; CREATE USER postern IDENTIFIED BY '" + d.Password + "'; GRANT ALL ON mail.* TO postern; GRANT PROCESS ON *.* TO postern")
	database = "mail"
	return d
}
