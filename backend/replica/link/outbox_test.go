package link

import "testing"

// TestRoomIsToldToAllWhoAsked: one was told that there is no room, and another
// that there is some before the first was called. The first is called all the
// same.
func TestRoomIsToldToAllWhoAsked(t *testing.T) {
	t.Parallel()
	o := newOutbox()
	account := func(n int) Stream { return Stream{byte(n)} }
	full := 0
	for ; o.hasRoom(Mail); full++ {
		o.push(Mail, Frame{Stream: account(full), Body: make([]byte, MaxFrame)})
	}
	if writable := o.nowWritable(); writable[Mail] {
		t.Fatal("there is room where there is none")
	}
	if _, ok := o.take(Mail); !ok {
		t.Fatal("the partner takes nothing")
	}
	if !o.hasRoom(Mail) {
		t.Fatal("no room for the second who asks")
	}
	for range full - 1 {
		if _, ok := o.take(Mail); !ok {
			t.Fatal("the partner takes no more")
		}
	}
	if writable := o.nowWritable(); !writable[Mail] {
		t.Fatal("who was told that there is no room is not told that there is")
	}
	if writable := o.nowWritable(); writable[Mail] {
		t.Fatal("it is told twice")
	}
}

// TestStallsAreCounted: that the partner takes no more is counted once, whether
// frames waited when its window filled or came after that.
func TestStallsAreCounted(t *testing.T) {
	t.Parallel()
	o := newOutbox()
	send := func() {
		o.push(Mail, Frame{Stream: Stream{1}, Body: make([]byte, MaxFrame)})
		o.take(Mail)
	}
	for range 2 + windowStream/MaxFrame { // one at a time: none waits while the window fills
		send()
	}
	for range 3 {
		send()
	}
	var stats [classes]ClassStats
	o.stats(&stats)
	if stats[Mail].Stalls != 1 {
		t.Errorf("%d stalls", stats[Mail].Stalls)
	}
}
