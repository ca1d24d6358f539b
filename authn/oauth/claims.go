package oauth

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// claims are what a token says.
type claims map[string]any

func parseClaims(payload []byte) (claims, error) {
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil || c == nil {
		return nil, refuse("token whose content is no JSON object")
	}
	return c, nil
}

// text returns a claim that is a string; "" for none.
func (c claims) text(name string) string {
	s, _ := c[name].(string)
	return s
}

// list returns a claim that is a string or a list of them.
func (c claims) list(name string) []string {
	switch value := c[name].(type) {
	case string:
		return []string{value}
	case []any:
		var all []string
		for _, v := range value {
			if s, ok := v.(string); ok {
				all = append(all, s)
			}
		}
		return all
	}
	return nil
}

// when returns a claim that is a time (RFC 7519 section 2, NumericDate).
func (c claims) when(name string) (t time.Time, given, ok bool) {
	value, given := c[name]
	seconds, number := value.(float64)
	if !given || !number || math.IsNaN(seconds) || seconds < 0 || seconds > 1<<40 {
		return t, given, false
	}
	return time.Unix(int64(seconds), 0), true, true
}

// scopes returns what a token is for, as RFC 8693 or as Microsoft writes it.
func (c claims) scopes() []string {
	var all []string
	for _, name := range []string{"scope", "scp"} {
		for _, s := range c.list(name) {
			all = append(all, strings.Fields(s)...)
		}
	}
	return all
}

// allow applies the rules of the configuration.
func (v *Verifier) allow(c claims) error {
	// An introspected token has no issuer where it is the one that was asked.
	if issuer := c.text("iss"); issuer != v.cfg.Issuer && (issuer != "" || !v.cfg.Introspect) {
		return refuse("token of the issuer %.100q", issuer)
	}
	if err := v.inTime(c); err != nil {
		return err
	}
	if !slices.ContainsFunc(c.list("aud"), func(a string) bool { return slices.Contains(v.cfg.Audiences, a) }) {
		return refuse("token made for %.100q, not for us", c.list("aud"))
	}
	party := c.text("azp")
	if party == "" {
		party = c.text("client_id")
	}
	if party == "" {
		party = c.text("appid")
	}
	if len(v.cfg.Parties) > 0 && !slices.Contains(v.cfg.Parties, party) {
		return refuse("token issued to the client %.100q", party)
	}
	scopes := c.scopes()
	for _, scope := range v.cfg.Scopes {
		if !slices.Contains(scopes, scope) {
			return refuse("token without the scope %q", scope)
		}
	}
	for name, want := range v.cfg.Claims {
		if !slices.Contains(c.list(name), want) && fmt.Sprint(c[name]) != want {
			return refuse("token whose claim %q is not %q", name, want)
		}
	}
	return nil
}

// inTime checks that a token is neither old nor early. One that never ends is
// refused: nobody could take it back.
func (v *Verifier) inTime(c claims) error {
	now := v.now()
	expires, given, ok := c.when("exp")
	switch {
	case !ok && !(v.cfg.Introspect && !given): // the issuer says when it has ended
		return refuse("token without an end")
	case ok && !now.Before(expires.Add(v.cfg.Skew)):
		return refuse("token that ended at %s", expires.UTC().Format(time.RFC3339))
	}
	for _, name := range []string{"nbf", "iat"} {
		from, given, ok := c.when(name)
		if given && !ok {
			return refuse("token whose %s is no time", name)
		}
		if ok && now.Add(v.cfg.Skew).Before(from) {
			return refuse("token from the future: %s is %s", name, from.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// login returns whom a token is about.
func (v *Verifier) login(ctx context.Context, c claims) (string, error) {
	login := c.text(v.cfg.LoginClaim)
	if login == "" && v.cfg.Introspect && v.cfg.LoginClaim == "preferred_username" {
		login = c.text("username") // RFC 7662 section 2.2
	}
	if login == "" {
		return "", refuse("token without the claim %q", v.cfg.LoginClaim)
	}
	if v.cfg.LoginClaim != "email" {
		return login, nil
	}
	if verified, _ := c["email_verified"].(bool); !verified && c.text("email_verified") != "true" && !v.cfg.UnverifiedEmail {
		return "", refuse("token whose email the issuer did not verify")
	}
	return login, v.owns(ctx, login)
}

// owns checks that the account which an address leads to has it as its own: a
// login that happens to look like an address is somebody else's.
func (v *Verifier) owns(ctx context.Context, login string) error {
	address, err := mail.ParseAddress(login)
	if err != nil {
		return refuse("token whose email is no address")
	}
	if v.cfg.Accounts == nil {
		return nil
	}
	account, err := v.cfg.Accounts.Account(ctx, address.Fold().String())
	if status.Of(err) == status.NoSuchUser && err != nil {
		return refuse("nobody has the address %s", address)
	}
	if err != nil {
		return fmt.Errorf("find account of the token's address: %w", err)
	}
	for _, own := range account.Addresses {
		if own.Fold() == address.Fold() {
			return nil
		}
	}
	return refuse("%s does not own the address %s", account.Name, address)
}
