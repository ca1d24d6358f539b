package ldap_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/status"
)

// scripted is a server that says what a test tells it to, for what no server
// at hand does: Active Directory's ways, and broken ones.
type scripted struct {
	uri         string
	connections atomic.Int64
	// answer returns the responses to a request, without their envelopes; nil
	// closes the connection.
	answer func(op *ber.Packet) []*ber.Packet
}

func script(t testing.TB, answer func(op *ber.Packet) []*ber.Packet) *scripted {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s := &scripted{uri: "ldap://" + l.Addr().String(), answer: answer}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.connections.Add(1)
			go s.serve(conn)
		}
	}()
	return s
}

func (s *scripted) serve(conn net.Conn) {
	defer conn.Close()
	for {
		request, err := ber.ReadPacket(conn)
		if err != nil || len(request.Children) < 2 {
			return
		}
		responses := s.answer(request.Children[1])
		if responses == nil {
			return
		}
		for _, response := range responses {
			message := ber.NewSequence("message")
			message.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, request.Children[0].Value, "id"))
			message.AppendChild(response)
			if _, err := conn.Write(message.Bytes()); err != nil {
				return
			}
		}
	}
}

func octets(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

// result is the response with which an operation ends: 1 for a bind, 5 for a
// search.
func result(tag ber.Tag, code int, text string) *ber.Packet {
	p := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "result")
	p.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, "code"))
	p.AppendChild(octets(""))
	p.AppendChild(octets(text))
	return p
}

func entry(dn, attribute string, values ...string) *ber.Packet {
	p := ber.Encode(ber.ClassApplication, ber.TypeConstructed, 4, nil, "entry")
	p.AppendChild(octets(dn))
	attributes, one := ber.NewSequence("attributes"), ber.NewSequence("attribute")
	set := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "values")
	for _, v := range values {
		set.AppendChild(octets(v))
	}
	one.AppendChild(octets(attribute))
	one.AppendChild(set)
	attributes.AppendChild(one)
	p.AppendChild(attributes)
	return p
}

const (
	bindRequest   = 0
	searchRequest = 3
)

func scriptedConfig(uris ...string) ldap.Config {
	return ldap.Config{URIs: uris, Timeout: time.Minute} // of a busy machine
}

func TestBindResults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code int
		text string
		want status.Reason
		log  string
	}{
		{0, "", status.OK, ""},
		{49, "", status.AuthFailed, "wrong password"},
		{49, "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 52e, v2580", status.AuthFailed, "wrong password (52e)"},
		{49, "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 775, v2580", status.AccountDisabled, "locked (775)"},
		{49, "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 533, v2580", status.AccountDisabled, "disabled (533)"},
		{49, "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 773, v2580", status.AccountDisabled, "changed first (773)"},
		{49, "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 525, v2580", status.AuthFailed, "no such account (525)"},
		{49, "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 999, v2580", status.AuthFailed, "wrong password"},
		{53, "Account inactivated. Contact system administrator.", status.AccountDisabled, "locked"},
		{19, "Exceed password retry limit. Please try later.", status.AccountDisabled, "too many failures"},
		{50, "", status.AccountDisabled, "may not be bound to"},
		{34, "invalid DN", status.DirectoryDown, ""},
		{48, "", status.AuthFailed, "no password"},
		{32, "", status.AuthFailed, "no such entry"},
		{53, "shutting down", status.DirectoryDown, ""},
		{51, "busy", status.DirectoryDown, ""},
		{52, "", status.DirectoryDown, ""},
		{80, "", status.DirectoryDown, ""},
		{1, "", status.DirectoryDown, ""},
		{8, "80090346: channel binding", status.DirectoryDown, ""},
		{13, "TLS needed", status.DirectoryDown, ""},
		{10, "", status.DirectoryDown, ""},
	} {
		t.Run(fmt.Sprintf("%d %.20s", c.code, c.text), func(t *testing.T) {
			t.Parallel()
			s := script(t, func(*ber.Packet) []*ber.Packet { return []*ber.Packet{result(1, c.code, c.text)} })
			err := open(t, scriptedConfig(s.uri)).Bind(ctx(t), "cn=a", "secret")
			if status.Of(err) != c.want || c.log != "" && !strings.Contains(err.Error(), c.log) {
				t.Errorf("Bind = %v, want %v with %q", err, c.want, c.log)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

func TestEmptyPasswordIsNeverSent(t *testing.T) {
	t.Parallel()
	s := script(t, func(*ber.Packet) []*ber.Packet { return []*ber.Packet{result(1, 0, "")} })
	c := open(t, scriptedConfig(s.uri))
	for _, password := range []string{"", "\x00", "a\x00b"} {
		if err := c.Bind(ctx(t), "cn=a", password); status.Of(err) != status.AuthFailed {
			t.Errorf("Bind with %q = %v, want AuthFailed", password, err)
		}
	}
	if n := s.connections.Load(); n != 0 {
		t.Errorf("%d connections for passwords that cannot be", n)
	}
}

func TestSearchResults(t *testing.T) {
	t.Parallel()
	bob := entry("uid=bob,dc=example,dc=com", "mail", "bob@example.com")
	for _, c := range []struct {
		name      string
		responses []*ber.Packet
		cause     error // the error must be this one, and DirectoryDown
		silence   bool  // nothing ends the answer but the timeout
	}{
		{"half an answer, then busy", []*ber.Packet{bob, result(5, 51, "busy")}, nil, false},
		{"half an answer, then the size limit", []*ber.Packet{bob, result(5, 4, "")}, directory.ErrSizeLimit, false},
		{"half an answer, then the time limit", []*ber.Packet{bob, result(5, 3, "")}, nil, false},
		{"half an answer, then silence", []*ber.Packet{bob}, nil, true},
		{"an empty entry", []*ber.Packet{ber.Encode(ber.ClassApplication, ber.TypeConstructed, 4, nil, "")}, nil, false},
		{"no such base", []*ber.Packet{result(5, 32, "")}, directory.ErrNoSuchBase, false},
		{"referral", []*ber.Packet{result(5, 10, "")}, nil, false},
		{"operations error", []*ber.Packet{result(5, 1, "000004DC: a successful bind must be completed")}, nil, false},
		{"a flood", []*ber.Packet{bob, bob, bob, bob, bob, bob, bob, result(5, 0, "")}, directory.ErrSizeLimit, false},
		{"a bind's response", []*ber.Packet{result(1, 0, "")}, nil, true},
		{"closed", nil, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := script(t, func(*ber.Packet) []*ber.Packet { return c.responses })
			cfg := scriptedConfig(s.uri)
			if c.silence {
				cfg.Timeout = 300 * time.Millisecond
			}
			err := lookup(t, open(t, cfg))
			if status.Of(err) != status.DirectoryDown || c.cause != nil && !errors.Is(err, c.cause) {
				t.Errorf("search = %v, want DirectoryDown because of %v", err, c.cause)
			}
		})
	}
}

// reference is a search result reference.
func reference(uri string) *ber.Packet {
	p := ber.Encode(ber.ClassApplication, ber.TypeConstructed, 19, nil, "reference")
	p.AppendChild(octets(uri))
	return p
}

// TestReferences has servers that hold a part of the tree: that somebody is
// not in it does not mean that nobody is.
func TestReferences(t *testing.T) {
	t.Parallel()
	bob := entry("uid=bob,dc=example,dc=com", "mail", "bob@example.com")
	child := reference("ldap://child.example.com/dc=child,dc=example,dc=com??sub")
	zones := reference("ldap://DomainDnsZones.example.com/DC=DomainDnsZones,DC=example,DC=com")
	configuration := reference("ldap://example.com/CN=Configuration,DC=example,DC=com")
	done := result(5, 0, "")
	for _, c := range []struct {
		name      string
		responses []*ber.Packet
		ignore    bool
		want      status.Reason
		entries   int
	}{
		{"found beside a reference", []*ber.Packet{bob, child, done}, false, status.OK, 1},
		{"only a reference", []*ber.Packet{child, done}, false, status.DirectoryDown, 0},
		{"only a reference, ignored", []*ber.Packet{child, done}, true, status.OK, 0},
		{"the partitions of Active Directory", []*ber.Packet{zones, configuration, done}, false, status.OK, 0},
		{"partitions and a child domain", []*ber.Packet{zones, configuration, child, done}, false, status.DirectoryDown, 0},
		{"nothing", []*ber.Packet{done}, false, status.OK, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := script(t, func(*ber.Packet) []*ber.Packet { return c.responses })
			cfg := scriptedConfig(s.uri)
			cfg.IgnoreReferences, cfg.MaxFailures = c.ignore, 1
			client := open(t, cfg)
			for range 3 { // it is the server's answer, and the server is well
				entries, err := client.Search(ctx(t), directory.Request{Base: "dc=example,dc=com", Filter: directory.Present("mail"), SizeLimit: 5})
				if status.Of(err) != c.want || len(entries) != c.entries {
					t.Errorf("search = %d entries, %v; want %d, %s", len(entries), err, c.entries, c.want)
				}
			}
			if n := s.connections.Load(); n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

func TestSickServerIsFollowedByTheNext(t *testing.T) {
	t.Parallel()
	sick := script(t, func(*ber.Packet) []*ber.Packet { return []*ber.Packet{result(5, 52, "")} })
	well := script(t, func(*ber.Packet) []*ber.Packet {
		return []*ber.Packet{entry("uid=bob,dc=example,dc=com", "mail", "bob@example.com"), result(5, 0, "")}
	})
	cfg := scriptedConfig(sick.uri, well.uri)
	cfg.MaxFailures = 2
	c := open(t, cfg)
	for range 20 {
		if err := lookup(t, c); err != nil {
			t.Fatal(err)
		}
	}
	// Twice, and again after each pause that is over before the test is: after
	// one, two, four and eight seconds.
	if n := sick.connections.Load(); n > 6 {
		t.Errorf("the sick server was asked %d times in a row", n)
	}
}

// TestLongAttributesAreReadWhole is AD's range retrieval: 1500 values at once.
func TestLongAttributesAreReadWhole(t *testing.T) {
	t.Parallel()
	const dn = "cn=all,dc=example,dc=com"
	members := func(from, to int) []string {
		var list []string
		for i := from; i < to; i++ {
			list = append(list, fmt.Sprintf("cn=u%d,dc=example,dc=com", i))
		}
		return list
	}
	s := script(t, func(op *ber.Packet) []*ber.Packet {
		wanted := op.Children[7].Children[0].Data.String()
		switch wanted {
		case "member":
			return []*ber.Packet{entry(dn, "member;range=0-1499", members(0, 1500)...), result(5, 0, "")}
		case "member;range=1500-*":
			return []*ber.Packet{entry(dn, "member;range=1500-2999", members(1500, 3000)...), result(5, 0, "")}
		case "member;range=3000-*":
			return []*ber.Packet{entry(dn, "member;range=3000-*", members(3000, 3100)...), result(5, 0, "")}
		}
		return []*ber.Packet{result(5, 0, "")}
	})
	entries, err := open(t, scriptedConfig(s.uri)).Search(ctx(t), directory.Request{Base: dn, Scope: directory.ScopeBase,
		Filter: directory.Present("objectClass"), Attributes: []string{"member"}, SizeLimit: 1})
	if err != nil || len(entries) != 1 || len(entries[0].Values("member")) != 3100 {
		t.Fatalf("search = %d entries, %v", len(entries), err)
	}
}

// TestHugeGroupIsReadWhole is range retrieval of a group of a hundred thousand,
// 5000 at once as newer controllers give them.
func TestHugeGroupIsReadWhole(t *testing.T) {
	t.Parallel()
	const dn, all, step = "cn=all,dc=example,dc=com", 100_000, 5000
	s := script(t, func(op *ber.Packet) []*ber.Packet {
		from := 0
		_, _ = fmt.Sscanf(op.Children[7].Children[0].Data.String(), "member;range=%d-*", &from)
		var values []string
		for i := from; i < from+step; i++ {
			values = append(values, fmt.Sprintf("cn=u%d,dc=example,dc=com", i))
		}
		end := fmt.Sprint(from + step - 1)
		if from+step == all {
			end = "*"
		}
		return []*ber.Packet{entry(dn, fmt.Sprintf("member;range=%d-%s", from, end), values...), result(5, 0, "")}
	})
	entries, err := open(t, scriptedConfig(s.uri)).Search(ctx(t), directory.Request{Base: dn, Scope: directory.ScopeBase,
		Filter: directory.Present("objectClass"), Attributes: []string{"member"}, SizeLimit: 1})
	if err != nil || len(entries) != 1 || len(entries[0].Values("member")) != all {
		t.Fatalf("search = %d entries, %v", len(entries), err)
	}
}

func TestRangeThatStopsIsNoAnswer(t *testing.T) {
	t.Parallel()
	s := script(t, func(op *ber.Packet) []*ber.Packet {
		if op.Tag == searchRequest && op.Children[7].Children[0].Data.String() == "member" {
			return []*ber.Packet{entry("cn=all", "member;range=0-1", "cn=a", "cn=b"), result(5, 0, "")}
		}
		return []*ber.Packet{result(5, 0, "")} // the rest is gone
	})
	entries, err := open(t, scriptedConfig(s.uri)).Search(ctx(t), directory.Request{Base: "cn=all", Scope: directory.ScopeBase,
		Filter: directory.Present("objectClass"), Attributes: []string{"member"}, SizeLimit: 1})
	if status.Of(err) != status.DirectoryDown || len(entries) > 0 {
		t.Errorf("half of an attribute = %v, %v; want DirectoryDown", entries, err)
	}
}

// TestServerThatNeverReads has a server that accepts and never reads, so
// that writing blocks.
func TestServerThatNeverReads(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	cfg := scriptedConfig("ldap://" + l.Addr().String())
	cfg.Timeout = 300 * time.Millisecond
	c := open(t, cfg)
	huge := directory.DN("cn=" + strings.Repeat("x", 16<<20)) // more than socket buffers hold
	started := time.Now()
	_, err = c.Search(ctx(t), directory.Request{Base: huge, Filter: directory.Present("mail")})
	if took := time.Since(started); status.Of(err) != status.DirectoryDown || took > time.Minute {
		t.Errorf("search = %.200v after %v", err, took)
	}
}

func TestServiceIsBoundBeforeSearching(t *testing.T) {
	t.Parallel()
	var order []ber.Tag
	s := script(t, func(op *ber.Packet) []*ber.Packet {
		order = append(order, op.Tag)
		if op.Tag == bindRequest {
			return []*ber.Packet{result(1, 0, "")}
		}
		return []*ber.Packet{entry("uid=bob", "mail", "bob@example.com"), result(5, 0, "")}
	})
	cfg := scriptedConfig(s.uri)
	cfg.BindDN, cfg.BindPasswordFile = "cn=mail", passwordFile(t, "x")
	c := open(t, cfg)
	for range 3 {
		if err := lookup(t, c); err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(order) != fmt.Sprint([]ber.Tag{bindRequest, searchRequest, searchRequest, searchRequest}) {
		t.Errorf("operations %v, want one bind and three searches", order)
	}
}
