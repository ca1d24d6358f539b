package link

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// How long is waited before dialing again.
const (
	firstBackoff = 100 * time.Millisecond
	// lastBackoff is short: mail waits for the partner, and a dial costs little.
	lastBackoff = 500 * time.Millisecond
	// refusedBackoff is for what an operator must mend.
	refusedBackoff = 20 * time.Second
	// higherPatience is how long the higher class waits to be dialed before it
	// dials itself, as where only its connections get through.
	higherPatience = 5 * time.Second
)

// dialLoop dials whenever there is no session.
func (l *Link) dialLoop(ctx context.Context) {
	backoff := time.Duration(0)
	if l.cfg.class() != 0 {
		backoff = higherPatience
	}
	for {
		if !pause(ctx, jitter(backoff)) {
			return
		}
		if ended := l.present(); ended != nil {
			select {
			case <-ctx.Done():
				return
			case <-ended:
			}
			backoff = firstBackoff
			if l.cfg.class() != 0 {
				backoff = higherPatience
			}
			continue
		}
		err := l.dial(ctx)
		var refused *Refusal
		switch {
		case err == nil:
			backoff = firstBackoff
		case errors.As(err, &refused) && refused.Code == Busy:
			backoff = higherPatience
		case errors.As(err, &refused):
			backoff = refusedBackoff
		default:
			backoff = min(max(2*backoff, firstBackoff), lastBackoff)
		}
	}
}

// present returns what is closed at the present session's end; nil without one.
func (l *Link) present() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == nil {
		return nil
	}
	return l.ended
}

// jitter keeps two servers, and two loops of one, from keeping step.
func jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// dial makes one attempt.
func (l *Link) dial(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	raw, err := l.cfg.Dial(limited, l.cfg.Partner)
	if err != nil {
		l.failed(fmt.Errorf("connect to %s: %w", l.cfg.Partner, err))
		return err
	}
	l.setDialing(true)
	defer l.setDialing(false)
	err = l.shake(limited, ctx, raw, l.greet)
	if err != nil && ctx.Err() == nil {
		l.failed(fmt.Errorf("%s: %w", l.cfg.Partner, err))
	}
	return err
}

func (l *Link) setDialing(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dialing = on
}

// shake completes a connection and hands it to Run.
func (l *Link) shake(limited, running context.Context, raw net.Conn, hands func(context.Context, net.Conn) (*established, error)) error {
	tune(raw)
	stop := context.AfterFunc(limited, func() { _ = raw.Close() })
	deadline, _ := limited.Deadline()
	err := raw.SetDeadline(deadline)
	var e *established
	if err == nil {
		e, err = hands(limited, raw)
	}
	if !stop() && err == nil {
		err = context.Cause(limited)
	}
	if err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = raw.Close()
		return err
	}
	select {
	case l.ready <- e:
		<-e.adopted
		return nil
	case <-running.Done():
		_ = raw.Close()
		return running.Err()
	}
}

// accept answers a listener until it is closed.
func (l *Link) accept(ctx context.Context, listener net.Listener) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		raw, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			l.log.Error("cannot accept the partner's connection", "err", err)
			if !pause(ctx, time.Second) { // out of descriptors, say
				return
			}
			continue
		}
		l.doorway.enter(raw)
		all.Go(func() {
			limited, cancel := context.WithTimeout(ctx, handshakeTime)
			defer cancel()
			defer l.doorway.leave(raw)
			if err := l.shake(limited, ctx, raw, l.answer); err != nil && ctx.Err() == nil {
				l.turnedAway(raw.RemoteAddr(), err)
			}
		})
	}
}

// turnedAway notes who could not show that it is the partner. Anybody may
// connect, so what is no mistake of an operator's is not worth a line.
func (l *Link) turnedAway(remote net.Addr, err error) {
	var refused *Refusal
	if errors.As(err, &refused) && refused.Code != Busy && l.strangers.allow(time.Now()) {
		l.failed(fmt.Errorf("%s: %w", remote, err))
		return
	}
	l.log.Debug("a connection showed no partner", "remote", remote, "err", err)
}

// rarely allows something once in strangerInterval, so that strangers cannot
// fill the log.
type rarely struct {
	mu   sync.Mutex
	last time.Time
}

const strangerInterval = 10 * time.Second

func (r *rarely) allow(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.last) < strangerInterval {
		return false
	}
	r.last = now
	return true
}
