package main

import (
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/audit/maillog"
	"github.com/postern-mail/postern/config"
)

// postfixLines are the lines for readers of Postfix's log; a nil one writes none.
type postfixLines struct {
	*maillog.Log
	file *reopenable
}

// openPostfixLines opens the file of log.postfix_file, if there is to be one.
func openPostfixLines(f *config.File, log hclog.Logger) (*postfixLines, error) {
	if f.Log.PostfixFile == "" {
		return nil, nil
	}
	file, err := openLog(f.Log.PostfixFile)
	if err != nil {
		return nil, err
	}
	cfg := maillog.Config{Hostname: f.Hostname, Services: smtpDaemons(f), Targets: targetDaemons(f)}
	return &postfixLines{maillog.New(cfg, file, log.Named("maillog")), file}, nil
}

// takeOver follows a changed configuration, and the rotation of the file.
func (p *postfixLines) takeOver(f *config.File) error {
	if p == nil {
		return nil
	}
	p.Serve(smtpDaemons(f), targetDaemons(f))
	return p.file.reopen()
}

// close ends the file.
func (p *postfixLines) close() error {
	if p == nil {
		return nil
	}
	return p.file.close()
}

// smtpDaemons are the SMTP listeners and what Postfix calls their daemons.
func smtpDaemons(f *config.File) map[string]string {
	daemons := make(map[string]string)
	if f.Gateway != nil {
		for _, l := range f.Gateway.Listeners {
			daemons[l.Name] = maillog.Daemon(l.Mode)
		}
	}
	return daemons
}

// targetDaemons are the targets of deliveries and what Postfix calls their
// daemon.
func targetDaemons(f *config.File) map[string]string {
	daemons := make(map[string]string)
	if f.Gateway != nil {
		for _, t := range f.Gateway.Targets {
			daemons[t.Name] = "postfix/" + t.Protocol
		}
	}
	return daemons
}
