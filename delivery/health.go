package delivery

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// A node of a pair that died must not cost each message a timeout, nor one
// that hangs hold messages that its partner would take. So the nodes that an
// attempt has reason to suspect are called by Run: one that does not answer
// within the failover time is dead, conversations with it are given up, and it
// is tried last until it has answered several calls in a row.
const (
	// probeEvery is the pause between two calls to a node that is down.
	probeEvery = time.Second
	// wellAfter calls in a row have to be answered by a node that was down.
	wellAfter = 3
	// probedDown is how long a node stays down although nobody calls it, should
	// Run end; far more than calls take.
	probedDown = time.Hour
	// maxSuspects bounds the endpoints waiting to be called. One for which
	// there is no room is suspected again soon.
	maxSuspects = 64
)

var errNodeDead = errors.New("the node does not answer any more")

// suspect asks Run to look at an endpoint's health. It never blocks.
func (p *Pool) suspect(e Endpoint) {
	select {
	case p.suspects <- e:
	default:
	}
}

// watchHealth calls suspects until ctx ends.
func (p *Pool) watchHealth(ctx context.Context) {
	var calls sync.WaitGroup
	defer calls.Wait()
	called := make(chan string)
	busy := make(map[string]bool) // by address
	for {
		select {
		case <-ctx.Done():
			return
		case address := <-called:
			delete(busy, address)
		case e := <-p.suspects:
			if busy[e.Address] {
				continue
			}
			busy[e.Address] = true
			calls.Go(func() {
				p.look(ctx, e)
				select {
				case called <- e.Address:
				case <-ctx.Done():
				}
			})
		}
	}
}

// look calls a suspect once and, when it is or was down, until it is well
// again or ctx ends.
func (p *Pool) look(ctx context.Context, e Endpoint) {
	for answered := 0; ; {
		err := p.call(ctx, e)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err == nil && !p.isDown(e):
			return
		case err == nil:
			if answered++; answered == wellAfter {
				p.markUp(e)
				return
			}
		default:
			answered = 0
			p.declareDown(e, err)
		}
		pause := time.NewTimer(probeEvery*3/4 + rand.N(probeEvery/2))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
	}
}

// call begins a conversation and ends it.
func (p *Pool) call(ctx context.Context, e Endpoint) error {
	cfg := p.cfg.Client
	if cfg.ServerName == "" {
		cfg.ServerName = e.Host
	}
	login := p.loginFor(mail.Address{}, e)
	cfg.Login, cfg.Password = login.name, login.password
	c, err := dial(ctx, e, cfg, p.cfg.callTime())
	if err != nil {
		return err
	}
	p.greeted(e, peerOf(c))
	bye, cancel := context.WithTimeout(ctx, p.cfg.failover)
	defer cancel()
	_ = c.Quit(bye) // it has answered; how it says goodbye is its own matter
	return nil
}

func (p *Pool) isDown(e Endpoint) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.down[e.Address])
}

// declareDown notes that a call was not answered. Conversations with a node
// that does not answer at all are given up; one that refuses new ones, as it
// does while it is drained, ends those it has itself.
func (p *Pool) declareDown(e Endpoint, err error) {
	p.mu.Lock()
	_, known := p.down[e.Address]
	p.down[e.Address] = time.Now().Add(p.cfg.DownTime + probedDown)
	var given []*watch
	var refused *smtp.HandshakeError
	if !errors.As(err, &refused) {
		for w := range p.watches[e.Address] {
			given = append(given, w)
		}
	}
	p.mu.Unlock()
	if !known {
		p.log.Warn("next hop out of reach", "remote", e.String(), "reason", status.Of(err).String(), "error", err)
	}
	for _, w := range given {
		w.giveUp(errNodeDead)
	}
}

// watch is a conversation under way with a node of a pair.
type watch struct {
	pool     *Pool
	endpoint Endpoint
	giveUp   context.CancelCauseFunc
	timer    *time.Timer
}

// watch returns a context for a conversation with e that ends when the node is
// found dead. A conversation that lasts long makes the node suspect, early
// enough for it to be found dead within the failover time. Stop must be called
// at its end.
func (p *Pool) watch(ctx context.Context, e Endpoint) (context.Context, *watch) {
	ctx, giveUp := context.WithCancelCause(ctx)
	w := &watch{pool: p, endpoint: e, giveUp: giveUp}
	p.mu.Lock()
	if p.watches[e.Address] == nil {
		p.watches[e.Address] = make(map[*watch]struct{})
	}
	p.watches[e.Address][w] = struct{}{}
	// Under the lock, for the function may run before the assignment is done.
	w.timer = time.AfterFunc(p.cfg.failover-p.cfg.callTime(), w.overdue)
	p.mu.Unlock()
	return ctx, w
}

// overdue asks after the node, and again later.
func (w *watch) overdue() {
	w.pool.suspect(w.endpoint)
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	if _, under := w.pool.watches[w.endpoint.Address][w]; under {
		w.timer.Reset(w.pool.cfg.failover)
	}
}

// stop ends the watch.
func (w *watch) stop() {
	w.pool.mu.Lock()
	w.timer.Stop()
	all := w.pool.watches[w.endpoint.Address]
	if delete(all, w); len(all) == 0 {
		delete(w.pool.watches, w.endpoint.Address)
	}
	w.pool.mu.Unlock()
	w.giveUp(nil)
}

// foundDead reports whether ctx ended because a watch found its node dead.
func foundDead(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errNodeDead) }
