package main

import (
	"net"

	wire "github.com/miekg/dns"
)

// nameServer knows one TXT record, for all systems that ask.
type nameServer struct {
	address    string
	name, text string // of the record
	server     *wire.Server
	ended      chan error
}

func startNameServer(name, text string) (*nameServer, error) {
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &nameServer{address: packets.LocalAddr().String(), name: name, text: text, ended: make(chan error, 1)}
	record := &wire.TXT{Hdr: wire.RR_Header{Name: wire.Fqdn(name), Rrtype: wire.TypeTXT, Class: wire.ClassINET, Ttl: 86400}}
	for len(text) > 255 { // the longest string of a record
		record.Txt, text = append(record.Txt, text[:255]), text[255:]
	}
	record.Txt = append(record.Txt, text)
	handle := func(w wire.ResponseWriter, asked *wire.Msg) {
		reply := new(wire.Msg).SetReply(asked)
		reply.RecursionAvailable = true
		if q := asked.Question[0]; q.Qtype == wire.TypeTXT && wire.IsSubDomain(record.Hdr.Name, q.Name) {
			reply.Answer = []wire.RR{record}
		} else {
			reply.Rcode = wire.RcodeNameError
		}
		_ = w.WriteMsg(reply) // who asked asks again
	}
	started := make(chan struct{})
	n.server = &wire.Server{PacketConn: packets, Handler: wire.HandlerFunc(handle), NotifyStartedFunc: func() { close(started) }}
	go func() { n.ended <- n.server.ActivateAndServe() }()
	select {
	case <-started:
		return n, nil
	case err := <-n.ended:
		return nil, err
	}
}

func (n *nameServer) close() {
	if n.server.Shutdown() == nil {
		<-n.ended
	}
}
