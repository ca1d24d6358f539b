package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/testdata/ldif"
)

// TestScripts drives the program as a person at a shell does. Each archive in
// testdata/script has a site of its own, laid out and not started: its folder
// is $SITE, its configuration $CONFIG, its ports $PORT_MX, $PORT_IMAPS, ...
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_GOLDEN") != "",
		Setup:               setUpScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"arrives":   scriptArrives,
			"configure": scriptConfigure,
			"crash":     func(ts *testscript.TestScript, _ bool, _ []string) { siteOf(ts).proc.Kill() },
			"deferred":  scriptDeferred,
			"edit":      scriptEdit,
			"exits":     scriptExits,
			"fails":     scriptFails,
			"hangup":    func(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(siteOf(ts).proc.Signal(syscall.SIGHUP)) },
			"inject":    scriptInject,
			"logged":    scriptLogged,
			"outside":   scriptOutside,
			"serve":     func(ts *testscript.TestScript, _ bool, _ []string) { siteOf(ts).start() },
			"shutdown":  scriptShutdown,
			"submit":    scriptSubmit,
			"until":     scriptUntil,
		},
	})
}

type siteKey struct{}

func setUpScript(env *testscript.Env) error {
	s := newSite(env.T().(testing.TB), standard, nil)
	env.Values[siteKey{}] = s
	env.Setenv("PATH", filepath.Dir(program)+string(os.PathListSeparator)+env.Getenv("PATH"))
	env.Setenv("PROGRAM", program)
	env.Setenv("SITE", s.Dir)
	me, err := user.Current()
	if err != nil {
		return err
	}
	env.Setenv("LOGIN", me.Username)
	env.Setenv("CONFIG", s.Config)
	for name, port := range s.Port {
		env.Setenv("PORT_"+strings.ToUpper(name), strconv.Itoa(port))
	}
	return nil
}

func siteOf(ts *testscript.TestScript) *site { return ts.Value(siteKey{}).(*site) }

func arguments(ts *testscript.TestScript, args []string, n int, usage string) {
	if len(args) < n {
		ts.Fatalf("usage: %s", usage)
	}
}

// scriptConfigure takes a file of the archive for the site's configuration;
// it is a template as in Go tests.
func scriptConfigure(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 1, "configure FILE")
	siteOf(ts).configure(ts.ReadFile(args[0]))
}

// scriptEdit replaces a text in the site's configuration, which must hold it.
func scriptEdit(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 2, "edit OLD NEW")
	s := siteOf(ts)
	before, err := os.ReadFile(s.Config)
	ts.Check(err)
	after := bytes.ReplaceAll(before, []byte(args[0]), []byte(args[1]))
	if bytes.Equal(before, after) {
		ts.Fatalf("the configuration does not hold %q", args[0])
	}
	ts.Check(os.WriteFile(s.Config, after, 0o600))
}

// scriptOutside has mail for other domains answered with a code, 0 for taken.
// The first call, before the server starts, runs the next hop; without any,
// nobody listens there.
func scriptOutside(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 1, "outside CODE")
	code, err := strconv.Atoi(args[0])
	ts.Check(err)
	s := siteOf(ts)
	if s.outside == nil {
		s.outside = startOutside(s.t)
		scriptEdit(ts, false, []string{nobodyListens, s.outside.Address})
	}
	s.outside.refuse(code)
}

// scriptShutdown ends the server with SIGTERM; it must end well.
func scriptShutdown(ts *testscript.TestScript, _ bool, _ []string) {
	p := siteOf(ts).proc
	p.Stop()
	ts.Check(p.Err())
}

// scriptSubmit sends as somebody and wants a reply code, 250 by default.
func scriptSubmit(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 4, "submit LOGIN FROM TO SUBJECT [CODE]")
	err := siteOf(ts).submit(args[0], ldif.Password(args[0]), args[1], []string{args[2]}, args[3])
	wantCode(ts, err, args[4:])
}

// scriptInject sends as another server would and wants a reply code.
func scriptInject(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 3, "inject FROM TO SUBJECT [CODE]")
	wantCode(ts, siteOf(ts).inject(args[0], []string{args[1]}, args[2]), args[3:])
}

func wantCode(ts *testscript.TestScript, err error, want []string) {
	got := code(err)
	if len(want) == 0 {
		want = []string{"0"}
	}
	if strconv.Itoa(got) != want[0] {
		ts.Fatalf("%v, want %s", err, want[0])
	}
}

// scriptArrives waits until a subject is once in an INBOX.
func scriptArrives(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 2, "arrives LOGIN SUBJECT")
	siteOf(ts).waitFor(args[0], args[1], 1)
}

// scriptDeferred waits until n messages, one by default, are deferred and sets
// $QID to the id of the first. What is due now and not yet in line is deferred,
// too, and does not count: it is about to be tried.
func scriptDeferred(ts *testscript.TestScript, _ bool, args []string) {
	n := 1
	if len(args) > 0 {
		var err error
		n, err = strconv.Atoi(args[0])
		ts.Check(err)
	}
	s := siteOf(ts)
	testenv.Eventually(s.t, time.Minute, func() error {
		out, err := command(s.t.Context(), "queue", "list", "--json", "--state", "deferred", "-c", s.Config)
		if err != nil {
			return err
		}
		var ids []mail.QueueID
		for lines := json.NewDecoder(strings.NewReader(out)); ; {
			var m listed
			if err := lines.Decode(&m); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return err
			}
			for _, r := range m.Recipients {
				if r.Next == nil || !r.Next.After(time.Now()) {
					return fmt.Errorf("%s is due for %s", m.ID, r.Address)
				}
			}
			ids = append(ids, m.ID)
		}
		if len(ids) != n {
			return fmt.Errorf("deferred are %d messages", len(ids))
		}
		ts.Setenv("QID", string(ids[0]))
		return nil
	})
}

// scriptFails runs a program that must end with exit status 1, and write
// nothing to standard output.
func scriptFails(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 1, "fails PROGRAM [ARG...]")
	err := ts.Exec(args[0], args[1:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		ts.Fatalf("%v, want exit status 1", err)
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("a failed command wrote to standard output: %s", out)
	}
}

// scriptExits runs a program that must end with a status of its own.
func scriptExits(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 2, "exits STATUS PROGRAM [ARG...]")
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("%v, want exit status %s", err, args[0])
	}
}

// scriptUntil runs a program again and again until its output matches.
func scriptUntil(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 2, "until PATTERN PROGRAM [ARG...]")
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	testenv.Eventually(siteOf(ts).t, time.Minute, func() error {
		out := ""
		if args[1] == "postern" {
			out, err = command(siteOf(ts).t.Context(), args[2:]...)
		} else if err = ts.Exec(args[1], args[2:]...); err == nil {
			out = ts.ReadFile("stdout")
		}
		if err == nil && !pattern.MatchString(out) {
			err = errors.New("the output is:\n" + out)
		}
		return err
	})
}

// scriptLogged waits until the server's log matches.
func scriptLogged(ts *testscript.TestScript, _ bool, args []string) {
	arguments(ts, args, 1, "logged PATTERN")
	siteOf(ts).waitForLog(args[0])
}
