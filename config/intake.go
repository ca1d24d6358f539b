package config

// intake checks the limits of what comes in, and gives every listener its own.
func (c checker) intake(g *Gateway) {
	if g.MessageSize == 0 {
		c.errorf(g.rangeOf("message_size_limit"), "Wrong value", "message_size_limit is 0: a limit is needed, such as \"50 MiB\", as a message must fit on the disk.")
	}
	for _, l := range g.Listeners {
		if l.MaxMessage == 0 {
			l.MaxMessage = g.MessageSize
		}
	}
	if g.HeaderSize < 1024 || g.HeaderSize > 16<<20 {
		c.errorf(g.rangeOf("header_size_limit"), "Wrong value", "header_size_limit is outside 1024 to 16 MiB.")
	}
	if g.LineLength < 512 || g.LineLength > 12288 {
		c.errorf(g.rangeOf("line_length_limit"), "Wrong value", "line_length_limit is outside 512 (RFC 5321 section 4.5.3.1.4) to 12288.")
	}
	if g.Queue.MaxMessages < 0 {
		c.errorf(g.Queue.rangeOf("max_queue_messages"), "Wrong value", "max_queue_messages is negative; 0 means any number.")
	}
}

// queueMinFree is the free space that the queue keeps: as in Postfix at least
// one and a half of the largest message, so that one that begins to come in
// finds room to the end.
func (f *File) queueMinFree() int64 {
	largest := f.Gateway.MessageSize
	for _, l := range f.Gateway.Listeners {
		largest = max(largest, l.MaxMessage)
	}
	return int64(max(f.Gateway.Queue.MinFree, largest/2*3))
}
