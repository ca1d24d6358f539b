package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/delivery/dsn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// reports makes what composes reports.
func (b *builder) reports() {
	ours := func(d mail.Domain) bool { return b.book.Class(d) == policy.Local }
	composer, err := dsn.New(b.file.Reports(ours))
	if !b.failed("reports", err) {
		b.reporter = composer
	}
}

// reporter reports by the configuration in force.
type reporter struct{ *current }

// Compose implements queue.Reports.
func (r reporter) Compose(w io.Writer, report mail.Report, now time.Time, id string) (mail.Envelope, error) {
	return r.Load().composeSigned(w, report, now, id)
}

// NoticeTo implements queue.Notices.
func (r reporter) NoticeTo(class mail.NoticeClass) (mail.Address, bool) {
	return r.Load().file.NoticeTo(class)
}

func reportsCommand() *cobra.Command {
	c := &cobra.Command{Use: "reports", Short: "Look at what senders and the postmaster are told"}
	preview := &cobra.Command{
		Use: "preview", Short: "Print a sample of each report", Args: cobra.NoArgs,
		Long: "Prints a sample of each report and notice as the configuration has them, decoded, for a look at\n" +
			"texts before they go out; bounce -b does that for Postfix. Sends nothing.",
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := check(configPath(c))
			if err != nil {
				return err
			}
			if f.Gateway == nil {
				return errors.New("the configuration has no gateway block, so there are no reports")
			}
			languages, _ := c.Flags().GetStringSlice("language")
			kinds, _ := c.Flags().GetStringSlice("kind")
			raw, _ := c.Flags().GetBool("raw")
			return previewReports(c.OutOrStdout(), f, languages, kinds, raw)
		},
	}
	preview.Flags().StringSlice("language", nil, "the `LANGUAGE`s, in place of those of the configuration")
	preview.Flags().StringSlice("kind", nil, "only these `KIND`s, such as failure or postmaster-delay")
	preview.Flags().Bool("raw", false, "whole messages as they are sent")
	c.AddCommand(preview)
	return c
}

// sampleKinds are the kinds of reports and notices, by the names of their texts.
var sampleKinds = []struct {
	name   string
	kind   mail.ReportKind
	notice mail.NoticeClass
}{
	{"failure", mail.ReportFailed, mail.NoticeNone},
	{"delay", mail.ReportDelayed, mail.NoticeNone},
	{"success", mail.ReportDelivered, mail.NoticeNone},
	{"relayed", mail.ReportRelayed, mail.NoticeNone},
	{"expanded", mail.ReportExpanded, mail.NoticeNone},
	{"postmaster-failure", mail.ReportFailed, mail.NoticeBounce},
	{"postmaster-delay", mail.ReportDelayed, mail.NoticeDelay},
	{"postmaster-double-bounce", mail.ReportFailed, mail.NoticeDoubleBounce},
	{"postmaster-resource", mail.ReportFailed, mail.NoticeResource},
	{"postmaster-software", mail.ReportFailed, mail.NoticeSoftware},
}

func previewReports(out io.Writer, f *config.File, languages, kinds []string, raw bool) error {
	cfg := f.Reports(nil)
	if len(languages) > 0 {
		cfg.Languages = languages
	}
	composer, err := dsn.New(cfg)
	if err != nil {
		return err
	}
	wanted := make(map[string]bool)
	for _, kind := range kinds {
		wanted[kind] = true
	}
	for _, s := range sampleKinds {
		if len(kinds) > 0 && !wanted[s.name] {
			continue
		}
		delete(wanted, s.name)
		r := sampleReport(f, s.kind, s.notice)
		if raw {
			if _, err := composer.Compose(out, r, time.Now(), "preview"); err != nil {
				return err
			}
			continue
		}
		text := composer.Preview(r, time.Now())
		fmt.Fprintf(out, "# %s\nFrom: %s\nSubject: %s\n\n%s\n", s.name, text.From, text.Subject, strings.ReplaceAll(text.Text, "\r\n", "\n"))
	}
	for kind := range wanted {
		return fmt.Errorf("there is no report called %q", kind)
	}
	return nil
}

// sampleReport is a report on mail that never was.
func sampleReport(f *config.File, kind mail.ReportKind, notice mail.NoticeClass) mail.Report {
	now := time.Now()
	unknown := mail.MustAddress("no.one@example.org")
	late := mail.MustAddress("somebody@example.net")
	r := mail.Report{
		Kind: kind, QueueID: "4QX7ZB0SAMPLE", Arrived: now.Add(-4 * time.Hour), ReceivedFrom: "client.example.com",
		Until: now.Add(f.Gateway.Queue.Lifetime - 4*time.Hour), Notice: notice,
		Envelope: mail.Envelope{
			ReversePath: mail.MustAddress("sender@example.com"),
			Recipients:  []mail.Recipient{{Address: unknown, Accepted: unknown}, {Address: late, Accepted: mail.MustAddress("alias@example.com")}},
		},
		Outcomes: []mail.Outcome{
			{Recipient: unknown, FromPeer: true, Reply: status.NoSuchUser.Reply(), Remote: "mx.example.org[192.0.2.1]:25", RemoteMTA: "mx.example.org", At: now},
			{Recipient: late, Reply: status.ConnectionFailed.Reply(), At: now},
		},
	}
	switch kind {
	case mail.ReportDelayed:
		r.Outcomes[0].Reply = status.MailboxFull.Reply()
	case mail.ReportDelivered, mail.ReportRelayed:
		for i := range r.Outcomes {
			r.Outcomes[i].Reply = status.OK.Reply()
		}
	case mail.ReportExpanded:
		for i := range r.Outcomes {
			r.Outcomes[i] = mail.Outcome{Recipient: r.Outcomes[i].Recipient}
		}
	}
	switch notice {
	case mail.NoticeDoubleBounce:
		r.Envelope.ReversePath = mail.Address{}
	case mail.NoticeResource, mail.NoticeSoftware:
		r.Outcomes, r.Detail = nil, "Here stands what has happened, and what to do about it."
	}
	r.Postmaster, _ = f.NoticeTo(notice)
	return r
}
