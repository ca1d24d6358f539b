package main

import (
	"context"
	"io"
	"net/url"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/mail"
)

// harmless are the commands that neither change anything nor show mail.
var harmless = map[string]bool{
	"status":            true,
	"sessions":          true,
	"directory/status":  true,
	"lookup":            true,
	"queue/list":        true,
	"queue/shape":       true,
	"queue/summary":     true,
	"route":             true,
	"policy/test":       true,
	"replica/status":    true,
	"replica/sessions":  true,
	"replica/verify":    true,
	"tlsrpt/list":       true,
	"dmarc/list":        true,
	"dmarc/show":        true,
	"tlsrpt/show":       true,
	"mirror/status":     true,
	"index/status":      true,
	"auth/status":       true,
	"greylist/list":     true,
	"app-password/list": true,
}

// audited records who asked for which command, beside what the rooms record of
// its effects.
func (s *server) audited(commands admin.Commands) admin.Commands {
	for name, command := range commands {
		if !harmless[name] {
			commands[name] = s.auditedAs(name, command)
		}
	}
	return commands
}

func (s *server) auditedAs(name string, command admin.Command) admin.Command {
	return func(ctx context.Context, args url.Values, out io.Writer) error {
		err := command(ctx, args, out)
		e := mail.Event{Kind: mail.EventOperator, Result: "ok", Service: "control", Login: admin.Operator(ctx), Detail: name}
		if len(args) > 0 {
			e.Detail += " " + args.Encode()
		}
		if err != nil {
			e.Result, e.Reply = "refused", err.Error()
		}
		s.audit.Record(e)
		return err
	}
}
