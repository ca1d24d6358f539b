package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

func directoryTestCommand() *cobra.Command {
	var record bool
	c := &cobra.Command{
		Use: "test FILE", Short: "Ask a list of questions and compare the answers", Args: cobra.ExactArgs(1),
		Long: `Asks what FILE lists, past all caches, and compares the answers with those it expects, so that a change
of the directory can be tried before and after. FILE "-" is standard input. A line is a question, an equals
sign between spaces, and the answer; # begins a comment:

  info@example.com = alice@example.com bob@example.com
  nobody@example.com = NoSuchUser
  board@example.com from stranger@example.org = GroupRestricted
  board@example.com login carol = GroupRestricted
  login alice = alice
  owners info@example.com = alice bob

The answer to an address is who gets its mail, to "login" the account, to "owners" who may send under the
address; or a reason, as postern lookup gives it. A line without an equals sign asks and compares nothing.

With --record the lines are printed with the answers of now, to be the FILE of another day.

Exits with 1 when an answer differs, and with 2 when none does but a directory did not answer.`,
		RunE: func(c *cobra.Command, args []string) error {
			g, err := idleGeneration(configPath(c))
			if err != nil {
				return err
			}
			questions, err := openQuestions(args[0], c.InOrStdin())
			if err != nil {
				return err
			}
			x := &examination{generation: g, out: c.OutOrStdout(), record: record}
			for _, q := range questions {
				x.ask(c.Context(), q)
			}
			return x.end()
		},
	}
	c.Flags().BoolVar(&record, "record", false, "print the questions with the answers of now")
	return c
}

// question is one line of a list.
type question struct {
	line     int
	text     string // as it stands there
	kind     string // "mail", "login" or "owners"
	subject  string
	from     *mail.Poster
	compared bool
	want     []string
}

// maxQuestions bounds a list.
const maxQuestions = 1 << 20

// openQuestions reads a list; its mistakes are the error, all at once.
func openQuestions(name string, stdin io.Reader) ([]question, error) {
	in := stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }() // only read
		in = file
	}
	var list []question
	var mistakes []error
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(" "+lines.Text(), " #") // an address may hold the sign
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		q, err := parseQuestion(text)
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("%s:%d: %w", name, n, err))
			continue
		}
		if len(list) == maxQuestions {
			return nil, fmt.Errorf("%s:%d: more than %d questions", name, n, maxQuestions)
		}
		q.line = n
		list = append(list, q)
	}
	return list, errors.Join(append(mistakes, lines.Err())...)
}

func parseQuestion(text string) (question, error) {
	asked, answer, compared := strings.Cut(text+" ", " = ") // so may it hold an equals sign
	q := question{text: strings.TrimSpace(asked), kind: "mail", compared: compared, want: strings.Fields(answer)}
	slices.Sort(q.want)
	words := strings.Fields(asked)
	if compared && len(q.want) == 0 {
		return q, errors.New("no answer after the equals sign: name recipients, or a reason such as NoSuchUser")
	}
	if len(words) == 2 && (words[0] == "login" || words[0] == "owners") {
		q.kind, words = words[0], words[1:]
	}
	if len(words) == 0 {
		return q, errors.New("no question before the equals sign")
	}
	q.subject = words[0]
	var from, login string
	for words = words[1:]; len(words) > 1; words = words[2:] {
		switch words[0] {
		case "from":
			from = words[1]
		case "login":
			login = words[1]
		default:
			return q, fmt.Errorf("%q is neither from nor login", words[0])
		}
	}
	if len(words) > 0 {
		return q, fmt.Errorf("a word too many: %q", words[0])
	}
	if q.kind != "login" {
		if _, err := mail.ParseAddress(q.subject); err != nil {
			return q, fmt.Errorf("%q is no address: %w", q.subject, err)
		}
	}
	var err error
	q.from, err = posterOf(from, login)
	return q, err
}

// examination asks questions and counts what came of them.
type examination struct {
	*generation
	out    io.Writer
	record bool

	right, wrong, unknown int
}

func (x *examination) ask(ctx context.Context, q question) {
	got, err := x.answer(ctx, q)
	known := true
	switch reason := status.Of(err); reason {
	case status.OK, status.AddressLoop, status.AddressAmbiguous, status.PolicyDefer:
	default:
		known = reason.Permanent()
	}
	if err != nil {
		got = []string{status.Of(err).String()}
	}
	slices.Sort(got)
	answer, comment := strings.Join(got, " "), ""
	if x.record {
		comment = "# "
	}
	switch {
	case !known:
		x.unknown++
		fmt.Fprintf(x.out, "%s%s = %s   # %v\n", comment, q.text, answer, err)
	case x.record:
		fmt.Fprintf(x.out, "%s = %s\n", q.text, answer)
	case !q.compared:
		fmt.Fprintf(x.out, "line %d: %s = %s\n", q.line, q.text, answer)
	case slices.Equal(got, q.want):
		x.right++
	default:
		x.wrong++
		fmt.Fprintf(x.out, "line %d: %s = %s, expected %s\n", q.line, q.text, answer, strings.Join(q.want, " "))
	}
}

// answer asks the directory of an address's domain, or for a login those of
// the configuration in order.
func (x *examination) answer(ctx context.Context, q question) ([]string, error) {
	if q.kind == "login" {
		return x.login(ctx, q.subject)
	}
	a, err := mail.ParseAddress(q.subject)
	if err != nil {
		return nil, err
	}
	if q.kind == "owners" {
		return x.owners(ctx, a)
	}
	book := x.addresses()
	if _, ours := x.book.domains[a.Domain]; x.file.Gateway != nil && !ours {
		return nil, status.Errorf(status.NoSuchUser, "%s is no domain of ours", a.Domain)
	}
	var found []mail.Recipient
	if x.file.Gateway != nil {
		found, err = book.Resolve(ctx, a, q.from)
	} else {
		found, err = x.eachDirectory(func(d *directory.Directory) ([]mail.Recipient, error) {
			if q.from != nil {
				return d.ResolveFor(ctx, a, *q.from)
			}
			return d.Resolve(ctx, a)
		})
	}
	var names []string
	for _, r := range found {
		names = append(names, r.Address.String())
	}
	return names, err
}

// eachDirectory asks directory after directory until one knows.
func (x *examination) eachDirectory(ask func(*directory.Directory) ([]mail.Recipient, error)) ([]mail.Recipient, error) {
	err := error(status.Errorf(status.NoSuchUser, "no directory knows it"))
	for _, cfg := range x.file.Directories {
		var found []mail.Recipient
		if found, err = ask(x.sources[cfg.Name].Directory); status.Of(err) != status.NoSuchUser {
			return found, err
		}
	}
	return nil, err
}

func (x *examination) login(ctx context.Context, login string) ([]string, error) {
	err := error(status.Errorf(status.NoSuchUser, "no directory knows it"))
	for _, cfg := range x.file.Directories {
		var account mail.Account
		account, err = x.sources[cfg.Name].Account(ctx, login)
		if status.Of(err) == status.NoSuchUser {
			continue
		}
		if err == nil && account.Disabled {
			return nil, status.Errorf(status.AccountDisabled, "%s is disabled", account.Name)
		}
		return []string{account.Name}, err
	}
	return nil, err
}

func (x *examination) owners(ctx context.Context, a mail.Address) ([]string, error) {
	var names []string
	var err error
	if x.file.Gateway != nil {
		names, err = x.book.Owners(ctx, a)
	} else {
		for _, cfg := range x.file.Directories {
			if names, err = x.sources[cfg.Name].Owners(ctx, a); err != nil || len(names) > 0 {
				break
			}
		}
	}
	if err == nil && len(names) == 0 {
		names = []string{"nobody"}
	}
	return names, err
}

// errUnanswered ends a test in which all answers were right, but not all came.
var errUnanswered = &exitStatus{status: 2, err: errors.New("a directory did not answer every question")}

func (x *examination) end() error {
	if x.record {
		if x.unknown > 0 {
			return errUnanswered
		}
		return nil
	}
	fmt.Fprintf(x.out, "%d as expected, %d different, %d without an answer\n", x.right, x.wrong, x.unknown)
	switch {
	case x.wrong > 0:
		return fmt.Errorf("%d answer(s) differ", x.wrong)
	case x.unknown > 0:
		return errUnanswered
	}
	return nil
}
