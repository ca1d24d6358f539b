package main

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// members is a server whose clients log in.
type members interface {
	// Identities returns who is logged in.
	Identities() []mail.Identity
	// Disconnect ends the sessions of those whom whose selects.
	Disconnect(whose func(mail.Identity) bool) int
}

// mailMembers are the clients of a listener of the backend or the proxy, who are
// all people of one directory.
type mailMembers struct {
	accounts interface {
		Accounts() []string
		Disconnect(account string) int
	}
	*current
	directory func(*config.File) string
}

func backendDirectory(f *config.File) string { return f.Backend.Directory }

func proxyDirectory(f *config.File) string { return f.Proxy.Directory }

// Identities implements members.
func (m mailMembers) Identities() []mail.Identity {
	source := m.directory(m.Load().file)
	var all []mail.Identity
	for _, name := range m.accounts.Accounts() {
		all = append(all, mail.Identity{Authentication: name, Source: source})
	}
	return all
}

// Disconnect implements members.
func (m mailMembers) Disconnect(whose func(mail.Identity) bool) int {
	n := 0
	for _, id := range m.Identities() {
		if whose(id) {
			n += m.accounts.Disconnect(id.Authentication)
		}
	}
	return n
}

// presence ends the sessions of accounts that the directory disables or no
// longer has, as soon as it tells of the change.
type presence struct {
	*current
	audit auditor
	log   hclog.Logger
	rooms []members
}

const (
	// presenceEvery is how long another generation, and an account that expires
	// without a change of its entry, may go unnoticed.
	presenceEvery = time.Minute
	// presenceRest keeps a directory that changes all the time from having the
	// sessions looked through all the time.
	presenceRest = 200 * time.Millisecond
)

// run looks after every change until ctx ends.
func (p *presence) run(ctx context.Context) error {
	for ctx.Err() == nil {
		round, end := context.WithTimeout(ctx, presenceEvery)
		g := p.Load()
		for _, s := range g.sources {
			changed := s.Changed() // from before the look, so that nothing is missed
			go func() {
				select {
				case <-changed:
					end()
				case <-round.Done():
				}
			}()
		}
		p.look(ctx, g)
		rest := time.NewTimer(presenceRest)
		select {
		case <-rest.C:
		case <-ctx.Done():
			rest.Stop()
		}
		<-round.Done()
		end()
	}
	return nil
}

// look asks the directories about everybody who is logged in.
func (p *presence) look(ctx context.Context, g *generation) {
	judged := map[mail.Submitter]bool{}
	for _, room := range p.rooms {
		if m, ok := room.(mailMembers); ok {
			m.regroup()
		}
		var gone map[mail.Submitter]bool
		for _, id := range room.Identities() {
			who := mail.Submitter{Name: id.Authentication, Source: id.Source}
			barred, known := judged[who]
			if !known {
				barred = g.bars(ctx, who)
				judged[who] = barred
			}
			if barred {
				if gone == nil {
					gone = map[mail.Submitter]bool{}
				}
				gone[who] = true
			}
		}
		for who := range gone {
			p.disconnect(room, who)
		}
	}
}

func (p *presence) disconnect(room members, who mail.Submitter) {
	n := room.Disconnect(func(id mail.Identity) bool {
		return id.Authentication == who.Name && id.Source == who.Source
	})
	if n == 0 {
		return // they ended by themselves, or are about to
	}
	p.log.Warn("account is disabled: its sessions are ended", "login", who.Name, "directory", who.Source, "sessions", n)
	p.audit.Record(mail.Event{
		Kind: mail.EventAuth, Result: "disconnected", Reason: status.AccountDisabled.String(), Login: who.Name,
		Detail: fmt.Sprintf("account of directory %s is disabled or gone: %d session(s) ended", who.Source, n),
	})
}

// bars reports whether it is certain that an account may not be used any more.
// An account that no directory was asked about is not known here.
func (g *generation) bars(ctx context.Context, who mail.Submitter) bool {
	s, known := g.sources[who.Source]
	if !known {
		return false
	}
	account, err := s.AccountNamed(ctx, who.Name)
	if err != nil {
		reason := status.Of(err)
		return reason == status.NoSuchUser || reason == status.AccountDisabled
	}
	return account.Disabled
}

// submitters tells the queue whose mail is not to go out any more.
type submitters struct{ *current }

// barredPatience bounds how long an attempt waits for the directory's word.
const barredPatience = 2 * time.Second

// Barred implements queue.Submitters.
func (s submitters) Barred(ctx context.Context, who mail.Submitter) bool {
	ctx, cancel := context.WithTimeout(ctx, barredPatience)
	defer cancel()
	return s.Load().bars(ctx, who)
}
