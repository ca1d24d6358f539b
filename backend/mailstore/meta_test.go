package mailstore

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/mime"
)

// TestMetasOfAny: Metas gives for every choice of messages, in whatever order,
// what Meta gives for each: from a scan where they lie together, else one by
// one, and nil for those that are gone.
func TestMetasOfAny(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	m := openMailbox(t, openAccount(t, s, "kim"), inbox)
	const n = 60
	appendMessages(t, s, m, n)
	v := m.View()
	all := make([]*Message, v.Len())
	for i := range all {
		all[i] = v.At(i)
	}
	var gone []imap.UID
	for i := 5; i < n; i += 7 {
		gone = append(gone, all[i].UID)
	}
	if _, err := m.StoreFlags(t.Context(), gone, FlagsChange{Op: FlagsAdd, Flags: FlagDeleted}); err != nil {
		t.Fatal(err)
	}
	if expunged, err := m.Expunge(t.Context(), gone); err != nil || len(expunged) != len(gone) {
		t.Fatal(expunged, err)
	}
	every := func(step int) (list []*Message) {
		for i := 0; i < n; i += step {
			list = append(list, all[i])
		}
		return list
	}
	backwards := slices.Clone(all)
	slices.Reverse(backwards)
	for name, list := range map[string][]*Message{
		"none": nil, "one": all[3:4], "one gone": all[5:6], "all": all, "the end": all[n-9:], "every third": every(3),
		"every tenth": every(10), "the ends": {all[0], all[n-1]}, "backwards": backwards, "twice": {all[2], all[2], all[3]},
	} {
		metas, err := m.Metas(t.Context(), list)
		if err != nil || len(metas) != len(list) {
			t.Errorf("%s: %d metas, %v", name, len(metas), err)
			continue
		}
		for i, got := range metas {
			want, err := m.Meta(t.Context(), list[i])
			switch {
			case errors.Is(err, ErrNoMessage):
				if got != nil {
					t.Errorf("%s: UID %d is gone and has a Meta", name, list[i].UID)
				}
			case err != nil:
				t.Fatal(err)
			case got == nil || string(got.Header) != string(want.Header) || string(got.Envelope) != string(want.Envelope):
				t.Errorf("%s: UID %d: got %v, want %v", name, list[i].UID, got, want)
			}
		}
	}
}

// TestSomeOfMetas asks for every part of Metas by itself.
func TestSomeOfMetas(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	m := openMailbox(t, a, inbox)
	for i := range 120 {
		content := stage(t, s, benchMessage(i))
		trace := fmt.Sprintf("Return-Path: <p%d@example.org>\r\n", i)
		if err := a.Deliver(t.Context(), []Delivery{{ID: fmt.Sprint(i), Content: content, Trace: []byte(trace[:len(trace)*(i%2)])}})[0]; err != nil {
			t.Fatal(err)
		}
		content.Discard()
	}
	// One whose record holds the trace header only.
	long := stage(t, s, "Subject: long\r\nX-Long: "+strings.Repeat("x", 100<<10)+"\r\n\r\ntext\r\n")
	if err := a.Deliver(t.Context(), []Delivery{{ID: "long", Content: long, Trace: []byte("Return-Path: <>\r\n")}})[0]; err != nil {
		t.Fatal(err)
	}
	v := m.View()
	var list []*Message
	for i := range v.Len() {
		list = append(list, v.At(i))
	}
	type parts struct {
		header, envelope, structure, body, preview string
		sent                                       int64
		root                                       *mime.Part
	}
	of := func(meta *Meta, want MetaParts) parts {
		p := parts{sent: meta.SentDate}
		for _, part := range []struct {
			bit  MetaParts
			from []byte
			to   *string
		}{
			{MetaHeader, meta.Header, &p.header}, {MetaEnvelope, meta.Envelope, &p.envelope}, {MetaBodyStructure, meta.BodyStructure, &p.structure},
			{MetaBody, meta.Body, &p.body}, {MetaPreview, meta.Preview, &p.preview},
		} {
			if want&part.bit != 0 {
				*part.to = string(part.from)
			}
		}
		if want&MetaRoot != 0 {
			p.root = meta.Root
		}
		return p
	}
	whole, err := m.Metas(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	for want := range MetaAll + 1 {
		some, err := m.SomeOfMetas(t.Context(), list, want)
		if err != nil {
			t.Fatal(err)
		}
		for i, meta := range some {
			if got, want := of(meta, want), of(whole[i], want); !reflect.DeepEqual(got, want) {
				t.Fatalf("message %d: got %+v, want %+v", i, got, want)
			}
		}
	}
	last := whole[len(whole)-1]
	if !bytes.HasPrefix(last.Header, []byte("Return-Path: <>\r\nSubject: long\r\n")) || last.Root.Body.Len() != int64(len("text\r\n")) {
		t.Errorf("the long one: %.60q, %+v", last.Header, last.Root)
	}
}

// BenchmarkMetas reads what FETCH 1:* (ENVELOPE) needs, 100 messages at a time.
func BenchmarkMetas(b *testing.B) {
	s := openStore(b, Config{})
	m := openMailbox(b, openAccount(b, s, "kim"), inbox)
	const n, batch = 10_000, 100
	for from := 0; from < n; from += batch {
		list := make([]Append, batch)
		for i := range list {
			list[i] = Append{Content: stage(b, s, benchMessage(from+i))}
		}
		if _, err := m.Append(b.Context(), list); err != nil {
			b.Fatal(err)
		}
	}
	v := m.View()
	for _, row := range []struct {
		step int
		want MetaParts
	}{{1, MetaAll}, {3, MetaAll}, {10, MetaAll}, {1, MetaEnvelope}, {1, MetaBodyStructure}} {
		step := row.step
		b.Run(fmt.Sprintf("step=%d/want=%d", step, row.want), func(b *testing.B) {
			b.ReportAllocs()
			read, before := 0, cpu(b)
			for b.Loop() {
				list := make([]*Message, 0, batch)
				for i := 0; i < n; i += step {
					if list = append(list, v.At(i)); len(list) == batch {
						if _, err := m.SomeOfMetas(b.Context(), list, row.want); err != nil {
							b.Fatal(err)
						}
						read, list = read+len(list), list[:0]
					}
				}
			}
			b.ReportMetric(float64(cpu(b)-before)/float64(read)/1e3, "cpu-us/message")
		})
	}
}
