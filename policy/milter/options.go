package milter

import (
	"fmt"
	"strings"
)

// actions is what a filter may do to a message at its end.
type actions uint32

const (
	actAddHeaders actions = 1 << iota
	actChangeBody
	actAddRcpt
	actDeleteRcpt
	actChangeHeaders
	actQuarantine
	actChangeFrom
	actAddRcptArgs
	actSetMacros
)

// steps are the steps of the dialogue that a filter does without, the replies
// it does not send, and how it wants data.
type steps uint32

const (
	noConnect steps = 1 << iota
	noHelo
	noMail
	noRcpt
	noBody
	noHeaders
	noEOH
	silentHeader
	noUnknown
	noData
	maySkip
	refusedRcpt
	silentConnect
	silentHelo
	silentMail
	silentRcpt
	silentData
	silentUnknown
	silentEOH
	silentBody
	leadingSpace

	data256K steps = 1 << 28
	data1M   steps = 1 << 29
)

// How much data one packet may hold.
const (
	maxData64K  = 64<<10 - 1
	maxData256K = 256<<10 - 1
	maxData1M   = 1<<20 - 1
)

// The versions of the protocol that are spoken.
const (
	minVersion = 2
	maxVersion = 6
)

// offered returns what we can do in a version of the protocol.
func offered(version uint32) (actions, steps) {
	acts, protocol := actAddHeaders|actChangeBody|actAddRcpt|actDeleteRcpt|actChangeHeaders|actQuarantine,
		noConnect|noHelo|noMail|noRcpt|noBody|noHeaders|noEOH
	if version >= 3 {
		protocol |= noUnknown
	}
	if version >= 4 {
		protocol |= noData
	}
	if version >= 6 {
		acts |= actChangeFrom | actAddRcptArgs | actSetMacros
		protocol |= leadingSpace<<1 - 1 | data256K | data1M
	}
	return acts, protocol
}

// options is what was agreed at the beginning of a connection.
type options struct {
	version uint32
	actions actions
	steps   steps
	// maxData is the most data a packet may hold.
	maxData int
	// macros are the lists that the filter asked for; nil takes ours.
	macros [stageCount][]string
}

// without reports whether the filter does without a step.
func (o *options) without(step steps) bool { return o.steps&step != 0 }

// negotiation returns the packet that begins a connection.
func negotiation(p packet, version uint32) []byte {
	acts, protocol := offered(version)
	return p.begin(cmdNegotiate).uint32(version).uint32(uint32(acts)).uint32(uint32(protocol)).end()
}

// maxMacros bounds the macros a filter may ask for at one stage.
const maxMacros = 100

// parseOptions reads a filter's answer to an offer of version.
func parseOptions(data []byte, version uint32) (*options, error) {
	f := fields{rest: data}
	o := &options{version: f.uint32(), actions: actions(f.uint32()), steps: steps(f.uint32()), maxData: maxData64K}
	if f.err != nil {
		return nil, f.err
	}
	if o.version < minVersion || o.version > version {
		return nil, protocolError("the filter speaks version %d, and not %d to %d", o.version, minVersion, version)
	}
	acts, protocol := offered(version)
	if more := o.steps &^ protocol; more != 0 {
		return nil, protocolError("the filter asks for protocol steps %#x that were not offered", uint32(more))
	}
	if more := o.actions &^ acts; more != 0 {
		return nil, protocolError("the filter asks for actions %#x that were not offered", uint32(more))
	}
	switch {
	case o.without(data1M):
		o.maxData = maxData1M
	case o.without(data256K):
		o.maxData = maxData256K
	}
	return o, o.readMacros(&f)
}

// readMacros reads the lists of macros that may follow.
func (o *options) readMacros(f *fields) error {
	for len(f.rest) > 0 {
		at, list := f.uint32(), f.optional()
		if f.err != nil {
			return f.err
		}
		if at >= uint32(stageCount) {
			return protocolError("macros for the unknown stage %d", at)
		}
		names := strings.Fields(list)
		if len(names) > maxMacros {
			return protocolError("%d macros for one stage", len(names))
		}
		o.macros[at] = make([]string, 0, len(names))
		for _, name := range names {
			o.macros[at] = append(o.macros[at], strings.Trim(name, "{}"))
		}
	}
	return nil
}

// String describes the options for the log.
func (o *options) String() string {
	return fmt.Sprintf("version %d, actions %#x, steps %#x", o.version, uint32(o.actions), uint32(o.steps))
}
