package oauth

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/singleflight"
)

// When keys are read, and how long they hold.
const (
	keysFresh  = time.Hour        // then they are read again
	keysStale  = 24 * time.Hour   // as long while the issuer does not answer
	retryAfter = 30 * time.Second // of reading keys that failed
	// A token with a key nobody knows makes us ask the issuer, but not more
	// often than this: strangers decide what stands in tokens.
	askAgain = 10 * time.Second

	maxKeys         = 100
	maxAnswerOctets = 1 << 20
)

// issuer is what is known of an issuer. Safe for concurrent use.
type issuer struct {
	cfg    Config
	client *http.Client
	log    hclog.Logger
	now    func() time.Time
	flight singleflight.Group
	shown  *answers

	mu    sync.Mutex
	keys  []jose.JSONWebKey
	read  time.Time // when keys were read; zero before
	tried time.Time // when that was tried last
	fault error     // of that try
	// introspection is where tokens are shown; "" before it was looked up.
	introspection string
}

func newIssuer(cfg Config, client *http.Client, log hclog.Logger) *issuer {
	return &issuer{cfg: cfg, client: client, log: log, now: time.Now, shown: newAnswers()}
}

func (i *issuer) configurationURL() string {
	return strings.TrimSuffix(i.cfg.Issuer, "/") + "/.well-known/openid-configuration"
}

// untilRefresh is how long keys need not be read.
func (i *issuer) untilRefresh() time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.fault != nil {
		return retryAfter
	}
	return max(i.read.Add(keysFresh).Sub(i.now()), time.Second)
}

// keysFor returns the keys a token may be signed by: the one with its id, or
// all when it names none. An error is AuthFailed when the issuer has no such
// key, anything else when that is not known.
func (i *issuer) keysFor(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	i.mu.Lock()
	now := i.now()
	found, read, tried, fault := i.withIDLocked(id), i.read, i.tried, i.fault
	i.mu.Unlock()
	usable := !read.IsZero() && now.Sub(read) < keysStale
	switch {
	case len(found) > 0 && usable && now.Sub(read) < keysFresh:
		return found, nil
	case now.Sub(tried) < askAgain:
		// Nothing new can be known now.
	default:
		if err := i.refresh(ctx); err != nil {
			fault = err
		} else {
			fault, usable = nil, true
		}
		i.mu.Lock()
		found = i.withIDLocked(id)
		i.mu.Unlock()
		if fault == nil && len(found) == 0 {
			return nil, refuse("signed by a key %.40q that the issuer does not publish", id)
		}
	}
	switch {
	case len(found) > 0 && usable:
		return found, nil
	case fault != nil:
		return nil, fmt.Errorf("keys of %s: %w", i.cfg.Issuer, fault)
	default:
		return nil, fmt.Errorf("the key %.40q is not among those of %s, which were read a moment ago", id, i.cfg.Issuer)
	}
}

func (i *issuer) withIDLocked(id string) []jose.JSONWebKey {
	if id == "" {
		return i.keys
	}
	var found []jose.JSONWebKey // keys of other kinds may share an id (RFC 7517 section 4.5)
	for _, k := range i.keys {
		if k.KeyID == id {
			found = append(found, k)
		}
	}
	return found
}

// refresh reads the issuer's keys. Those who ask at the same time share one
// answer, which does not end with the first of them.
func (i *issuer) refresh(ctx context.Context) error {
	done := i.flight.DoChan("keys", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*i.cfg.Timeout)
		defer cancel()
		keys, err := i.fetchKeys(ctx)
		i.mu.Lock()
		defer i.mu.Unlock()
		i.tried, i.fault = i.now(), err
		if err == nil {
			i.keys, i.read = keys, i.tried
		}
		return nil, err
	})
	select {
	case answer := <-done:
		return answer.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// discovered is what counts of a discovery document.
type discovered struct {
	Issuer        string `json:"issuer"`
	Keys          string `json:"jwks_uri"`
	Introspection string `json:"introspection_endpoint"`
}

func (i *issuer) discover(ctx context.Context) (d discovered, err error) {
	if err := i.get(ctx, i.configurationURL(), &d); err != nil {
		return d, err
	}
	if d.Issuer != i.cfg.Issuer {
		return d, fmt.Errorf("%s speaks for the issuer %.100q, not for %s", i.configurationURL(), d.Issuer, i.cfg.Issuer)
	}
	return d, nil
}

func (i *issuer) fetchKeys(ctx context.Context) ([]jose.JSONWebKey, error) {
	d, err := i.discover(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkURL("jwks_uri", d.Keys); err != nil {
		return nil, err
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := i.get(ctx, d.Keys, &set); err != nil {
		return nil, err
	}
	var keys []jose.JSONWebKey
	for _, text := range set.Keys[:min(len(set.Keys), maxKeys)] {
		var key jose.JSONWebKey
		// Keys of kinds we do not know are no mistake of the issuer's.
		if json.Unmarshal(text, &key) == nil && key.IsPublic() && key.Valid() && key.Use != "enc" {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s holds no key for signatures", d.Keys)
	}
	return keys, nil
}

func (i *issuer) get(ctx context.Context, address string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	return i.do(request, into)
}

// do makes a request and reads the JSON of its answer.
func (i *issuer) do(request *http.Request, into any) error {
	request.Header.Set("Accept", "application/json")
	response, err := i.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", request.URL, response.Status)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerOctets+1))
	if err != nil {
		return fmt.Errorf("%s: %w", request.URL, err)
	}
	if len(text) > maxAnswerOctets {
		return fmt.Errorf("%s: answer of more than %d octets", request.URL, maxAnswerOctets)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", request.URL, err)
	}
	return nil
}

// introspect asks the issuer what a token says (RFC 7662). Answers are used
// again for a minute.
func (i *issuer) introspect(ctx context.Context, token string) (claims, error) {
	key := sha256.Sum256([]byte(token))
	if c, found := i.shown.find(key, i.now()); found {
		return active(c)
	}
	done := i.flight.DoChan(string(key[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*i.cfg.Timeout)
		defer cancel()
		c, err := i.show(ctx, token)
		if err == nil {
			i.shown.keep(key, c, i.now())
		}
		return c, err
	})
	select {
	case answer := <-done:
		if answer.Err != nil {
			return nil, fmt.Errorf("introspection by %s: %w", i.cfg.Issuer, answer.Err)
		}
		return active(answer.Val.(claims))
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func active(c claims) (claims, error) {
	if yes, _ := c["active"].(bool); !yes {
		return nil, refuse("token that the issuer does not know, or no longer")
	}
	return c, nil
}

func (i *issuer) show(ctx context.Context, token string) (claims, error) {
	i.mu.Lock()
	address := i.introspection
	i.mu.Unlock()
	if address == "" {
		d, err := i.discover(ctx)
		if err != nil {
			return nil, err
		}
		if address = d.Introspection; address == "" {
			return nil, errors.New("the issuer offers no introspection")
		}
		if err := checkURL("introspection_endpoint", address); err != nil {
			return nil, err
		}
		i.mu.Lock()
		i.introspection = address
		i.mu.Unlock()
	}
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth(url.QueryEscape(i.cfg.ClientID), url.QueryEscape(i.cfg.ClientSecret))
	var c claims
	if err := i.do(request, &c); err != nil {
		return nil, err
	}
	if _, said := c["active"].(bool); !said {
		return nil, errors.New("answer does not say whether the token is active")
	}
	return c, nil
}

// answers are those of introspection, for a short time and a bounded number of
// tokens, which stand there by their hash.
type answers struct {
	mu      sync.Mutex
	entries map[[sha256.Size]byte]answer
	order   [][sha256.Size]byte // oldest first
}

type answer struct {
	claims claims
	until  time.Time
}

const (
	answerFresh = time.Minute
	maxAnswers  = 10_000
)

func newAnswers() *answers { return &answers{entries: make(map[[sha256.Size]byte]answer)} }

func (a *answers) find(key [sha256.Size]byte, now time.Time) (claims, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, found := a.entries[key]
	return e.claims, found && now.Before(e.until)
}

func (a *answers) keep(key [sha256.Size]byte, c claims, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, again := a.entries[key]; !again {
		a.order = append(a.order, key)
	}
	a.entries[key] = answer{c, now.Add(answerFresh)}
	for len(a.order) > 0 && (len(a.order) > maxAnswers || !now.Before(a.entries[a.order[0]].until)) {
		delete(a.entries, a.order[0])
		a.order = a.order[1:]
	}
}
