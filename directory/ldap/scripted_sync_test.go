package ldap_test

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"

	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/directory/replica"
	company "github.com/postern-mail/postern/testdata/ldif"
)

// forgetful is a server of content synchronization that never goes on from a
// cookie of its own: it asks for a refresh from nothing. Each time it shows one
// person more, and ends the stream.
type forgetful struct {
	uri string

	mu      sync.Mutex
	cookies []string // that it was asked to go on from
	people  int
}

func (s *forgetful) serve(conn net.Conn) {
	defer conn.Close()
	for {
		request, err := ber.ReadPacket(conn)
		if err != nil || len(request.Children) < 2 {
			return
		}
		id := request.Children[0].Value
		for _, response := range s.answer(request) {
			message := ber.NewSequence("message")
			message.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, "id"))
			for _, part := range response {
				message.AppendChild(part)
			}
			if _, err := conn.Write(message.Bytes()); err != nil {
				return
			}
		}
	}
}

const resultSyncRefreshRequired = 4096

func (s *forgetful) answer(request *ber.Packet) [][]*ber.Packet {
	op := request.Children[1]
	done := [][]*ber.Packet{{result(5, 0, "")}}
	switch {
	case op.Tag == bindRequest:
		return [][]*ber.Packet{{result(1, 0, "")}}
	case op.Tag != searchRequest:
		return nil
	case len(request.Children) < 3: // of the root DSE
		return append([][]*ber.Packet{{entry("", "supportedControl", "1.3.6.1.4.1.4203.1.9.1.1")}}, done...)
	}
	// The request's control: its type, perhaps criticality, and mode, cookie, hint.
	control := request.Children[2].Children[0]
	value := ber.DecodePacket(control.Children[len(control.Children)-1].Data.Bytes())
	cookie := ""
	if len(value.Children) > 1 && value.Children[1].Tag == ber.TagOctetString {
		cookie = string(value.Children[1].ByteValue)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cookies = append(s.cookies, cookie)
	if cookie != "" {
		return [][]*ber.Packet{{result(5, resultSyncRefreshRequired, "Invalid session cookie")}}
	}
	s.people++
	var all [][]*ber.Packet
	for i := range s.people {
		uid := string(rune('a' + i))
		person := entry("uid="+uid+",ou=people,dc=example,dc=com", "objectClass", "inetOrgPerson", "organizationalPerson", "person")
		addValue(person, "uid", uid)
		addValue(person, "mail", uid+"@example.com")
		state := ber.NewSequence("state")
		state.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, 1, "add"))
		state.AppendChild(octets(strings.Repeat(uid, 16)))
		all = append(all, []*ber.Packet{person, withControl("1.3.6.1.4.1.4203.1.9.1.2", state)})
	}
	end := ber.NewSequence("done")
	end.AppendChild(octets("a cookie"))
	return append(all, []*ber.Packet{result(5, 0, ""), withControl("1.3.6.1.4.1.4203.1.9.1.3", end)})
}

// addValue adds an attribute to an entry.
func addValue(e *ber.Packet, attribute, value string) {
	more := entry("", attribute, value).Children[1].Children[0]
	e.Children[1].AppendChild(more)
	// Lengths are counted when children are appended: made anew from inside out.
	attributes := ber.NewSequence("attributes")
	for _, a := range e.Children[1].Children {
		attributes.AppendChild(a)
	}
	dn := e.Children[0]
	e.Children, e.Data = nil, ber.Encode(ber.ClassApplication, ber.TypeConstructed, 4, nil, "").Data
	e.AppendChild(dn)
	e.AppendChild(attributes)
}

// withControl is a message's list of controls.
func withControl(kind string, value *ber.Packet) *ber.Packet {
	list := ber.Encode(ber.ClassContext, ber.TypeConstructed, 0, nil, "controls")
	control := ber.NewSequence("control")
	control.AppendChild(octets(kind))
	control.AppendChild(octets(string(value.Bytes())))
	list.AppendChild(control)
	return list
}

// TestServerThatAsksForARefresh: e-syncRefreshRequired (RFC 4533 section 2.6) is
// answered by asking for everything, at once and in the same conversation.
func TestServerThatAsksForARefresh(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s := &forgetful{uri: "ldap://" + l.Addr().String()}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	f := follow(t, company.OpenLDAP(), scriptedConfig(s.uri), ldap.FeedConfig{Mode: ldap.FollowSync})
	f.until(t, "three refreshes", func(st replica.Status) bool { return st.Refreshes >= 3 })
	if st := f.Status(); strings.Contains(st.Error, "cookie") {
		t.Errorf("the refusal of the cookie is an error to operators: %s", st.Error)
	}
	f.awaits(t, "c@example.com", "uid=c,ou=people,dc=example,dc=com")
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := []string{"", "a cookie", "", "a cookie", ""}; !slices.Equal(s.cookies[:min(len(s.cookies), 5)], want) {
		t.Errorf("asked to go on from %q, want %q", s.cookies, want)
	}
}
