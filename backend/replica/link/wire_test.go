package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"
)

// encodeAll is what the writer sends of frames, in turn.
func encodeAll(frames ...Received) []byte {
	enc := newEncoder()
	var b []byte
	for _, f := range frames {
		enc.begin(f.Class, f.Frame)
		for enc.open(f.Class) {
			b = enc.record(b, f.Class)
		}
	}
	return b
}

// TestBadRecords: what no writer of ours sends ends the session, with few
// octets read and none believed.
func TestBadRecords(t *testing.T) {
	t.Parallel()
	head := func(flags uint8, frameFlags uint8, raw uint32, body string) []byte {
		b := appendRecord(nil, flags, frameHeader+len(body))
		b = append(b, 1, frameFlags)
		b = binary.BigEndian.AppendUint32(b, raw)
		b = append(b, make([]byte, 16)...)
		return append(b, body...)
	}
	for name, b := range map[string][]byte{
		"unknown flags":        appendRecord(nil, 0x80|firstRecord|lastRecord, 0),
		"long record":          appendRecord(nil, firstRecord, maxRecord+1),
		"no first record":      appendRecord(nil, lastRecord, 0),
		"short header":         append(appendRecord(nil, firstRecord|lastRecord, 3), 1, 2, 3),
		"two first records":    append(head(firstRecord, 0, 100, "x"), head(firstRecord, 0, 100, "x")...),
		"huge":                 head(firstRecord, 0, MaxFrame+1, ""),
		"more than said":       head(firstRecord|lastRecord, 0, 1, "xx"),
		"less than said":       head(firstRecord|lastRecord, 0, 3, "xx"),
		"unknown frame flags":  head(firstRecord|lastRecord, 0x10, 0, ""),
		"not zstd":             head(firstRecord|lastRecord, compressed, 600, "no zstd"),
		"control in pieces":    append(appendRecord(nil, control|firstRecord, 1), controlPing),
		"empty control":        appendRecord(nil, control|firstRecord|lastRecord, 0),
		"records without end":  append(head(firstRecord, 0, 5, "x"), appendRecord(nil, 0, 0)...),
		"compressed to longer": zipped(600, 700),
		"compressed to less":   zipped(700, 600),
		"compressed bomb":      zipped(600, 50<<20),
	} {
		if _, err := newDecoder(bytes.NewReader(b)).next(); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	whole := encodeAll(Received{Frame: Frame{Body: make([]byte, 40_000)}, Class: Bulk})
	for n := range len(whole) {
		if _, err := newDecoder(bytes.NewReader(whole[:n])).next(); err == nil {
			t.Fatalf("%d of %d octets are a frame", n, len(whole))
		}
	}
}

// zipped is a frame that says it has raw octets and has others.
func zipped(raw, real int) []byte {
	body := newEncoder().zip.EncodeAll(make([]byte, real), nil)
	b := appendRecord(nil, firstRecord|lastRecord, frameHeader+len(body))
	b = append(b, 1, compressed)
	b = binary.BigEndian.AppendUint32(b, uint32(raw))
	b = append(b, make([]byte, 16)...)
	return append(b, body...)
}

// TestOverrun: a partner that sends more than it may is stopped.
func TestOverrun(t *testing.T) {
	t.Parallel()
	in := newInbox(func() {})
	var err error
	sent := 0
	for ; err == nil && sent < 100; sent++ {
		err = in.put(Received{Class: Mail, octets: costOf(MaxFrame), Frame: Frame{Body: make([]byte, 10)}})
	}
	if !errors.Is(err, ErrProtocol) || sent > window/MaxFrame+2 {
		t.Errorf("%d frames of a megabyte, then %v", sent, err)
	}
	out := newOutbox()
	if _, err := out.put(Mail, Frame{Body: make([]byte, 10)}); err != nil {
		t.Fatal(err)
	}
	out.take(Mail)
	for octets, want := range map[uint32]bool{costOf(10) + 1: false, 1 << 31: false} {
		if err := out.credit(Mail, Stream{}, octets); (err == nil) != want {
			t.Errorf("credit of %d: %v", octets, err)
		}
	}
	if err := out.credit(Bulk, Stream{}, 1); err == nil {
		t.Error("credit for what was never sent")
	}
	if err := out.credit(Mail, Stream{}, costOf(10)); err != nil || len(out.classes[Mail].streams) != 0 {
		t.Errorf("%v, %d streams remembered", err, len(out.classes[Mail].streams))
	}
}

// TestNewerControl: the link's messages of a newer release are passed over.
func TestNewerControl(t *testing.T) {
	within(t, nil, func(t *testing.T, p *pairTest) {
		p.nodes[0].session(t).queueControl([]byte{200, 1, 2, 3})
		after(time.Second)
		if p.nodes[1].ups() != 1 || p.nodes[1].lastDown() != nil {
			t.Errorf("ended by %v", p.nodes[1].lastDown())
		}
	})
}

func FuzzDecoder(f *testing.F) {
	f.Add(encodeAll(Received{Class: Interactive, Frame: Frame{Type: 1, Stream: Stream{1}, Body: []byte("flags")}}))
	f.Add(encodeAll(Received{Class: Bulk, Frame: Frame{Body: make([]byte, 50_000)}}, Received{Class: Mail, Frame: Frame{Body: []byte("x")}}))
	f.Add(append(appendRecord(nil, control|firstRecord|lastRecord, 9), 1, 0, 0, 0, 0, 0, 0, 0, 1))
	f.Add(zipped(600, 700))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newDecoder(bytes.NewReader(b))
		defer d.close()
		var frames []Received
		for {
			m, err := d.next()
			if err != nil {
				if !errors.Is(err, ErrProtocol) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("%v", err)
				}
				break
			}
			if m.control == nil {
				frames = append(frames, Received{Frame: m.frame, Class: m.class})
			} else {
				_ = eachCredit(m.control[1:], func(Class, Stream, uint32) error { return nil })
			}
		}
		again := newDecoder(bytes.NewReader(encodeAll(frames...)))
		defer again.close()
		for i, want := range frames {
			m, err := again.next()
			if err != nil || m.class != want.Class || m.frame.Type != want.Type || m.frame.Stream != want.Stream || !bytes.Equal(m.frame.Body, want.Body) {
				t.Fatalf("frame %d comes back as another: %v", i, err)
			}
		}
	})
}

func FuzzHello(f *testing.F) {
	cfg := Config{Pair: "cell", Node: 1, Origin: 5, Version: 2, MinVersion: 1, Software: "postern", Settings: []Setting{{"home", "hash"}}, Secret: testSecret}
	f.Add(helloOf(cfg, time.Unix(1, 0), []byte("proof")).encode())
	f.Add([]byte{0, 99, 0, 1, 7})
	f.Add([]byte{0, 1, 0, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHello(b)
		_ = parseRefusal(b)
		if err != nil {
			return
		}
		again, err := parseHello(h.encode())
		if err != nil || !bytes.Equal(h.encode(), again.encode()) {
			t.Fatalf("%v, then %v, %v", h, again, err)
		}
		_ = cfg.judge(h)
	})
}
