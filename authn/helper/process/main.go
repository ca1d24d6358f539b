package process

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"github.com/hashicorp/go-hclog"
)

// What Main returns in a binary built without what it is to do.
var (
	ErrMissing       = errors.New("this binary was built without PAM: install libpam0g-dev (or pam-devel) and build with \"make build\", or go build -tags pam")
	ErrMissingGSSAPI = errors.New("this binary was built without GSSAPI: install libkrb5-dev (or krb5-devel) and build with \"make build\", or go build -tags gssapi")
	ErrMissingUsers  = errors.New("this binary was built without C, which asking for local users takes: install libpam0g-dev or libkrb5-dev and build with \"make build\"")
)

// missing tells what of cfg this binary cannot do.
func missing(cfg Config) error {
	switch {
	case len(cfg.Services) > 0 && !pamAvailable:
		return ErrMissing
	case cfg.Keytab != "" && !gssapiAvailable:
		return ErrMissingGSSAPI
	case cfg.Users && !usersAvailable:
		return ErrMissingUsers
	}
	return nil
}

// Main runs the helper, or one of its workers, with the arguments that follow
// "auth-helper" on the command line; it blocks until ctx ends or, for workers,
// their work does.
func Main(ctx context.Context, args []string, log hclog.Logger) error {
	options, err := parseArgs(args, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if options.worker != "" {
		work, err := options.work()
		if err != nil {
			return err
		}
		return runWorker(work, options.cfg.Timeout)
	}
	if err := missing(options.cfg); err != nil {
		return err
	}
	listener, err := options.listen()
	if err != nil {
		return err
	}
	defer listener.Close()
	server, err := New(options.cfg, listener, log)
	if err != nil {
		return err
	}
	if options.exitWithStdin {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		// It ends with the process: nothing else can end a read of a pipe.
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	return server.Run(ctx)
}

type options struct {
	cfg           Config
	socket        string
	listenFD      int
	exitWithStdin bool
	worker        string // kind of it; "" for the helper
}

// parseArgs writes what the options mean to usage when they are wrong or asked
// for.
func parseArgs(args []string, usage io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("auth-helper", flag.ContinueOnError)
	flags.SetOutput(usage)
	flags.StringVar(&o.socket, "socket", "", "listen on this `path`")
	flags.IntVar(&o.listenFD, "listen-fd", -1, "listen on this inherited file `descriptor` (systemd's first is 3)")
	flags.Func("service", "PAM `service` to serve, may be given again (default postern, where nothing else is served)", func(s string) error {
		o.cfg.Services = append(o.cfg.Services, s)
		return nil
	})
	flags.StringVar(&o.cfg.ServiceDir, "service-dir", "", "`directory` of PAM services instead of /etc/pam.d")
	flags.StringVar(&o.cfg.Keytab, "keytab", "", "take Kerberos tickets for the principals whose keys are in this `file`")
	flags.StringVar(&o.cfg.Krb5Config, "kerberos-config", "", "`file` to use instead of /etc/krb5.conf")
	flags.StringVar(&o.cfg.ReplayDir, "replay-dir", "", "`folder` in which it is kept which tickets were seen (default the system's, /var/tmp)")
	flags.BoolVar(&o.cfg.Users, "users", false, "tell who the machine's own users and groups are")
	flags.Func("users-from", "`source` of the name service switch to ask for them, may be given again (default those of /etc/nsswitch.conf)", func(s string) error {
		o.cfg.UserSources = append(o.cfg.UserSources, s)
		return nil
	})
	flags.IntVar(&o.cfg.Workers, "workers", 0, "transactions of each kind at one time (default 8)")
	flags.IntVar(&o.cfg.Reuse, "requests", 0, "transactions after which a worker is replaced (default 1000)")
	flags.DurationVar(&o.cfg.Timeout, "timeout", 0, "kill a transaction after this `duration` (default 25s)")
	flags.Func("allow-uid", "`uid` that may ask, may be given again (default root and the helper's own)", func(s string) error {
		uid, err := strconv.Atoi(s)
		if err != nil || uid < 0 {
			return fmt.Errorf("uid %q is not a number", s)
		}
		o.cfg.AllowUIDs = append(o.cfg.AllowUIDs, uid)
		return nil
	})
	flags.BoolVar(&o.exitWithStdin, "exit-with-stdin", false, "end when standard input does")
	flags.StringVar(&o.worker, "worker", "", "be a worker of a `kind`; for the helper itself")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() != 0:
		return o, fmt.Errorf("auth-helper: unexpected argument %q", flags.Arg(0))
	case o.worker == "" && (o.socket == "") == (o.listenFD < 0):
		return o, errors.New("auth-helper: give either --socket or --listen-fd")
	}
	if o.worker == "" && len(o.cfg.Services) == 0 && o.cfg.Keytab == "" && !o.cfg.Users {
		o.cfg.Services = []string{"postern"}
	}
	return o, nil
}

// listen opens the socket. One the helper makes is open to everybody where
// other uids are allowed: who may ask is decided by who it is, not by modes.
func (o options) listen() (*net.UnixListener, error) {
	if o.listenFD >= 0 {
		file := os.NewFile(uintptr(o.listenFD), "listen-fd")
		defer file.Close()
		inherited, err := net.FileListener(file)
		if err != nil {
			return nil, fmt.Errorf("auth-helper: file descriptor %d: %w", o.listenFD, err)
		}
		listener, ok := inherited.(*net.UnixListener)
		if !ok || listener.Addr().Network() != "unixpacket" {
			return nil, fmt.Errorf("auth-helper: file descriptor %d is no Unix socket of packets", o.listenFD)
		}
		listener.SetUnlinkOnClose(false) // it belongs to whoever made it
		return listener, nil
	}
	if err := removeStaleSocket(o.socket); err != nil {
		return nil, err
	}
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: o.socket, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("auth-helper: %w", err)
	}
	mode := os.FileMode(0o600)
	if len(o.cfg.AllowUIDs) > 0 {
		mode = 0o666
	}
	if err := os.Chmod(o.socket, mode); err != nil {
		listener.Close()
		return nil, fmt.Errorf("auth-helper: %w", err)
	}
	return listener, nil
}

// removeStaleSocket removes what a killed helper left: a socket nobody answers
// on, and nothing else.
func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return nil // listening fails with a better message
	}
	if conn, err := net.Dial("unixpacket", path); err == nil {
		conn.Close()
		return fmt.Errorf("auth-helper: another helper answers on %s", path)
	}
	return os.Remove(path)
}
